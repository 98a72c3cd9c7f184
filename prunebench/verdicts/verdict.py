"""Record against baseline: better, same, worse, unsure, or not comparable, with the numbers used.

Pure: reads no file and prints nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..plan import Step, describe
from ..record import Measurement, Record, Tolerance
from . import significance
from .evidence import evidence, tasks_of, unpairable
from .outcomes import ALPHA as ALPHA
from .outcomes import FAILING as FAILING
from .outcomes import NIGHTLY_ALPHA as NIGHTLY_ALPHA
from .outcomes import Outcome as Outcome
from .outcomes import Rules as Rules
from .significance import RANKS, Evidence


class Finding(Struct, frozen=True):
    """The judgement of one item: a metric, or the plan.

    *p* is the one-sided p-value of the test whose *evidence* it rests on, where there are samples,
    *note* a sentence where numbers do not suffice. A *diagnostic* one helps to understand another
    and decides nothing itself. One that *fails* is a condition of the case or run that holds: it
    fails whatever outcomes do.
    """

    what: str
    outcome: Outcome
    now: float | None = None
    was: float | None = None
    allowed: float | None = None
    p: float | None = None
    note: str = ""
    diagnostic: bool = False
    evidence: Evidence | None = None
    fails: bool = False


class Verdict(Struct, frozen=True):
    """The judgement of a case; *error* says why it crashed, *skipped* why it could not run.

    With *seed_of* it was measured for the interval over calibration seeds of that case alone.
    """

    case_id: str
    ok: bool
    findings: tuple[Finding, ...] = ()
    error: str = ""
    skipped: str = ""
    seed_of: str = ""

    @property
    def unconfirmed(self) -> tuple[str, ...]:
        """Timings that look worse and were measured only once."""
        return tuple(f.what for f in self.findings if f.note == UNCONFIRMED and not f.diagnostic)

    def has(self, *outcomes: Outcome) -> bool:
        """Whether any finding is one of *outcomes*."""
        return any(f.outcome in outcomes for f in self.findings if not f.diagnostic)

    @property
    def outcome(self) -> str:
        """The one word that describes the case: its most serious finding."""
        if self.error:
            return "crashed"
        if self.skipped:
            return "skipped"
        if self.seed_of:
            return "interval"
        order = ("worse", "gone", "changed_plan", "not_comparable", "unsure", "new", "better")
        words = {str(f.outcome) for f in self.findings if not f.diagnostic}
        return next((word for word in order if word in words), "same")


def compare(
    now: Record,
    was: Record | None,
    tolerance_for: Callable[[str], Tolerance],
    fail_on: tuple[Outcome, ...] = FAILING,
    more: Sequence[Finding] = (),
    rules: Rules | None = None,
) -> Verdict:
    """Judge a record against its baseline.

    Timings and memory are judged only on a named device; on ``cpu`` they are reported. *more* are
    findings that rest on something else than the baseline.
    """
    findings = (*_findings(now, was, tolerance_for, rules or Rules()), *more)
    return Verdict(now.case_id, passes(findings, fail_on), findings)


def passes(findings: Iterable[Finding], fail_on: tuple[Outcome, ...]) -> bool:
    """Whether no finding that counts is one of *fail_on*, and no condition holds."""
    return not any(f.fails or f.outcome in fail_on for f in findings if not f.diagnostic)


def settle(judged: Sequence[tuple[Verdict, tuple[Outcome, ...]]]) -> list[Verdict]:
    """The verdicts of one run, with what fails each, once all of its tests are known.

    What alone looked worse and is not among so many tests becomes *unsure* (Holm).
    """
    tests = [
        (i, j, finding.evidence)
        for i, (verdict, _) in enumerate(judged)
        for j, finding in enumerate(verdict.findings)
        if finding.evidence is not None and not finding.diagnostic
    ]
    adjusted = significance.holm([seen.p for *_, seen in tests])
    findings = [list(verdict.findings) for verdict, _ in judged]
    for (i, j, seen), p in zip(tests, adjusted, strict=True):
        findings[i][j] = _among(findings[i][j], seen, len(tests), p)
    return [
        replace(verdict, findings=tuple(own), ok=passes(own, fail_on)) if own else verdict
        for (verdict, fail_on), own in zip(judged, findings, strict=True)
    ]


def judge(
    now: Measurement,
    was: Measurement,
    tolerance: Tolerance,
    rules: Rules | None = None,
    tasks: Sequence[tuple[Measurement, Measurement]] = (),
) -> Finding:
    """Judge one measurement.

    *Worse* needs both size and significance: more lost than is allowed, and a test that says so.
    *Same* needs as much: less lost than is allowed, at the upper end of the interval too. What is
    neither is *unsure*.

    A note says why there is no value, which is the same where the baseline had none either; or why
    a value is compared with nothing.

    *tasks* are the measurements of each task whose mean this one is, newer and older.
    """
    rules = rules or Rules()
    if now.value is None or was.value is None or now.note or was.note or unpairable(now, was):
        return _without_values(now, was)
    seen = evidence(now, was, tasks)
    worse_by = now.value - was.value if now.better == "lower" else was.value - now.value
    if seen is not None and (tasks or seen.test == RANKS):
        worse_by = seen.loss  # as the test weighs it, and more exact than a difference of medians
    allowed = tolerance.allowed(was.value)
    believable = rules.noise.get(now.metric, 0.0) * abs(was.value)
    noisy = believable if believable > allowed else None
    allowed = max(allowed, believable)
    outcome = decide(worse_by, allowed, (now.value, was.value), seen, rules)
    if seen is not None:
        adjusted = min(1.0, rules.family * seen.p) if rules.family > 1 else None
        seen = replace(seen, alpha=rules.alpha, noise=noisy)
        seen = _shared(seen, rules.alpha, rules.family, adjusted)
    p = seen.p if seen else None
    return Finding(now.metric, outcome, now.value, was.value, allowed, p, evidence=seen)


def _without_values(now: Measurement, was: Measurement) -> Finding:
    """The judgement where a value is missing, or is compared with nothing."""
    if now.value is None:
        both = was.value is None and bool(now.note and was.note)
        outcome = Outcome.SAME if both else Outcome.WORSE
        return Finding(now.metric, outcome, None, was.value, note=now.note or "not a finite number")
    note = now.note or was.note or unpairable(now, was) or "no finite value"
    return Finding(now.metric, Outcome.NOT_COMPARABLE, now.value, was.value, note=note)


def decide(
    loss: float, allowed: float, values: tuple[float, float], seen: Evidence | None, rules: Rules
) -> Outcome:
    """The outcome for a *loss* between two *values* (newer, older), in the metric's unit.

    Without evidence only its size decides.
    """
    if exceeds(loss, allowed, *values):
        return Outcome.UNSURE if seen and not _significant(seen.p, rules) else Outcome.WORSE
    gained = exceeds(-loss, allowed, *values)
    if gained and (seen is None or _significant(seen.p_better, rules)):
        return Outcome.BETTER
    sure = seen is None or not exceeds(seen.high, allowed, *values)
    return Outcome.SAME if sure else Outcome.UNSURE


def exceeds(change: float, allowed: float, now: float, was: float) -> bool:
    """Whether a *change* from *was* to *now* is more than is *allowed*.

    0.90 - 0.89 is 0.010000000000000009: what binary fractions cannot say is no change.
    """
    return change - allowed > 1e-12 * max(abs(now), abs(was))


def _significant(p: float, rules: Rules) -> bool:
    return p * rules.family < rules.alpha


def _shared(seen: Evidence, alpha: float, family: int, adjusted: float | None) -> Evidence:
    least = seen.smallest(alpha / family)
    return replace(seen, family=family, adjusted=adjusted, least=least)


def _among(finding: Finding, seen: Evidence, family: int, adjusted: float) -> Finding:
    """A finding as one of *family* tests of a run."""
    alpha = seen.alpha or ALPHA
    seen = _shared(seen, alpha, family, adjusted)
    if finding.outcome != Outcome.WORSE or adjusted < alpha:
        return replace(finding, evidence=seen)
    note = f"worse if it stood alone, but one of {family} tests: p = {adjusted:.2g} among them"
    return replace(finding, outcome=Outcome.UNSURE, evidence=seen, note=note)


def _findings(
    now: Record,
    was: Record | None,
    tolerance_for: Callable[[str], Tolerance],
    rules: Rules,
) -> Iterator[Finding]:
    judged = [m for m in now.measurements if not m.varies or now.environment.device != "cpu"]
    if was is None:
        yield Finding("plan", Outcome.NEW, note=describe(now.plan))
        for new in judged:
            yield _new(new)
        return
    (ours, mine), (theirs, their) = split_question(now.asked), split_question(was.asked)
    if what := "; ".join(differences(ours, theirs)):
        yield Finding("case", Outcome.NOT_COMPARABLE, note=f"the baseline answers another: {what}")
        return
    yield _judge_plan(now, was)
    # Each metric is a question of its own: the others are still judged if one is added or changed.
    families = dict.fromkeys(m.family for m in judged)
    changed = [f for f in families if f in mine and f in their and mine[f] != their[f]]
    for family in changed:
        what = "; ".join(differences(mine[family], their[family], family))
        note = f"the baseline was measured otherwise: {what}"
        yield Finding(family, Outcome.NOT_COMPARABLE, note=note)
    for measurement in judged:
        old = was.find(measurement.metric)
        if measurement.family in changed:
            continue
        if old is None:
            found = _new(measurement)
        else:
            tolerance = tolerance_for(measurement.metric)
            found = judge(measurement, old, tolerance, rules, tasks_of(measurement, now, was))
            found = _confirmed(found, now, old, tolerance, rules)
        yield replace(found, diagnostic=_diagnoses(measurement, now, rules))
    measured = {m.metric for m in now.measurements}
    for old in was.measurements:
        if old.metric not in measured and old.family not in changed:
            diagnostic = _diagnoses(old, was, rules)
            note = "no longer measured"
            yield Finding(
                old.metric, Outcome.GONE, None, old.value, note=note, diagnostic=diagnostic
            )


def _diagnoses(measurement: Measurement, record: Record, rules: Rules) -> bool:
    """Whether another measurement is judged in place of this one."""
    other = measurement.instead
    return bool(other) and measurement.metric not in rules.gates and record.find(other) is not None


#: The note on a timing that looks worse, until it was measured a second time.
UNCONFIRMED = "to be measured a second time"


def _confirmed(
    found: Finding, now: Record, was: Measurement, tolerance: Tolerance, rules: Rules
) -> Finding:
    """A timing is worse when a second measurement says so too."""
    measured = now.find(found.what)
    if found.outcome != Outcome.WORSE or found.evidence is None:
        return found
    if measured is None or not measured.varies:
        return found
    again = next((m for m in now.again if m.metric == found.what), None)
    if again is None:
        return replace(found, note=UNCONFIRMED)
    second = judge(again, was, tolerance, rules)
    value = "no value" if again.value is None else f"{again.value:.4g}"
    note = f"measured a second time: {value}, {second.outcome}"
    outcome = Outcome.WORSE if second.outcome == Outcome.WORSE else Outcome.UNSURE
    p = max(found.evidence.p, second.p or 0.0)
    return replace(found, outcome=outcome, note=note, p=p, evidence=replace(found.evidence, p=p))


def split_question(asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A question without its metrics; and its metrics by name, a list where one comes twice."""
    metrics: dict[str, Any] = {}
    for metric in asked.get("metrics", ()):
        metrics.setdefault(metric["name"], []).append(metric)
    single = {name: m[0] if len(m) == 1 else m for name, m in metrics.items()}
    return {k: v for k, v in asked.items() if k != "metrics"}, single


def _new(measurement: Measurement) -> Finding:
    if measurement.value is None and not measurement.note:
        return Finding(measurement.metric, Outcome.WORSE, note="not a finite number")
    return Finding(measurement.metric, Outcome.NEW, measurement.value, note=measurement.note)


def _judge_plan(now: Record, was: Record) -> Finding:
    if [e.bare() for e in now.plan] == [e.bare() for e in was.plan]:
        return Finding("plan", Outcome.SAME, note=describe(now.plan))
    note = f"now {describe(now.plan)}, was {describe(was.plan)}"
    # The same choices that gave other edits are no matter of noise.
    parted = parting(now, was)
    if parted and not any(step.determined for step in parted) and _close(*parted):
        return Finding("plan", Outcome.SAME, note=f"a tie within noise: {note}")
    return Finding("plan", Outcome.CHANGED_PLAN, note=note)


def parting(now: Record, was: Record) -> tuple[Step, Step] | None:
    """The first step at which two searches chose differently; what follows are other models.

    After it a search may take more steps, or end with no edit.
    """
    pairs = zip(now.trace, was.trace, strict=False)
    return next(((m, t) for m, t in pairs if m.chosen != t.chosen), None)


def _close(mine: Step, theirs: Step) -> bool:
    """Whether each run scored the other's choice within its noise of its own."""
    for step, other in ((mine, theirs.chosen), (theirs, mine.chosen)):
        chosen, runner_up = step.decided_by(step.chosen), step.decided_by(other)
        if chosen is None or runner_up is None or abs(runner_up - chosen) > step.noise:
            return False
    return True


def differences(now: Any, was: Any, path: str = "") -> Iterator[str]:
    """What differs between two questions, or parts of them: ``amount.blocks is 3, was 2``."""
    if isinstance(now, dict) and isinstance(was, dict):
        for key in [*now, *(k for k in was if k not in now)]:
            yield from differences(now.get(key), was.get(key), f"{path}.{key}" if path else key)
    elif isinstance(now, list) and isinstance(was, list) and len(now) == len(was):
        for i, (a, b) in enumerate(zip(now, was, strict=True)):
            yield from differences(a, b, f"{path}[{i}]")
    elif now != was:
        yield f"{path} is {_short(now)}, was {_short(was)}"


def _short(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

"""Record against baseline: better, same, worse, unsure, or not comparable, with the numbers used.

Pure: reads no file and prints nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Any

from msgspec import Struct

from .plan import Step, bare, describe
from .record import Measurement, Record, Tolerance
from .stats import p_paired, p_unpaired

#: One-sided: how often an unchanged model may be called worse by chance, per metric.
ALPHA = 0.05


class Outcome(StrEnum):
    """The words of a finding."""

    BETTER = "better"
    SAME = "same"
    WORSE = "worse"
    UNSURE = "unsure"
    NEW = "new"
    GONE = "gone"
    CHANGED_PLAN = "changed_plan"
    NOT_COMPARABLE = "not_comparable"


#: What fails a case that says nothing.
FAILING = (Outcome.WORSE, Outcome.GONE)


class Finding(Struct, frozen=True):
    """The judgement of one item: a metric, or the plan.

    *p* is the one-sided p-value where a test was needed, *note* a sentence where numbers do not
    tell it. A *diagnostic* one helps to understand another and decides nothing itself. One that
    *fails* is a condition of the case or run that holds: it fails whatever outcomes do.
    """

    what: str
    outcome: Outcome
    now: float | None = None
    was: float | None = None
    allowed: float | None = None
    p: float | None = None
    note: str = ""
    diagnostic: bool = False
    fails: bool = False


class Verdict(Struct, frozen=True):
    """The judgement of a case; *error* says why it crashed, *skipped* why it could not run."""

    case_id: str
    ok: bool
    findings: tuple[Finding, ...] = ()
    error: str = ""
    skipped: str = ""

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
        order = ("worse", "gone", "changed_plan", "not_comparable", "unsure", "new", "better")
        words = {str(f.outcome) for f in self.findings if not f.diagnostic}
        return next((word for word in order if word in words), "same")


def compare(
    now: Record,
    was: Record | None,
    tolerance_for: Callable[[str], Tolerance],
    fail_on: tuple[Outcome, ...] = FAILING,
    more: Sequence[Finding] = (),
) -> Verdict:
    """Judge a record against its baseline.

    Timings and memory are judged only on a named device; on ``cpu`` they are reported. *more* are
    findings that rest on something else than the baseline.
    """
    findings = (*_findings(now, was, tolerance_for), *more)
    return Verdict(now.case_id, passes(findings, fail_on), findings)


def passes(findings: Iterable[Finding], fail_on: tuple[Outcome, ...]) -> bool:
    """Whether no finding that counts is one of *fail_on*, and no condition holds."""
    return not any(f.fails or f.outcome in fail_on for f in findings if not f.diagnostic)


def judge(now: Measurement, was: Measurement, tolerance: Tolerance) -> Finding:
    """Judge one measurement. *Worse* needs both size and significance.

    A note says why there is no value, which is the same where the baseline had none either; or why
    a value is compared with nothing.
    """
    if now.value is None:
        both = was.value is None and bool(now.note and was.note)
        outcome = Outcome.SAME if both else Outcome.WORSE
        return Finding(now.metric, outcome, None, was.value, note=now.note or "not a finite number")
    if was.value is None or now.note or was.note:
        note = now.note or was.note or "no finite value"
        return Finding(now.metric, Outcome.NOT_COMPARABLE, now.value, was.value, note=note)
    worse_by = now.value - was.value if now.better == "lower" else was.value - now.value
    allowed = tolerance.allowed(was.value)
    p = None
    # 0.90 - 0.89 is 0.010000000000000009: what binary fractions cannot say is no loss.
    exact = 1e-12 * max(abs(now.value), abs(was.value))
    if worse_by - allowed > exact:
        p = p_worse(now, was)
        outcome = Outcome.WORSE if p is None or p < ALPHA else Outcome.UNSURE
    else:
        outcome = Outcome.BETTER if -worse_by - allowed > exact else Outcome.SAME
    return Finding(now.metric, outcome, now.value, was.value, allowed, p)


def p_worse(now: Measurement, was: Measurement) -> float | None:
    """One-sided p-value that *now* is worse than *was*; None where no samples were kept."""
    if not now.samples or not was.samples:
        return None
    # Baselines keep samples in single precision: what rounds to the same there has not moved.
    ours, theirs = (array("f", m.samples) for m in (now, was))
    sign = 1 if now.better == "lower" else -1
    if now.paired and was.paired and len(ours) == len(theirs):
        return p_paired([sign * (n - w) for n, w in zip(ours, theirs, strict=True)])
    return p_unpaired([sign * s for s in ours], [sign * s for s in theirs])


def _findings(
    now: Record, was: Record | None, tolerance_for: Callable[[str], Tolerance]
) -> Iterator[Finding]:
    judged = [m for m in now.measurements if not m.varies or now.environment.device != "cpu"]
    if was is None:
        yield Finding("plan", Outcome.NEW, note=describe(now.plan))
        for new in judged:
            yield _new(new)
        return
    (ours, mine), (theirs, their) = _parted(now.asked), _parted(was.asked)
    if what := "; ".join(_differences(ours, theirs)):
        yield Finding("case", Outcome.NOT_COMPARABLE, note=f"the baseline answers another: {what}")
        return
    yield _judge_plan(now, was)
    # Each metric is a question of its own: one that is added or changed leaves the others standing.
    families = dict.fromkeys(_family(m) for m in judged)
    changed = [f for f in families if f in mine and f in their and mine[f] != their[f]]
    for family in changed:
        what = "; ".join(_differences(mine[family], their[family], family))
        note = f"the baseline was measured otherwise: {what}"
        yield Finding(family, Outcome.NOT_COMPARABLE, note=note)
    for measurement in judged:
        old = was.find(measurement.metric)
        if _family(measurement) in changed:
            continue
        if old is None:
            yield _new(measurement)
        else:
            yield judge(measurement, old, tolerance_for(measurement.metric))
    measured = {m.metric for m in now.measurements}
    for old in was.measurements:
        if old.metric not in measured and _family(old) not in changed:
            yield Finding(old.metric, Outcome.GONE, None, old.value, note="no longer measured")


def _parted(asked: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """A question without its metrics; and its metrics by name, a list where one comes twice."""
    metrics: dict[str, Any] = {}
    for metric in asked.get("metrics", ()):
        metrics.setdefault(metric["name"], []).append(metric)
    single = {name: m[0] if len(m) == 1 else m for name, m in metrics.items()}
    return {k: v for k, v in asked.items() if k != "metrics"}, single


def _family(measurement: Measurement) -> str:
    return measurement.metric.split("/")[0]


def _new(measurement: Measurement) -> Finding:
    if measurement.value is None and not measurement.note:
        return Finding(measurement.metric, Outcome.WORSE, note="not a finite number")
    return Finding(measurement.metric, Outcome.NEW, measurement.value, note=measurement.note)


def _judge_plan(now: Record, was: Record) -> Finding:
    if [bare(e) for e in now.plan] == [bare(e) for e in was.plan]:
        return Finding("plan", Outcome.SAME, note=describe(now.plan))
    note = f"now {describe(now.plan)}, was {describe(was.plan)}"
    if _is_tie(now, was):
        return Finding("plan", Outcome.SAME, note=f"a tie within noise: {note}")
    return Finding("plan", Outcome.CHANGED_PLAN, note=note)


def _is_tie(now: Record, was: Record) -> bool:
    """Whether the plans part at a choice that neither run could make with certainty."""
    # After a choice that went the other way a search may take more steps, or end with no edit.
    for mine, theirs in zip(now.trace, was.trace, strict=False):
        if mine.chosen != theirs.chosen:
            # From here on the two searches looked at different models.
            return not mine.determined and not theirs.determined and _close(mine, theirs)
    return False  # the same choices gave other edits: that is no matter of noise


def _close(mine: Step, theirs: Step) -> bool:
    """Whether each run scored the other's choice within its noise of its own."""
    for step, other in ((mine, theirs.chosen), (theirs, mine.chosen)):
        chosen, runner_up = step.decided_by(step.chosen), step.decided_by(other)
        if chosen is None or runner_up is None or abs(runner_up - chosen) > step.noise:
            return False
    return True


def _differences(now: Any, was: Any, path: str = "") -> Iterator[str]:
    if isinstance(now, dict) and isinstance(was, dict):
        for key in [*now, *(k for k in was if k not in now)]:
            yield from _differences(now.get(key), was.get(key), f"{path}.{key}" if path else key)
    elif isinstance(now, list) and isinstance(was, list) and len(now) == len(was):
        for i, (a, b) in enumerate(zip(now, was, strict=True)):
            yield from _differences(a, b, f"{path}[{i}]")
    elif now != was:
        yield f"{path} is {_short(now)}, was {_short(was)}"


def _short(value: Any) -> str:
    text = "not given" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

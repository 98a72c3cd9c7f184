"""Compares two sets of results, whoever made them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from statistics import NormalDist

from msgspec import Struct
from msgspec.structs import replace

from ..case import Case
from ..cases import loader
from ..cases.keyword import Matcher
from ..record import Measurement, Record, Tolerance
from ..verdicts import fail_on as fail_rules
from ..verdicts import verdict
from ..verdicts.conditions import Condition
from ..verdicts.significance import CONFIDENCE, Evidence
from ..verdicts.verdict import FAILING, UNCONFIRMED, Finding, Outcome, Rules, Verdict
from . import judging, lm_eval_pairing
from .lm_eval_files import Results, Score
from .lm_eval_pairing import Unpaired
from .readers import LM_EVAL, Side, _steady, _varying


class Compared(Struct, frozen=True):
    """How *b* compares with *a*; *notes* are lines that belong to no finding."""

    a: Side
    b: Side
    verdicts: tuple[Verdict, ...]
    notes: tuple[str, ...]
    common: int


def families(sides: Iterable[Side]) -> list[str]:
    """The metrics that conditions may be about, of all that the sides measured."""
    found: dict[str, None] = {}
    for side in sides:
        tasks = side.results.tasks.values() if side.results else ()
        found.update(dict.fromkeys(name for task in tasks for name in task.scores))
        records = [side.record(i, side.device(i)) for i in side.case_ids()]
        found.update(dict.fromkeys(m.metric for r in records if r for m in r.measurements))
    return list(dict.fromkeys(name.split("/")[0] for name in found))


def compare(
    a: Side,
    b: Side,
    cases: Mapping[str, Case],
    select: Matcher = lambda _: True,
    fail_on: tuple[Outcome, ...] | None = None,
    conditions: tuple[Condition, ...] | None = None,
) -> Compared:
    """Judge every case that both have, *b* as what is now and *a* as what was.

    Each is judged as its case in *cases* says, or else by its metrics' own tolerances; *fail_on*
    and *conditions* replace what the cases say fails. *select* chooses case ids.
    """
    mine, theirs = (dict.fromkeys(filter(select, side.case_ids())) for side in (b, a))
    notes: list[str] = []
    judged: list[tuple[Verdict, tuple[Outcome, ...]]] = []
    for case_id in [*mine, *(i for i in theirs if i not in mine)]:
        case = cases.get(case_id)
        failing = fail_on if fail_on is not None else case.fail_on if case else FAILING
        if a.results and b.results:
            one, lines = _lm_eval(a.results, b.results, failing, conditions or ())
            notes += lines
        else:
            one = _case(case_id, a, b, case, failing, conditions)
        judged.append((one, failing))
    verdicts = tuple(verdict.settle(judged))
    common = sum(i in theirs for i in mine)
    if a.results and b.results and not {*a.results.tasks} & {*b.results.tasks}:
        common = 0
    return Compared(a, b, verdicts, tuple(notes), common)


def _case(
    case_id: str,
    a: Side,
    b: Side,
    case: Case | None,
    fail_on: tuple[Outcome, ...],
    conditions: tuple[Condition, ...] | None,
) -> Verdict:
    now = b.record(case_id, a.device(case_id))
    was = a.record(case_id, now.environment.device if now else "cpu")
    if now is None or was is None:
        return _one_sided(case_id, a, b, now, was, fail_on)
    if case is not None and case.for_interval:
        return Verdict(case_id, ok=True, seed_of=case.seed_of)
    separate = any(side.kind.startswith("baseline") for side in (a, b))
    now, was, apart = _timings_apart(now, was, separate=separate)
    # The papers' numbers judge runs, not comparisons.
    judged = judging.judge(now, was, case, fail_on=fail_on, conditions=conditions, more=apart)
    # A timing that looks worse cannot be measured again from here.
    once = "measured once on each side"
    findings = [replace(f, note=once) if f.note == UNCONFIRMED else f for f in judged.findings]
    return replace(judged, findings=tuple(findings))


def _one_sided(
    case_id: str,
    a: Side,
    b: Side,
    now: Record | None,
    was: Record | None,
    fail_on: tuple[Outcome, ...],
) -> Verdict:
    outcome = Outcome.NOT_COMPARABLE
    if now is None and was is None:
        note = "; ".join(f"{s.path}: {s.absent[case_id]}" for s in (a, b) if case_id in s.absent)
    elif now is None:
        why = b.absent.get(case_id, "")
        if not why or why.startswith("it crashed"):
            outcome = Outcome.GONE
        note = f"no record in {b.path}: {why}" if why else f"not in {b.path}"
    else:
        outcome = Outcome.NEW
        note = f"not in {a.path}" + (f": {a.absent[case_id]}" if case_id in a.absent else "")
    finding = Finding("case", outcome, note=note)
    return Verdict(case_id, outcome not in fail_on, (finding,))


def _timings_apart(
    now: Record, was: Record, *, separate: bool
) -> tuple[Record, Record, list[Finding]]:
    """Both records without timings of two devices, or in *separate* files, and why in a finding."""
    mine, theirs = now.environment.device, was.environment.device
    both = _varying(now) and _varying(was)
    if mine == theirs and (both or not separate):
        return now, was, []
    note = f"measured on {mine} and on {theirs}"
    apart = [Finding("timings", Outcome.NOT_COMPARABLE, note=note)] if both else []
    return _steady(now), _steady(was), apart


def _lm_eval(
    a: Results,
    b: Results,
    fail_on: tuple[Outcome, ...],
    conditions: tuple[Condition, ...],
) -> tuple[Verdict, Iterator[str]]:
    """The verdict over two runs of lm-eval, and lines that belong to no finding."""
    found = lm_eval_pairing.align(b, a, LM_EVAL)
    more = [Finding(task, Outcome.NOT_COMPARABLE, note=why) for task, why in found.apart.items()]
    more += [_unpaired(one, loader.default_tolerance(one.metric)) for one in found.unpaired]
    more += fail_rules.findings(*found.whole(), conditions)
    judged = verdict.compare(found.now, found.was, loader.default_tolerance, fail_on, more)
    # What was done to the models is not in these files.
    findings = tuple(f for f in judged.findings if f.what != "plan")
    return replace(judged, findings=findings), _notes(a, b, found)


def _notes(a: Results, b: Results, found: lm_eval_pairing.Aligned) -> Iterator[str]:
    for name, side in (("A", a), ("B", b)):
        older = f", the newest of {side.older + 1} results files" if side.older else ""
        yield f"{name}: {side.model}, {side.path.name}{older}"
    yield from found.notes
    if found.unpaired:
        sampled = [all(task.answers for task in side.tasks.values()) for side in (a, b)]
        bare = " and ".join(n for n, has in zip("AB", sampled, strict=True) if not has)
        where = f"{bare} has" if len(bare) == 1 else f"{bare or 'A or B'} have"
        what = f"{where} no samples to pair questions by; lm_eval --log_samples writes them"
        yield f"compared by their standard errors, which sees less: {what}"
    if others := sorted({*a.others, *b.others}):
        yield f"not compared: {', '.join(others)}"


def _unpaired(one: Unpaired, tolerance: Tolerance) -> Finding:
    """Two scores by their standard errors, to the same rules as paired ones."""
    rules = Rules()
    now, was = (Measurement(one.metric, s.value, one.unit, "higher") for s in (one.now, one.was))
    seen = _z_test(one.now, one.was, rules)
    if seen is None:
        found = verdict.judge(now, was, tolerance, rules)
        return replace(found, diagnostic=one.diagnostic, note="no standard error")
    allowed = tolerance.allowed(one.was.value)
    values = one.now.value, one.was.value
    return Finding(
        one.metric,
        verdict.decide(seen.loss, allowed, values, seen, rules),
        one.now.value,
        one.was.value,
        allowed,
        seen.p,
        note="not paired",
        diagnostic=one.diagnostic,
        evidence=seen,
    )


def _z_test(now: Score, was: Score, rules: Rules) -> Evidence | None:
    """Whether two independent means differ, by their standard errors; None without these."""
    if now.stderr is None or was.stderr is None:
        return None
    normal = NormalDist()
    spread = math.hypot(now.stderr, was.stderr)
    loss = was.value - now.value
    reach = normal.inv_cdf(CONFIDENCE) * spread
    # All right or all wrong on both sides: no spread, and what differs differs.
    z = loss / spread if spread else math.copysign(math.inf, loss) if loss else 0.0
    seen = Evidence(
        test="z test",
        count=now.questions or 0,
        loss=loss,
        low=loss - reach,
        high=loss + reach,
        p=normal.cdf(-z),
        p_better=normal.cdf(z),
        spread=spread,
        alpha=rules.alpha,
    )
    return replace(seen, least=seen.smallest(rules.alpha))

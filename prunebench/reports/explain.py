"""``show --explain``: every finding with the numbers behind it, and plans as a diff."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from ..formatting import FRACTIONS, amount, p_text
from ..plan import Edit, Step, describe, name
from ..record import Measurement, Record
from ..verdicts.significance import CONFIDENCE, POWER, RANKS, Evidence
from ..verdicts.verdict import Finding, Outcome, Verdict, parting

#: Smaller p-values are printed as less than this one.
LEAST = 0.0001


def explanation(record: Record, was: Record | None, verdict: Verdict) -> list[str]:
    """Lines for each decisive finding, the plan among them, followed by its diagnostic parts."""
    lines: list[str] = []
    for finding in (f for f in verdict.findings if not f.diagnostic):
        lines += _finding(finding, record, was)
        parts = {m.metric for m in record.measurements if m.instead == finding.what}
        for part in verdict.findings:
            if part.diagnostic and part.what in parts:
                lines.append(f"    {_diagnosis(part, record)}")
    return lines


def plan_diff(now: Record, was: Record) -> list[str]:
    """The removals, in order, as a diff from the baseline's plan to this one."""
    before, after = (_removals(r.plan) for r in (was, now))
    return [line for line in difflib.ndiff(before, after) if not line.startswith("?")]


def _finding(finding: Finding, record: Record, was: Record | None) -> Iterator[str]:
    yield f"{finding.what}: {str(finding.outcome).replace('_', ' ')}"
    if finding.what == "plan":
        yield from (f"  {line}" for line in _plan(finding, record, was))
        return
    measured = record.find(finding.what)
    unit = measured.unit if measured else ""
    if finding.now is not None or finding.was is not None:
        yield f"  now {finding.now}, was {finding.was}"
    if finding.evidence is not None:
        yield from (f"  {line}" for line in _evidence(finding, finding.evidence, unit))
    elif finding.allowed is not None:
        yield f"  allowed {amount(finding.allowed, unit, finding.was)}; no samples were stored"
    if finding.note:
        yield f"  {finding.note}"
    if measured is not None and finding.evidence is not None:
        yield f"  {_reason(finding, finding.evidence, measured)}"


def _plan(finding: Finding, record: Record, was: Record | None) -> Iterator[str]:
    if was is None or finding.outcome == Outcome.NEW:
        yield describe(record.plan)
        return
    changed = [edit for edit in plan_diff(record, was) if not edit.startswith(" ")]
    if not changed:
        yield f"{describe(record.plan)}, as accepted"
        return
    yield "removed in order (- as accepted, + now)"
    yield from plan_diff(record, was)
    if parted := parting(record, was):
        mine, theirs = parted
        yield f"diverged at step {mine.step}: {_choice(mine, theirs)}"
        yield f"  the baseline: {_choice(theirs, mine)}"
    if finding.outcome == Outcome.SAME:
        yield "a tie: the scores of the two candidates differ by less than their noise"


def _choice(step: Step, other: Step) -> str:
    chosen, rival = step.decided_by(step.chosen), step.decided_by(other.chosen)
    if chosen is None or rival is None:
        return f"chose {step.chosen}; {other.chosen} was no candidate"
    margin, sure = abs(rival - chosen), "sure" if step.determined else "within its noise"
    return (
        f"chose {step.chosen} at {chosen:.6g} before {other.chosen} at {rival:.6g}, "
        f"by {margin:.3g} with noise {step.noise:.2g}: {sure}"
    )


def _removals(edits: tuple[Edit, ...]) -> list[str]:
    lines = []
    for edit in edits:
        kind = edit.__struct_config__.tag
        removed = [f"{kind} {name(unit)}" for unit in edit.units()]
        lines += removed or [describe((edit,))]
    return lines


def _evidence(finding: Finding, seen: Evidence, unit: str) -> Iterator[str]:
    def loss(value: float) -> str:
        return amount(value, unit, finding.was)

    what = "questions" if unit in FRACTIONS else "samples"
    least = f"minimum detectable drop ({POWER:.0%} power): {loss(seen.least or 0)}"
    if seen.test == RANKS:
        yield f"{seen.count} rounds against the baseline's"
    elif not seen.worse and not seen.better:
        yield f"none of {seen.count} {what} changed"
        if seen.least:
            yield least
        return
    else:
        yield f"of {seen.count} {what} {seen.worse} are worse and {seen.better} better"
    sure = f"{CONFIDENCE:.0%} sure it is below {loss(seen.high)}, and above {loss(seen.low)}"
    raised = ", raised to the noise of this machine" if seen.noise is not None else ""
    allowed = "" if finding.allowed is None else f"; allowed {loss(finding.allowed)}{raised}"
    yield f"lost {loss(seen.loss)}: {sure}{allowed}"
    parts = ""
    if seen.p_right is not None and seen.p_margins is not None:
        right, margins = (p_text(p, "") for p in (seen.p_right, seen.p_margins))
        parts = f" (right and wrong alone {right}, margins {margins})"
    among = ""
    if seen.adjusted is not None:
        among = f", among {seen.family} tests {p_text(seen.adjusted, '')}"
    yield f"{p_text(seen.p)}{parts}{among}; {seen.test}, one-sided alpha {seen.alpha:g}"
    if seen.least:
        yield least


def _reason(finding: Finding, seen: Evidence, measured: Measurement) -> str:
    allowed = finding.allowed or 0.0
    lost = seen.loss
    if finding.outcome == Outcome.WORSE:
        return "worse: the loss is more than allowed and significant"
    if finding.outcome == Outcome.BETTER:
        return "better: the gain is more than the tolerance and significant"
    if finding.outcome == Outcome.SAME:
        return "same: the upper end of the interval is within what is allowed"
    if lost > allowed:
        return "unsure: the loss is more than allowed, but not significant"
    kind = "rounds" if measured.varies else "samples"
    return (
        f"unsure: the loss is within what is allowed, but these {kind} do not exclude a larger one"
    )


def _diagnosis(finding: Finding, record: Record) -> str:
    measured = record.find(finding.what)
    unit = measured.unit if measured else ""
    text = f"{finding.what}: {finding.outcome}"
    if (seen := finding.evidence) is not None:
        text += f", lost {amount(seen.loss, unit, finding.was)}, {p_text(seen.p)}"
        if seen.worse or seen.better:
            text += f", {seen.worse} worse and {seen.better} better of {seen.count}"
    return text


def chance(finding: Finding) -> str:
    """The decisive p-value, adjusted if the run made several tests."""
    seen = finding.evidence
    p = finding.p if seen is None or seen.adjusted is None else seen.adjusted
    if p is None:
        return ""
    return f"{p:.2g}" if p >= LEAST else f"< {LEAST:f}".rstrip("0")

"""Assembles the verdict on a record from its baseline, its conditions and the papers' numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ..case import Case
from ..cases.loader import default_tolerance
from ..errors import PrunebenchError
from ..record import Record
from ..verdicts import fail_on as fail_rules
from ..verdicts import verdict
from ..verdicts.conditions import Condition
from ..verdicts.verdict import FAILING, Finding, Outcome, Rules, Verdict
from .baselines import published
from .baselines.files import Baselines
from .baselines.published import Row


def judge(
    record: Record,
    was: Record | PrunebenchError | None,
    case: Case | None = None,
    *,
    fail_on: tuple[Outcome, ...] | None = None,
    conditions: Sequence[Condition] | None = None,
    rules: Rules | None = None,
    rows: Iterable[Row] = (),
    more: Sequence[Finding] = (),
) -> Verdict:
    """Judge *record* against its baseline *was* as *case* says, or else as its metrics do.

    If *was* is an error, which says why the baseline cannot be used, only conditions decide.
    *fail_on*, *conditions* and *rules* replace those of the case; *rows* are the papers' numbers,
    *more* findings that rest on something else.
    """
    failing = fail_on if fail_on is not None else case.fail_on if case else FAILING
    holding = conditions if conditions is not None else case.conditions if case else ()
    old = was if isinstance(was, Record) else None
    held = fail_rules.findings(record, old, holding)
    if isinstance(was, PrunebenchError):
        damaged = Finding("baseline", Outcome.NOT_COMPARABLE, note=str(was))
        found = (damaged, *held)
        return Verdict(record.case_id, verdict.passes(found, failing), found)
    if case and case.published is not None:
        matching = published.matching(record, rows)
        more = [*more, *published.findings(record, matching, case.published)]
    tolerance = case.tolerance_for if case else default_tolerance
    rules = rules or (case.rules() if case else None)
    return verdict.compare(record, was, tolerance, failing, [*more, *held], rules)


def judge_stored(record: Record, baselines: Baselines, case: Case | None) -> Verdict:
    """Judge a stored record against its baseline.

    Raises:
        PrunebenchError: if the baseline, or a file of the papers' numbers, cannot be used.
    """
    was = baselines.load(record.case_id, record.environment.device)
    rows = published.rows(baselines.published) if case and case.published else ()
    return judge(record, was, case, rows=rows)

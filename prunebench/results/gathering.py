"""The newest record of each case in any number of folders and files, and its verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..case import Case
from ..cases.loader import default_tolerance
from ..errors import PrunebenchError
from ..record import Record
from ..verdicts import fail_on
from ..verdicts.evidence import p_among
from ..verdicts.verdict import (
    FAILING,
    Finding,
    Verdict,
    compare,
)
from . import archive
from .baselines import published
from .baselines.files import Baselines


def newest(paths: Iterable[Path], tell: Callable[[str], None] | None = None) -> list[Record]:
    """Of every case the newest record in *paths*, sorted by case id.

    Args:
        paths: results folders, baselines folders, records, and files of ``run --json``.
        tell: called with a line for each damaged record of a folder, which is left out.

    Raises:
        PrunebenchError: if one is none of these or empty; without *tell* also if one is damaged.
    """
    read = archive.read(paths)
    if tell is None:
        if read.problems:
            raise PrunebenchError("\n".join(read.problems))
    else:
        for problem in read.problems:
            tell(f"left out: {problem}")
    found: dict[str, Record] = {}
    # A baseline is the record it was accepted from, without timings and with fewer digits.
    for record in sorted(read.records, key=lambda r: (r.created, len(r.measurements))):
        found[record.case_id] = record
    return [found[case_id] for case_id in sorted(found)]


def judged(record: Record, baselines: Baselines, case: Case | None) -> Verdict:
    """A stored record beside its baseline, as *case* says, or else as its metrics do."""
    was = baselines.load(record.case_id, record.environment.device)
    more: list[Finding] = []
    if case and case.published:
        rows = published.matching(record, published.rows(baselines.published))
        more += published.findings(record, rows, case.published)
    conditions = case.conditions if case else ()
    more += fail_on.findings(record, was, conditions, p_among(record, was))
    tolerance = case.tolerance_for if case else default_tolerance
    failing = case.fail_on if case else FAILING
    return compare(record, was, tolerance, failing, more, case.rules() if case else None)

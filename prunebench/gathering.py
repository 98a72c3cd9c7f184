"""The newest record of each case in any number of folders and files, and its verdict."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from . import comparing, gating, published
from .baseline import Baselines
from .case import Case
from .casefile import default_tolerance
from .errors import PrunebenchError
from .evidence import p_among
from .record import Record
from .verdict import FAILING, Finding, Verdict, compare


def newest(paths: Iterable[Path]) -> list[Record]:
    """Of every case the newest record in *paths*, sorted by case id.

    Args:
        paths: results folders, baselines folders, records, and files of ``run --json``.

    Raises:
        PrunebenchError: if one is none of these, empty, or damaged.
    """
    found: dict[str, Record] = {}
    for path in paths:
        for record in _records(path):
            other = found.get(record.case_id)
            if other is None or record.created > other.created:
                found[record.case_id] = record
    return [found[case_id] for case_id in sorted(found)]


def _records(path: Path) -> Iterator[Record]:
    side = comparing.read(path)
    if side.results is not None:
        raise PrunebenchError(f"{path}: results that lm-eval wrote; expected records of prunebench")
    if side.baselines is None:
        yield from side.records.values()
        return
    for case_id in side.baselines.case_ids():
        if (record := _baseline(side.baselines, case_id)) is not None:
            yield record


def _baseline(baselines: Baselines, case_id: str) -> Record | None:
    """An accepted record, with the timings of the device that it was made on."""
    record = baselines.load(case_id, "cpu")
    if record is None or record.environment.device == "cpu":
        return record
    return baselines.load(case_id, record.environment.device)


def judged(record: Record, baselines: Baselines, case: Case | None) -> Verdict:
    """A stored record beside its baseline, as *case* says, or else as its metrics do."""
    was = baselines.load(record.case_id, record.environment.device)
    more: list[Finding] = []
    if case and case.published:
        rows = published.matching(record, published.rows(baselines.published))
        more += published.findings(record, rows, case.published)
    conditions = case.conditions if case else ()
    more += gating.findings(record, was, conditions, p_among(record, was))
    tolerance = case.tolerance_for if case else default_tolerance
    failing = case.fail_on if case else FAILING
    return compare(record, was, tolerance, failing, more, case.rules() if case else None)

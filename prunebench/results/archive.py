"""All records in any number of folders and files; what cannot be read is reported."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..errors import PrunebenchError
from ..record import Record
from ..system import files
from . import readers, store
from .baselines.files import Baselines


class Archive(Struct, frozen=True):
    """The sound *records*, in no order, and a line for each that is damaged."""

    records: tuple[Record, ...]
    problems: tuple[str, ...]


def read(paths: Iterable[Path]) -> Archive:
    """All records in *paths*.

    Args:
        paths: results folders, baselines folders, folders below these, records, and files of
            ``run --json``.

    Raises:
        PrunebenchError: if one is none of these.
    """
    found: dict[bytes, Record] = {}
    problems: dict[str, None] = {}
    for path in paths:
        for one in _records(path):
            if isinstance(one, PrunebenchError):
                problems[str(one)] = None
            else:
                found.setdefault(hashlib.sha256(msgspec.json.encode(one)).digest(), one)
    return Archive(tuple(found.values()), tuple(problems))


def newest(paths: Iterable[Path], report: Callable[[str], None] | None = None) -> list[Record]:
    """The newest record of each case in *paths* (``read``), sorted by case id.

    *report* is called with a line for each damaged record, which is left out.

    Raises:
        PrunebenchError: if one is none of these; without *report* also if a record is damaged.
    """
    found = read(paths)
    for problem in found.problems:
        if report is None:
            raise PrunebenchError("\n".join(found.problems))
        report(f"left out: {problem}")
    # A baseline is the record it was accepted from, without timings and with fewer digits.
    oldest_first = sorted(found.records, key=lambda r: (r.created, len(r.measurements)))
    by_case = {record.case_id: record for record in oldest_first}
    return [by_case[case_id] for case_id in sorted(by_case)]


def _records(path: Path) -> Iterator[Record | PrunebenchError]:
    if path.is_dir():
        for root, below, kind in _roots(path):
            yield from (_stored if kind == "records" else _accepted)(root, below)
            return
    side = readers.read(path)
    if side.results is not None or path.is_dir():
        raise PrunebenchError(f"{path}: neither records of prunebench nor a folder of them")
    yield from side.records.values()


def _roots(path: Path) -> Iterator[tuple[Path, str, str]]:
    """Resolve *path* to the store or baselines folder (root), the selected cases, and its kind."""
    for kind in ("records", "quality"):
        if (path / kind).is_dir():
            yield path, "", kind
    for above in (path, *path.parents):
        if above.name in ("records", "quality"):
            below = path.relative_to(above).as_posix()
            yield above.parent, "" if below == "." else below, above.name


def _stored(root: Path, below: str) -> Iterator[Record | PrunebenchError]:
    base = root / "records"
    for path in files.below(base / below, ".json"):
        if path.name.startswith("."):
            continue
        try:
            record = store.read(path)
            if record.case_id != path.parent.relative_to(base).as_posix():
                raise PrunebenchError(f"{path}: the record of another case, {record.case_id}")
        except PrunebenchError as error:
            yield error
        else:
            yield record


def _accepted(root: Path, below: str) -> Iterator[Record | PrunebenchError]:
    """The baselines, one for each device that has timings or else one."""
    baselines = Baselines(root)
    for case_id in baselines.case_ids():
        if below and case_id != below and not case_id.startswith(f"{below}/"):
            continue
        timed = baselines.timed(case_id)
        for device in timed or [""]:
            try:
                record = baselines.load(case_id, device or "cpu")
            except PrunebenchError as error:
                yield error
                continue
            if record is not None:
                here = record.environment
                device = device or here.device
                yield replace(record, environment=replace(here, device=device))

"""Reads a set of results: a file or folder of records, baselines, a run's JSON, or lm-eval's."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..errors import PrunebenchError
from ..record import Record, too_new
from ..system import files
from . import lm_eval_files
from .baselines.files import Baselines
from .lm_eval_files import Results
from .store import Store

T = TypeVar("T")

#: What both sides of two lm-eval folders are called, whatever their models.
LM_EVAL = "lm-eval"

KINDS = (
    "a file of `run --json`, a results folder such as .prunebench, a baselines folder, a record, "
    "nor results of lm-eval"
)


class Side(Struct, frozen=True):
    """One set of results.

    *records* are by case id; *absent* says of the others why there is none. Baselines are looked up
    for a device, and lm-eval's results have one case.
    """

    path: Path
    kind: str
    records: Mapping[str, Record] = {}
    absent: Mapping[str, str] = {}
    baselines: Baselines | None = None
    results: Results | None = None

    def case_ids(self) -> list[str]:
        """All cases of which it has something to say."""
        if self.results is not None:
            return [LM_EVAL]
        if self.baselines is not None:
            return self.baselines.case_ids()
        return [*self.records, *self.absent]

    def record(self, case_id: str, device: str) -> Record | None:
        """The record of a case; where timings are stored by device, with those of *device*."""
        if self.baselines is None:
            return self.records.get(case_id)
        found = self.baselines.load(case_id, device)
        if found is None or not _varying(found):
            return found
        return replace(found, environment=replace(found.environment, device=device))

    def device(self, case_id: str) -> str:
        """The device of a case's record, as far as it is known."""
        found = self.records.get(case_id)
        return found.environment.device if found else "cpu"


class Absent(Struct, frozen=True):
    """What is read of a verdict in a run's file: why there is no record, where there is none."""

    case_id: str
    error: str = ""
    skipped: str = ""


def read(path: Path) -> Side:
    """The results in *path*, whichever kind they are.

    Raises:
        PrunebenchError: if it is none of the kinds, empty, damaged, or from a newer version.
    """
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise PrunebenchError(f"{path}: no such file or folder")
    data = lm_eval_files.document(path)
    if lm_eval_files.is_results(data):
        return Side(path, LM_EVAL, results=lm_eval_files.load(path))
    if isinstance(data, dict) and isinstance(data.get("records"), list):
        return _run(path, data)
    if isinstance(data, dict) and "case_id" in data and "measurements" in data:
        return _single(path, data)
    raise PrunebenchError(f"{path}: neither {KINDS}")


def _folder(path: Path) -> Side:
    if (path / "records").is_dir():
        store = Store(path)
        newest = {i: record for i in store.case_ids() if (record := store.latest(i))}
        if not newest:
            raise PrunebenchError(f"{path}: a results folder without a record that can be read")
        return Side(path, "results folder", newest)
    for root in (path, path.parent):
        if (root / "quality").is_dir() and path in (root, root / "quality"):
            return Side(path, "baselines", baselines=Baselines(root))
    if found := lm_eval_files.newest(path):
        return Side(path, LM_EVAL, results=lm_eval_files.load(*found))
    empty = "an empty folder" if not files.listed(path) else f"neither {KINDS}"
    raise PrunebenchError(f"{path}: {empty}")


def _run(path: Path, data: dict[str, Any]) -> Side:
    records = [_record(path, one) for one in data["records"]]
    absent = {}
    for judged in data.get("verdicts") or ():
        one = _converted(path, judged, Absent)
        if one.error or one.skipped:
            absent[one.case_id] = f"it crashed: {one.error}" if one.error else one.skipped
    return Side(path, "run", {r.case_id: r for r in records}, absent)


def _single(path: Path, data: dict[str, Any]) -> Side:
    record = _record(path, data)
    depth = len(record.case_id.split("/"))
    root = path.absolute().parents[depth] if len(path.absolute().parents) > depth else path
    if "accepted" not in data:
        return Side(path, "record", {record.case_id: record})
    if Baselines(root).quality(record.case_id) == path.absolute():
        # A baseline where it belongs: with its samples, from the file next to it.
        record = Baselines(root).load(record.case_id, "cpu") or record
    return Side(path, "baseline", {record.case_id: record})


def _record(path: Path, data: Any) -> Record:
    if isinstance(data, dict) and (newer := too_new(data.get("schema"))):
        raise PrunebenchError(f"{path}: {newer}")
    return _converted(path, data, Record)


def _converted(path: Path, data: Any, kind: type[T]) -> T:
    try:
        # Through JSON once more: what is read for lm-eval may have NaN and Infinity in it.
        return msgspec.convert(json.loads(json.dumps(data, allow_nan=False)), kind)
    except (msgspec.ValidationError, ValueError) as error:
        raise PrunebenchError(f"{path}: damaged: {error}") from None


def _varying(record: Record) -> bool:
    return any(m.varies for m in record.measurements)


def _steady(record: Record) -> Record:
    return replace(record, measurements=tuple(m for m in record.measurements if not m.varies))

"""The JSON Schema of what prunebench writes: records, baselines, and the file of a run."""

from __future__ import annotations

import json
from functools import reduce
from operator import or_
from typing import Any

import msgspec
from msgspec import Struct

from ...plan import edit_kinds
from ...record import Record
from ...results.baselines.files import Accepted
from ...system import files
from ...verdicts.seeds import Interval
from ...verdicts.significance import Evidence
from ...verdicts.verdict import Verdict
from .export_format import Export, Format

DRAFT = "https://json-schema.org/draft/2020-12/schema"


class Baseline(Record, frozen=True, kw_only=True):
    """An accepted record, as a file below ``baselines``.

    *samples* counts the samples of each measurement, which lie compressed next to the file.
    """

    accepted: Accepted
    samples: dict[str, int] | None = None


class Run(Struct, frozen=True):
    """What ``prunebench run --json FILE`` writes.

    There is a verdict for every case, and a record for every one that was measured. *intervals*
    are over calibration seeds, of cases that ask for several.
    """

    records: tuple[Record, ...]
    verdicts: tuple[Verdict, ...]
    intervals: tuple[Interval, ...] = ()


def json_schema() -> dict[str, Any]:
    """One schema for all three kinds of file; each alone is ``#/$defs/Record`` and so on.

    Keys that it does not name are allowed: a later version may add some. The edits are those that
    come with the package.
    """
    kinds = [Baseline, Record, Run]
    edit = reduce(or_, edit_kinds())
    asked = [*kinds, Evidence, edit]
    tops, parts = msgspec.json.schema_components(asked, ref_template="#/$defs/{name}")
    for kind in ("Baseline", "Record"):
        parts[kind]["properties"]["plan"]["items"] = tops[-1]
    # JSON has no infinity: an interval without an end has null there.
    for bound in parts["Evidence"]["properties"].values():
        if bound.get("type") == "number":
            bound["type"] = ["number", "null"]
    whole = {
        "$schema": DRAFT,
        "title": "prunebench record",
        "description": "A record, a baseline, or the file of `prunebench run --json`.",
        "anyOf": tops[: len(kinds)],
        "$defs": parts,
    }
    for part in parts.values():
        part["description"] = " ".join(part["description"].split())
    plain: dict[str, Any] = json.loads(msgspec.json.encode(whole))
    return plain


def _text(export: Export) -> str:
    return files.printable_json(Run(tuple(export.records), ()))


FORMATS = (Format("json", ".json", _text),)

"""The formats of two benchmark trackers: github-action-benchmark and bencher."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ...record import Direction, Record
from ...system import files
from .export_format import Export, Format
from .rows import rows

#: Standard errors to each side: both trackers show intervals of 95 %.
SIDES = 1.96


def action_benchmark(records: Iterable[Record], better: Direction) -> list[dict[str, Any]]:
    """Entries of github-action-benchmark, whose files each have one direction.

    *better* is ``lower`` for its tool customSmallerIsBetter, ``higher`` for customBiggerIsBetter.
    """
    found = []
    for row in rows(records):
        if row.better != better or row.value is None:
            continue
        entry = {"name": f"{row.case_id} {row.metric}", "unit": row.unit, "value": row.value}
        if row.standard_error is not None:
            entry["range"] = f"± {SIDES * row.standard_error:.3g}"
        entry["extra"] = f"sparsity {row.sparsity:.4f}\ndevice {row.device}\nn {row.n}"
        found.append(entry)
    return found


def bencher(records: Iterable[Record]) -> dict[str, dict[str, dict[str, float]]]:
    """Bencher's metric format: case, then metric, then value with the ends of its interval."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for row in rows(records):
        if row.value is None:
            continue
        entry = found.setdefault(row.case_id, {})[row.metric] = {"value": row.value}
        if row.standard_error is not None:
            half = SIDES * row.standard_error
            entry |= {"lower_value": row.value - half, "upper_value": row.value + half}
    return found


def _smaller(export: Export) -> str:
    return files.printable_json(action_benchmark(export.records, "lower"))


def _bigger(export: Export) -> str:
    return files.printable_json(action_benchmark(export.records, "higher"))


def _bencher(export: Export) -> str:
    return files.printable_json(bencher(export.records))


FORMATS = (
    Format("smaller-is-better", ".json", _smaller),
    Format("bigger-is-better", ".json", _bigger),
    Format("bencher", ".json", _bencher),
)

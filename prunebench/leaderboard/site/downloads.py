"""A board as CSV: a line per row, numbers in full precision."""

from __future__ import annotations

import json
from collections.abc import Iterator

from ...reports.formats.csv_table import written
from ..board import Board, Row
from ..row_values import Value

_TIMED = ("device", "backend", "shape", "prefill", "decode", "whole")


def table(board: Board) -> str:
    """The text of the file; a row with several timings has a line for each."""
    names = list(dict.fromkeys(name for row in board.rows for name in row.values))
    costs = list(dict.fromkeys(name for row in board.rows for name in row.record.cost))
    heads = ["case_id", "method", "options", "mark", "asked", "sparsity", "seeds"]
    heads += [f"rank {end} by {name}" for name in board.rank_by for end in ("from", "to")]
    heads += [head for name in names for head in (name, f"{name} low", f"{name} high")]
    heads += [*_TIMED[:3], *(f"speedup {part}" for part in _TIMED[3:]), "memory MiB", *costs]
    lines = (line for row in board.rows for line in _lines(board, row, names, costs))
    return written(heads, lines)


def _lines(board: Board, row: Row, names: list[str], costs: list[str]) -> Iterator[list[object]]:
    head: list[object] = [row.record.case_id, row.method]
    head += [json.dumps(row.options, sort_keys=True) if row.options else "", row.mark, row.amount]
    head += [row.sparsity, len(row.records)]
    for name in board.rank_by:
        place = row.places.get(name)
        head += [place.rank, place.last] if place else [None, None]
    for name in names:
        value = row.values.get(name)
        head += [value.value, value.low, value.high] if value else [None, None, None]
    tail: list[object] = [_number(row.memory), *(row.record.cost.get(name) for name in costs)]
    for timing in row.timings or (None,):
        if timing is None:
            yield [*head, *("" for _ in _TIMED), *tail]
            continue
        speedups = (_number(getattr(timing, part)) for part in _TIMED[3:])
        yield [*head, timing.device, timing.backend, timing.shape, *speedups, *tail]


def _number(value: Value | None) -> float | None:
    return None if value is None else value.value

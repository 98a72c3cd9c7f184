"""What a board is, and a board as plain data. Pure."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from ..record import Record
from ..results.baselines import published
from .ranking import Place
from .row_values import Timing, Value


class Row(Struct, frozen=True):
    """A method at an amount; *records* are its seeds, the first of which has the plan shown.

    *values* are by metric, *places* by the metric that ranks. *mark* names the origin of results
    made elsewhere. *published* are the papers' numbers of the same protocol.
    """

    records: tuple[Record, ...]
    method: str
    options: dict[str, Any]
    mark: str
    sparsity: float
    values: dict[str, Value]
    timings: tuple[Timing, ...]
    memory: Value | None
    published: tuple[published.Row, ...]
    places: dict[str, Place] = {}
    group: int = 0

    @property
    def record(self) -> Record:
        """The record of the first seed."""
        return self.records[0]

    @property
    def dense(self) -> bool:
        """Whether this is the dense model."""
        return self.method == "dense"

    @property
    def label(self) -> str:
        """The method with its options that are not defaults: ``sleb (keep_first=2)``."""
        return f"{self.method} ({', '.join(self.option_texts)})" if self.options else self.method

    @property
    def option_texts(self) -> list[str]:
        """The options as ``name=value``."""
        return [f"{k}={_plain(v)}" for k, v in self.options.items()]

    @property
    def amount(self) -> str:
        """The requested amount: ``30 %``, ``4 blocks``, ``slicing 0.25``."""
        return _amount(self.record.asked.get("amount") or {})


class Board(Struct, frozen=True):
    """The rows of one model under one protocol, from dense to sparse.

    *metrics* are the settings of accuracy, generation and perplexity; *rank_by* the measurements
    that rank, the most important first. *groups* are the lowest and highest sparsity of the rows
    that are ranked together; *near* is how far apart these may be. *blocks* is the number of blocks
    of the dense model, as far as its plans and traces show.
    """

    name: str
    model: str
    revision: str
    model_hash: str
    protocol: str
    dtype: str
    metrics: tuple[dict[str, Any], ...]
    rank_by: tuple[str, ...]
    rows: tuple[Row, ...]
    groups: tuple[tuple[float, float], ...]
    blocks: int
    near: float
    notes: tuple[str, ...]

    @property
    def made(self) -> str:
        """Creation time of its newest record."""
        return max(r.created for row in self.rows for r in row.records)

    def measured(self, family: str) -> list[str]:
        """The measurements of metric *family* in any row, in order of first appearance."""
        found = dict.fromkeys(name for row in self.rows for name in row.values)
        return [name for name in found if name.split("/")[0] == family]


def _amount(amount: dict[str, Any]) -> str:
    words = []
    for key, value in amount.items():
        if key == "sparsity" and isinstance(value, int | float):
            words.append(f"{value * 100:g} %")
        elif key in ("blocks", "sublayers"):
            words.append(f"{value} {key}")
        else:
            words.append(f"{key} {value}")
    return ", ".join(words)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def plain(board: Board) -> dict[str, Any]:
    """A board as plain data without samples: the JSON of ``--json`` and of downloads."""
    head = {k: getattr(board, k) for k in ("model", "revision", "model_hash", "protocol", "dtype")}
    head |= {"metrics": board.metrics, "rank_by": board.rank_by, "groups": board.groups}
    rows = []
    for row in board.rows:
        first = row.record
        rows.append(
            {
                "case_id": first.case_id,
                "method": row.method,
                "options": row.options,
                "mark": row.mark,
                "amount": first.asked.get("amount") or {},
                "sparsity": row.sparsity,
                "seeds": len(row.records),
                "places": row.places,
                "values": row.values,
                "timings": row.timings,
                "memory": row.memory,
                "cost": first.cost,
                "plan": first.plan,
                "published": [
                    {"metric": p.metric, "value": p.value, "source": p.credit, "where": p.where}
                    for p in row.published
                ],
                "created": first.created,
                "commit": first.environment.commit,
            }
        )
    data = {**head, "notes": board.notes, "made": board.made, "rows": rows}
    return msgspec.to_builtins(data)  # type: ignore[no-any-return]

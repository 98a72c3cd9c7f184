"""The table of cases against metrics, as data for every format."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from msgspec import Struct

from ...record import Measurement, Record
from ...results.baselines import published
from .rows import options, standard_error

#: The papers' numbers about a record.
Lookup = Callable[[Record], Sequence[published.Row]]


class Cell(NamedTuple):
    """A measurement, its standard error if known, and the published numbers about it."""

    measurement: Measurement
    error: float | None
    published: tuple[published.Row, ...]


class Line(Struct, frozen=True):
    """A record's row, its *cells* by metric."""

    record: Record
    cells: dict[str, Cell]

    @property
    def group(self) -> tuple[str, str, str, str]:
        """What all numbers that may be compared share: case file, model, protocol, device.

        Cases of different files may have asked different numbers of questions.
        """
        record = self.record
        file = record.case_id.rpartition("/")[0]
        protocol = record.asked.get("protocol") or ""
        return file, record.model_id, protocol, record.environment.device

    @property
    def label(self) -> str:
        """Method with the options that are not its defaults, for a reader of tables."""
        asked = self.record.asked
        name = str((asked.get("method") or {}).get("name") or self.record.case_id)
        given = options(asked).items()
        own = ", ".join(f"{k}={str(v).lower() if isinstance(v, bool) else v}" for k, v in given)
        return f"{name} ({own})" if own else name


class Grid(Struct, frozen=True):
    """The table; its lines are sorted by group, then dense first, then by sparsity.

    *columns* has the first measurement of each metric, for its name, unit and direction.
    """

    columns: tuple[Measurement, ...]
    lines: tuple[Line, ...]


def grid(
    records: Iterable[Record], patterns: Sequence[str] = (), lookup: Lookup = lambda _: ()
) -> Grid:
    """A line per record and a column per metric.

    *patterns* choose metrics, as ``accuracy/*``; by default those that are judged, and of timings
    the speedups. *lookup* finds the papers' numbers about a record.
    """
    columns: dict[str, Measurement] = {}
    lines = []
    for record in records:
        rows = published.compared(record, lookup(record))
        cells = {}
        for m in (m for m in record.measurements if _wanted(m, patterns)):
            columns.setdefault(m.metric, m)
            own = tuple(row for row in rows if row.metric == m.metric)
            cells[m.metric] = Cell(m, standard_error(m, record), own)
        lines.append(Line(record, cells))
    lines.sort(key=lambda line: (line.group, line.record.sparsity, line.record.case_id))
    return Grid(tuple(columns.values()), tuple(lines))


def _wanted(measurement: Measurement, patterns: Sequence[str]) -> bool:
    if patterns:
        return any(fnmatchcase(measurement.metric, pattern) for pattern in patterns)
    return not measurement.instead and (not measurement.varies or measurement.unit == "x")

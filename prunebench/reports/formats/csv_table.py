"""CSV (RFC 4180), without anything that a spreadsheet would compute."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence

from msgspec.structs import asdict

from ...errors import inert
from ...record import Record
from .export_format import Export, Format
from .grid import grid
from .rows import Row, about, rows

#: What begins a formula; the last four are as wide as a Chinese letter and read likewise.
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", *"\uff1d\uff0b\uff0d\uff20")
#: Columns of the wide form that are not metrics.
WIDE = (
    *("case_id", "model", "protocol", "method", "options", "amount", "amount_unit", "sparsity"),
    *("parameters", "dense_parameters", "calibration", "seed", "device", "dtype", "created"),
)


def long(records: Iterable[Record]) -> str:
    """A line per measurement."""
    columns = Row.__struct_fields__
    return written(columns, (asdict(row).values() for row in rows(records)))


def wide(records: Sequence[Record], patterns: Sequence[str] = ("*",)) -> str:
    """A line per record, with two columns per metric: its value, and its standard error (se).

    *patterns* choose metrics; empty for those that a table has by default.
    """
    shown = grid(records, patterns)
    names = [column.metric for column in shown.columns]
    heads = [*WIDE, *(name for metric in names for name in (metric, f"{metric} se"))]
    lines = []
    for line in shown.lines:
        shared = about(line.record)
        cells: list[object] = [shared[name] for name in WIDE]
        for name in names:
            cell = line.cells.get(name)
            cells += [cell.measurement.value, cell.error] if cell else [None, None]
        lines.append(cells)
    return written(heads, lines)


def written(columns: Sequence[str], lines: Iterable[Iterable[object]]) -> str:
    """The file: numbers with all their digits, nothing for None."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\r\n")
    writer.writerow([guarded(name) for name in columns])
    for line in lines:
        writer.writerow([guarded(x) if isinstance(x, str) else _plain(x) for x in line])
    return stream.getvalue()


def guarded(text: str) -> str:
    """*text* with ' before it if a spreadsheet would take it for a formula."""
    text = inert(text, 10**6)
    return f"'{text}" if text.lstrip(" ").startswith(_FORMULA) else text


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else repr(value)


def _text(export: Export) -> str:
    if export.wide:
        return wide(export.records, export.metrics or ("*",))
    return long(export.records)


FORMATS = (Format("csv", ".csv", _text),)

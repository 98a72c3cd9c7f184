"""GitHub's Markdown: the comment of a run in a pull request, and tables of records."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby

from msgspec import Struct

from ... import formatting
from ...errors import inert
from ...formatting import FRACTIONS
from ...record import Measurement
from ...verdicts.verdict import Finding
from .. import explain
from ..sentences import table_metrics
from .export_format import Format
from .grid import Cell, Grid, Line, grid
from .items import Item, Judged

#: Characters of a comment: GitHub takes 65,536, and a workflow may add a marker.
COMMENT = 65_000
#: Bytes that each step of a job may add to its summary.
SUMMARY = 1_048_576
#: Characters of one cell.
MOST = 400

CHANGED = ("case", "metric", "outcome", "was", "now", "change", "allowed", "p")
BAD = ("worse", "gone")


class Block(Struct, frozen=True):
    """Rows between a *head* and a *foot*; *what* they are called if some are left out."""

    head: str
    rows: tuple[str, ...]
    foot: str = ""
    what: str = "rows"


def comment(run: Judged, limit: int = COMMENT) -> str:
    """The comment: a summary, what got worse, what is unsure, the whole table, the commands.

    *limit* is in bytes: rows that do not fit are left out, the last ones first, and counted.
    """
    blocks = [b for b in (_crashed(run), *_judged(run), _everything(run), _commands(run)) if b.rows]
    return fitted(_opening(run), blocks, limit)


def table(shown: Grid) -> str:
    """A table per case file, with standard errors and the papers' numbers."""
    parts = []
    for about, group in groupby(shown.lines, key=lambda line: line.group):
        lines = list(group)
        columns = [c for c in shown.columns if any(c.metric in line.cells for line in lines)]
        head = _row(["method", "sparsity", *map(_heading, columns)])
        rule = _rule([False, *[True] * (len(columns) + 1)])
        rows = [
            _row(
                [code(x.label), f"{x.record.sparsity:.1%}", *(_value(x.cells, c) for c in columns)]
            )
            for x in lines
        ]
        where = ", ".join(code(part, cell=False) for part in about if part)
        parts.append("\n".join([where, "", head, rule, *rows, *_notes(lines)]))
    return "\n\n".join(parts) + "\n"


def code(text: str, most: int = MOST, *, cell: bool = True) -> str:
    """*text* as code, in which nothing is a link, a mention, HTML or the end of a table's cell.

    Control characters and what is longer than *most* are written as ``errors.inert`` does. Outside
    of tables it is no *cell*.
    """
    text = inert(text, most)
    if not text:
        return ""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * (longest + 1)
    pad = " " if text.strip(" ") and (text[0] in "` " or text[-1] in "` ") else ""
    whole = f"{fence}{pad}{text}{pad}{fence}"
    # In a table a bar ends the cell, even in code, unless a backslash stands before it.
    return whole.replace("|", "\\|") if cell else whole


def fenced(text: str, language: str = "") -> str:
    """*text*, which is inert already, as a block of code that nothing in it can end."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def fitted(opening: str, blocks: Sequence[Block], limit: int) -> str:
    """*opening* and *blocks*, without the last rows if that exceeds *limit*."""

    def whole(counts: Sequence[int]) -> str:
        parts = [opening]
        for block, count in zip(blocks, counts, strict=True):
            left = len(block.rows) - count
            more = f"\n{left} more {block.what} left out for lack of room.\n" if left else ""
            parts.append("\n".join([block.head, *block.rows[:count]]) + block.foot + more)
        return "\n\n".join(parts) + "\n"

    counts = [0] * len(blocks)
    room = limit - len(whole(counts).encode())
    for at, block in enumerate(blocks):
        for row in block.rows:
            room -= len(row.encode()) + 1
            if room < 0:
                return whole(counts)
            counts[at] += 1
    return whole(counts)


def _opening(run: Judged) -> str:
    bad = sum(map(run.failed, run.items))
    cases = formatting.counted(len(run.items), "case")
    title = f"{bad} of {cases} failed" if bad else f"nothing failed in {cases}"
    lines = [Line(item.record, {}) for item in run.items if item.record]
    places = {line.group[1:] for line in lines}
    about = [run.file, *(places.pop() if len(places) == 1 else ())]
    parts = ", ".join(code(part, cell=False) for part in about if part)
    where = f" ({parts})" if parts else ""
    return f"### prunebench: {title}\n\n{run.summary}{where}."


def _crashed(run: Judged) -> Block:
    crashed = [i for i in run.items if i.verdict.error]
    rows = [_row([code(run.name(i)), code(i.verdict.error)]) for i in crashed]
    return Block(_headed("Crashed", ("case", "error")), tuple(rows), what="crashed cases")


def _judged(run: Judged) -> Iterator[Block]:
    bad: list[tuple[Item, Finding]] = []
    other: list[tuple[Item, Finding]] = []
    for item in run.items:
        changed = [f for f in item.decisive if f.outcome != "same"]
        worse = [f for f in changed if f.outcome in BAD or f.fails]
        if run.failed(item) and not worse:
            worse = [f for f in changed if f.outcome != "better"]
        bad += [(item, finding) for finding in worse]
        rest = [f for f in changed if f not in worse and f.outcome != "new"]
        other += [(item, finding) for finding in rest]
    only = all(finding.outcome in BAD for _, finding in bad)
    yield from _findings(run, "Got worse" if only else "Failed", bad)
    yield from _findings(run, "Unsure, changed or better", other)


def _findings(run: Judged, title: str, found: Sequence[tuple[Item, Finding]]) -> Iterator[Block]:
    """A table of the findings with numbers, and a list of those with notes."""
    numbers = [pair for pair in found if (pair[1].now, pair[1].was) != (None, None)]
    filled = [_cells(run.name(item), item, finding) for item, finding in numbers]
    used = [i for i in range(len(CHANGED)) if i < 3 or any(cells[i] for cells in filled)]
    rows = [_row([cells[i] for i in used]) for cells in filled]
    head = _headed(title, [CHANGED[i] for i in used], [i > 2 for i in used])
    yield Block(head, tuple(rows), what="findings")
    remarks = tuple(
        f"- {code(run.name(item), cell=False)} {str(finding.outcome).replace('_', ' ')} "
        f"{code(finding.what, cell=False)}{': ' if finding.note else ''}"
        f"{code(finding.note, cell=False)}"
        for item, finding in found
        if finding.note or (item, finding) not in numbers
    )
    yield Block("" if rows else f"#### {title}\n", remarks, what="remarks")


def _cells(name: str, item: Item, finding: Finding) -> list[str]:
    unit = item.unit(finding.what)
    change = ""
    if finding.now is not None and finding.was is not None:
        change = formatting.difference(finding.now - finding.was, unit)
    outcome = str(finding.outcome).replace("_", " ")
    cells = [
        formatting.value(finding.was, unit),
        formatting.value(finding.now, unit),
        change,
        "" if finding.allowed is None else formatting.amount(finding.allowed, unit),
        explain.chance(finding),
    ]
    return [
        code(name),
        code(finding.what),
        f"**{outcome}**" if finding.outcome in BAD else outcome,
        *map(_unbroken, cells),
    ]


def _unbroken(text: str) -> str:
    """A number that stays on one line."""
    return text.replace(" ", "\u00a0").replace("-", "\u2212")


def _everything(run: Judged) -> Block:
    records = {i.record.case_id: i.record for i in run.items if i.record}
    names = dict.fromkeys(m.metric for r in records.values() for m in r.measurements)
    wanted = table_metrics(list(names))
    shown = grid(records.values(), wanted)
    cells = {line.record.case_id: line.cells for line in shown.lines}
    heads = ["case", "sparsity", *map(_heading, shown.columns), "verdict"]
    rows = []
    for item in run.items:
        own = cells.get(item.case_id, {})
        sparsity = f"{item.record.sparsity:.1%}" if item.record else ""
        values = (_value(own, column, errors=False) for column in shown.columns)
        outcome = item.verdict.outcome.replace("_", " ")
        rows.append(_row([code(run.name(item)), sparsity, *values, outcome]))
    whole = f"All {len(rows)} cases" if len(rows) != 1 else "The case in full"
    head = f"<details><summary>{whole}</summary>\n\n{_row(heads)}\n"
    head += _rule([False, *[True] * (len(heads) - 2), False])
    return Block(head, tuple(rows), "\n\n</details>", what="cases")


def _commands(run: Judged) -> Block:
    bad = [i for i in run.items if run.failed(i) and i.reproduce]
    # A row each, so that a command is shown whole or not at all.
    rows = tuple(f"\n{fenced(inert(i.reproduce))}" for i in bad)
    return Block("Run again:", rows, what="commands")


def _headed(title: str, columns: Sequence[str], numeric: Sequence[bool] = ()) -> str:
    return f"#### {title}\n\n{_row(columns)}\n{_rule(numeric or [False] * len(columns))}"


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _rule(numeric: Iterable[bool]) -> str:
    return _row("--:" if right else "---" for right in numeric)


def _heading(column: Measurement) -> str:
    unit = "%" if column.unit in FRACTIONS else code(column.unit, 40)
    about = f" ({unit})" if column.unit not in ("", "ppl", "x") else ""
    return f"{code(column.metric)} {'↓' if column.better == 'lower' else '↑'}{about}"


def _value(cells: dict[str, Cell], column: Measurement, *, errors: bool = True) -> str:
    cell = cells.get(column.metric)
    if cell is None:
        return ""
    measured = cell.measurement
    if measured.value is None:
        return code(measured.note, 60) or "not finite"
    text = formatting.bare(measured.value, measured.unit)
    error = formatting.error(cell.error or 0.0, measured.unit, measured.value)
    if errors and error:
        text += f" ± {error}"
    if errors and cell.published:
        theirs = ", ".join(formatting.bare(row.value, measured.unit) for row in cell.published)
        text += f" (published {theirs})"
    return text


def _notes(lines: Iterable[Line]) -> list[str]:
    sources = {
        f"{row.credit}, {row.where}"
        for line in lines
        for cell in line.cells.values()
        for row in cell.published
    }
    listed = "; ".join(code(source, cell=False) for source in sorted(sources))
    return ["", f"Published numbers: {listed}."] if sources else []


FORMATS = (Format("markdown", ".md", lambda export: table(export.grid())),)

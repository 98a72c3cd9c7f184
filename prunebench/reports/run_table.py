"""The table of a run: one row per case, by model and sparsity, failing cases first."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from msgspec import Struct
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import formatting
from ..record import Measurement, Record
from ..results.baselines.published import compared
from ..results.power import Gate
from ..runs.result import Result
from ..system import console as screen
from ..system.console import COLOURS, Signs
from . import columns, sentences

#: A group of similar sparsities ends at a gap of more than GAP, or where it would exceed SPAN.
GAP, SPAN = 0.04, 0.08

#: The measurements of each column, some only if there is room.
PATTERNS = {
    **dict(sentences.COLUMNS),
    "recovery": ("accuracy/recovery",),
    "end to end": ("latency/*/speedup-end-to-end", "latency/*/total-time"),
    "memory": ("memory/peak*", "memory/weights"),
}
SEARCH = "search"
ORDER = ("ppl", "acc", "recovery", "match", "prefill", "decode", "end to end", "memory", SEARCH)

#: What is left out, in this order, until a table fits: columns, and uncertainties of columns.
DROPPED = (
    *(("column", name) for name in (SEARCH, "memory", "end to end", "recovery")),
    *(("error", name) for name in ("end to end", "prefill", "decode", "match")),
    *(("column", name) for name in ("prefill", "match")),
    *(("error", name) for name in ("acc", "ppl")),
    *(("column", name) for name in ("decode", "acc", "sparsity", "ppl")),
)

_SEVERITY = ("crashed", "worse", "gone", "changed_plan", "not_comparable", "unsure")


class Cell(Struct, frozen=True):
    """A value and its uncertainty, as text; *style* if it differs from its line's."""

    value: str = ""
    error: str = ""
    style: str = ""


class Line(Struct, frozen=True):
    """A line of the table: a case, or below it its change or a paper's numbers."""

    name: str
    cells: dict[str, Cell]
    sparsity: str = ""
    outcome: str = ""
    style: str = ""


def table(results: Sequence[Result], console: Console) -> None:
    """Print a table per model and protocol, then every finding that is not *same*."""
    for (model, protocol), own in _sections(results).items():
        _print_section(model, protocol, own, console)
    for result in sorted(results, key=lambda r: (r.verdict.ok, _severity(r))):
        screen.findings(console, result.verdict.case_id, sentences.lines(result.verdict))
        if not result.verdict.ok:
            # Never wrapped, so that it can be copied.
            console.print(Text(f"  run it again: {result.reproduce}"), soft_wrap=True)
    for result in results:
        if result.record is not None:
            for line in sentences.published_lines(result.record, result.published):
                screen.print_wrapped(console, f"{result.case.label}: {line}")
    for line in [
        *sentences.interval_lines(results),
        *sentences.power_lines(results),
        *sentences.gpu_lines(results),
    ]:
        screen.print_wrapped(console, line)
    screen.print_wrapped(console, sentences.summary(results), "bold")


def gates_table(rows: Sequence[Gate], console: Console) -> None:
    """Print the minimum detectable drop of each gate, in percentage points."""
    grid = Table(box=None, pad_edge=False)
    for name in ("case", "metric", "questions", "detects", "allows"):
        grid.add_column(name, justify="left" if name in ("case", "metric") else "right")
    for row in rows:
        drops = (formatting.amount(drop, "acc") for drop in (row.least, row.allowed))
        grid.add_row(row.case_id, row.metric, f"{row.questions:,}", *drops)
    console.print(grid)


def groups(results: Sequence[Result]) -> list[list[Result]]:
    """The rows of one model in the order of reading, in groups.

    Dense first; then failing cases, the most severe first; then by achieved sparsity, where unsure
    ones lead and the others keep the order of their case file; last those without a record.
    """
    dense = [r for r in results if r.case.dense]
    rest = [r for r in results if not r.case.dense]
    failing = [r for r in rest if not r.verdict.ok]
    passing = [r for r in rest if r.verdict.ok and r.record is not None]
    without = [r for r in rest if r.verdict.ok and r.record is None]
    failing.sort(key=lambda r: (_severity(r), r.record.sparsity if r.record else -1.0))
    similar = [sorted(group, key=_severity) for group in _similar(passing)]
    return [group for group in (dense, failing, *similar, without) if group]


def _similar(results: Sequence[Result]) -> list[list[Result]]:
    """Groups of similar sparsity, each in the order given."""
    found: list[list[int]] = []
    sparsities = [result.record.sparsity if result.record else 0.0 for result in results]
    for i in sorted(range(len(results)), key=sparsities.__getitem__):
        apart = [sparsities[i] - sparsities[other] for other in found[-1]] if found else []
        if apart and apart[-1] <= GAP and apart[0] <= SPAN:
            found[-1].append(i)
        else:
            found.append([i])
    return [[results[i] for i in sorted(group)] for group in found]


def _severity(result: Result) -> int:
    word = result.verdict.outcome
    return _SEVERITY.index(word) if word in _SEVERITY else len(_SEVERITY)


def _sections(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        model = result.case.asked.get("model") or {}
        named = str(model.get("id", ""))
        revision = f" at {model['revision']}" if model.get("revision") else ""
        protocol = result.case.asked.get("protocol") or "own settings"
        found.setdefault((f"{named}{revision}", protocol), []).append(result)
    return found


def _print_section(model: str, protocol: str, results: list[Result], console: Console) -> None:
    signs = screen.signs(console)
    folders = dict.fromkeys(r.case.id.rpartition("/")[0] for r in results)
    devices = dict.fromkeys(r.record.environment.device for r in results if r.record)
    about = f" {signs.dot} ".join(["", protocol, *devices, *folders])
    console.print()
    console.print(Text(model, style="bold").append(about, style="not bold dim"))
    alone = len(folders) < 2
    blocks = [
        [_lines(r, r.case.label if alone else r.case.id, signs) for r in group]
        for group in groups(results)
    ]
    lines = [line for block in blocks for rows in block for line in rows]
    layout = _Layout(lines, console.width, signs)
    grid = layout.grid()
    separated = any(len(block) > 1 for block in blocks)  # single rows need no lines between them
    for block in blocks:
        for row in filter(None, (layout.row(line) for rows in block for line in rows)):
            grid.add_row(*row)
        if separated:
            grid.add_section()
    console.print(grid)
    notes = []
    if any(layout.widths(column)[1] for column in layout.columns):
        notes.append(f"{signs.plus_minus} one standard error, over questions or rounds")
    if layout.hidden:
        notes.append(f"hidden columns: {', '.join(layout.hidden)}")
    if notes:
        console.print(Text("; ".join(notes), style="dim"))
    console.print()


def _lines(result: Result, name: str, signs: Signs) -> list[Line]:
    record, outcome = result.record, result.verdict.outcome
    if record is None:
        return [Line(name, {}, outcome=outcome)]
    found = {c: m for c in ORDER if (m := columns.pick(record, PATTERNS.get(c, ())))}
    cells = {}
    for column, measured in found.items():
        error = columns.uncertainty(measured, record)
        uncertainty = formatting.error(error, measured.unit, measured.value or 0.0)
        cells[column] = Cell(columns.text(measured), uncertainty)
    if (seconds := record.cost.get("search_time", 0.0)) >= 0.05:
        cells[SEARCH] = Cell(formatting.duration(seconds, short=True))
    lines = [Line(name, cells, f"{record.sparsity:.1%}", outcome)]
    if outcome not in ("same", "new"):
        lines += _changes(result, found, signs)
    return [*lines, *_papers(result, record, found, signs)]


def _changes(result: Result, found: dict[str, Measurement], signs: Signs) -> Iterator[Line]:
    """A line with the differences from the baseline, if there are any."""
    findings = {f.what: f for f in result.verdict.findings}
    moved = {}
    for column, measurement in found.items():
        finding = findings.get(measurement.metric)
        if finding is None or finding.now is None or finding.was is None:
            continue
        if finding.now != finding.was:
            text = formatting.difference(finding.now - finding.was, measurement.unit)
            text = text.removesuffix(" pp")  # the column is in per cent
            moved[column] = Cell(text, style=COLOURS.get(str(finding.outcome), ""))
    if moved:
        yield Line(f"{signs.branch} change", moved, style="dim")


def _papers(
    result: Result, record: Record, found: dict[str, Measurement], signs: Signs
) -> Iterator[Line]:
    """A line per source whose numbers were measured by the same protocol."""
    rows = compared(record, result.published)
    by_metric = {m.metric: (column, m.unit) for column, m in found.items()}
    shown = [row for row in rows if row.metric in by_metric]
    for credit in sorted({row.credit for row in shown}):
        own = [row for row in shown if row.credit == credit]
        cells: dict[str, Cell] = {}
        for row in own:
            column, unit = by_metric[row.metric]
            error = formatting.error(row.uncertainty, unit, row.value)
            cells.setdefault(column, Cell(formatting.value(row.value, unit), error))
        sparsity = next((f"{r.sparsity:.1%}" for r in own if r.sparsity is not None), "")
        yield Line(f"{signs.branch} paper: {credit}", cells, sparsity, style="dim")


class _Layout:
    """Which columns and uncertainties fit into *width*, and how wide the names are then."""

    def __init__(self, lines: list[Line], width: int, signs: Signs) -> None:
        self.lines, self.width, self.signs = lines, width, signs
        present = [c for c in ORDER if any(c in line.cells for line in lines)]
        self.columns, self.errors, self.sparsity = list(present), set(present), True
        self._outcome = max(len("verdict"), *(len(line.outcome) + 2 for line in lines))
        longest = max(cell_len(line.name) for line in lines)
        wanted = min(longest, 28, max(14, 3 * width // 10))
        for kind, name in DROPPED:
            if self._room() >= wanted:
                break
            if kind == "error":
                self.errors.discard(name)
            elif name == "sparsity":
                self.sparsity = False
            elif name in self.columns and (name != self.columns[0] or self._room() < 12):
                self.columns.remove(name)
        self.names = max(8, min(longest, self._room()))
        self.hidden = [] if self.sparsity else ["sparsity"]
        self.hidden += [c for c in present if c not in self.columns]

    def _room(self) -> int:
        """Characters left for the names."""
        fixed = [max(len(column), sum(self.widths(column))) for column in self.columns]
        fixed += [self._outcome] + ([len("sparsity")] if self.sparsity else [])
        return self.width - sum(fixed) - 2 * len(fixed)

    def widths(self, column: str) -> tuple[int, int]:
        """Characters of the values of a column and of the uncertainties behind them."""
        cells = [line.cells[column] for line in self.lines if column in line.cells]
        values = max((cell_len(cell.value) for cell in cells), default=0)
        errors = max((len(cell.error) for cell in cells), default=0)
        if not errors or column not in self.errors:
            return max(values, len(column)), 0
        return values, len(self.signs.plus_minus) + 1 + errors

    def grid(self) -> Table:
        """An empty table with the columns that fit."""
        grid = self.signs.grid()
        grid.add_column("case", overflow="fold", width=self.names)
        if self.sparsity:
            grid.add_column("sparsity", justify="right", no_wrap=True)
        for name in self.columns:
            grid.add_column(Text(name.rjust(self.widths(name)[0])), no_wrap=True)
        grid.add_column("verdict", no_wrap=True)
        return grid

    def row(self, line: Line) -> list[Text]:
        """The cells of a line; none if all that it is about is hidden."""
        if not line.outcome and not set(self.columns) & set(line.cells):
            return []
        quiet = line.style or line.outcome in ("same", "new", "better")
        style = line.style if quiet else COLOURS.get(line.outcome, "")
        row = [Text(_broken(line.name, self.names), style=style)]
        row += [Text(line.sparsity, style=line.style)] if self.sparsity else []
        row += [self._text(column, line) for column in self.columns]
        return [*row, screen.outcome(line.outcome, self.signs) if line.outcome else Text()]

    def _text(self, column: str, line: Line) -> Text:
        cell = line.cells.get(column, Cell())
        values, behind = self.widths(column)
        # Padded by hand, so that values are aligned whatever follows them.
        text = Text(cell.value.rjust(values), style=cell.style or line.style)
        if behind and cell.error:
            text.append(f" {self.signs.plus_minus}{cell.error}", style="dim")
        return text


def _broken(label: str, width: int) -> str:
    """A name longer than *width* over several lines, broken behind hyphens and underscores."""
    lines = [""]
    for part in re.findall(r"[^-_/ ]*[-_/ ]?", label):
        if lines[-1].strip() and cell_len(lines[-1] + part.rstrip()) > width:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)

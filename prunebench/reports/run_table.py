"""The table of a run: one row a case, by model and sparsity, what fails in front."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

from msgspec import Struct
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import formatting
from ..formatting import value_text
from ..record import Measurement, Record
from ..results.baselines.published import compared
from ..results.power import Gate
from ..runs.session import Result
from ..system import console as screen
from ..system.console import COLOURS, Signs
from . import columns as figures
from . import sentences
from .columns import pick

#: A group of sparsities ends where the next is so much further away, or it would span more.
GAP, SPAN = 0.04, 0.08

#: Columns beside those of ``report.COLUMNS``, where there is room.
MORE = (
    ("recovery", ("accuracy/recovery",)),
    ("end to end", ("latency/*/speedup-end-to-end", "latency/*/total-time")),
    ("memory", ("memory/peak*", "memory/weights")),
)
SEARCH = "search"
ORDER = ("ppl", "acc", "recovery", "match", "prefill", "decode", "end to end", "memory", SEARCH)

#: What goes, one after the other, until a table fits: columns, and uncertainties of columns.
LEAST = (
    *(("column", name) for name in (SEARCH, "memory", "end to end", "recovery")),
    *(("error", name) for name in ("end to end", "prefill", "decode", "match")),
    *(("column", name) for name in ("prefill", "match")),
    *(("error", name) for name in ("acc", "ppl")),
    *(("column", name) for name in ("decode", "acc", "sparsity", "ppl")),
)

_SEVERITY = ("crashed", "worse", "gone", "changed_plan", "not_comparable", "unsure")


class Cell(Struct, frozen=True):
    """A value and its uncertainty, as text; *style* where it is not its line's."""

    value: str = ""
    error: str = ""
    style: str = ""


class Line(Struct, frozen=True):
    """A line of the table: a case, or one below it with its change or a paper's numbers."""

    name: str
    cells: dict[str, Cell]
    sparsity: str = ""
    outcome: str = ""
    style: str = ""


def table(results: Sequence[Result], console: Console) -> None:
    """Print a table per model and protocol, then every finding that is not *same*."""
    for (model, protocol), own in _sections(results).items():
        _print_section(model, protocol, own, console)
    for result in _by_weight(results):
        screen.findings(console, result.verdict.case_id, sentences.lines(result.verdict))
        if not result.verdict.ok:
            # Whole on any screen: it is to be copied.
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
    """Print what each gate can see, in percentage points."""
    grid = Table(box=None, pad_edge=False)
    for name in ("case", "metric", "questions", "sees from", "allows"):
        grid.add_column(name, justify="left" if name in ("case", "metric") else "right")
    for row in rows:
        cells = (f"{row.questions:,}", f"{row.least * 100:.2f} pp", f"{row.allowed * 100:.2f} pp")
        grid.add_row(row.case_id, row.metric, *cells)
    console.print(grid)


# ------------------------------------------------------------------------------------------ order


def groups(results: Sequence[Result]) -> list[list[Result]]:
    """The rows of one model in the order of reading, in groups.

    Dense first; then what fails, the gravest first; then by achieved sparsity, where doubtful ones
    lead and the others follow as their case file has them; at last what has no result.
    """
    dense = [r for r in results if r.case.dense]
    rest = [r for r in results if not r.case.dense]
    failing = [r for r in rest if not r.verdict.ok]
    sound = [r for r in rest if r.verdict.ok and r.record is not None]
    without = [r for r in rest if r.verdict.ok and r.record is None]
    failing.sort(key=lambda r: (_weight(r), r.record.sparsity if r.record else -1.0))
    similar = [sorted(group, key=_weight) for group in _similar(sound)]
    return [group for group in (dense, failing, *similar, without) if group]


def _similar(results: Sequence[Result]) -> list[list[Result]]:
    """Groups of similar sparsity, each in the order given."""
    found: list[list[int]] = []
    sparsities = [_sparsity(result) for result in results]
    for i in sorted(range(len(results)), key=sparsities.__getitem__):
        own = found[-1] if found else []
        near = own and sparsities[i] - sparsities[own[-1]] <= GAP
        if near and sparsities[i] - sparsities[own[0]] <= SPAN:
            own.append(i)
        else:
            found.append([i])
    return [[results[i] for i in sorted(group)] for group in found]


def _sparsity(result: Result) -> float:
    return result.record.sparsity if result.record else 0.0


def _weight(result: Result) -> int:
    word = result.verdict.outcome
    return _SEVERITY.index(word) if word in _SEVERITY else len(_SEVERITY)


def _by_weight(results: Sequence[Result]) -> list[Result]:
    return sorted(results, key=lambda r: (r.verdict.ok, _weight(r)))


def _sections(results: Sequence[Result]) -> dict[tuple[str, str], list[Result]]:
    found: dict[tuple[str, str], list[Result]] = {}
    for result in results:
        model = result.case.asked.get("model") or {}
        named = str(model.get("id", ""))
        revision = f" at {model['revision']}" if model.get("revision") else ""
        protocol = result.case.asked.get("protocol") or "own settings"
        found.setdefault((f"{named}{revision}", protocol), []).append(result)
    return found


# ------------------------------------------------------------------------------------------ cells


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
    grid, left_out, sure = _fitted(blocks, console.width, signs)
    console.print(grid)
    notes = []
    if sure:
        notes.append(f"{signs.plus_minus} one standard error, over questions or rounds")
    if left_out:
        notes.append(f"in a wider window: {', '.join(left_out)}")
    if notes:
        console.print(Text("; ".join(notes), style="dim"))
    console.print()


def _columns() -> dict[str, tuple[str, ...]]:
    known = dict((*sentences.COLUMNS, *MORE))
    return {name: known[name] for name in ORDER if name in known}


def _lines(result: Result, name: str, signs: Signs) -> list[Line]:
    record, outcome = result.record, result.verdict.outcome
    if record is None:
        return [Line(name, {}, outcome=outcome)]
    found = {c: m for c, patterns in _columns().items() if (m := pick(record, patterns))}
    cells = {c: _cell(m, record) for c, m in found.items()}
    if (seconds := record.cost.get("search_time", 0.0)) >= 0.05:
        cells[SEARCH] = Cell(formatting.short_duration(seconds))
    said = [Line(name, cells, f"{record.sparsity:.1%}", outcome)]
    if outcome not in ("same", "new"):
        said += _changes(result, found, signs)
    return [*said, *_papers(result, record, found, signs)]


def _cell(measurement: Measurement, record: Record) -> Cell:
    error = figures.uncertainty(measurement, record)
    return Cell(
        value_text(measurement), formatting.error_text(error, measurement.unit, measurement.value)
    )


def _changes(result: Result, found: dict[str, Measurement], signs: Signs) -> Iterator[Line]:
    """By how much the numbers moved from the baseline's, where any did."""
    findings = {f.what: f for f in result.verdict.findings}
    moved = {}
    for column, measurement in found.items():
        finding = findings.get(measurement.metric)
        if finding is None or finding.now is None or finding.was is None:
            continue
        if finding.now != finding.was:
            text = formatting.change_text(finding.now, finding.was, measurement.unit)
            moved[column] = Cell(text, style=COLOURS.get(str(finding.outcome), ""))
    if moved:
        yield Line(f"{signs.branch} change", moved, style="dim")


def _papers(
    result: Result, record: Record, found: dict[str, Measurement], signs: Signs
) -> Iterator[Line]:
    """A line per source whose numbers were measured by the same protocol."""
    rows = compared(record, result.published)
    for credit, own in groupby(sorted(rows, key=lambda r: r.credit), key=lambda r: r.credit):
        cells: dict[str, Cell] = {}
        sparsity = ""
        for row in own:
            column = next((c for c, m in found.items() if m.metric == row.metric), None)
            if column is not None and column not in cells:
                unit = found[column].unit
                error = formatting.error_text(row.uncertainty, unit, row.value)
                cells[column] = Cell(formatting.as_unit(row.value, unit), error)
                sparsity = sparsity or ("" if row.sparsity is None else f"{row.sparsity:.1%}")
        if cells:
            yield Line(f"{signs.branch} paper: {credit}", cells, sparsity, style="dim")


# ----------------------------------------------------------------------------------------- layout


def _fitted(
    blocks: list[list[list[Line]]], width: int, signs: Signs
) -> tuple[Table, list[str], bool]:
    """As much as *width* columns hold; which columns were left out, and whether any has errors."""
    lines = [line for block in blocks for rows in block for line in rows]
    present = [c for c in ORDER if any(c in line.cells for line in lines)]
    columns, errors, sparsity = list(present), set(present), True
    longest = max(cell_len(line.name) for line in lines)
    words = max(len("verdict"), *(len(line.outcome) + 2 for line in lines))
    wanted = min(longest, 28, max(14, 3 * width // 10))  # for the names

    def room() -> int:
        """What is left for the names."""
        taken = [_widths(c, lines, signs, errors=c in errors) for c in columns]
        fixed = [max(len(c), sum(w)) for c, w in zip(columns, taken, strict=True)]
        fixed += [words] + ([len("sparsity")] if sparsity else [])
        return width - sum(fixed) - 2 * len(fixed)

    for kind, name in LEAST:
        if room() >= wanted:
            break
        if kind == "error":
            errors.discard(name)
        elif name == "sparsity":
            sparsity = False
        elif name in columns and (name != columns[0] or room() < 12):
            columns.remove(name)
    grid = signs.grid()
    names = max(8, min(longest, room()))
    grid.add_column("case", overflow="fold", width=names)
    if sparsity:
        grid.add_column("sparsity", justify="right", no_wrap=True)
    for name in columns:
        values, _ = _widths(name, lines, signs, errors=name in errors)
        grid.add_column(Text(name.rjust(values)), no_wrap=True)
    grid.add_column("verdict", no_wrap=True)
    parted = any(len(block) > 1 for block in blocks)  # rows that all stand alone need no lines
    for block in blocks:
        for rows in block:
            for line in rows:
                if not line.outcome and not set(columns) & set(line.cells):
                    continue  # what it is about is not shown
                cells = [_text(c, line, lines, signs, errors=c in errors) for c in columns]
                first = [Text(_broken(line.name, names), style=_name_style(line))]
                first += [Text(line.sparsity, style=line.style)] if sparsity else []
                word = screen.outcome(line.outcome, signs) if line.outcome else Text()
                grid.add_row(*first, *cells, word)
        if parted:
            grid.add_section()
    shown = errors.intersection(columns)
    sure = any(cell.error for line in lines for c, cell in line.cells.items() if c in shown)
    left_out = [] if sparsity else ["sparsity"]
    return grid, left_out + [c for c in present if c not in columns], sure


def _widths(column: str, lines: list[Line], signs: Signs, *, errors: bool) -> tuple[int, int]:
    """Columns of the values and of the uncertainties behind them."""
    cells = [line.cells[column] for line in lines if column in line.cells]
    values = max((cell_len(cell.value) for cell in cells), default=0)
    behind = max((len(cell.error) for cell in cells), default=0) if errors else 0
    if not behind:
        return max(values, len(column)), 0
    return values, len(signs.plus_minus) + 1 + behind


def _text(column: str, line: Line, lines: list[Line], signs: Signs, *, errors: bool) -> Text:
    cell = line.cells.get(column, Cell())
    values, behind = _widths(column, lines, signs, errors=errors)
    # Filled up on the left by hand, so that values stand below each other whatever follows them.
    text = Text(cell.value.rjust(values), style=cell.style or line.style)
    if behind and cell.error:
        text.append(f" {signs.plus_minus}{cell.error}", style="dim")
    return text


def _name_style(line: Line) -> str:
    if line.style:
        return line.style
    return "" if line.outcome in ("same", "new", "better") else COLOURS.get(line.outcome, "")


def _broken(label: str, width: int) -> str:
    """A name longer than *width* over several lines, broken behind hyphens and underscores."""
    lines = [""]
    for part in re.findall(r"[^-_/ ]*[-_/ ]?", label):
        if lines[-1].strip() and cell_len(lines[-1] + part.rstrip()) > width:
            lines.append("  ")
        lines[-1] += part
    return "\n".join(line.rstrip() for line in lines)

"""``prunebench leaderboard``: methods ranked by achieved sparsity, printed or as a site."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import formatting
from ..leaderboard import build, site
from ..leaderboard.board import Board, Row, plain
from ..leaderboard.row_values import Timing, Value
from ..results import archive
from ..results.baselines import published
from ..results.baselines.files import Baselines
from ..runs.result import NOTHING
from ..system.console import console, print_line, print_note
from ..system.files import write_json
from .options import JsonFile, RecordPaths, warn_cut_off
from .paths import DEFAULT_STORE, default_baselines

#: Characters from which on a table has intervals and cost.
WIDE = 130


def leaderboard(
    paths: RecordPaths = None,
    site_dir: Annotated[
        Path | None,
        typer.Option("--site", metavar="DIR", help="Write a static site here instead of printing."),
    ] = None,
    title: Annotated[
        str, typer.Option(metavar="TEXT", help="Title of the site.")
    ] = "Structured pruning",
    json_file: JsonFile = None,
) -> None:
    """Rank methods per model and protocol, by achieved sparsity.

    Two methods have different ranks only where a paired test over the same questions tells them
    apart, among all tests of the board.
    """
    root = Baselines(default_baselines())
    places = paths or [p for p in (root.root, DEFAULT_STORE) if p.is_dir()]
    warn_cut_off(places)
    found = archive.read(places)
    for problem in found.problems:
        print_note(f"left out: {problem}")
    if not found.records:
        print_note(f"no records in {', '.join(map(str, places)) or 'baselines/ and .prunebench/'}")
        raise typer.Exit(NOTHING)
    rows = published.rows(root.published)
    boards = build.boards(found.records, lambda record: published.matching(record, rows))
    if json_file is not None:
        write_json(json_file, {"boards": [plain(board) for board in boards]})
    if site_dir is not None:
        built = site.build(boards, found.records, title)
        site.write(site_dir, built)
        cases = sum(len(row.records) for board in boards for row in board.rows)
        print_line(f"{site_dir / 'index.html'}: {len(boards)} boards, {cases} cases")
        return
    for board in boards:
        print_board(board, console())


def print_board(board: Board, out: Console) -> None:
    """Print one board as a table: with cost and intervals where there is room."""
    wide = out.width >= WIDE
    heading = f"{board.model or 'no model'}, {board.protocol or 'no protocol'}"
    out.print(Text(heading, style="bold"), soft_wrap=True)
    out.print(Text(about(board), style="dim"))
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, options in _columns(board, wide=wide):
        grid.add_column(name, **options)
    group = -1
    for row in board.rows:
        if row.group != group and group >= 0:
            grid.add_row()
        group = row.group
        grid.add_row(*_cells(board, row, wide=wide))
    out.print(grid)
    if not wide and (where := _timed_on(board)):
        out.print(Text(f"timed on {where}", style="dim"))
    for note in board.notes:
        out.print(Text(note, style="dim"), soft_wrap=True)
    out.print()


def about(board: Board) -> str:
    """What the ranks are of."""
    by = board.rank_by[0] if board.rank_by else "nothing"
    near = f"{board.near * 100:.1f} points of sparsity"
    return (
        f"ranked by {by} among methods within {near}; a rank such as 2\N{EN DASH}4 is shared: no "
        f"test tells these apart"
    )


def _columns(board: Board, *, wide: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    right: dict[str, Any] = {"justify": "right", "no_wrap": True}
    yield "rank", right
    yield "method", {"overflow": "fold", "min_width": 12}
    yield "sparsity", right
    for name in board.rank_by:
        yield short(name), right
    yield "recovery" if wide else "rec", right
    yield "prefill", right
    yield "decode", right
    if wide:
        yield "on", {"overflow": "fold"}
        if any(row.memory for row in board.rows):
            yield "memory", right
        yield "search", right
        yield "forwards", right


def _cells(board: Board, row: Row, *, wide: bool) -> Iterator[str]:
    place = row.places.get(board.rank_by[0]) if board.rank_by else None
    yield "" if place is None or row.dense else place.text
    mark = f" [{row.mark}]" if row.mark else ""
    seeds = f", {len(row.records)} seeds" if len(row.records) > 1 else ""
    yield f"{row.label}{mark}{seeds}"
    yield f"{row.sparsity:.1%}"
    for name in board.rank_by:
        yield _shown(row.values.get(name), interval=wide)
    yield _shown(row.values.get("accuracy/recovery"), interval=False)
    timing = row.timings[0] if row.timings else None
    yield _shown(timing.prefill if timing else None, interval=wide)
    yield _shown(timing.decode if timing else None, interval=wide)
    if wide:
        yield _where(timing) if timing else ""
        if any(one.memory for one in board.rows):
            yield _shown(row.memory, interval=False)
        cost = row.record.cost
        yield formatting.duration(cost["search_time"]) if "search_time" in cost else ""
        yield f"{cost['block_forwards']:,.0f}" if "block_forwards" in cost else ""


def _where(timing: Timing) -> str:
    return f"{timing.device}, {timing.backend} {timing.shape}"


def _timed_on(board: Board) -> str:
    """The devices of the speedups that are shown."""
    return "; ".join(dict.fromkeys(_where(row.timings[0]) for row in board.rows if row.timings))


def _shown(value: Value | None, *, interval: bool) -> str:
    """``95.9%``, and with its *interval* ``95.9% ±0.8``."""
    if value is None:
        return ""
    text = formatting.value(value.value, value.unit)
    error = formatting.error(value.arm or 0.0, value.unit, value.value)
    return f"{text} ±{error}" if interval and error else text


def short(metric: str) -> str:
    """A column's heading: ``acc``, ``ppl``, or the metric's own name."""
    return {"accuracy": "acc", "perplexity": "ppl"}.get(metric.split("/")[0], metric)

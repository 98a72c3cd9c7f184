"""``prunebench leaderboard``: boards of methods by real sparsity, printed or as a static site."""

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
from ..reports import sentences
from ..results import archive
from ..results.baselines import published
from ..results.baselines.files import Baselines
from ..runs.session import NOTHING
from ..system.console import print_line, print_note
from ..system.files import write_json
from .options import JsonFile, tell_cut_off
from .paths import DEFAULT_STORE, default_baselines

#: Room for a table with speedups, cost and intervals, in letters.
WIDE = 130


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command(name="leaderboard")(show)


def show(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Results or baselines folders, records, files of run --json; default baselines/ "
            "and .prunebench/.",
            show_default=False,
        ),
    ] = None,
    site_dir: Annotated[
        Path | None,
        typer.Option("--site", metavar="DIR", help="Write a static site here, and print nothing."),
    ] = None,
    title: Annotated[
        str, typer.Option(metavar="TEXT", help="What the site is called.")
    ] = "Structured pruning",
    json_file: JsonFile = None,
) -> None:
    """Rank methods per model and protocol: dense first, by achieved sparsity, ties shared.

    Two methods have different ranks only where a paired test over the same questions tells them
    apart, among all tests of the board.
    """
    if site_dir is not None:
        site.require_plots()
    root = Baselines(default_baselines())
    places = paths or [p for p in (root.root, DEFAULT_STORE) if p.is_dir()]
    tell_cut_off(places)
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
    console = sentences.console()
    for board in boards:
        print_board(board, console)


def print_board(board: Board, console: Console) -> None:
    """Print one board as a table: with cost and intervals where there is room."""
    wide = console.width >= WIDE
    heading = f"{board.model or 'no model'}, {board.protocol or 'no protocol'}"
    console.print(Text(heading, style="bold"), soft_wrap=True)
    console.print(Text(about(board), style="dim"))
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for name, options in _columns(board, wide=wide):
        grid.add_column(name, **options)
    group = -1
    for row in board.rows:
        if row.group != group and group >= 0:
            grid.add_row()
        group = row.group
        grid.add_row(*_cells(board, row, wide=wide))
    console.print(grid)
    if not wide and (where := _timed_on(board)):
        console.print(Text(f"timed on {where}", style="dim"))
    for note in board.notes:
        console.print(Text(note, style="dim"), soft_wrap=True)
    console.print()


def about(board: Board) -> str:
    """What the ranks and the ends of intervals are of."""
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
    yield "gone", right
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
    yield f"{row.sparsity * 100:.1f} %"
    for name in board.rank_by:
        yield told(row.values.get(name), interval=wide)
    yield told(row.values.get("accuracy/recovery"), interval=False)
    timing = row.timings[0] if row.timings else None
    yield told(timing.prefill if timing else None, interval=wide)
    yield told(timing.decode if timing else None, interval=wide)
    if wide:
        yield _where(timing) if timing else ""
        if any(one.memory for one in board.rows):
            yield told(row.memory, interval=False)
        cost = row.record.cost
        yield formatting.duration(cost["search_time"]) if "search_time" in cost else ""
        yield f"{cost['block_forwards']:,.0f}" if "block_forwards" in cost else ""


def _where(timing: Timing) -> str:
    return f"{timing.device}, {timing.backend} {timing.shape}"


def _timed_on(board: Board) -> str:
    """Where the speedups that are shown were measured."""
    return "; ".join(dict.fromkeys(_where(row.timings[0]) for row in board.rows if row.timings))


def told(value: Value | None, *, interval: bool) -> str:
    """``95.9 %``, and with its *interval* ``95.9 % ±0.8``."""
    if value is None:
        return ""
    text = formatting.value(value.value, value.unit)
    if not interval or (arm := value.arm) is None:
        return text
    return f"{text} ±{formatting.bare(arm, value.unit)}"


def short(metric: str) -> str:
    """What a column is called: ``acc``, ``ppl``, or the metric's own name."""
    return {"accuracy": "acc", "perplexity": "ppl"}.get(metric.split("/")[0], metric)

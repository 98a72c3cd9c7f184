"""``prunebench history``: the metrics of a case over its records, and where their level changed."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..errors import PrunebenchError, did_you_mean
from ..formatting import counted, moved, number
from ..reports import sentences
from ..results.store import Store
from ..system.console import COLOURS, console
from ..verdicts import history as past
from ..verdicts.history import Change, Point, Series
from .options import AsJson, StoredCase, StoreDir, print_json, stored_case
from .paths import DEFAULT_STORE

#: How many records of a long series are drawn, and listed without ``--all``.
DRAWN, LISTED = 60, 7


def history(
    case_id: StoredCase,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="A metric, or a pattern such as 'accuracy/*'.")
    ] = "",
    last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the newest N records.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="As records name it; default the newest's.")
    ] = None,
    show_all: Annotated[bool, typer.Option("-v", "--all", help="List every record.")] = False,
    as_json: AsJson = False,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Show a case's metrics over time. A step is where their level changed."""
    records = Store(store)
    found = stored_case(case_id, records)
    answers = records.answers(found)
    if not answers:
        raise PrunebenchError(f"no record of {found!r} can be read; run it again")

    def choose(names: Sequence[str]) -> list[str]:
        if not metric:
            return sentences.table_metrics(names)
        if matching := [name for name in names if fnmatchcase(name, metric)]:
            return matching
        raise PrunebenchError(f"no metric {metric!r} in {found}; {did_you_mean(metric, names)}")

    whole = past.history(answers, choose, device, last)
    if as_json:
        print_json(whole)
        return
    out = console()
    out.print(Text(f"{whole.case_id} on {whole.device}", style="bold"), soft_wrap=True)
    for series in whole.series:
        _show(series, out, everything=show_all)
    for line in whole.left_out:
        out.print(Text(line), soft_wrap=True)


def _show(series: Series, out: Console, *, everything: bool) -> None:
    count = counted(len(series.points), "record")
    unit = f"{series.unit}, " if series.unit else ""
    heading = f"\n{series.metric} ({unit}{series.better} is better; {count})  "
    drawn = sparkline([point.value for point in series.points[-DRAWN:]])
    out.print(Text(heading, end="").append(drawn, style="cyan"), soft_wrap=True)
    grid = Table(box=None, pad_edge=False)
    for name in ("date", "commit", "value", "change"):
        grid.add_column(name, justify="right" if name in ("value", "change") else "left")
    grid.add_column("")
    steps = {step.at: step for step in series.steps}
    shown = sorted(_listed(series, everything=everything))
    for i, before in zip(shown, [-1, *shown], strict=False):
        if i > before + 1:
            grid.add_row(f"... {i - before - 1} more")
        point, old = series.points[i], series.points[i - 1] if i else None
        marked = f"step {_direction(steps[i])}" if i in steps else ""
        style = _style(steps[i]) if i in steps else ""
        grid.add_row(*_cells(point, old), Text(marked, style=style))
    out.print(grid)
    for step in series.steps:
        out.print(Text(sentence(series, step), style=_style(step)), soft_wrap=True)


def _listed(series: Series, *, everything: bool) -> set[int]:
    """Which records are listed: those around each step, and the newest."""
    count = len(series.points)
    if everything:
        return set(range(count))
    around = {i for step in series.steps for i in (step.at - 1, step.at)}
    return around | set(range(max(0, count - LISTED), count))


def _cells(point: Point, before: Point | None) -> tuple[str, str, str, str]:
    change = ""
    if before is not None and point.value is not None and before.value is not None:
        change = moved(point.value, before.value)
    value = "not finite" if point.value is None else number(point.value)
    return point.created[:16].replace("T", " "), _short(point.commit), value, change


def sentence(series: Series, step: Change) -> str:
    """``step down 0.962 -> 0.941 at 2026-11-20 (commit 1a2b3c4 -> 4d5e6f7), for the worse``."""
    before, first = series.points[step.at - 1], series.points[step.at]
    old, new = number(step.before), number(step.after)
    if old == new:
        old, new = repr(step.before), repr(step.after)
    commits = f"commit {_short(before.commit) or '?'} -> {_short(first.commit) or '?'}"
    if before.commit == first.commit:
        commits = f"commit {_short(first.commit)} as before" if first.commit else "no commit known"
    known = ", ".join([commits, *step.packages])
    good = "worse" if step.worse else "better"
    where = f"at {first.created[:10]} ({known})"
    return f"step {_direction(step)} {old} -> {new} {where}, for the {good}"


def _direction(step: Change) -> str:
    return "up" if step.after > step.before else "down"


def _style(step: Change) -> str:
    return COLOURS["worse" if step.worse else "better"]


def _short(commit: str | None) -> str:
    return (commit or "")[:7]


def sparkline(values: list[float | None]) -> str:
    """The values as eight heights of a block; a blank for None."""
    finite = [value for value in values if value is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    blocks = "▁▂▃▄▅▆▇█"

    def block(value: float | None) -> str:
        if value is None:
            return " "
        height = (value - low) / (high - low) if high > low else 0.0
        return blocks[min(7, int(8 * height))]

    return "".join(map(block, values))

"""The commands that look back: a case over its nights, and two sets of results side by side."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from . import nights, report
from .errors import PrunebenchError, did_you_mean
from .nights import Change, Night, Series
from .options import DEFAULT_STORE, AsJson, StoreDir, print_json, stored_case
from .report import number
from .store import Store

#: What is drawn and listed of a long series, unless all is asked for.
DRAWN, LISTED = 60, 7


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.command()(history)


def history(
    case_id: Annotated[str, typer.Argument(metavar="CASE", help="A case id, or the end of one.")],
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="A metric, or a pattern such as 'accuracy/*'.")
    ] = "",
    last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the newest N nights.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="D", help="As records name it; default the newest's.")
    ] = None,
    show_all: Annotated[bool, typer.Option("-v", "--all", help="List every night.")] = False,
    as_json: AsJson = False,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Show a case's metrics over its nights, and where they changed their level."""
    records = Store(store)
    found = stored_case(case_id, records)
    answers = records.answers(found)
    if not answers:
        raise PrunebenchError(f"the records of {found!r} are damaged; run it again")

    def choose(names: Sequence[str]) -> list[str]:
        if not metric:
            return nights.first_of_each(names, [patterns for _, patterns in report.COLUMNS])
        if fits := [name for name in names if fnmatchcase(name, metric)]:
            return fits
        raise PrunebenchError(f"no metric {metric!r} in {found}; {did_you_mean(metric, names)}")

    past = nights.history(answers, choose, device, last)
    if as_json:
        print_json(past)
        return
    console = report.console()
    console.print(Text(f"{past.case_id} on {past.device}", style="bold"), soft_wrap=True)
    for series in past.series:
        _show(series, console, everything=show_all)
    for line in past.left_out:
        console.print(Text(line), soft_wrap=True)


def _show(series: Series, console: Console, *, everything: bool) -> None:
    many = f"{len(series.nights)} night{'s' * (len(series.nights) != 1)}"
    unit = f"{series.unit}, " if series.unit else ""
    heading = f"\n{series.metric} ({unit}{series.better} is better; {many})  "
    drawn = sparkline([night.value for night in series.nights[-DRAWN:]])
    console.print(Text(heading, end="").append(drawn, style="cyan"), soft_wrap=True)
    grid = Table(box=None, pad_edge=False)
    for name in ("date", "commit", "value", "change"):
        grid.add_column(name, justify="right" if name in ("value", "change") else "left")
    grid.add_column("")
    steps = {step.at: step for step in series.steps}
    shown = sorted(_worth_listing(series, everything=everything))
    for i, before in zip(shown, [-1, *shown], strict=False):
        if i > before + 1:
            grid.add_row(f"... {i - before - 1} more")
        night, old = series.nights[i], series.nights[i - 1] if i else None
        marked = f"step {_direction(steps[i])}" if i in steps else ""
        style = _style(steps[i]) if i in steps else ""
        grid.add_row(*_cells(night, old), Text(marked, style=style))
    console.print(grid)
    for step in series.steps:
        console.print(Text(sentence(series, step), style=_style(step)), soft_wrap=True)


def _worth_listing(series: Series, *, everything: bool) -> set[int]:
    count = len(series.nights)
    if everything:
        return set(range(count))
    around = {i for step in series.steps for i in (step.at - 1, step.at)}
    return around | set(range(max(0, count - LISTED), count))


def _cells(night: Night, before: Night | None) -> tuple[str, str, str, str]:
    change = ""
    if before is not None and night.value is not None and before.value is not None:
        moved = night.value - before.value
        change = f"{moved:+.4g}" if moved else "0"
    value = "not finite" if night.value is None else number(night.value)
    return night.created[:16].replace("T", " "), _short(night.commit), value, change


def sentence(series: Series, step: Change) -> str:
    """``step down 0.962 -> 0.941 at 2026-11-20 (commit 1a2b3c4 -> 4d5e6f7), for the worse``."""
    before, first = series.nights[step.at - 1], series.nights[step.at]
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
    return report.COLOURS["worse" if step.worse else "better"]


def _short(commit: str | None) -> str:
    return (commit or "")[:7]


def sparkline(values: list[float | None]) -> str:
    """The values as eight heights of a block; a space where there is none."""
    finite = [value for value in values if value is not None]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    blocks = "▁▂▃▄▅▆▇█"

    def block(value: float | None) -> str:
        if value is None:
            return " "
        height = (value - low) / (high - low) if high > low else 0.0
        return blocks[min(7, int(8 * height))]

    return "".join(map(block, values))

"""The commands that look back: a case over its nights, and one set of results beside another."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..cases.keyword import matcher
from ..errors import PrunebenchError, did_you_mean
from ..formatting import number
from ..reports import sentences
from ..results import compare as comparing
from ..results import readers
from ..results.compare import Compared
from ..results.store import Store
from ..runs.session import NOTHING, exit_code
from ..system.console import print_note
from ..verdicts import fail_on as gating
from ..verdicts import history as nights
from ..verdicts.history import Change, Point, Series
from ..verdicts.verdict import Finding
from . import completion
from .options import (
    AsJson,
    FailOn,
    Keyword,
    StoreDir,
    defined,
    print_json,
    stored_case,
    tell_cut_off,
)
from .paths import DEFAULT_STORE

#: What is drawn and listed of a long series, unless all is asked for.
DRAWN, LISTED = 60, 7


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.command()(history)
    app.command()(compare)


def history(
    case_id: Annotated[
        str,
        typer.Argument(
            metavar="CASE",
            help="A case id, or the end of one.",
            autocompletion=completion.stored_cases,
        ),
    ],
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
        raise PrunebenchError(f"no record of {found!r} can be read; run it again")

    def choose(names: Sequence[str]) -> list[str]:
        if not metric:
            return nights.first_of_each(names, [patterns for _, patterns in sentences.COLUMNS])
        if fits := [name for name in names if fnmatchcase(name, metric)]:
            return fits
        raise PrunebenchError(f"no metric {metric!r} in {found}; {did_you_mean(metric, names)}")

    past = nights.history(answers, choose, device, last)
    if as_json:
        print_json(past)
        return
    console = sentences.console()
    console.print(Text(f"{past.case_id} on {past.device}", style="bold"), soft_wrap=True)
    for series in past.series:
        _show(series, console, everything=show_all)
    for line in past.left_out:
        console.print(Text(line), soft_wrap=True)


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="What was.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="What is now.", show_default=False)],
    keyword: Keyword = "",
    fail_on: FailOn = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Unsure, new and not comparable fail too.")
    ] = False,
    show_all: Annotated[bool, typer.Option("-v", "--all", help="List what is same too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two runs, folders, records, or folders of results that lm-eval wrote.

    Each may be a file of run --json, a results folder, a baselines folder, a record, or results
    that plain lm-eval wrote. A regression from A to B exits 1.
    """
    tell_cut_off([a, b])
    sides = readers.read(a), readers.read(b)
    cases = defined(case_id for side in sides for case_id in side.case_ids())
    select = matcher(keyword)
    known = comparing.families(sides) if fail_on else ()
    failing, conditions = gating.given(fail_on, "--fail-on", known)
    found = comparing.compare(*sides, cases, select, failing, conditions)
    if as_json:
        print_json({"a": str(a), "b": str(b), "verdicts": found.verdicts, "notes": found.notes})
    if not found.common:
        for side in sides:
            ids = [i for i in side.case_ids() if select(i)]
            print_note(f"nothing in common: {side.path} has {_some(ids)}")
        raise typer.Exit(NOTHING)
    if not as_json:
        _compared(found, sentences.console(), everything=show_all)
    raise typer.Exit(exit_code(found.verdicts, strict=strict))


def _some(ids: list[str]) -> str:
    if not ids:
        return "no case that is wanted"
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(ids[:3]) + more


def _compared(found: Compared, console: Console, *, everything: bool) -> None:
    grid = Table(box=None, pad_edge=False)
    for name in ("case", "metric", "A", "B", "difference", "outcome"):
        numeric = name in ("A", "B", "difference")
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for judged in found.verdicts:
        for finding in judged.findings:
            if everything or (finding.outcome != "same" and not finding.diagnostic):
                grid.add_row(judged.case_id, *_row(finding))
    if grid.row_count:
        console.print(grid)
    told = [line for judged in found.verdicts for line in sentences.lines(judged)]
    new = [
        v
        for v in found.verdicts
        if any(f.what == "case" and f.outcome == "new" for f in v.findings)
    ]
    told += [f"{v.case_id}: new case: {v.findings[0].note}" for v in new]
    for line in [*told, *found.notes, summary(found)]:
        console.print(Text(line), soft_wrap=True)


def _row(finding: Finding) -> tuple[str | Text, ...]:
    was = "" if finding.was is None else number(finding.was)
    now = "" if finding.now is None else number(finding.now)
    moved = "" if finding.now is None or finding.was is None else _moved(finding.now, finding.was)
    word = str(finding.outcome)
    style = "dim" if finding.diagnostic else sentences.COLOURS.get(word, "")
    name = f"  {finding.what}" if finding.diagnostic else finding.what
    return name, was, now, moved, Text(word.replace("_", " "), style=style)


def summary(found: Compared) -> str:
    """``11 cases: 10 same, 1 worse``, the newer against the older."""
    counts = Counter(v.outcome.replace("_", " ") for v in found.verdicts)
    many = len(found.verdicts)
    words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
    return f"{many} case{'s' * (many != 1)}, {found.common} in both: {words}"


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


def _cells(night: Point, before: Point | None) -> tuple[str, str, str, str]:
    change = ""
    if before is not None and night.value is not None and before.value is not None:
        change = _moved(night.value, before.value)
    value = "not finite" if night.value is None else number(night.value)
    return night.created[:16].replace("T", " "), _short(night.commit), value, change


def _moved(now: float, was: float) -> str:
    return f"{now - was:+.4g}" if now != was else "0"


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
    return sentences.COLOURS["worse" if step.worse else "better"]


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

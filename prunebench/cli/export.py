"""``prunebench export``: what was measured, as files for other places."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..cases.keyword import matcher
from ..errors import PrunebenchError, did_you_mean, inert_lines
from ..record import Record
from ..reports.formats import (
    csv_table,
    grid,
    items,
    junit,
    latex,
    lm_eval,
    markdown,
    schema,
    trackers,
)
from ..results import archive, judging
from ..results.baselines import published
from ..results.baselines.files import Baselines
from ..results.store import Store
from ..runs.session import NOTHING
from ..system import files
from ..system.console import print_line, print_note
from .checkpoint import save_checkpoint
from .options import (
    BaselineDir,
    Keyword,
    StoreDir,
    defined,
    print_json,
    read_baselines,
    tell_cut_off,
)
from .paths import DEFAULT_STORE

Format = Literal[
    "markdown",
    "csv",
    "latex",
    "json",
    "junit",
    "lm-eval",
    "smaller-is-better",
    "bigger-is-better",
    "bencher",
]
SUFFIXES = {"markdown": ".md", "csv": ".csv", "latex": ".tex", "junit": ".xml"}


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command()(export)


def export(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PATHS | CASE",
            help="Results or baselines folders, records, files of run --json; default baselines/ "
            "and .prunebench/. With --checkpoint a case id, or the end of one.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[
        Format, typer.Option("--format", help="For a paper, CI, a spreadsheet, another tool.")
    ] = "markdown",
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="PATH", help="A file or folder; else print it."),
    ] = None,
    keyword: Keyword = "",
    metric: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="Columns of tables: metrics, or patterns such as 'acc*'."
        ),
    ] = None,
    wide: Annotated[
        bool, typer.Option("--wide", help="csv: a line per case, not per measurement.")
    ] = False,
    json_schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of records instead.")
    ] = False,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", metavar="DIR", help="Save the pruned model of CASE here."),
    ] = None,
    search_again: Annotated[
        bool,
        typer.Option("--search-again", help="Where the plan's tensors are gone, make them anew."),
    ] = False,
    device: Annotated[
        str, typer.Option(metavar="D", help="With --checkpoint: cpu, cuda, ...")
    ] = "cpu",
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Write the newest record of each case for other tools: tables, CSV, JUnit, lm-eval, ...

    With --checkpoint DIR it saves the pruned model of CASE with its model card, ready for the hub:
    the plan of the newest stored record is applied, or else that of the baseline. Nothing is
    uploaded.
    """
    if json_schema:
        print_json(schema.json_schema())
        return
    if checkpoint is not None:
        case_id = _one_case(paths)
        here = read_baselines(baselines), Store(store)
        save_checkpoint(case_id, checkpoint, *here, search_again=search_again, device=device)
        return
    if wide and form != "csv":
        raise PrunebenchError("--wide goes with --format csv")
    roots = read_baselines(baselines)
    select = matcher(keyword)
    places = paths or [p for p in (roots.root, store) if p.is_dir()]
    tell_cut_off(place for place in places if place != roots.root)
    found = [r for r in archive.newest(places, print_note) if select(r.case_id)]
    if not found:
        where = ", ".join(map(str, places)) or "baselines/ and .prunebench/"
        print_note(f"no records in {where}" + (f" match -k {keyword!r}" if keyword else ""))
        raise typer.Exit(NOTHING)
    names = {m.metric for record in found for m in record.measurements}
    for pattern in metric or ():
        if not any(fnmatchcase(name, pattern) for name in names):
            raise PrunebenchError(f"no metric {pattern!r}; {did_you_mean(pattern, names)}")
    if form == "lm-eval":
        _folder(found, output)
        return
    text = _writers(roots, metric or (), wide=wide)[form](found)
    if output is None:
        # What is piped is for another program; a person's terminal is to show and not to act.
        print(inert_lines(text) if sys.stdout.isatty() else text, end="")  # noqa: T201
        return
    if output.is_dir():
        output = output / f"prunebench{SUFFIXES.get(form, '.json')}"
    files.write(output, text.encode())
    print_line(f"{output}: {len(found)} record{'s' * (len(found) != 1)}")


def _one_case(given: list[Path] | None) -> str:
    if not given or len(given) != 1:
        raise PrunebenchError(
            "--checkpoint goes with one CASE: prunebench export CASE --checkpoint D"
        )
    return given[0].as_posix()


def _writers(
    roots: Baselines, metrics: Sequence[str], *, wide: bool
) -> dict[str, Callable[[list[Record]], str]]:
    """What makes the text of each format that is one file."""

    def table(records: list[Record]) -> grid.Grid:
        rows = published.rows(roots.published)
        return grid.grid(records, metrics, lambda record: published.matching(record, rows))

    return {
        "markdown": lambda records: markdown.table(table(records)),
        "latex": lambda records: latex.text(table(records)),
        "csv": partial(csv_table.wide, patterns=metrics or ("*",)) if wide else csv_table.long,
        "json": lambda records: _json(schema.Run(tuple(records), ())),
        "junit": partial(_junit, roots),
        "smaller-is-better": lambda r: _json(trackers.action_benchmark(r, "lower")),
        "bigger-is-better": lambda r: _json(trackers.action_benchmark(r, "higher")),
        "bencher": lambda records: _json(trackers.bencher(records)),
    }


def _json(data: object) -> str:
    return files.printable_json(data)


def _junit(roots: Baselines, records: list[Record]) -> str:
    cases = defined(record.case_id for record in records)
    told = []
    for record in records:
        case = cases.get(record.case_id)
        verdict = judging.judge_stored(record, roots, case)
        again = case.reproduce if case else ""
        told.append(items.Item(verdict, record, reproduce=again))
    return junit.text(items.Judged(tuple(told)))


def _folder(records: list[Record], output: Path | None) -> None:
    if output is None:
        raise PrunebenchError("--format lm-eval needs --output DIR: lm-eval has a file per run")
    layout = lm_eval.layout(records)
    for name, data in layout.items():
        files.write_json(output / name, data)
    print_line(f"{output}: {len(layout)} results file{'s' * (len(layout) != 1)}")

"""``prunebench export``: records as tables and in the formats of other tools."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ..cases.keyword import matcher
from ..errors import PrunebenchError, did_you_mean, inert_lines
from ..formatting import counted
from ..record import Record
from ..reports.formats import grid, items, lm_eval, schema
from ..reports.formats.export_format import Export, Format, formats
from ..results import archive, judging
from ..results.baselines import published
from ..results.baselines.files import Baselines
from ..results.store import Store
from ..runs.result import NOTHING
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
    warn_cut_off,
)
from .paths import DEFAULT_STORE

checkpoint_option = partial(typer.Option, rich_help_panel="Checkpoints")

#: lm-eval has a file per run; the others are one file each.
FOLDER = "lm-eval"
if TYPE_CHECKING:
    FormatName = str
else:  # the files in reports/formats/ say which there are
    FormatName = Literal[(*formats(), FOLDER)]


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
        FormatName,
        typer.Option(
            "--format",
            help="For a paper, CI, a spreadsheet, another tool.",
        ),
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
        checkpoint_option(
            "--checkpoint", metavar="DIR", help="Save the pruned model of CASE here."
        ),
    ] = None,
    search_again: Annotated[
        bool,
        checkpoint_option(
            "--search-again", help="Search again where the plan's tensors are missing."
        ),
    ] = False,
    device: Annotated[
        str,
        checkpoint_option(metavar="D", help="With --checkpoint: cpu, cuda, ..."),
    ] = "cpu",
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Write the newest record of each case for other tools.

    With --checkpoint DIR it saves the pruned model of CASE with its model card, ready for the hub:
    the plan of the newest stored record is applied, or else that of the baseline. Nothing is
    uploaded.
    """
    if json_schema:
        print_json(schema.json_schema())
        return
    if checkpoint is not None:
        case_id = _one_case(paths)
        roots, records = read_baselines(baselines), Store(store)
        save_checkpoint(
            case_id, checkpoint, roots, records, search_again=search_again, device=device
        )
        return
    if wide and form != "csv":
        raise PrunebenchError("--wide goes with --format csv")
    roots = read_baselines(baselines)
    found = _newest(paths or [p for p in (roots.root, store) if p.is_dir()], roots, keyword)
    _check_metrics(metric or (), found)
    if form == FOLDER:
        _write_folder(found, output)
        return
    rows = published.rows(roots.published)
    given = Export(
        found,
        metric or (),
        wide,
        lambda: grid.grid(found, metric or (), lambda r: published.matching(r, rows)),
        partial(_judged, roots, found),
    )
    _write(formats()[form], given, output)


def _newest(places: Sequence[Path], roots: Baselines, keyword: str) -> list[Record]:
    """The newest record of each selected case; without any, prints a line and ends the command."""
    select = matcher(keyword)
    warn_cut_off(place for place in places if place != roots.root)
    found = [r for r in archive.newest(places, print_note) if select(r.case_id)]
    if not found:
        where = ", ".join(map(str, places)) or "baselines/ and .prunebench/"
        print_note(f"no records in {where}" + (f" match -k {keyword!r}" if keyword else ""))
        raise typer.Exit(NOTHING)
    return found


def _check_metrics(patterns: Sequence[str], records: Sequence[Record]) -> None:
    names = {m.metric for record in records for m in record.measurements}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise PrunebenchError(f"no metric {pattern!r}; {did_you_mean(pattern, names)}")


def _write(form: Format, given: Export, output: Path | None) -> None:
    text = form.text(given)
    if output is None:
        # What is piped goes to another program; a terminal must not obey what it is shown.
        print(inert_lines(text) if sys.stdout.isatty() else text, end="")  # noqa: T201
        return
    if output.is_dir():
        output = output / f"prunebench{form.suffix}"
    files.write(output, text.encode())
    print_line(f"{output}: {counted(len(given.records), 'record')}")


def _one_case(given: list[Path] | None) -> str:
    if not given or len(given) != 1:
        raise PrunebenchError(
            "--checkpoint goes with one CASE: prunebench export CASE --checkpoint D"
        )
    return given[0].as_posix()


def _judged(roots: Baselines, records: list[Record]) -> items.Judged:
    cases = defined(record.case_id for record in records)
    found = []
    for record in records:
        case = cases.get(record.case_id)
        verdict = judging.judge_stored(record, roots, case)
        found.append(items.Item(verdict, record, reproduce=case.reproduce if case else ""))
    return items.Judged(tuple(found))


def _write_folder(records: list[Record], output: Path | None) -> None:
    if output is None:
        raise PrunebenchError("--format lm-eval needs --output DIR: lm-eval has a file per run")
    layout = lm_eval.layout(records)
    for name, data in layout.items():
        files.write_json(output / name, data)
    print_line(f"{output}: {counted(len(layout), 'results file')}")

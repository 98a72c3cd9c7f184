"""``prunebench check``: every problem of case files at once."""

from __future__ import annotations

from typing import Annotated

import typer

from ..cases import keys, loader
from ..formatting import counted
from ..runs.result import NOTHING
from ..system.console import print_line, print_note
from .options import AsJson, Paths, print_json, warn_cut_off
from .paths import case_paths, default_baselines


def check(
    paths: Paths = None,
    as_json: AsJson = False,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the JSON Schema of case files instead.")
    ] = False,
) -> None:
    """Check case files: every problem at once, as file:line:column."""
    if schema:
        print_json(keys.json_schema())
        return
    warn_cut_off([default_baselines()])
    files = loader.find(case_paths(paths))
    cases = loader.load(files)
    if not cases:  # a mistyped folder must not pass for a good one
        print_note(f"no cases in {', '.join(map(str, case_paths(paths)))}")
        raise typer.Exit(NOTHING)
    if as_json:
        print_json({"files": [str(f) for f in files], "cases": [c.id for c in cases]})
    else:
        print_line(f"{counted(len(cases), 'case')} in {counted(len(files), 'file')}: ok")

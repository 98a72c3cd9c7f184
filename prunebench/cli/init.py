"""``prunebench init``: a new project."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..cases import loader
from ..errors import PrunebenchError
from ..formatting import counted
from ..system.console import print_line
from . import scaffold


def init(
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="The project.", show_default=False)
    ] = Path(),
    model: Annotated[
        str | None,
        typer.Option(metavar="M", help="A folder or hub id; default the shipped model."),
    ] = None,
    ci: Annotated[
        bool, typer.Option("--ci", help="With a GitHub workflow for pull requests.")
    ] = False,
    nightly: Annotated[
        bool, typer.Option("--nightly", help="With a nightly GitHub workflow, and a cron script.")
    ] = False,
    runner: Annotated[
        str,
        typer.Option(metavar="LABELS", help="The GitHub runner, e.g. self-hosted,gpu."),
    ] = "ubuntu-latest",
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files.")] = False,
) -> None:
    """Make a project: a first case, .gitignore, workflows.

    No existing file is overwritten without --force.
    """
    made = scaffold.contents(folder, model=model, ci=ci, nightly=nightly, runner=runner)
    existing = scaffold.conflicts(folder, made)
    if existing and not force:
        raise PrunebenchError(
            f"already there, and not overwritten without --force: {', '.join(existing)}"
        )
    for path in scaffold.write(folder, made):
        print_line(f"wrote {path}")
    cases = loader.load(loader.find([folder / "cases"]))
    print_line(f"{counted(len(cases), 'case')} in {folder / 'cases'}: ok")
    for line in _next(folder, ci=ci, nightly=nightly):
        print_line(line)


def _next(folder: Path, *, ci: bool, nightly: bool) -> list[str]:
    """The commands to run next."""
    steps = [] if folder == Path() else [f"cd {folder}"]
    steps += [
        "prunebench run",
        'prunebench accept --because "first results"',
        "git add cases baselines .gitignore"
        + (" .github" if ci or nightly else "")
        + (" nightly.sh" if nightly else ""),
    ]
    lines = ["next:", *(f"  {step}" for step in steps)]
    if nightly:
        lines += [
            "nightly on GitHub: set the secret PRUNEBENCH_WEBHOOK to be notified of changes",
            f"nightly with cron: 17 3 * * *  {(folder / 'nightly.sh').absolute()}",
        ]
    return lines

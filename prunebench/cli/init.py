"""``prunebench init``: a project to start from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..cases import loader
from ..errors import PrunebenchError
from ..system.console import print_line
from . import scaffold


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command()(init)


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
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
) -> None:
    """Make a project: a first case, what git leaves out, and workflows if asked for.

    Nothing that is there is overwritten without --force.
    """
    made = scaffold.contents(folder, model=model, ci=ci, nightly=nightly, runner=runner)
    there = scaffold.taken(folder, made)
    if there and not force:
        raise PrunebenchError(
            f"there already, and not overwritten without --force: {', '.join(there)}"
        )
    for path in scaffold.write(folder, made):
        print_line(f"wrote {path}")
    cases = loader.load(loader.find([folder / "cases"]))
    print_line(f"{len(cases)} case{'s' * (len(cases) != 1)} in {folder / 'cases'}: ok")
    for line in _next(folder, ci=ci, nightly=nightly):
        print_line(line)


def _next(folder: Path, *, ci: bool, nightly: bool) -> list[str]:
    """What to do now."""
    steps = [] if folder == Path() else [f"cd {folder}"]
    steps += [
        "prunebench run",
        'prunebench accept --because "first results"',
        "git add cases baselines .gitignore"
        + (" .github" if ci or nightly else "")
        + (" nightly.sh" if nightly else ""),
    ]
    said = ["next:", *(f"  {step}" for step in steps)]
    if nightly:
        said += [
            "nightly on GitHub: set the secret PRUNEBENCH_WEBHOOK to be told what changes",
            f"nightly with cron: 17 3 * * *  {(folder / 'nightly.sh').absolute()}",
        ]
    return said

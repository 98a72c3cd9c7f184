"""What the commands share: their options, and how cases and folders are found."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..case import Case
from ..cases import keyword as select
from ..cases import loader
from ..errors import PrunebenchError, did_you_mean
from ..results.baselines.files import Baselines
from ..results.store import Store
from ..runs.session import NOTHING
from ..system import files
from ..system.console import print_note
from . import completion
from .paths import all_case_paths, case_paths, default_baselines

Paths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Case files or folders; default cases/smoke.",
        show_default=False,
        autocompletion=completion.case_files,
    ),
]
Keyword = Annotated[
    str,
    typer.Option(
        "-k",
        metavar="EXPR",
        help="Only cases whose id matches, as in pytest.",
        autocompletion=completion.keywords,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override any case key, e.g. model.id=...",
        autocompletion=completion.settings,
    ),
]
Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="At most N questions per task.")
]


def _folder(option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Refuse what is there and no folder, before anything is measured."""
    if path is not None and path.exists() and not path.is_dir():
        raise PrunebenchError(f"{option.opts[0]} {path}: expected a folder, found a file")
    return path


StoreDir = Annotated[Path, typer.Option("--store", help="Results folder.", callback=_folder)]
BaselineDir = Annotated[
    Path | None,
    typer.Option(
        "--baselines",
        help="Baselines folder; default baselines/.",
        show_default=False,
        callback=_folder,
    ),
]
Device = Annotated[
    str | None,
    typer.Option(metavar="D", help="cpu, cuda, cuda:1, ...", autocompletion=completion.devices),
]
JsonFile = Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Write JSON too.")]
JunitFile = Annotated[
    Path | None, typer.Option("--junit", metavar="FILE", help="Write JUnit XML, with the numbers.")
]
MarkdownFile = Annotated[
    Path | None,
    typer.Option("--markdown", metavar="FILE", help="Write a comment for a pull request."),
]
OnGithub = Annotated[
    bool | None,
    typer.Option(
        "--github/--no-github",
        help="Annotate the pull request; by default in GitHub Actions.",
        show_default=False,
    ),
]
FailOn = Annotated[
    str,
    typer.Option(
        metavar="EXPR",
        help="Outcomes and conditions that fail, e.g. 'worse, accuracy/recovery < 0.95'.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Alpha = Annotated[
    float | None,
    typer.Option(
        min=1e-9,
        max=0.5,
        metavar="A",
        help="One-sided level of the tests, for all of the run; else what a case says.",
    ),
]
Because = Annotated[str, typer.Option(metavar="TEXT", help="Why the new values are right.")]
Force = Annotated[bool, typer.Option("--force", help="Accept what the guards object to.")]

WorkerCount = Annotated[
    str,
    typer.Option(
        "-n", metavar="K", help="That many worker processes; auto: one per GPU, or half the cores."
    ),
]
PerGpu = Annotated[
    int, typer.Option(min=1, metavar="N", help="How many workers of -n may share a GPU.")
]
ExecutorName = Annotated[
    str,
    typer.Option("--executor", metavar="E", help="Run as jobs: slurm."),
]
SlurmOptions = Annotated[
    list[str] | None,
    typer.Option("--slurm", metavar="KEY=VALUE", help="An option of sbatch, e.g. partition=gpu."),
]
Detach = Annotated[
    bool, typer.Option("--detach", help="With --executor: submit, say how to collect, and end.")
]


def defined(ids: Iterable[str]) -> dict[str, Case]:
    """The cases of those *ids*, as far as there still are any; no other case file is read.

    Raises:
        CaseError: with every mistake in these case files.
    """
    wanted = {case_id.rpartition("/")[0] for case_id in ids}
    files = [f for f in loader.find(all_case_paths()) if loader.case_prefix(f) in wanted]
    return {case.id: case for case in loader.load(files)}


def read_baselines(folder: Path | None) -> Baselines:
    """The baselines in *folder*, or the default ones, to be read: it is told if they are mixed."""
    roots = Baselines(folder or default_baselines())
    tell_cut_off([roots.root])
    return roots


def tell_cut_off(paths: Iterable[Path]) -> None:
    """A line for every folder of baselines in which one of *paths* lies and an accept stopped."""
    for folder in dict.fromkeys(above for path in paths for above in (path, *path.parents)):
        if line := Baselines(folder).cut_off:
            print_note(line)


def chosen_cases(
    paths: list[Path] | None,
    keyword: str = "",
    settings: list[str] | None = None,
    limit: int | None = None,
) -> list[Case]:
    """The cases meant; with none, a line says so and the command ends.

    Raises:
        CaseError: with every mistake in the case files.
    """
    chosen = loader.load(case_paths(paths), settings or (), limit, select.matcher(keyword))
    if not chosen:
        where = ", ".join(map(str, case_paths(paths)))
        print_note(f"no cases in {where}" + (f" match -k {keyword!r}" if keyword else ""))
        raise typer.Exit(NOTHING)
    return chosen


def stored_case(text: str, store: Store) -> str:
    """The id of the case that has records and whose id is, or ends in, *text*.

    Raises:
        PrunebenchError: if there is none, or more than one.
    """
    return one_case(text, store.case_ids(), "record")


def one_case(text: str, ids: Sequence[str], what: str) -> str:
    """The one of *ids* that is, or ends in, *text*; *what* they are of.

    Raises:
        PrunebenchError: if there is none, or more than one.
    """
    matches = [i for i in ids if i == text] or [i for i in ids if i.endswith(text)]
    if not ids:
        raise PrunebenchError(f"no {what} of {text!r}, nor of any case; prunebench run makes them")
    if not matches:
        raise PrunebenchError(f"no {what} of {text!r}; {did_you_mean(text, ids)}")
    if len(matches) > 1:
        raise PrunebenchError(f"{len(matches)} cases end in {text!r}: {', '.join(matches)}")
    return matches[0]


def print_json(data: object) -> None:
    """*data* on standard output, for scripts."""
    print(files.printable_json(data), end="")  # noqa: T201

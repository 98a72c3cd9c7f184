"""Options that several commands share, and the cases and baselines that they keywords."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from ..case import Case
from ..cases import keyword as keywords
from ..cases import loader
from ..errors import PrunebenchError, did_you_mean
from ..results.baselines.files import Baselines
from ..results.store import Store
from ..runs.result import NOTHING
from ..system import files
from ..system.console import print_note
from . import completion
from .paths import all_case_paths, case_paths, default_baselines

#: Options under their headings in ``--help``.
cases_option = partial(typer.Option, rich_help_panel="Cases")
measure_option = partial(typer.Option, rich_help_panel="Measurement")
verdict_option = partial(typer.Option, rich_help_panel="Verdicts")
baseline_option = partial(typer.Option, rich_help_panel="Baselines")
report_option = partial(typer.Option, rich_help_panel="Reports")
process_option = partial(typer.Option, rich_help_panel="Processes and jobs")


def _folder(option: typer.CallbackParam, path: Path | None) -> Path | None:
    """Refuse a file where a folder is expected, before anything is measured."""
    if path is not None and path.exists() and not path.is_dir():
        raise PrunebenchError(f"{option.opts[0]} {path}: expected a folder, found a file")
    return path


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
    cases_option(
        "-k",
        metavar="EXPR",
        help="Only cases whose id matches, as in pytest.",
        autocompletion=completion.keywords,
    ),
]
Settings = Annotated[
    list[str] | None,
    cases_option(
        "--set",
        metavar="KEY=VALUE",
        help="Override any case key, e.g. model.id=...",
        autocompletion=completion.settings,
    ),
]
Limit = Annotated[
    int | None, cases_option(min=1, metavar="N", help="At most N questions per task.")
]
StoreDir = Annotated[Path, measure_option(help="Results folder.", callback=_folder)]
BaselineDir = Annotated[
    Path | None,
    baseline_option(
        help="Baselines folder; default baselines/.", show_default=False, callback=_folder
    ),
]
Device = Annotated[
    str | None,
    measure_option(metavar="D", help="cpu, cuda, cuda:1, ...", autocompletion=completion.devices),
]
JsonFile = Annotated[Path | None, report_option("--json", metavar="FILE", help="Also write JSON.")]
JunitFile = Annotated[
    Path | None,
    report_option("--junit", metavar="FILE", help="Write JUnit XML, with all numbers."),
]
MarkdownFile = Annotated[
    Path | None,
    report_option("--markdown", metavar="FILE", help="Write a comment for a pull request."),
]
OnGithub = Annotated[
    bool | None,
    report_option(
        "--github/--no-github",
        help="Annotate the pull request; default in GitHub Actions.",
        show_default=False,
    ),
]
Strict = Annotated[
    bool, verdict_option("--strict", help="Unsure, new and not comparable fail too.")
]
FailOn = Annotated[
    str,
    verdict_option(
        metavar="EXPR",
        help="Outcomes and conditions that fail, e.g. 'worse, accuracy/recovery < 0.95'.",
    ),
]
Alpha = Annotated[
    float | None,
    verdict_option(
        min=1e-9,
        max=0.5,
        metavar="A",
        help="One-sided significance level of all tests together; default from the cases.",
    ),
]
Because = Annotated[str, baseline_option(metavar="TEXT", help="Why the new values are right.")]
Force = Annotated[bool, baseline_option("--force", help="Accept what the guards object to.")]
WorkerCount = Annotated[
    str,
    process_option(
        "-n",
        metavar="K",
        help="Number of worker processes; auto: one per GPU, or half the cores.",
    ),
]
PerGpu = Annotated[
    int, process_option(min=1, metavar="N", help="How many workers of -n may share a GPU.")
]
ExecutorName = Annotated[str, process_option(metavar="E", help="Run as jobs: slurm.")]
SlurmOptions = Annotated[
    list[str] | None,
    process_option(metavar="KEY=VALUE", help="An option of sbatch, e.g. partition=gpu."),
]
Detach = Annotated[
    bool,
    process_option(
        "--detach", help="With --executor slurm: submit, print how to collect, and end."
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only print what would be removed.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="No progress display.")]
StoredCase = Annotated[
    str,
    typer.Argument(
        metavar="CASE",
        help="A case id, or the end of one.",
        autocompletion=completion.stored_cases,
    ),
]
RecordPaths = Annotated[
    list[Path] | None,
    typer.Argument(
        help="Results or baselines folders, records, files of run --json; default baselines/ "
        "and .prunebench/.",
        show_default=False,
    ),
]


def defined(ids: Iterable[str]) -> dict[str, Case]:
    """The cases of those *ids* that still exist; reads only their case files.

    Raises:
        CaseError: with every mistake in these case files.
    """
    wanted = {case_id.rpartition("/")[0] for case_id in ids}
    files = [f for f in loader.find(all_case_paths()) if loader.case_prefix(f) in wanted]
    return {case.id: case for case in loader.load(files)}


def read_baselines(folder: Path | None) -> Baselines:
    """The baselines in *folder*, or the default ones; warns of an interrupted accept."""
    roots = Baselines(folder or default_baselines())
    warn_cut_off([roots.root])
    return roots


def warn_cut_off(paths: Iterable[Path]) -> None:
    """Print a line for each baselines folder above *paths* in which an accept was interrupted."""
    for folder in dict.fromkeys(above for path in paths for above in (path, *path.parents)):
        if line := Baselines(folder).cut_off:
            print_note(line)


def chosen_cases(
    paths: list[Path] | None,
    keyword: str = "",
    settings: list[str] | None = None,
    limit: int | None = None,
) -> list[Case]:
    """The selected cases; without any, prints a line and ends the command.

    Raises:
        CaseError: with every mistake in the case files.
    """
    chosen = loader.load(case_paths(paths), settings or (), limit, keywords.matcher(keyword))
    if not chosen:
        where = ", ".join(map(str, case_paths(paths)))
        print_note(f"no cases in {where}" + (f" match -k {keyword!r}" if keyword else ""))
        raise typer.Exit(NOTHING)
    return chosen


def stored_case(text: str, store: Store) -> str:
    """The id of the case with records whose id equals *text* or ends in it.

    Raises:
        PrunebenchError: if no case or more than one does.
    """
    return one_case(text, store.case_ids(), "record")


def one_case(text: str, ids: Sequence[str], what: str) -> str:
    """The one of *ids* that equals *text* or ends in it.

    Args:
        text: as typed.
        ids: cases that have something.
        what: what they have, for messages: ``record``.

    Raises:
        PrunebenchError: if none or more than one matches.
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
    """Print *data* on standard output, for scripts."""
    print(files.printable_json(data), end="")  # noqa: T201

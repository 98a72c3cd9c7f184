"""``prunebench baseline``: list accepted records, review an acceptance, remove baselines."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from .. import formatting
from ..cases import keyword as keywords
from ..cases import loader
from ..errors import PrunebenchError, did_you_mean
from ..reports import explain, sentences
from ..results.baselines import accept, guards
from ..results.baselines import review as reviewing
from ..results.baselines.files import OWN, Baselines, shipped
from ..results.baselines.review import AMISS, Change, Shelved
from ..results.store import Store
from ..runs.result import NOT_COMPARABLE, OK
from ..system.console import console, print_line, print_note
from ..verdicts.verdict import Outcome
from .options import (
    AsJson,
    BaselineDir,
    DryRun,
    Keyword,
    Paths,
    StoreDir,
    chosen_cases,
    print_json,
    read_baselines,
)
from .paths import DEFAULT_STORE, all_case_paths

app = typer.Typer(
    help="List, review and remove accepted records.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AllPaths = Annotated[
    list[Path] | None,
    typer.Argument(help="Case files or folders; default all cases.", show_default=False),
]

COLOURS = {
    "ok": "green",
    "forced": "yellow",
    "stale": "magenta",
    "missing": "cyan",
    "orphaned": "magenta",
    "damaged": "bold red",
}


@app.command(name="list")
def list_baselines(
    paths: AllPaths = None,
    keyword: Keyword = "",
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit 6 if a state is neither ok nor forced.")
    ] = False,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
) -> None:
    """List baselines: who accepted them, when, why, and their state."""
    roots = read_baselines(baselines)
    known = loader.load(all_case_paths())
    cases = loader.load(paths) if paths else known
    orphans = reviewing.orphans(roots, [*known, *cases])
    if paths:
        orphans = [case_id for case_id in orphans if _below(case_id, paths)]
    wanted = keywords.matcher(keyword)
    orphans = [case_id for case_id in orphans if wanted(case_id)]
    cases = [case for case in cases if wanted(case.id)]
    if _knows_all(roots):
        rows = reviewing.look(roots, cases, orphans)
    else:
        if orphans:
            print_note(_UNKNOWN)
        rows = reviewing.look(roots, cases, (), orphans)
    if as_json:
        print_json(rows)
    else:
        _print_rows(rows, console())
    bad = any(row.state in AMISS for row in rows)
    raise typer.Exit(NOT_COMPARABLE if strict and bad else OK)


@app.command()
def review(
    paths: Paths = None,
    keyword: Keyword = "",
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Show what accept would change; writes nothing."""
    roots = read_baselines(baselines)
    cases = [case for case in chosen_cases(paths, keyword) if not case.for_interval]
    stored = Store(store)
    records = accept.newest(cases, stored)
    files = list({case.file: None for case in cases})
    wanted = keywords.matcher(keyword)
    orphans = reviewing.orphans(roots, [*loader.load(all_case_paths()), *cases])
    orphans = [o for o in orphans if _below(o, files) and wanted(o) and _knows_all(roots)]
    changes = reviewing.review(cases, records, roots, orphans)
    problems = [found.line() for found in guards.objections(records, roots, stored, cases)]
    command = _command(paths, keyword, baselines, store)
    if as_json:
        print_json({"changes": changes, "problems": problems, "command": command})
        return
    for effect, group in groupby(sorted(changes, key=_order), key=lambda c: c.effect):
        for line in _group(effect, list(group)):
            print_line(line)
    for problem in problems:
        print_line(problem)
    if any(c.now is not None and c.effect != "unchanged" for c in changes):
        print_line(f"to accept: {command}")
        if problems:
            print_line("refused for the reasons above; --force overrides")
    else:
        print_line("nothing to accept")


@app.command()
def rm(
    case_ids: Annotated[
        list[str] | None, typer.Argument(metavar="CASE", help="Ids of cases.", show_default=False)
    ] = None,
    orphaned: Annotated[
        bool, typer.Option("--orphaned", help="All whose case no longer exists.")
    ] = False,
    dry_run: DryRun = False,
    baselines: BaselineDir = None,
) -> None:
    """Remove baselines with their samples; git keeps the old ones."""
    roots = Baselines(baselines or OWN)
    if roots.cut_off:  # completing that accept could restore what is removed now
        raise PrunebenchError(roots.cut_off)
    if not case_ids and not orphaned:
        raise PrunebenchError("baseline rm needs the ids of cases, or --orphaned")
    known = roots.all_case_ids()
    if unknown := [case_id for case_id in case_ids or () if case_id not in known]:
        raise PrunebenchError("\n".join(_unknown(case_id, known) for case_id in unknown))
    chosen = dict.fromkeys(case_ids or ())
    if orphaned:
        if not _knows_all(roots):
            raise PrunebenchError(_UNKNOWN)
        chosen |= dict.fromkeys(reviewing.orphans(roots, loader.load(all_case_paths())))
    for path in reviewing.remove(roots, chosen, dry_run=dry_run):
        print_line(f"{'would remove' if dry_run else 'removed'} {path}")
    if not chosen:
        print_line("no baseline is orphaned")


def _unknown(case_id: str, known: Sequence[str]) -> str:
    near = get_close_matches(case_id, known, n=3)
    hint = did_you_mean(case_id, near) if near else "prunebench baseline list shows them"
    return f"no baseline of {case_id!r}; {hint}"


_UNKNOWN = "no folder cases/ here, so it is not known which baselines are orphaned"


def _knows_all(roots: Baselines) -> bool:
    """Whether all cases that a baseline may belong to are here."""
    return Path("cases").is_dir() or roots.root == shipped("baselines")


def _below(case_id: str, paths: Sequence[Path]) -> bool:
    """Whether a case of that id would be in one of these files or folders."""
    prefixes = [loader.case_prefix(path) for path in loader.find(paths)]
    folders = [loader.case_prefix(path / "x.yaml")[:-1] for path in paths if path.is_dir()]
    return case_id.startswith((*(f"{p}/" for p in prefixes), *folders))


def _print_rows(rows: Sequence[Shelved], out: Console) -> None:
    for file, group in groupby(rows, key=lambda row: row.case_id.rsplit("/", 1)[0]):
        members = list(group)
        if len(members) > 1 and all(row.state == "missing" for row in members):
            out.print(Text(f"{file}: no baseline of its {len(members)} cases"), soft_wrap=True)
        else:
            out.print(Text(file), soft_wrap=True)
            for line in _columns([_cells(row) for row in members], out.width):
                out.print(line, soft_wrap=True)
    for row in rows:
        if row.what:
            out.print(Text(f"{row.case_id}: {row.state}: {row.what}"), soft_wrap=True)
    counts = Counter(row.state for row in rows)
    missing = counts.pop("missing", 0)
    words = ", ".join(f"{n} {state}" for state, n in counts.items())
    text = formatting.counted(counts.total(), "baseline") + (f": {words}" if words else "")
    text += f"; {formatting.counted(missing, 'case')} without" if missing else ""
    out.print(Text(text), soft_wrap=True)


def _cells(row: Shelved) -> list[str]:
    by = row.accepted
    accepted = [by.by, by.when[:10], " ".join(by.because.split())] if by else ["", "", ""]
    return [row.case_id.rsplit("/", 1)[-1], row.state, ", ".join(row.trees), *accepted]


def _columns(rows: Sequence[Sequence[str]], width: int) -> Iterator[Text]:
    """Lines of aligned cells; the reason of the acceptance is cut to the room that is left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    room = max(20, width - sum(widths) - 2 * len(widths) - 2)
    for *cells, because in rows:
        short = because if len(because) <= room else f"{because[: room - 3]}..."
        line = Text(" ")
        for cell, wide in zip(cells, widths, strict=True):
            line.append(f" {cell:{wide}} ", style=COLOURS.get(cell, ""))
        line.append(f" {short}")
        line.rstrip()
        yield line


_ORDER = ("unchanged", "no record", "orphaned", "stale", "create", "change")


def _order(change: Change) -> int:
    return _ORDER.index(change.effect)


def _group(effect: str, changes: Sequence[Change]) -> Iterator[str]:
    """The cases of one effect: a heading, then each with what changed."""
    yield f"{effect}: {len(changes)}"
    for change in changes if effect != "unchanged" else ():
        yield f"  {change.case_id}" + (f": {change.what}" if change.what else "")
        if effect == "create":
            values = [f for f in change.findings if f.now is not None and not f.diagnostic]
            yield from (f"    {f.what} {formatting.number(f.now or 0.0)}" for f in values)
        for finding in change.findings if effect == "change" else ():
            yield f"    {sentences.sentence(finding)}"
            if finding.what == "plan" and finding.outcome == Outcome.CHANGED_PLAN:
                assert change.now is not None and change.was is not None  # noqa: S101, PT018
                yield from (f"      {line}" for line in explain.plan_diff(change.now, change.was))


def _command(
    paths: Sequence[Path] | None,
    keyword: str,
    baselines: Path | None,
    store: Path,
) -> str:
    words = ["prunebench", "accept", *map(str, paths or ())]
    words += ["-k", keyword] if keyword else []
    words += ["--baselines", str(baselines)] if baselines else []
    words += ["--store", str(store)] if store != DEFAULT_STORE else []
    return f"{shlex.join(words)} --because TEXT"

"""``prunebench baseline``: what is on the shelf, what accepting would change, what can go."""

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
from ..cases import keyword as select
from ..cases import loader
from ..errors import PrunebenchError, did_you_mean
from ..reports import explain, sentences
from ..results.baselines import accept, guards
from ..results.baselines import review as shelf
from ..results.baselines.files import OWN, Baselines, shipped
from ..results.baselines.review import AMISS, Change, Shelved
from ..results.store import Store
from ..runs.session import NOT_COMPARABLE, OK
from ..system.console import print_line, print_note
from ..verdicts.verdict import Outcome
from .options import (
    AsJson,
    BaselineDir,
    Keyword,
    Paths,
    StoreDir,
    chosen_cases,
    print_json,
    read_baselines,
)
from .paths import DEFAULT_STORE, all_case_paths

app = typer.Typer(
    help="Accepted records: list them, review what accept would change, remove them.",
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
        bool, typer.Option("--strict", help="Exit 6 if any is amiss: all states but ok, forced.")
    ] = False,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
) -> None:
    """List baselines: who accepted them, when and why, and whether they still fit their case."""
    roots = read_baselines(baselines)
    known = loader.load(all_case_paths())
    cases = loader.load(paths) if paths else known
    left = shelf.orphans(roots, [*known, *cases])
    if paths:
        left = [case_id for case_id in left if _below(case_id, paths)]
    wanted = select.matcher(keyword)
    left = [case_id for case_id in left if wanted(case_id)]
    cases = [case for case in cases if wanted(case.id)]
    if _knows_all(roots):
        rows = shelf.look(roots, cases, left)
    else:
        if left:
            print_note(_BLIND)
        rows = shelf.look(roots, cases, (), left)
    if as_json:
        print_json(rows)
    else:
        _print_rows(rows, sentences.console())
    amiss = any(row.state in AMISS for row in rows)
    raise typer.Exit(NOT_COMPARABLE if strict and amiss else OK)


@app.command()
def review(
    paths: Paths = None,
    keyword: Keyword = "",
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Show what accept would change, from the newest stored records; writes nothing."""
    roots = read_baselines(baselines)
    cases = [case for case in chosen_cases(paths, keyword) if not case.for_interval]
    kept = Store(store)
    records = accept.newest(cases, kept)
    files = list({case.file: None for case in cases})
    wanted = select.matcher(keyword)
    left = shelf.orphans(roots, [*loader.load(all_case_paths()), *cases])
    orphans = [o for o in left if _below(o, files) and wanted(o) and _knows_all(roots)]
    changes = shelf.review(cases, records, roots, orphans)
    problems = [found.line() for found in guards.objections(records, roots, kept, cases)]
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
            print_line("refused as it stands, for the reasons above; --force overrides")
    else:
        print_line("nothing to accept")


@app.command()
def rm(
    case_ids: Annotated[
        list[str] | None, typer.Argument(metavar="CASE", help="Ids of cases.", show_default=False)
    ] = None,
    orphaned: Annotated[
        bool, typer.Option("--orphaned", help="All whose case is no more.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    baselines: BaselineDir = None,
) -> None:
    """Remove baselines in both trees, samples and all; git keeps what they were."""
    roots = Baselines(baselines or OWN)
    if roots.cut_off:  # whatever goes now, ending it could bring back
        raise PrunebenchError(roots.cut_off)
    if not case_ids and not orphaned:
        raise PrunebenchError("baseline rm needs the ids of cases, or --orphaned")
    known = roots.all_case_ids()
    if unknown := [case_id for case_id in case_ids or () if case_id not in known]:
        raise PrunebenchError("\n".join(_unknown(case_id, known) for case_id in unknown))
    chosen = dict.fromkeys(case_ids or ())
    if orphaned:
        if not _knows_all(roots):
            raise PrunebenchError(_BLIND)
        chosen |= dict.fromkeys(shelf.orphans(roots, loader.load(all_case_paths())))
    for path in shelf.remove(roots, chosen, dry_run=dry_run):
        print_line(f"{'would remove' if dry_run else 'removed'} {path}")
    if not chosen:
        print_line("no baseline is orphaned")


def _unknown(case_id: str, known: Sequence[str]) -> str:
    near = get_close_matches(case_id, known, n=3)
    hint = did_you_mean(case_id, near) if near else "prunebench baseline list shows them"
    return f"no baseline of {case_id!r}; {hint}"


_BLIND = "no folder cases/ here, so it cannot be told which baselines are orphaned"


def _knows_all(roots: Baselines) -> bool:
    """Whether every case that a baseline may be of is at hand."""
    return Path("cases").is_dir() or roots.root == shipped("baselines")


def _below(case_id: str, paths: Sequence[Path]) -> bool:
    """Whether a case of that id would be in one of these files or folders."""
    prefixes = [loader.case_prefix(path) for path in loader.find(paths)]
    folders = [loader.case_prefix(path / "x.yaml")[:-1] for path in paths if path.is_dir()]
    return case_id.startswith((*(f"{p}/" for p in prefixes), *folders))


def _print_rows(rows: Sequence[Shelved], console: Console) -> None:
    for file, group in groupby(rows, key=lambda row: row.case_id.rsplit("/", 1)[0]):
        members = list(group)
        if len(members) > 1 and all(row.state == "missing" for row in members):
            console.print(Text(f"{file}: no baseline of its {len(members)} cases"), soft_wrap=True)
        else:
            console.print(Text(file), soft_wrap=True)
            for line in _columns([_cells(row) for row in members], console.width):
                console.print(line, soft_wrap=True)
    for row in rows:
        if row.what:
            console.print(Text(f"{row.case_id}: {row.state}: {row.what}"), soft_wrap=True)
    counts = Counter(row.state for row in rows)
    missing = counts.pop("missing", 0)
    there = counts.total()
    words = ", ".join(f"{n} {state}" for state, n in counts.items())
    text = f"{there} baseline{'s' * (there != 1)}" + (f": {words}" if words else "")
    text += f"; {missing} case{'s' * (missing != 1)} without" if missing else ""
    console.print(Text(text), soft_wrap=True)


def _cells(row: Shelved) -> list[str]:
    who = row.accepted
    told = [who.by, who.when[:10], " ".join(who.because.split())] if who else ["", "", ""]
    return [row.case_id.rsplit("/", 1)[-1], row.state, ", ".join(row.trees), *told]


def _columns(rows: Sequence[Sequence[str]], width: int) -> Iterator[Text]:
    """Lines of aligned cells; the last one, why it was accepted, gets what room is left."""
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
    """The cases of one effect: a heading, then each with what moved."""
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

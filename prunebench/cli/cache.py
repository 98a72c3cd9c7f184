"""``prunebench cache``: count, verify and remove stored results."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace
from rich.filesize import decimal

from ..case import Case
from ..cases import loader
from ..errors import PrunebenchError
from ..formatting import counted
from ..results import answer_key, inventory
from ..results import gc as removal
from ..results.gc import Removed
from ..results.inventory import Content
from ..results.store import Store
from ..runs.result import CRASHED, OK
from ..system.console import print_line, print_note
from ..system.machine import default_device
from .options import AsJson, BaselineDir, Device, DryRun, StoreDir, print_json, read_baselines
from .paths import DEFAULT_STORE, all_case_paths

app = typer.Typer(
    help="Count, verify and remove stored results.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def info(
    device: Device = None,
    as_json: AsJson = False,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Print what the results folder holds, and how many cases it answers."""
    records = Store(store)
    found = inventory.content(records)
    if (cases := _cases()) is not None:
        place = device or default_device()
        current = sum(_answered(case, records, place) for case in cases)
        found = replace(found, cases=len(cases), current=current)
    if as_json:
        print_json(found)
    else:
        for line in _lines(found):
            print_line(line)


@app.command()
def verify(
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Read every record and baseline; exit 3 if any is damaged."""
    roots = read_baselines(baselines)
    damaged = list(inventory.damage(Store(store), roots))
    records = sum(item.kind == "record" for item in inventory.items(store))
    accepted = len(roots.all_case_ids())
    if as_json:
        print_json({"records": records, "baselines": accepted, "damaged": damaged})
    else:
        for line in damaged:
            print_line(line)
        read = f"{counted(records, 'record')} and {counted(accepted, 'baseline')} read"
        print_line(f"{read}: {f'{len(damaged)} damaged' if damaged else 'all sound'}")
    raise typer.Exit(CRASHED if damaged else OK)


@app.command()
def gc(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Remove records older than this, e.g. 90d.")
    ] = "",
    keep_last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep the newest N records of each case.")
    ] = None,
    max_size: Annotated[
        str,
        typer.Option(metavar="SIZE", help="Then remove the oldest down to this, e.g. 5GB."),
    ] = "",
    dry_run: DryRun = False,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Remove leftovers of runs, and old records if a limit is given.

    Records that a baseline was accepted from stay, and so does the newest of every case.
    """
    age = removal.seconds_of(older_than, "--older-than") if older_than else None
    limit = removal.bytes_of(max_size, "--max-size") if max_size else None
    cases = _cases() if Path("cases").is_dir() else None
    removable = removal.removable(
        Store(store),
        read_baselines(baselines),
        None if cases is None else {case.id for case in cases},
        older_than=age,
        keep_last=keep_last,
        max_size=limit,
    )
    removed = removable if dry_run else removal.remove(removable, store)
    if as_json:
        print_json({"dry_run": dry_run, "removed": removed})
        return
    for line in _summary(removed, dry_run=dry_run):
        print_line(line)
    paths = {one.path for one in removed}
    left = sum(item.size for item in inventory.items(store) if str(item.path) not in paths)
    over = limit is not None and left > limit
    tail = f", more than {max_size}: newest records and what baselines cite stay" if over else ""
    print_line(f"{decimal(left)} {'would be ' if dry_run else ''}left in {store}{tail}")


def _cases() -> list[Case] | None:
    """All cases here; prints a line and returns None if they cannot be read."""
    try:
        return loader.load(loader.find(all_case_paths()))
    except PrunebenchError as error:
        print_note(f"the cases here cannot be read: {str(error).splitlines()[0]}")
        return None


def _answered(case: Case, store: Store, device: str) -> bool:
    try:
        return store.find(case.id, answer_key.key(case, device)) is not None
    except PrunebenchError:
        return False


def _lines(found: Content) -> Iterator[str]:
    records, cases = counted(found.nights, "record"), counted(found.stored_cases, "case")
    yield f"{found.store}: {records} of {cases}"
    if found.nights:
        yield f"  from {found.oldest} to {found.newest}"
    if found.current is not None:
        yield f"  {found.current} of the {counted(found.cases or 0, 'case')} here have their answer"
    if found.damaged:
        count = counted(found.damaged, "record")
        yield f"  {count} cannot be read: prunebench cache verify lists them"
    for kind in sorted(found.files):
        yield f"  {kind}: {counted(found.files[kind], 'file')}, {decimal(found.bytes[kind])}"
    hashed = f"{counted(found.hash_entries, 'file')} hashed, {decimal(found.hash_bytes)}"
    yield f"{found.hashes}: {hashed}"


def _summary(removed: Sequence[Removed], *, dry_run: bool) -> Iterator[str]:
    def reason(one: Removed) -> tuple[str, str]:
        return one.kind, one.why

    verb = "would remove" if dry_run else "removed"
    for (kind, why), group in groupby(sorted(removed, key=reason), key=reason):
        members = list(group)
        for one in members if dry_run else ():
            yield f"  {one.path}"
        size = decimal(sum(one.size for one in members))
        yield f"{verb} {counted(len(members), f'{kind} file')}, {size}: {why}"
    if not removed:
        yield "nothing to remove"

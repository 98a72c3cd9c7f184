"""``prunebench cache``: what the results folder holds, whether it is sound, what can go."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Annotated

import typer
from msgspec.structs import replace

from ..case import Case
from ..cases import loader
from ..errors import PrunebenchError
from ..results import answer_key, inventory
from ..results import gc as removal
from ..results.gc import Removed
from ..results.inventory import Content
from ..results.store import Store
from ..runs.session import CRASHED, OK
from ..system.console import print_note
from ..system.machine import default_device
from .options import (
    AsJson,
    BaselineDir,
    Device,
    StoreDir,
    print_json,
    read_baselines,
)
from .paths import DEFAULT_STORE, all_case_paths

app = typer.Typer(
    help="Stored results: what there is, whether it is sound, what can go.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def info(
    device: Device = None,
    as_json: AsJson = False,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Tell what the results folder holds, and how many cases here have their answer in it."""
    kept = Store(store)
    found = inventory.content(kept)
    if (cases := _cases()) is not None:
        place = device or default_device()
        current = sum(_answered(case, kept, place) for case in cases)
        found = replace(found, cases=len(cases), current=current)
    if as_json:
        print_json(found)
    else:
        for line in _lines(found):
            print(line)  # noqa: T201


@app.command()
def verify(
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Read every record and baseline; list those that are damaged, and exit 3 if any is."""
    kept = Store(store)
    roots = read_baselines(baselines)
    wrong = list(inventory.damage(kept, roots))
    checked = sum(item.kind == "record" for item in inventory.items(store))
    shelved = len(roots.all_case_ids())
    if as_json:
        print_json({"records": checked, "baselines": shelved, "damaged": wrong})
    else:
        for line in wrong:
            print(line)  # noqa: T201
        told = f"{_count(checked, 'record')} and {_count(shelved, 'baseline')} read"
        print(f"{told}: {f'{len(wrong)} damaged' if wrong else 'all sound'}")  # noqa: T201
    raise typer.Exit(CRASHED if wrong else OK)


@app.command()
def gc(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Nights older than this may go, e.g. 90d.")
    ] = "",
    keep_last: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Keep N nights of each case.")
    ] = None,
    max_size: Annotated[
        str, typer.Option(metavar="SIZE", help="Then the oldest go until this is left, e.g. 5GB.")
    ] = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would go.")] = False,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Remove old nights, if a limit is given, and what runs left behind.

    What a baseline was accepted from stays, and so does the newest answer of every case.
    """
    age = removal.seconds_of(older_than, "--older-than") if older_than else None
    limit = removal.bytes_of(max_size, "--max-size") if max_size else None
    cases = _cases() if Path("cases").is_dir() else None
    going = removal.removable(
        Store(store),
        read_baselines(baselines),
        None if cases is None else {case.id for case in cases},
        older_than=age,
        keep_last=keep_last,
        max_size=limit,
    )
    gone = going if dry_run else removal.remove(going, store)
    if as_json:
        print_json({"dry_run": dry_run, "removed": gone})
        return
    for line in _told(gone, dry_run=dry_run):
        print(line)  # noqa: T201
    taken = {one.path for one in gone}
    left = sum(item.size for item in inventory.items(store) if str(item.path) not in taken)
    over = limit is not None and left > limit
    tail = f", more than {max_size}: newest answers and what baselines cite stay" if over else ""
    print(f"{_size(left)} {'would be ' if dry_run else ''}left in {store}{tail}")  # noqa: T201


def _cases() -> list[Case] | None:
    """All cases here, or None, with a line, where they cannot be read."""
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
    yield f"{found.store}: {_count(found.nights, 'night')} of {_count(found.stored_cases, 'case')}"
    if found.nights:
        yield f"  from {found.oldest} to {found.newest}"
    if found.current is not None:
        yield f"  {found.current} of the {_count(found.cases or 0, 'case')} here have their answer"
    if found.damaged:
        count = _count(found.damaged, "record")
        yield f"  {count} cannot be read: prunebench cache verify names them"
    for kind in sorted(found.files):
        yield f"  {kind}: {_count(found.files[kind], 'file')}, {_size(found.bytes[kind])}"
    hashed = f"{_count(found.hash_entries, 'file')} hashed, {_size(found.hash_bytes)}"
    yield f"{found.hashes}: {hashed}"


def _told(gone: Sequence[Removed], *, dry_run: bool) -> Iterator[str]:
    def alike(one: Removed) -> tuple[str, str]:
        return one.kind, one.why

    verb = "would remove" if dry_run else "removed"
    for (kind, why), group in groupby(sorted(gone, key=alike), key=alike):
        members = list(group)
        for one in members if dry_run else ():
            yield f"  {one.path}"
        size = _size(sum(one.size for one in members))
        yield f"{verb} {_count(len(members), f'{kind} file')}, {size}: {why}"
    if not gone:
        yield "nothing can go"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'s' * (number != 1)}"


def _size(number: float) -> str:
    if number < 1000:
        return f"{number:.0f} B"
    for unit in ("kB", "MB", "GB"):
        number /= 1000
        if number < 1000:
            return f"{number:.1f} {unit}"
    return f"{number / 1000:.1f} TB"

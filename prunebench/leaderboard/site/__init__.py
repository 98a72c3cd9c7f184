"""Boards as a static site: plain files that work from a folder, offline and without a framework."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...errors import PrunebenchError
from ...record import Record
from ...system import console, files, transaction
from ..board import Board, plain

#: Lists the files of a build; the next one removes those that it does not build.
MANIFEST = "manifest.json"
STATIC = Path(__file__).parent / "static"


def build(boards: Sequence[Board], records: Sequence[Record], title: str) -> dict[str, bytes]:
    """The files of the site by their relative path; the same input gives the same bytes.

    Args:
        boards: what to show.
        records: all records, older ones too, for the history of each case.
        title: the title of the site.
    """
    from . import downloads, pages

    built = {f"static/{path.name}": path.read_bytes() for path in sorted(STATIC.iterdir())}
    for path, text in pages.pages(boards, records, title).items():
        built[path] = text.encode("utf-8", "backslashreplace")
    for board in boards:
        built[f"boards/{board.name}.json"] = files.as_json(plain(board))
        built[f"boards/{board.name}.csv"] = downloads.table(board).encode()
    return built


def write(folder: Path, built: Mapping[str, bytes]) -> None:
    """Write the site and remove files of the earlier one that are no longer built, atomically.

    Files that no build wrote stay. An interrupted write is completed first.

    Raises:
        PrunebenchError: if *folder* has files but no manifest, or cannot be written.
    """
    with transaction.turn(folder) as ended:
        if ended:
            console.print_note(f"{folder}: an interrupted write of the site was completed")
        outdated = sorted(_earlier(folder) - set(built))
        transaction.write(folder, {**built, MANIFEST: files.as_json(sorted(built))}, outdated)


def _earlier(folder: Path) -> set[str]:
    manifest = folder / MANIFEST
    if not manifest.is_file():
        if files.listed(folder):
            raise PrunebenchError(f"{folder}: not empty and no site of ours; give another folder")
        return set()
    try:
        names = json.loads(files.read(manifest))
        return {name for name in names if isinstance(name, str) and files.is_name(name)}
    except (ValueError, TypeError):
        raise PrunebenchError(f"{manifest}: damaged; remove the folder") from None

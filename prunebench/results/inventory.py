"""Counts and checks the files of a results folder.

A record is identified by its case, its key and the time it was made; a baseline cites its source
record so.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import Struct

from ..errors import PrunebenchError
from ..record import Record, too_new
from ..system import files, hash_cache
from . import timing_noise
from .baselines import review
from .baselines.files import Baselines
from .store import Store, read

#: What of a folder's files is what, by its first part.
_KINDS = {"records": "record", "partial": "partial", "locks": "lock", "noise": "noise"}
_TENSORS = re.compile(r"[0-9a-f]{64}\.safetensors")


class Item(NamedTuple):
    """A file of the folder; *kind* is a value of the table above, tensors, temporary or other."""

    path: Path
    kind: str
    size: int
    modified: float


class _Place(Struct, frozen=True):
    device: str = ""


class Head(Struct, frozen=True):
    """The fields that identify a record; quick to read."""

    case_id: str
    created: str
    asked: msgspec.Raw
    key: str = ""
    environment: _Place = _Place()
    schema: int = 0

    @property
    def identity(self) -> tuple[str, str, str]:
        """The key by which a baseline cites its source record."""
        return self.case_id, self.key, self.created


class StoredRecord(NamedTuple):
    """A record's file and its head."""

    item: Item
    head: Head


class Content(Struct, frozen=True):
    """What a results folder holds.

    *nights* counts the records. *files* and *bytes* are by kind; *damaged* records cannot be read,
    at least by this version. *current* of the *cases* here have their answer
    stored, None where cases cannot be read.
    """

    store: str
    nights: int
    stored_cases: int
    damaged: int
    oldest: str
    newest: str
    files: dict[str, int]
    bytes: dict[str, int]
    cases: int | None = None
    current: int | None = None
    hashes: str = ""
    hash_entries: int = 0
    hash_bytes: int = 0


def items(root: Path) -> list[Item]:
    """Every file below *root*, sorted by path."""
    found = []
    for path in files.below(root):
        with contextlib.suppress(OSError):  # another process may have moved it
            if path.is_file() and not path.is_symlink():
                stat = path.stat()
                found.append(Item(path, _kind(path, root), stat.st_size, stat.st_mtime))
    return found


def stored_records(found: Iterable[Item]) -> tuple[list[StoredRecord], list[Item]]:
    """The records among *found*, newest first, and those that cannot be read.

    One that a newer prunebench wrote is among the latter: what it says may mean something else.
    """
    sound, damaged = [], []
    for item in found:
        if item.kind == "record":
            try:
                head = msgspec.json.decode(item.path.read_bytes(), type=Head)
            except (OSError, ValueError, RecursionError):  # no UTF-8 is a plain ValueError
                damaged.append(item)
            else:
                if too_new(head.schema):
                    damaged.append(item)
                else:
                    sound.append(StoredRecord(item, head))
    return sorted(sound, key=lambda n: n.head.created, reverse=True), damaged


def content(store: Store) -> Content:
    """What *store* and the memory of hashes hold."""
    found = items(store.root)
    known, damaged = stored_records(found)
    sizes: Counter[str] = Counter()
    for item in found:
        sizes[item.kind] += item.size
    sizes_of_memory = [stat.st_size for _, stat, _ in memory()]
    return Content(
        store=str(store.root),
        nights=len(known),
        stored_cases=len({record.head.case_id for record in known}),
        damaged=len(damaged),
        oldest=known[-1].head.created if known else "",
        newest=known[0].head.created if known else "",
        files=dict(Counter(item.kind for item in found)),
        bytes=dict(sizes),
        hashes=str(hash_cache.memory()),
        hash_entries=len(sizes_of_memory),
        hash_bytes=sum(sizes_of_memory),
    )


def memory() -> Iterator[tuple[Path, os.stat_result, bool]]:
    """What is remembered of files: each entry's file, and whether nobody can use it any more."""
    for path, entry in hash_cache.entries():
        with contextlib.suppress(FileNotFoundError):  # another process has taken it away
            yield path, path.stat(), hash_cache.outdated(entry)


def damage(store: Store, baselines: Baselines) -> Iterator[str]:
    """Every file of the two that is not what it should be, in a line each; nothing is changed."""
    for item in items(store.root):
        if what := _amiss(item, store):
            yield what
    for row in review.look(baselines, (), (), baselines.all_case_ids()):
        if row.state == "damaged":
            yield row.what


def _kind(path: Path, root: Path) -> str:
    if path.name.startswith("."):
        return "temporary"
    if _TENSORS.fullmatch(path.name) and path.relative_to(root).parts[0] != "partial":
        return "tensors"
    kind = _KINDS.get(path.relative_to(root).parts[0], "other")
    return "other" if kind in ("record", "noise") and path.suffix != ".json" else kind


def _amiss(item: Item, store: Store) -> str:
    """What is wrong with a file, or an empty text."""
    try:
        if item.kind == "record":
            return _misplaced(item.path, read(item.path), store)
        if item.kind == "noise":
            files.read_json(item.path, timing_noise.Noise)
    except PrunebenchError as error:
        return str(error)
    return _not_its_name(item.path) if _TENSORS.fullmatch(item.path.name) else ""


def _misplaced(path: Path, record: Record, store: Store) -> str:
    """What in the place of a record is not its own, or an empty text."""
    case_id = path.parent.relative_to(store.root / "records").as_posix()
    if record.case_id != case_id:
        return f"{path}: the record of another case, {record.case_id!r}"
    key, _, made = path.stem.partition(".")
    if (record.key or "unkeyed")[:20] != key:
        return f"{path}: the record of another content, key {record.key[:20]!r}"
    stamp = "".join(c for c in record.created if c.isdigit())[:14]
    if made and made.split("-")[0] != stamp:
        return f"{path}: the record of another time, {record.created}"
    return ""


def _not_its_name(path: Path) -> str:
    """What is wrong with tensors that are named by their hash, or an empty text."""
    try:
        with path.open("rb") as stream:
            found = hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        return ""  # a run that ended meanwhile has taken it away
    except OSError as error:
        return f"{path}: cannot be read: {error.strerror}"
    return "" if found == path.stem else f"{path}: damaged: its content is not what its name says"

"""Files known by their content: each is hashed once and its hash remembered in the user's cache.

A remembered hash holds while the file is untouched: same device, inode, path, size, time of change
and time of status change, which no program can set back. Times have a grain, and a file written
again within it looks untouched; so only the hash of a file that was at rest for a while before it
was read is remembered (the rule by which git tells racy entries of its index). The file is opened
before it is looked at, which makes network file systems ask the server instead of their memory.

Every entry is a small file of its own, written beside its place and renamed into it: several
processes, or machines with one home, neither wait for each other nor lose anything. One that is
damaged is as good as absent.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from typing import IO

import msgspec
from msgspec import Struct

from ..errors import PrunebenchError
from ..progress import say
from . import files

#: Nanoseconds that a file must have been at rest: the grain of the coarsest file systems.
REST = 2_000_000_000
#: Smaller files are read again sooner than an entry would be found.
SMALL = 1 << 20
#: Reading a file larger than this takes long enough to be told.
LARGE = 10**9
#: Large files hashed side by side.
AT_ONCE = min(4, os.cpu_count() or 1)


class Entry(Struct, frozen=True, forbid_unknown_fields=True):
    """A file as it was when it was hashed; times in nanoseconds."""

    path: str
    device: int
    inode: int
    size: int
    modified: int
    changed: int
    sha256: str = ""

    @classmethod
    def of(cls, path: Path, stat: os.stat_result) -> Entry:
        """The file at *path* as *stat* shows it, not hashed yet."""
        return cls(
            str(path), stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns
        )

    def rested(self, now: int) -> bool:
        """Whether nothing was done to the file for a while before *now*."""
        return now - max(self.modified, self.changed) > REST


def cache_folder() -> Path:
    """Where this package keeps what it can make again: PRUNEBENCH_CACHE, or the user's cache."""
    if own := os.environ.get("PRUNEBENCH_CACHE"):
        return Path(own)
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "prunebench"


def memory() -> Path:
    """The folder of what is remembered."""
    return cache_folder() / "hashes"


def sha256(path: Path) -> str:
    """The sha256 of a file's content, read only where it is not known yet.

    A blob of the hub's cache is named by it, which is taken at its word: the hub client trusts the
    name as well, and a snapshot is not to be written to.

    Raises:
        PrunebenchError: if it cannot be read, or is written to meanwhile.
    """
    if (blob := _blob(path)) is not None:
        return blob
    place = path.absolute()
    try:
        with place.open("rb", buffering=0) as stream:
            seen = Entry.of(place, os.fstat(stream.fileno()))
            if (known := _recall(seen)) is not None:
                return known
            now = time.time_ns()
            digest = hashlib.file_digest(_Told(stream, seen), "sha256").hexdigest()  # type: ignore[arg-type]
        with place.open("rb", buffering=0) as stream:
            after = Entry.of(place, os.fstat(stream.fileno()))
    except OSError as error:
        raise PrunebenchError(f"{path}: cannot be read: {error.strerror}") from None
    if after != seen:
        raise PrunebenchError(f"{path}: was written to while it was read; run again")
    if seen.rested(now):
        _remember(msgspec.structs.replace(seen, sha256=digest))
    return digest


def sha256s(paths: Sequence[Path]) -> list[str]:
    """The sha256 of each file; of several large ones a few at a time.

    A disk reads faster than one core hashes.

    Raises:
        PrunebenchError: as *sha256*.
    """
    large = [path for path in paths if path.stat().st_size >= LARGE]
    if len(large) < 2:
        return [sha256(path) for path in paths]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # Each with a context of its own, so that whoever watches is told.
        running = {path: pool.submit(copy_context().run, sha256, path) for path in large}
        done = {path: hashed.result() for path, hashed in running.items()}
    return [done.get(path) or sha256(path) for path in paths]


def entries() -> Iterator[tuple[Path, Entry | None]]:
    """What is remembered: the file of each entry, and the entry unless it is damaged."""
    for path in sorted(memory().glob("*.json")):
        yield path, _read(path)


def outdated(entry: Entry | None) -> bool:
    """Whether an entry will never be used again: damaged, or the file is gone or another."""
    if entry is None:
        return True
    try:
        stat = Path(entry.path).stat()
    except OSError:
        return True
    return Entry.of(Path(entry.path), stat) != msgspec.structs.replace(entry, sha256="")


#: What this process has hashed or recalled, so that no entry is read twice.
_KNOWN: dict[str, Entry] = {}


def _recall(seen: Entry) -> str | None:
    known = _KNOWN.get(seen.path)
    if known is None and seen.size >= SMALL:
        known = _read(_place(seen))
    if known is None or msgspec.structs.replace(known, sha256="") != seen:
        return None
    _KNOWN[seen.path] = known
    return known.sha256


def _remember(entry: Entry) -> None:
    _KNOWN[entry.path] = entry
    if entry.size < SMALL:
        return
    try:
        files.write_json(_place(entry), entry)
    except (PrunebenchError, UnicodeError):
        return  # a cache that cannot be written costs time, and `doctor` says so


def _place(entry: Entry) -> Path:
    name = f"{entry.path}\0{entry.device}\0{entry.inode}"
    return memory() / f"{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()}.json"


def _read(path: Path) -> Entry | None:
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=Entry)
    except (OSError, ValueError, RecursionError):  # a text that is no UTF-8 is a plain ValueError
        return None
    return entry if _is_sha256(entry.sha256) else None


def _blob(path: Path) -> str | None:
    """The sha256 that a file of the hub's cache is named by; small ones have git's hash instead."""
    if not path.is_symlink():
        return None
    target = path.resolve()
    blob = target.parent.name == "blobs" and _is_sha256(target.name) and target.is_file()
    return target.name if blob else None


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


class _Told:
    """A stream that says how much of a large file was read."""

    def __init__(self, stream: IO[bytes], entry: Entry) -> None:
        self._stream = stream
        self._name = Path(entry.path).name
        self._size = entry.size
        self._done = 0
        self._told = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        count: int = self._stream.readinto(buffer)  # type: ignore[attr-defined]
        self._done += count
        if self._size >= LARGE and self._done - self._told >= LARGE // 10:
            self._told = self._done
            say(f"hashing {self._name}, {self._done / 1e9:.1f} of {self._size / 1e9:.1f} GB")
        return count

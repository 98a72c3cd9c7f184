"""SHA-256 hashes of files, each computed once and cached in the user's cache folder.

A cached hash is valid while the file is unchanged: same device, inode, path, size, mtime and ctime
(which no program can set back). Timestamps are coarse, and a file written again within their
resolution looks unchanged; so a hash is cached only if the file had not changed for REST before it
was read (git's rule for racy index entries). The file is opened before its status is read, which
makes network file systems ask the server instead of their cache.

Every entry is a small file of its own, written atomically: several processes, or machines with one
home, neither wait for each other nor lose entries. A damaged entry counts as absent.
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

#: Nanoseconds that a file must have been unchanged: the resolution of the coarsest file systems.
REST = 2_000_000_000
#: Bytes below which hashing again is faster than reading an entry.
SMALL = 1 << 20
#: Bytes above which hashing takes long enough to report progress.
LARGE = 10**9
#: Bytes read at once.
CHUNK = 1 << 22
#: Large files hashed at the same time.
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


def memory() -> Path:
    """The folder of the cached hashes, in PRUNEBENCH_CACHE or the user's cache folder."""
    if own := os.environ.get("PRUNEBENCH_CACHE"):
        return Path(own, "hashes")
    base = os.environ.get("LOCALAPPDATA" if sys.platform == "win32" else "XDG_CACHE_HOME")
    return Path(base or Path.home() / ".cache") / "prunebench" / "hashes"


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, computed only if it is not cached.

    A blob of the hub's cache is named by its hash, and the name is trusted: the hub client trusts
    it as well, and snapshots are read-only by convention.

    Raises:
        PrunebenchError: if it cannot be read, or is changed meanwhile.
    """
    if (blob := _blob(path)) is not None:
        return blob
    place = path.absolute()
    with files.reported(path, "read"):
        with place.open("rb", buffering=0) as stream:
            seen = Entry.of(place, os.fstat(stream.fileno()))
            if (known := _recall(seen)) is not None:
                return known
            now = time.time_ns()
            digest = _digest(stream, seen)
        with place.open("rb", buffering=0) as stream:
            after = Entry.of(place, os.fstat(stream.fileno()))
    if after != seen:
        raise PrunebenchError(f"{path}: was written to while it was read; run again")
    if now - max(seen.modified, seen.changed) > REST:
        _remember(msgspec.structs.replace(seen, sha256=digest))
    return digest


def sha256s(paths: Sequence[Path]) -> list[str]:
    """The SHA-256 of each file; large ones in parallel, for a disk is faster than one core.

    Raises:
        PrunebenchError: as *sha256*.
    """
    large = [path for path in paths if path.stat().st_size >= LARGE]
    if len(large) < 2:
        return [sha256(path) for path in paths]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        # Each with a copy of the context, so that the progress hook is called.
        running = {path: pool.submit(copy_context().run, sha256, path) for path in large}
        done = {path: hashed.result() for path, hashed in running.items()}
    return [done.get(path) or sha256(path) for path in paths]


def entries() -> Iterator[tuple[Path, Entry | None]]:
    """The cached entries: the file of each, and the entry unless it is damaged."""
    for path in sorted(memory().glob("*.json")):
        yield path, _read(path)


def outdated(entry: Entry | None) -> bool:
    """Whether an entry will never be used again: damaged, or its file was removed or changed."""
    if entry is None:
        return True
    try:
        stat = Path(entry.path).stat()
    except OSError:
        return True
    return Entry.of(Path(entry.path), stat) != msgspec.structs.replace(entry, sha256="")


#: Entries that this process has computed or read, so that none is read twice.
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
        return  # a cache that cannot be written costs time, and `doctor` reports it


def _place(entry: Entry) -> Path:
    name = f"{entry.path}\0{entry.device}\0{entry.inode}"
    return memory() / f"{hashlib.sha256(name.encode(errors='surrogateescape')).hexdigest()}.json"


def _read(path: Path) -> Entry | None:
    try:
        entry = msgspec.json.decode(path.read_bytes(), type=Entry)
    except (OSError, ValueError, RecursionError):  # text that is not UTF-8 is a plain ValueError
        return None
    return entry if _is_sha256(entry.sha256) else None


def _blob(path: Path) -> str | None:
    """The SHA-256 in the name of a blob of the hub's cache; small blobs have git's hash instead."""
    if not path.is_symlink():
        return None
    target = path.resolve()
    blob = target.parent.name == "blobs" and _is_sha256(target.name) and target.is_file()
    return target.name if blob else None


def _is_sha256(text: str) -> bool:
    return len(text) == 64 and not set(text) - set("0123456789abcdef")


def _digest(stream: IO[bytes], entry: Entry) -> str:
    """The SHA-256 of all that *stream* has; reports how much of a large file was read."""
    digest, done = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        digest.update(chunk)
        done += len(chunk)
        if entry.size >= LARGE and done % (LARGE // 10) < len(chunk):
            name = Path(entry.path).name
            say(f"hashing {name}, {done / 1e9:.1f} of {entry.size / 1e9:.1f} GB")
    return digest.hexdigest()

"""Atomic writes, bounded reads, and file names that stay inside their folder."""

from __future__ import annotations

import codecs
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

import msgspec

from ..errors import PrunebenchError, inert

T = TypeVar("T")

#: Bytes above which a file is not read into memory: no record, plan or list is that large.
MAX_BYTES = 500_000_000
#: Characters of one part of a case id: with suffixes, file systems take no more.
MAX_PART = 200
#: Characters of one part of a path.
MAX_NAME = 255

_PART = re.compile(r"[A-Za-z0-9_=+@][A-Za-z0-9._=+@-]*")
#: Characters that JSON leaves unescaped and a terminal acts on.
_STEERING = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
#: The offset in a message of msgspec about malformed JSON.
_BYTE = re.compile(r" \(byte (\d+)\)")
#: Device names of Windows, with any suffix.
_RESERVED = {"con", "prn", "aux", "nul", *(f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10))}


def slug(text: str) -> str:
    """*text* reduced to characters that one part of a file name may have on any system."""
    plain = re.sub(r"[^A-Za-z0-9._=+-]+", "-", text).strip("-.") or "x"
    return f"x-{plain}" if plain.split(".")[0].lower() in _RESERVED else plain


def is_name(name: str, longest: int = MAX_PART) -> bool:
    """Whether *name* is a relative path of plain parts, as case ids are."""
    return all(
        _PART.fullmatch(part)
        and len(part) <= longest
        and part.split(".")[0].lower() not in _RESERVED
        for part in name.split("/")
    )


def inside(root: Path, name: str) -> Path:
    """The path *name* below *root*, and never outside.

    Raises:
        PrunebenchError: if *name* is absolute, has ``..``, or has other characters than the parts
            of case ids have (``slug``), or too many.
    """
    if not is_name(name):
        raise PrunebenchError(
            f"{inert(name, 100)!r} is not the name of a case or device: expected parts of letters, "
            f"digits and ._=+@- with a / between, at most {MAX_PART} each"
        )
    return root / PurePosixPath(name)


def below(folder: Path, suffix: str = "") -> list[Path]:
    """Every file below *folder* whose name ends in *suffix*, sorted; empty without such a folder.

    Raises:
        PrunebenchError: if a folder cannot be listed: its files would seem absent.
    """
    found: list[Path] = []
    for place, _, names in os.walk(folder, onerror=require_listed):
        found += [Path(place, name) for name in names if name.endswith(suffix)]
    return sorted(found)


def listed(folder: Path, suffix: str = "") -> list[Path]:
    """The entries of *folder* whose name ends in *suffix*, sorted; empty without such a folder.

    Raises:
        PrunebenchError: if it cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(folder / entry.name for entry in entries if entry.name.endswith(suffix))
    except OSError as error:
        require_listed(error)
        return []


def require_listed(error: OSError) -> None:
    """Ignore an *error* of listing a folder only if the folder does not exist.

    Raises:
        PrunebenchError: otherwise, with the folder and the system's reason.
    """
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        reason = error.strerror or error
        raise PrunebenchError(f"{error.filename}: cannot be listed: {reason}") from None


@contextmanager
def reported(path: Path, what: str) -> Iterator[None]:
    """Raise an OSError of the block as a PrunebenchError: ``<path>: cannot be <what>: <why>``."""
    try:
        yield
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        reason = getattr(error, "strerror", None) or error
        raise PrunebenchError(f"{path}: cannot be {what}: {reason}") from error


def read(path: Path, limit: int = MAX_BYTES) -> bytes:
    """The bytes of a regular file.

    Raises:
        PrunebenchError: if it is missing, not a regular file (a pipe would never end), larger than
            *limit* bytes, or cannot be read.
    """
    with reported(path, "read"):
        if not path.is_file():
            what = "not a regular file" if path.exists() else "No such file or directory"
            raise PrunebenchError(f"{path}: cannot be read: {what}")
        if (size := path.stat().st_size) > limit:
            raise PrunebenchError(f"{path}: {size:,} bytes, at most {limit:,} are read")
        return path.read_bytes()


def write(path: Path, data: bytes) -> None:
    """Write *data* atomically: a reader sees the old file or the new one, never half of it.

    A temporary file is written next to *path* and renamed over it. A device, a pipe or a descriptor
    (``/dev/null``, ``/dev/stdout``, a shell's ``>(...)``) is written to instead: a file renamed
    over it would take it away from everybody.

    Raises:
        PrunebenchError: if *path* cannot be written.
    """
    with reported(path, "written"):
        if _is_stream(path):
            _write_to_stream(path, data)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            _replace(path, data)


def _replace(path: Path, data: bytes) -> None:
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        # mkstemp makes files private; results are as readable as any other file of the user's.
        Path(name).chmod(0o666 & ~_UMASK)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _is_stream(path: Path) -> bool:
    """Whether *path* is a device, a pipe or a process's descriptor rather than a file."""
    folder = os.path.realpath(path.parent)  # unlike resolve, without an error for circular links
    if folder == "/dev" or folder.startswith("/proc/"):  # a descriptor may lead to a regular file
        return not path.is_dir()
    return path.exists() and not path.is_file() and not path.is_dir()


def _write_to_stream(path: Path, data: bytes) -> None:
    if str(path) == "/dev/stdout" and sys.stdout is not None:
        sys.stdout.flush()  # what was printed comes before, also where it leads to a file
        sys.stdout.buffer.write(data)
        sys.stdout.flush()
        return
    # Without O_NONBLOCK, opening a pipe that nobody reads would wait forever.
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK)
    with os.fdopen(handle, "wb") as stream:
        os.set_blocking(handle, True)
        stream.write(data)


def require_writable(path: Path) -> None:
    """Refuse to begin long work whose result could not be written to *path*.

    Nothing is left behind, not even missing folders.

    Raises:
        PrunebenchError: with *path* and the system's reason.
    """
    with reported(path, "written"):
        if path.is_dir():
            raise PrunebenchError(f"{path}: cannot be written: it is a folder")
        if _is_stream(path):
            path.stat()
            return
        above = path.absolute().parents
        existing = next(folder for folder in above if folder.exists() or folder.is_symlink())
        with tempfile.TemporaryFile(dir=existing):
            pass


def write_json(path: Path, data: Any) -> None:
    """Write *data* as indented JSON; a value that is not finite becomes null."""
    write(path, as_json(data))


def as_json(data: Any) -> bytes:
    """The bytes that *write_json* writes."""
    return msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n"


def printable_json(data: Any) -> str:
    """*data* as *write_json* writes it, with characters that steer a terminal as JSON escapes."""
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", as_json(data).decode())


def read_json(path: Path, kind: type[T]) -> T:
    """Read a *kind* from a JSON file; a byte order mark is skipped.

    Raises:
        PrunebenchError: if it is missing, truncated, or not a *kind*; the file is left unchanged.
    """
    data = read(path).removeprefix(codecs.BOM_UTF8)
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        why = _BYTE.sub("", str(error))
        raise PrunebenchError(f"{path}{_place(data, str(error))}: damaged: {why}") from None


def _place(data: bytes, message: str) -> str:
    """Line and column of the byte that *message* names, as ``:3:17``; empty without one."""
    if (found := _BYTE.search(message)) is None:
        return ""
    lines = data[: int(found[1])].split(b"\n")
    return f":{len(lines)}:{len(lines[-1].decode(errors='replace')) + 1}"


#: Read once: there is no way to read it but to set it.
_UMASK = os.umask(0o077)
os.umask(_UMASK)

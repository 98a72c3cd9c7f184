"""Files that are whole or absent: JSON written beside its place and renamed into it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from .errors import PrunebenchError

T = TypeVar("T")


def write(path: Path, data: bytes) -> None:
    """Write *data* so that a reader sees the old file or the new one, never half of it.

    Raises:
        PrunebenchError: if the place cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            # mkstemp makes files private; results are as readable as anything else of the user's.
            Path(name).chmod(0o666 & ~_UMASK)
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PrunebenchError(f"{path}: cannot be written: {error.strerror}") from error


def write_json(path: Path, data: Any) -> None:
    """Write *data* as indented JSON; what is not finite becomes null."""
    write(path, as_json(data))


def as_json(data: Any) -> bytes:
    """What *write_json* writes."""
    return msgspec.json.format(msgspec.json.encode(data), indent=2) + b"\n"


def read_json(path: Path, kind: type[T]) -> T:
    """Read a *kind* from a JSON file.

    Raises:
        PrunebenchError: if it is missing, truncated, or something else; the file is left alone.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except OSError as error:
        raise PrunebenchError(f"{path}: cannot be read: {error.strerror}") from None
    except (msgspec.DecodeError, RecursionError) as error:
        raise PrunebenchError(f"{path}: damaged: {error}") from None


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


_UMASK = _umask()

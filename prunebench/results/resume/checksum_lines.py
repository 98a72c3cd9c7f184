"""Lines with a checksum each, in files that a kill may cut off at any point.

A line is a hash, a space and an object in JSON. A last line without its end is what a kill leaves
and is dropped without a word; any other that is not what its hash says is told, and nothing after
it is used.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...system.console import warn


def write(handle: int, entry: dict[str, Any]) -> None:
    """Append *entry*, plain JSON data, numbers that are not finite included, to an open file."""
    # Python's own JSON has words for what is not finite, and floats keep every bit.
    body = json.dumps(entry, separators=(",", ":")).encode()
    line = _sum(body) + b" " + body + b"\n"
    while line:
        line = line[os.write(handle, line) :]


def first(file: Path) -> dict[str, Any] | None:
    """The first line of *file*, if it is sound."""
    try:
        with file.open("rb") as stream:
            return _parsed(stream.readline().removesuffix(b"\n"))
    except OSError:
        return None


def entries(file: Path, head: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of *file* after the first, which is *head*, up to the first that is damaged."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]  # a line without its end was cut off
    except OSError as error:
        warn(f"{file}: cannot be read: {error.strerror}; what it holds is computed again")
        return
    for number, line in enumerate(lines):
        if (entry := _parsed(line)) is None:
            warn(f"{file}:{number + 1}: damaged; what it holds from there on is computed again")
            return
        if number:
            yield entry
        elif entry != head:
            return  # of another content


def _sum(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8).hexdigest().encode()


def _parsed(line: bytes) -> dict[str, Any] | None:
    total, _, body = line.partition(b" ")
    if total != _sum(body):
        return None
    try:
        entry = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) else None

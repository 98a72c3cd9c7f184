"""Append-only files of JSON lines with a checksum each, which a kill may cut off at any point.

A line is a hash, a space and a JSON object. An unterminated last line is what a kill leaves and is
dropped silently. Any other line that does not match its hash causes a warning, and neither it nor
anything after it is used.
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
    # Python's own JSON has words for NaN and infinity, and preserves every bit of a float.
    body = json.dumps(entry, separators=(",", ":")).encode()
    line = _sum(body) + b" " + body + b"\n"
    while line:
        line = line[os.write(handle, line) :]


def first(file: Path) -> dict[str, Any] | None:
    """The first line of *file*, None if it is damaged or cannot be read."""
    try:
        with file.open("rb") as stream:
            return _parsed(stream.readline().removesuffix(b"\n"))
    except OSError:
        return None


def entries(file: Path, head: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of *file* after the first, up to a damaged one; none if the first is not *head*."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]  # the last one was cut off
    except OSError as error:
        warn(f"{file}: cannot be read: {error.strerror}; its content is computed again")
        return
    for number, line in enumerate(lines):
        if (entry := _parsed(line)) is None:
            warn(f"{file}:{number + 1}: damaged; its content from there on is computed again")
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

"""The results folder: all records of every case, the newest of each content by its key."""

from __future__ import annotations

import codecs
import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ..errors import PrunebenchError, PrunebenchWarning
from ..record import SCHEMA, Record, too_new
from ..system import files


class Store:
    """Records below *root* (``.prunebench``)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, case_id: str, key: str) -> Path:
        """Where the record of that question and content lies.

        Raises:
            PrunebenchError: if the two are no names, as a record from elsewhere may have them.
        """
        return files.inside(self.root / "records", f"{case_id}/{key[:20]}.json")

    def find(self, case_id: str, key: str | None) -> Record | None:
        """The record of exactly this content, if it was made and is sound.

        One that is damaged, or of a newer version, counts as absent, with a warning: the case then
        simply runs again.
        """
        if key is None or not (path := self.path(case_id, key)).is_file():
            return None
        try:
            record = read(path)
        except PrunebenchError as error:
            warnings.warn(f"{error}; the case runs again", PrunebenchWarning, stacklevel=1)
            return None
        own = (record.case_id, record.key, record.schema) == (case_id, key, SCHEMA)
        return record if own else None

    def save(self, record: Record) -> Path:
        """Write *record* where *find* looks; what another run left there is saved next to it.

        The same record with timings measured a second time is the same run and replaces itself.
        """
        path = self.path(record.case_id, record.key or "unkeyed")
        # The older one is written to its new place before its old one is: a crash in between leaves
        # it twice, which *answers* does not count, and loses neither.
        if old := _stored(path):
            content, created, own = old
            if own is None or not _same_run(own, record):
                _set_aside(path, content, created)
        files.write_json(path, record)
        return path

    def require_writable(self) -> None:
        """Refuse to measure for a folder that takes no file.

        Raises:
            PrunebenchError: naming it and what the system says.
        """
        files.require_writable(self.root / "records" / "probe.json")

    def latest(self, case_id: str, asked: dict[str, Any] | None = None) -> Record | None:
        """The newest sound record of a case; with *asked*, of exactly that question."""
        return next(iter(self.answers(case_id, asked)), None)

    def answers(
        self, case_id: str, asked: dict[str, Any] | None = None, device: str | None = None
    ) -> list[Record]:
        """The sound records of a case, newest first; to one question or of one device if given."""
        found = [
            record
            for record in self._all(case_id)
            if asked in (None, record.asked) and device in (None, record.environment.device)
        ]
        return sorted(found, key=lambda record: record.created, reverse=True)

    def case_ids(self) -> list[str]:
        """All cases that have records, sorted."""
        base = self.root / "records"
        found = {p.parent.relative_to(base).as_posix() for p in files.below(base, ".json")}
        return sorted(filter(files.is_name, found))

    def _all(self, case_id: str) -> Iterator[Record]:
        """The sound records of a case; that there are some of a newer version is a warning."""
        seen = set()
        for path in files.listed(files.inside(self.root / "records", case_id), ".json"):
            if (stored := _stored(path)) is None:
                continue
            content, _, record = stored
            if record is None:  # one warning for all of them, which Python shows once
                warnings.warn(
                    f"{self.root}: records of a newer prunebench are passed over; update "
                    f"prunebench (prunebench cache verify names them)",
                    PrunebenchWarning,
                    stacklevel=1,
                )
                continue
            if record.case_id != case_id:
                continue  # another case's, put here by hand
            if (digest := hashlib.sha256(content).digest()) not in seen:
                seen.add(digest)
                yield record


class _Head(Struct, frozen=True):
    """What every version of a record has; a later one may mean something else by the rest."""

    schema: int = SCHEMA
    created: Any = ""


def read(path: Path) -> Record:
    """The record in *path*.

    Raises:
        PrunebenchError: if it cannot be read, is damaged, or a newer version wrote it.
    """
    if why := too_new(_head(files.read(path)).schema):
        raise PrunebenchError(f"{path}: {why}")
    return files.read_json(path, Record)


def _stored(path: Path) -> tuple[bytes, str, Record | None] | None:
    """A record's bytes and time, and itself unless a newer version wrote it; None if damaged."""
    try:
        content = files.read(path)
        head = _head(content)
        if too_new(head.schema):
            return content, str(head.created), None
        record = msgspec.json.decode(content, type=Record)
    except (PrunebenchError, msgspec.DecodeError, RecursionError, ValueError):
        return None
    return content, record.created, record


def _head(content: bytes) -> _Head:
    """The head of a record, or that of an empty one where there is none."""
    try:
        return msgspec.json.decode(content.removeprefix(codecs.BOM_UTF8), type=_Head)
    except (msgspec.DecodeError, RecursionError, ValueError):
        return _Head()


def _same_run(old: Record, new: Record) -> bool:
    """Whether the two are one run's, but for timings that were measured again, and for names."""
    bare = (files.as_json(replace(record, again=(), asked={}, cost={})) for record in (old, new))
    return old.created == new.created and next(bare) == next(bare)


def _set_aside(path: Path, content: bytes, created: str) -> None:
    """Write *content* next to *path*, named by the time it was made; idempotent."""
    made = "".join(c for c in created if c.isascii() and c.isdigit())[:14] or "0"
    for number in range(1, 1_000):
        again = f"-{number}" if number > 1 else ""
        other = path.with_name(f"{path.stem}.{made}{again}.json")
        if not other.exists():
            files.write(other, content)
            return
        if other.read_bytes() == content:
            return
    raise PrunebenchError(f"{path}: a thousand other records were made in the same second")

"""The results folder: one immutable record per case and content hash."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from . import files
from .errors import PrunebenchError
from .record import SCHEMA, Record


class Store:
    """Records below *root* (``.prunebench``)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, case_id: str, key: str) -> Path:
        """Where the record of that question and content lies."""
        return self.root / "records" / case_id / f"{key[:20]}.json"

    def find(self, case_id: str, key: str | None) -> Record | None:
        """The record of exactly this content, if it was made and is sound.

        A damaged record counts as absent: the case then simply runs again.
        """
        if key is None or not (path := self.path(case_id, key)).is_file():
            return None
        try:
            record = files.read_json(path, Record)
        except PrunebenchError:
            return None
        return record if record.key == key and record.schema == SCHEMA else None

    def save(self, record: Record) -> Path:
        """Write *record*; what an earlier run wrote for the same content is replaced whole."""
        path = self.path(record.case_id, record.key or "unkeyed")
        files.write_json(path, record)
        return path

    def latest(self, case_id: str, asked: dict[str, Any] | None = None) -> Record | None:
        """The newest sound record of a case; with *asked*, of exactly that question."""
        return next(iter(self.answers(case_id, asked)), None)

    def answers(
        self, case_id: str, asked: dict[str, Any] | None = None, device: str | None = None
    ) -> list[Record]:
        """The sound records of a case, newest first; to one question or of one device if given."""
        folder = self.root / "records" / case_id
        records = []
        for path in folder.glob("*.json"):
            try:
                records.append(files.read_json(path, Record))
            except PrunebenchError:
                continue
        return sorted(
            (
                record
                for record in records
                if asked in (None, record.asked) and device in (None, record.environment.device)
            ),
            key=lambda record: record.created,
            reverse=True,
        )

    def case_ids(self) -> list[str]:
        """All cases that have records, sorted."""
        base = self.root / "records"
        return sorted({str(p.parent.relative_to(base).as_posix()) for p in base.rglob("*.json")})

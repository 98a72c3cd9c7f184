"""Accepts records as baselines: past the guards or by ``--force``, all of them or none.

Two who accept at once do it one after the other, and an accept that was cut off is ended first.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from msgspec.structs import replace

from ...case import Case
from ...errors import PrunebenchError
from ...record import Record
from ...system import console, transaction
from ..store import Store
from . import files, guards
from .files import Accepted, Baselines


class Acceptance(NamedTuple):
    """The JSON files *written*, and the objections that were *overridden* for it, a line each."""

    written: tuple[Path, ...]
    overridden: tuple[str, ...]


class RefusedError(PrunebenchError):
    """Nothing was accepted; one line per reason."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join([*self.problems, "nothing was accepted"]))


def accept(
    records: Sequence[Record],
    cases: Sequence[Case],
    because: str,
    store: Store,
    to: Baselines,
    *,
    present: Baselines | None = None,
    failed: Mapping[str, str] | None = None,
    force: bool = False,
    flag: str = "--force",
) -> Acceptance:
    """Make *records* the baselines of *cases*: all of them, or none.

    Args:
        records: at most one per case.
        cases: all that were selected. Those that only serve an interval over calibration seeds are
            compared with no baseline and get none.
        because: why the new values are right.
        store: for dense records to compare with.
        to: where the baselines are written.
        present: what the records are compared with; by default what is at *to*.
        failed: as for ``guards.objections``.
        force: accept in spite of the guards, leaving out only what cannot be a baseline.
        flag: what the front end calls *force*.

    Raises:
        RefusedError: if a guard objects and *force* is not given; nothing is written.
        PrunebenchError: without a reason, or if a record cannot be saved; nothing is written,
            unless the text says that the change counts.
    """
    if not because.strip():
        raise PrunebenchError("accepting needs a reason: a baseline changes for a reason")
    cases = [case for case in cases if not case.for_interval]
    wanted = {case.id for case in cases}
    records = [record for record in records if record.case_id in wanted]
    with _turn(to):
        found = guards.objections(records, present or to, store, cases, failed)
        if found and not force:
            raise RefusedError(o.line(flag) for o in found)
        objected = {objection.case_id for objection in found}
        stamp = accepted(because.strip())
        prepared: dict[Path, bytes] = {}
        for record in records:
            own = replace(stamp, forced=record.case_id in objected)
            fit = tuple(m for m in record.measurements if not (force and files.unfit(m)))
            prepared |= to.prepare(replace(record, measurements=fit), own)
        to.write(prepared)
    written = tuple(path for path in prepared if path.suffix == ".json")
    return Acceptance(written, tuple(o.line(flag) for o in found))


def end(to: Baselines) -> None:
    """End an accept that was cut off, if there is one, before its baselines are read.

    Raises:
        PrunebenchError: if it cannot be ended.
    """
    if transaction.unfinished(to.root):
        with _turn(to):
            pass


@contextmanager
def _turn(to: Baselines) -> Iterator[None]:
    with transaction.turn(to.root) as ended:
        if ended:
            console.print_note(f"{to.root}: an accept that was cut off is ended")
        yield


def newest(cases: Iterable[Case], store: Store) -> list[Record]:
    """The newest stored answer to each case's question, where there is one."""
    return [record for case in cases if (record := store.latest(case.id, case.asked))]


def accepted(because: str) -> Accepted:
    """An acceptance by the person at this machine, now."""
    return Accepted(
        by=_person(), when=datetime.now(UTC).isoformat(timespec="seconds"), because=because
    )


def _person() -> str:
    import getpass

    try:
        command = ["git", "config", "user.name"]
        done = subprocess.run(command, capture_output=True, check=False)  # noqa: S603
        if name := done.stdout.decode(errors="replace").strip():  # git takes any bytes for a name
            return name
        return getpass.getuser()
    except (OSError, KeyError):
        return "unknown"

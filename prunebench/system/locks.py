"""Locks between processes: a claim per content key in the store, and turns on a device.

``<store>/locks/<first 20 of the key>.lock`` is held while a case is measured, judged and saved;
``.owner`` next to it names the holder. The library filelock does the locking: by ``flock``, which
the kernel releases when its holder dies, or, where the filesystem has none, by a file whose
existence is the lock, with a heartbeat. Such a file is taken over at once if its holder on this
host is dead, and from another host after LEASE seconds without a heartbeat.

Processes that compute on one device share it through `turn`: those that time have it alone.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import PrunebenchError, inert
from . import files

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: Called with what is being waited for, in words.
Waiting = Callable[[str], None]

#: Seconds without a heartbeat after which another host may take over a lock file.
LEASE = 120.0

#: Bytes of an ``.owner`` file that are read at most.
MAX_OWNER = 10_000

#: Seconds between two looks at a lock.
POLL = 0.2

#: The environment variable that chooses between ``soft`` and ``native`` locks.
KIND = "PRUNEBENCH_LOCKS"


class HeldError(Exception):
    """Another process holds the claim; the text names it."""


class Claims:
    """The claims of the results folder *root*; *note* prints what a user should know."""

    def __init__(self, root: Path, note: Callable[[str], None]) -> None:
        self._folder = root / "locks"
        self._note = note
        self._soft: bool | None = None

    @contextmanager
    def hold(self, key: str, what: str, waiting: Waiting | None) -> Iterator[None]:
        """Hold the claim of a content *key* within the block; *what* names the case to others.

        *waiting* is called repeatedly with the holder; None does not wait.

        Raises:
            HeldError: if another holds it and *waiting* is None.
            PrunebenchError: if the store cannot be written.
        """
        path = self._folder / f"{key[:20]}.lock"
        owner = path.with_suffix(".owner")
        with files.reported(path, "locked"):
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock(path)
            _wait(lock.acquire, lambda: owner_of(owner) or "another process", waiting)
        try:
            # A holder removes this file when it is done; one that is left is of a dead process.
            if dead := owner_of(owner):
                self._note(f"{what}: {dead} left it unfinished; it is taken over")
            since = datetime.now(UTC).isoformat(timespec="seconds")
            me = {"pid": os.getpid(), "host": socket.gethostname(), "case": what, "since": since}
            with contextlib.suppress(OSError):  # it only names the holder to others
                owner.write_text(json.dumps(me))
            yield
        finally:
            with contextlib.suppress(OSError):
                owner.unlink()
            if not self._soft:
                # Still held: who has it open already finds it without a name and tries again.
                with contextlib.suppress(OSError):
                    path.unlink()
            lock.release()

    def _lock(self, path: Path) -> BaseFileLock:
        import filelock

        if self._soft is None:
            self._soft = self._must_be_soft()
        if not self._soft:
            return filelock.FileLock(path)
        return filelock.SoftFileLease(
            path,
            lease_duration=LEASE,
            on_compromise=lambda _: self._note(
                f"{path}: the claim was lost during the work; another may measure the same case"
            ),
        )

    def _must_be_soft(self) -> bool:
        if kind := os.environ.get(KIND):
            if kind not in ("soft", "native"):
                raise PrunebenchError(f"{KIND}={kind}: expected soft or native")
            return kind == "soft"
        # All processes of a store have to lock in the same way, whatever their own mount can do.
        marker = self._folder / "soft"
        if has_flock(self._folder) and not marker.exists():
            return False
        self._note(f"{self._folder}: no flock on this filesystem, locking by existing files")
        marker.touch()
        return True


def owner_of(path: Path) -> str:
    """The process, host and case that an ``.owner`` file names, inert; empty without a file."""
    try:
        owner = json.loads(files.read(path, MAX_OWNER))
        process = f"process {owner['pid']} on {owner['host']}"
        return inert(f"{process} running {owner['case']} (since {owner['since']})")
    except (PrunebenchError, ValueError, TypeError, KeyError, RecursionError):
        return "an unknown process" if path.exists() else ""


def has_flock(folder: Path) -> bool:
    """Whether the kernel and the filesystem of *folder* lock files."""
    try:
        import fcntl
    except ImportError:
        return os.name == "nt"  # Windows has locks of its own, which filelock uses
    with tempfile.TemporaryFile(dir=folder) as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
    return True


def _wait(
    acquire: Callable[..., object], holder: Callable[[], str], waiting: Waiting | None
) -> None:
    """Call *acquire* until it succeeds, and *waiting* with the *holder* meanwhile.

    Raises:
        HeldError: if the lock is held and *waiting* is None.
    """
    from filelock import Timeout

    while True:
        try:
            acquire(timeout=0)
            return
        except Timeout:
            if waiting is None:
                raise HeldError(holder()) from None
            waiting(holder())
            time.sleep(POLL)


@contextmanager
def turn(devices: Sequence[str], *, alone: bool, waiting: Waiting) -> Iterator[None]:
    """Compute on *devices* within the block: together with others of this machine, or *alone*.

    A process that wants to be alone closes a gate behind which later ones wait, so that they
    cannot starve it. *waiting* is called repeatedly with what is being waited for.
    """
    with ExitStack() as held:
        for device in sorted(devices):  # one order for all, or two could wait for each other
            held.enter_context(_turn(_turns() / device, alone=alone, waiting=waiting))
        yield


@contextmanager
def _turn(path: Path, *, alone: bool, waiting: Waiting) -> Iterator[None]:
    from filelock import FileLock, ReadWriteLock

    lock = ReadWriteLock(path.with_suffix(".db"))
    acquire = lock.acquire_write if alone else lock.acquire_read
    text = f"the work of others on {path.name} to end" if alone else f"its turn on {path.name}"
    gate = FileLock(path.with_suffix(".gate"))
    _wait(gate.acquire, lambda: text, waiting)
    try:
        _wait(acquire, lambda: text, waiting)
    finally:
        gate.release()
    try:
        yield
    finally:
        lock.release()


def _turns() -> Path:
    """A folder per machine and user: processes share a device whatever their stores are."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"prunebench-{user}"
    with files.reported(folder, "made"):
        folder.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            raise PrunebenchError(f"{folder}: belongs to somebody else; set TMPDIR to yours")
    return folder

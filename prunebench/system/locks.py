"""Who answers which case: a lock file per content in the store, so that several processes share it.

``<store>/locks/<first 20 of the key>.lock`` is held while a case is measured, judged and saved;
beside it lies ``.owner``, which says by whom. The library filelock does the locking: by ``flock``,
which the kernel lets go when its holder dies, or, where the filesystem refuses that, by a file
whose existence is the lock, with a heartbeat. Such a file is taken over at once if its holder on
this host is dead, and from another host once nobody has renewed it for LEASE seconds.

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
from typing import TYPE_CHECKING, Any

from ..errors import PrunebenchError

if TYPE_CHECKING:
    from filelock import BaseFileLock

#: Told in words for whom is being waited.
Waiting = Callable[[str], None]

#: Seconds without a heartbeat after which a lock by existence may be taken from another host.
LEASE = 120.0

#: Seconds between two looks at a lock.
POLL = 0.2

#: ``soft`` or ``native`` in this variable decides what is otherwise found out.
KIND = "PRUNEBENCH_LOCKS"


class HeldError(Exception):
    """Another process holds the claim; the text says which."""


class Claims:
    """The claims of the store at *root*.

    Args:
        root: the results folder.
        say: told of what a person should know: claims of the dead, a filesystem without ``flock``.
    """

    def __init__(self, root: Path, say: Callable[[str], None]) -> None:
        self._folder = root / "locks"
        self._say = say
        self._soft: bool | None = None

    @contextmanager
    def hold(self, key: str, what: str, waiting: Waiting | None) -> Iterator[None]:
        """Hold the claim of *key* within the block.

        Args:
            key: a content key.
            what: whose it is, for a person.
            waiting: told, again and again, for whom is being waited; without it nobody is.

        Raises:
            HeldError: if another holds it and *waiting* is None.
            PrunebenchError: if the store cannot be written.
        """
        path = self._folder / f"{key[:20]}.lock"
        owner = path.with_suffix(".owner")
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            lock = self._lock(path)
            _acquire(lock, owner, waiting)
        except OSError as error:
            raise PrunebenchError(f"{path}: cannot be locked: {error.strerror or error}") from error
        try:
            # Whoever is done takes this file away, so one that is still there tells of a death.
            if dead := owner_of(owner):
                self._say(f"{what}: {dead} left it unfinished; it is taken over")
            with contextlib.suppress(OSError):  # it only serves to tell others
                owner.write_text(json.dumps(_me()))
            yield
        finally:
            with contextlib.suppress(OSError):
                owner.unlink()
            if not self._soft:
                # Still held: whoever has it open already finds it without a name and tries again.
                with contextlib.suppress(OSError):
                    path.unlink()
            lock.release()

    def holder(self, key: str) -> str:
        """Who says to hold the claim of *key*, in words; empty if nobody does."""
        return owner_of(self._folder / f"{key[:20]}.owner")

    def _lock(self, path: Path) -> BaseFileLock:
        import filelock

        if self._soft is None:
            self._soft = self._must_be_soft()
        if not self._soft:
            return filelock.FileLock(path)
        return filelock.SoftFileLease(
            path,
            lease_duration=LEASE,
            on_compromise=lambda _: self._say(
                f"{path}: the claim was lost while at work, another may do the same case twice"
            ),
        )

    def _must_be_soft(self) -> bool:
        if kind := os.environ.get(KIND):
            if kind not in ("soft", "native"):
                raise PrunebenchError(f"{KIND}={kind}: expected soft or native")
            return kind == "soft"
        # All who share the store have to lock alike, whatever their own mount can do.
        marker = self._folder / "soft"
        if _has_flock(self._folder) and not marker.exists():
            return False
        self._say(f"{self._folder}: no flock on this filesystem, locking by existing files")
        marker.touch()
        return True


def owner_of(path: Path) -> str:
    """What an ``.owner`` file says, in words; empty if there is none."""
    try:
        told = json.loads(path.read_text())
        return f"process {told['pid']} on {told['host']} (since {told['since']})"
    except FileNotFoundError:
        return ""
    except (OSError, ValueError, TypeError, KeyError):
        return "a process that is not known"


def _me() -> dict[str, object]:
    since = datetime.now(UTC).isoformat(timespec="seconds")
    return {"pid": os.getpid(), "host": socket.gethostname(), "since": since}


def _has_flock(folder: Path) -> bool:
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


def _acquire(lock: BaseFileLock, owner: Path, waiting: Waiting | None) -> None:
    from filelock import Timeout

    while True:
        try:
            lock.acquire(timeout=0)
            return
        except Timeout:
            who = owner_of(owner) or "another process"
            if waiting is None:
                raise HeldError(who) from None
            waiting(who)
            time.sleep(POLL)


@contextmanager
def turn(devices: Sequence[str], *, alone: bool, waiting: Waiting) -> Iterator[None]:
    """Compute on *devices* within the block: beside others of this machine, or *alone*.

    Whoever wants to be alone closes a gate behind which the others wait, so that it is not kept
    waiting by ever new ones.

    Args:
        devices: what they are called on this machine.
        alone: wait until nobody else of this user computes there, and let nobody begin.
        waiting: told, again and again, what is being waited for.
    """
    with ExitStack() as held:
        for device in sorted(devices):  # all in one order, or two could wait for each other
            held.enter_context(_turn(_turns() / device, alone=alone, waiting=waiting))
        yield


@contextmanager
def _turn(path: Path, *, alone: bool, waiting: Waiting) -> Iterator[None]:
    from filelock import FileLock, ReadWriteLock

    lock = ReadWriteLock(path.with_suffix(".db"))
    acquire = lock.acquire_write if alone else lock.acquire_read
    text = f"the work of others on {path.name} to end" if alone else f"its turn on {path.name}"
    with ExitStack() as gate:
        _patiently(FileLock(path.with_suffix(".gate")), "acquire", gate, text, waiting)
        while not _tried(acquire):
            waiting(text)
            time.sleep(POLL)
    try:
        yield
    finally:
        lock.release()


def _patiently(lock: Any, name: str, held: ExitStack, text: str, waiting: Waiting) -> None:
    while not _tried(getattr(lock, name)):
        waiting(text)
        time.sleep(POLL)
    held.callback(lock.release)


def _tried(acquire: Callable[..., object]) -> bool:
    from filelock import Timeout

    try:
        acquire(timeout=0)
    except Timeout:
        return False
    return True


def _turns() -> Path:
    """A folder of this machine and user: a device is shared whatever the stores are."""
    user = os.getuid() if hasattr(os, "getuid") else "user"
    folder = Path(tempfile.gettempdir()) / f"prunebench-{user}"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
            raise PrunebenchError(f"{folder}: belongs to somebody else; set TMPDIR to yours")
    except OSError as error:
        raise PrunebenchError(f"{folder}: cannot be made: {error.strerror}") from error
    return folder

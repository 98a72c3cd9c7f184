"""The tensors of an unfinished search: files next to its journal.

They are written when the time since the last write is worth it, and when the search is stopped.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
import weakref
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import PrunebenchError

if TYPE_CHECKING:
    from torch import Tensor

#: At most this fraction of a search's time is spent on writing its tensors.
SHARE = 0.01

#: Bytes per second that a disk is assumed to write, until it was measured.
SPEED = 5e8

#: Seconds of writing after which the speed of this disk is measured.
TRUST = 1.0

_SHA256 = re.compile(r"[0-9a-f]{64}")

#: The hash that names a tensor's file, and the order of its axes in memory.
File = tuple[str, tuple[int, ...]]


class TooSlowError(PrunebenchError):
    """The tensors cannot be written in the time that is left."""


class StateFiles:
    """The tensor files of the last saved state of a search.

    *write* writes those of a new state; *commit* then deletes the superseded files, *roll_back* the
    new ones. Without a *folder*, which is the journal's, nothing is saved.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._committed: dict[str, tuple[weakref.ref[Tensor], File]] = {}
        self._written = self._committed
        self._speed = SPEED
        self.restart()

    def restart(self) -> None:
        """Count the time of a search from now on."""
        self._start = self._end = time.perf_counter()
        self._write_seconds = 0.0

    def worth(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether writing these takes at most ``SHARE`` of the time since the last write."""
        least = self.size(tensors) / SPEED
        return (time.perf_counter() - self._end) * SHARE >= max(self._write_seconds, least)

    def size(self, tensors: Mapping[str, Tensor]) -> int:
        """Bytes of those that are not written yet."""
        return sum(tensors[name].nbytes for name in self._new(tensors))

    def seconds(self, tensors: Mapping[str, Tensor]) -> float:
        """The estimated seconds of writing these."""
        return self.size(tensors) / self._speed

    def write(self, tensors: Mapping[str, Tensor], limit: float = math.inf) -> dict[str, File]:
        """Write the tensors that are not the same objects as in the last state.

        It may take *limit* seconds.

        Raises:
            PrunebenchError: if one cannot be written; then none of the new files is left.
            TooSlowError: as soon as it shows that *limit* is too short; none is left then either.
        """
        from ...models.tensors import keep

        assert self.folder is not None  # noqa: S101  # the journal checks it
        self._start = time.perf_counter()
        # The largest first: they measure the disk's speed best.
        new = sorted(self._new(tensors), key=lambda name: -tensors[name].nbytes)
        self._written = {
            n: file for n, file in self._committed.items() if n in tensors and n not in new
        }
        left, done = sum(tensors[name].nbytes for name in new), 0
        try:
            for name in new:
                spent = time.perf_counter() - self._start
                if done and spent > TRUST:
                    self._speed = done / spent
                if spent + left / self._speed > limit:
                    raise TooSlowError("too little time to write it")
                file = keep(self.folder, tensors[name])
                self._written[name] = (weakref.ref(tensors[name]), file)
                done, left = done + tensors[name].nbytes, left - tensors[name].nbytes
        except Exception:
            self.roll_back()
            raise
        return {name: self._written[name][1] for name in tensors}

    def commit(self) -> None:
        """The journal now references the new files: delete the superseded ones."""
        remove(self.folder, _hashes(self._committed) - _hashes(self._written))
        self._committed = self._written
        self._end = time.perf_counter()
        self._write_seconds = self._end - self._start

    def roll_back(self) -> None:
        """Delete the files written since the last commit."""
        remove(self.folder, _hashes(self._written) - _hashes(self._committed))
        self._written = self._committed
        self._end = time.perf_counter()  # not tried again at once

    def end(self) -> None:
        """The search is finished and saved: delete the files of its state."""
        remove(self.folder, _hashes(self._committed))
        self._committed = {}

    def read(self, files: Mapping[str, File]) -> dict[str, Tensor]:
        """The tensors of an earlier run, on the CPU.

        Raises:
            PrunebenchError: if one is missing or damaged.
        """
        from ...models.tensors import kept

        assert self.folder is not None  # noqa: S101
        tensors = {name: kept(self.folder, *file) for name, file in files.items()}
        self._committed = {n: (weakref.ref(tensors[n]), file) for n, file in files.items()}
        return tensors

    def _new(self, tensors: Mapping[str, Tensor]) -> list[str]:
        last = {name: tensor() for name, (tensor, _) in self._committed.items()}
        return [name for name, tensor in tensors.items() if last.get(name) is not tensor]


def remove(folder: Path | None, hashes: Iterable[str]) -> None:
    """Remove the files of these hashes that exist."""
    for sha256 in hashes:
        if is_hash(sha256) and folder is not None:
            with contextlib.suppress(OSError):
                (folder / f"{sha256}.safetensors").unlink(missing_ok=True)


def is_hash(text: str) -> bool:
    """Whether *text* is a SHA-256 in hexadecimal, and so may be part of a path."""
    return _SHA256.fullmatch(text) is not None


def is_shortage(error: BaseException) -> bool:
    """Whether *error* is an out-of-memory error, on CPU or GPU."""
    # The CPU allocator has no exception class of its own.
    words = ("can't allocate memory", "out of memory")
    short = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return short or isinstance(error, MemoryError)


def _hashes(files: Mapping[str, tuple[weakref.ref[Tensor], File]]) -> set[str]:
    return {sha256 for _, (sha256, _) in files.values()}

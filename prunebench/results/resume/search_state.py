"""The tensors of a search under way: files beside its journal, written when it is worth it.

Or when the search is stopped, as far as there is time for that.
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

#: At most this part of a search's time goes into keeping its tensors.
SHARE = 0.01

#: Bytes a second that a disk is thought to take until it was written to.
SPEED = 5e8

#: Seconds of writing after which the speed of this disk counts, not what was known before.
TRUST = 1.0

_SHA256 = re.compile(r"[0-9a-f]{64}")

#: The hash that a tensor's file is named by, and the order of its axes in memory.
File = tuple[str, tuple[int, ...]]


class TooSlowError(PrunebenchError):
    """Not all can be written in the time that is left."""


class Standing:
    """The tensors that a search had when it was last kept, and where they lie.

    Args:
        folder: where the files go, None where nothing is kept.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._filed: dict[str, tuple[weakref.ref[Tensor], File]] = {}
        self._next = self._filed
        self._speed = SPEED
        self.restart()

    def restart(self) -> None:
        """A search goes on from here."""
        self._start = self._end = time.perf_counter()
        self._took = 0.0

    def worth(self, tensors: Mapping[str, Tensor]) -> bool:
        """Whether so much time has passed that writing these is at most ``SHARE`` of it."""
        least = self.size(tensors) / SPEED
        return (time.perf_counter() - self._end) * SHARE >= max(self._took, least)

    def size(self, tensors: Mapping[str, Tensor]) -> int:
        """How many bytes of these are not written yet."""
        return sum(tensors[name].nbytes for name in self._new(tensors))

    def seconds(self, tensors: Mapping[str, Tensor]) -> float:
        """How long writing these will take, as far as that is known."""
        return self.size(tensors) / self._speed

    def write(self, tensors: Mapping[str, Tensor], limit: float = math.inf) -> dict[str, File]:
        """Write those that are not the very tensors of the last time; *settle* makes them the last.

        Args:
            tensors: by name.
            limit: seconds after which writing must have ended.

        Raises:
            PrunebenchError: if one cannot be written, or, as soon as that shows, not all of them
                in time; then none of the new ones is left.
        """
        from ...models.tensors import keep

        assert self.folder is not None  # noqa: S101  # the journal's, which asks first
        self._start = time.perf_counter()
        # The largest first: it is they that tell how fast the disk is.
        new = sorted(self._new(tensors), key=lambda name: -tensors[name].nbytes)
        self._next = {n: filed for n, filed in self._filed.items() if n in tensors and n not in new}
        left, done = sum(tensors[name].nbytes for name in new), 0
        try:
            for name in new:
                spent = time.perf_counter() - self._start
                if done and spent > TRUST:
                    self._speed = done / spent
                if spent + left / self._speed > limit:
                    raise TooSlowError("there is not the time to write it")
                file = keep(self.folder, tensors[name])
                self._next[name] = (weakref.ref(tensors[name]), file)
                done, left = done + tensors[name].nbytes, left - tensors[name].nbytes
        except Exception:
            self.undo()
            raise
        return {name: self._next[name][1] for name in tensors}

    def settle(self) -> None:
        """What was written is told in the journal: the files that only the last time needed go."""
        remove(self.folder, _hashes(self._filed) - _hashes(self._next))
        self._filed = self._next
        self._end = time.perf_counter()
        self._took = self._end - self._start

    def undo(self) -> None:
        """What was written is not told in the journal: the files that only it needed go."""
        remove(self.folder, _hashes(self._next) - _hashes(self._filed))
        self._next = self._filed
        self._end = time.perf_counter()  # nor is it tried again at once

    def end(self) -> None:
        """The search is finished, and kept as a whole."""
        remove(self.folder, _hashes(self._filed))
        self._filed = {}

    def read(self, files: Mapping[str, File]) -> dict[str, Tensor]:
        """The tensors of an earlier run, on the CPU.

        Raises:
            PrunebenchError: if one is missing or damaged.
        """
        from ...models.tensors import kept

        assert self.folder is not None  # noqa: S101
        found = {name: kept(self.folder, *file) for name, file in files.items()}
        self._filed = {name: (weakref.ref(found[name]), file) for name, file in files.items()}
        return found

    def _new(self, tensors: Mapping[str, Tensor]) -> list[str]:
        kept = {name: tensor() for name, (tensor, _) in self._filed.items()}
        return [name for name, tensor in tensors.items() if kept.get(name) is not tensor]


def remove(folder: Path | None, hashes: Iterable[str]) -> None:
    """Remove the files of these hashes, as far as they are there."""
    for sha256 in hashes:
        if is_hash(sha256) and folder is not None:
            with contextlib.suppress(OSError):
                (folder / f"{sha256}.safetensors").unlink(missing_ok=True)


def is_hash(text: str) -> bool:
    """Whether *text* is a SHA-256 in hexadecimal, and so may be part of a path."""
    return _SHA256.fullmatch(text) is not None


def is_shortage(error: BaseException) -> bool:
    """Whether memory ran out, here or on a GPU."""
    # The processor's allocator has no class of its own.
    words = ("can't allocate memory", "out of memory")
    short = isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    return short or isinstance(error, MemoryError)


def _hashes(filed: Mapping[str, tuple[weakref.ref[Tensor], File]]) -> set[str]:
    return {sha256 for _, (sha256, _) in filed.values()}

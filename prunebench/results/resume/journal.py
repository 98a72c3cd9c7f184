"""What is known of one case so far, and where more of it is written.

A journal is a folder. Every run that works on its case appends to a file of its own there, a line
per finished batch or metric, or per step, part or state of a search. Tensors lie beside it, named
by their hash.
"""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ...errors import PrunebenchError
from ...plan import Plan, Step
from ...record import Measurement
from ...system import console, files, signals
from . import checksum_lines
from .entries import (
    Done,
    Found,
    Kept,
    Offer,
    State,
)
from .search_state import (
    Standing,
    TooSlowError,
    is_hash,
    is_shortage,
    remove,
)

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1

#: Seconds between two times that the disk is waited for. A killed process loses nothing that was
#: written before; a power cut may lose so much.
SYNC_EVERY = 2.0

#: Seconds that a stopped search may take to be saved without a word.
TELL = 1.0


class Journal:
    """What is known of one case so far, and where more is written.

    Args:
        folder: where it lies; None keeps nothing.
        case_id: the case's.
        key: its content, all of it.
        metrics: the names of what is measured, in order.
        since: nanoseconds since 1970; what was begun before is passed over.
    """

    def __init__(
        self,
        folder: Path | None,
        case_id: str,
        key: str,
        metrics: Sequence[str] = (),
        since: int = 0,
    ) -> None:
        self.folder = folder
        self._head = {"journal": SCHEMA, "case": case_id, "key": key}
        self._metrics = metrics
        self._searched: Found | None = None
        self._done: dict[int, Done] = {}
        #: The first steps of a search that was cut off.
        self.steps: list[Step] = []
        self._ahead: dict[int, Step] = {}
        #: What parts of a search that was cut off gave, by name.
        self.parts: dict[str, Any] = {}
        self._state: State | None = None
        #: Where the search stood last, if that is not kept.
        self._offer: Offer | None = None
        #: What writes a state: a search, or another thread when the search does not come back.
        self._writes = threading.Lock()
        #: How far that search came: how many of what, and of how many.
        self._progress = Kept("its search")
        #: Seconds that it took.
        self.search_seconds = 0.0
        self._batches: dict[str, tuple[Any, float]] = {}
        #: Per loop over batches (metric, who runs it, how many there are) how many are kept.
        self._loops: dict[tuple[int, str, int], int] = {}
        self._handle: int | None = None
        self._synced = 0.0
        self._sound = True
        self._standing = Standing(folder)
        self.begin_search()
        #: Seconds that went into what was taken from here instead of being computed.
        self.saved_seconds = 0.0
        for file in files.listed(folder, ".jsonl") if folder else ():
            if _begun(file) < since:
                continue
            for entry in checksum_lines.entries(file, self._head):
                self._take(file, entry)

    @classmethod
    def none(cls) -> Journal:
        """One that keeps nothing."""
        return cls(None, "", "")

    # ----------------------------------------------------------------- reading

    @property
    def empty(self) -> bool:
        """Whether nothing is kept."""
        begun = self.steps or self.parts or self._state
        return not (self._searched or self._done or begun or self._batches)

    @property
    def kept(self) -> Kept:
        """How far the case came."""
        if not (self._searched or self._done or self._loops):
            return self._progress
        left = [i for i in range(len(self._metrics)) if i not in self._done]
        if not left:
            return Kept("its end")
        loops = [loop for loop in self._loops if loop[0] == left[0]]
        if not loops:
            return Kept(self._metrics[left[0]])
        return Kept(self._metrics[left[0]], self._loops[loops[-1]], loops[-1][2])

    def search(self) -> tuple[Plan, Found] | None:
        """The plan that was found, with its tensors, or None."""
        if (found := self._searched) is None or self.folder is None:
            return None
        from ...models import plan_files

        plan = Plan(found.edits, found.trace)
        try:
            return plan_files.with_tensors(self.folder / "plan.json", plan), found
        except PrunebenchError as error:
            self._search_is_lost(error, [getattr(edit, "tensors", "") for edit in plan])
            self._searched = None
            return None

    def state(self) -> tuple[Any, dict[str, Tensor]] | None:
        """Where a search that was cut off stood: its data and its tensors, on the CPU."""
        if self._state is None or self.folder is None:
            return None
        try:
            return self._state.data, self._standing.read(self._state.tensors)
        except PrunebenchError as error:
            self._search_is_lost(error, [sha256 for sha256, _ in self._state.tensors.values()])
            self._state, self.search_seconds = None, 0.0
            return None

    def finished(self, metric: int) -> tuple[Measurement, ...] | None:
        """What metric number *metric* gave, if it was finished."""
        if (done := self._done.get(metric)) is None:
            return None
        self.saved_seconds += done.seconds
        return done.measurements

    def batch(self, name: str) -> tuple[Any, float] | None:
        """What a batch gave, and the seconds it took."""
        return self._batches.get(name)

    # ----------------------------------------------------------------- writing

    def begin_search(self) -> None:
        """A search goes on from here: from now on its time is counted."""
        self._search_start = time.perf_counter()
        self._standing.restart()

    def keep_search(self, plan: Plan, seconds: float, tokens: int, memory: int | None) -> None:
        """Keep a plan; its tensors go beside the journal, under their hash."""
        if self.folder is None or self._searched is not None:
            return
        found = Found(plan.edits, plan.trace, seconds, tokens, memory)
        try:
            if plan.tensors is not None:
                plan.tensors.save(self.folder)
        except PrunebenchError as error:
            console.warn(f"{error}; the search is not kept")
            return
        except MemoryError:
            self._tell_shortage("what its search found")
            return
        self.append({"search": msgspec.to_builtins(found)}, at_once=self._state is not None)
        if self._sound:
            self._standing.end()

    def keep_step(self, step: Step, of: int = 0) -> None:
        """Keep a step of a search that goes on, the next of *of*."""
        self.append({"step": msgspec.to_builtins(step), "of": of, "seconds": self._spent()})

    def keep_part(self, name: str, found: Any, of: int = 0) -> None:
        """Keep what a part of a search gave."""
        self.parts[name] = found
        self.append({"part": name, "of": of, "seconds": self._spent(), "found": found})

    def keep_state(self, data: Any, tensors: dict[str, Tensor], done: int, of: int = 0) -> None:
        """Keep where a search stands, in place of where it stood before.

        Where that was kept so shortly ago that it is not worth it, it is held for *keep_last*.

        Args:
            data: plain JSON data, numbers that are not finite included.
            tensors: by name. None may be changed in place later; one that was there the last time
                is not written again.
            done: how many steps led there.
            of: how many there will be, 0 where that is not known.
        """
        if self.folder is None or not self._sound:
            return
        with self._writes:
            try:
                # What the search goes on with would change.
                data, tensors = msgspec.to_builtins(data), dict(tensors)
                self._offer = Offer(data, tensors, done, of, self._spent())
                if self._standing.worth(tensors):
                    self._keep_offer(self._offer)
            except (MemoryError, RuntimeError) as error:
                if not is_shortage(error):
                    raise
                self._tell_shortage("where its search stands")

    def keep_last(self, limit: float) -> None:
        """A search is stopped: keep where it stood last, if that is not kept.

        Args:
            limit: seconds that it may take; if they are not enough, that is told.
        """
        start = time.monotonic()
        if not self._writes.acquire(timeout=min(max(limit, 0.0), threading.TIMEOUT_MAX)):
            return  # another thread is at it
        try:
            if (offer := self._offer) is None or not self._sound:
                return
            size = self._standing.size(offer.tensors)
            if limit > self._standing.seconds(offer.tensors) > TELL:
                console.print_note(f"saving where the search stands, {size / 1e6:,.0f} MB")
            try:
                self._keep_offer(offer, limit - (time.monotonic() - start))
            except TooSlowError:
                kept = f"step {self._state.done}" if self._state else "its beginning"
                console.warn(
                    f"{self._head['case']}: its search goes on from {kept}, not from step "
                    f"{offer.done}: {size / 1e6:,.0f} MB cannot be written in {max(limit, 0):.0f} s"
                )
            except Exception as error:  # a stop stays a stop: it must not become a case's failure
                if is_shortage(error):
                    self._tell_shortage("where its search stands")
                else:
                    why = f"{type(error).__name__}: {error}"
                    console.warn(f"{self._head['case']}: its search cannot be kept: {why}")
        finally:
            self._writes.release()

    def end_search(self) -> None:
        """A search is over, however it ended: nothing of it is held any longer.

        What another thread is writing of it is whole before, unless that takes too long.
        """
        ours = self._writes.acquire(timeout=signals.LAST_WORDS)
        self._offer = None
        if ours:
            self._writes.release()

    def _keep_offer(self, offer: Offer, limit: float = math.inf) -> None:
        try:
            files = self._standing.write(offer.tensors, limit)
        except TooSlowError:
            raise
        except PrunebenchError as error:
            self._stop(str(error))
            return
        if self._offer is not offer:  # the search has ended without waiting for us
            self._standing.undo()
            return
        state = State(offer.data, files, offer.done, offer.of)
        entry = {"state": msgspec.to_builtins(state), "seconds": offer.seconds}
        self.append(entry, at_once=bool(offer.tensors))
        if self._sound:
            self._state = state
            self._standing.settle()
            self._offer = None

    def keep_metric(self, metric: int, found: Sequence[Measurement], seconds: float) -> None:
        """Keep the measurements of a finished metric."""
        done = Done(tuple(found), seconds)
        self.append({"metric": metric, "done": msgspec.to_builtins(done)})

    def append(self, entry: dict[str, Any], *, at_once: bool = False) -> None:
        """Write one line; a disk or a memory that is full costs the journal, not the case."""
        if self.folder is None or not self._sound:
            return
        try:
            if self._handle is None:
                self._handle = self._begin(self.folder)
            checksum_lines.write(self._handle, entry)
            if (now := time.monotonic()) - self._synced > SYNC_EVERY or at_once:
                os.fsync(self._handle)
                self._synced = now
        except OSError as error:
            self._stop(f"{self.folder}: cannot be written: {error.strerror or error}")
        except MemoryError:
            self._stop(f"{self.folder}: too little memory to write it")

    def close(self) -> None:
        """Write no more."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    # ------------------------------------------------------------------ private

    def _take(self, file: Path, entry: dict[str, Any]) -> None:
        try:
            if "search" in entry:
                self._searched = msgspec.convert(entry["search"], Found)
            elif "done" in entry:
                self._done[entry["metric"]] = msgspec.convert(entry["done"], Done)
            elif "batch" in entry:
                if entry["batch"] not in self._batches:
                    loop = (entry["metric"], entry["who"], entry["of"])
                    self._batches[entry["batch"]] = (entry["found"], entry["seconds"])
                    self._loops[loop] = self._loops.get(loop, 0) + 1
            elif "step" in entry or "part" in entry or "state" in entry:
                self._take_of_search(entry)
        except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
            console.warn(f"{file}: damaged: {error}; what it holds there is computed again")

    def _take_of_search(self, entry: dict[str, Any]) -> None:
        seconds, of = float(entry["seconds"]), int(entry.get("of", 0))
        if "state" in entry:
            state = msgspec.convert(entry["state"], State)
            if not all(is_hash(sha256) for sha256, _ in state.tensors.values()):
                raise ValueError("a tensor without a hash")
            if self._state is not None and state.done < self._state.done:
                return
            self._state = state
            self._progress = Kept("its search", state.done, state.of, ("step", "steps"))
        elif "step" in entry:
            step = msgspec.convert(entry["step"], Step)
            # Where a clock was set back, the files of two runs are in the wrong order.
            self._ahead.setdefault(step.step, step)
            while (following := self._ahead.get(len(self.steps))) is not None:
                self.steps.append(following)
            self._progress = Kept("its search", len(self.steps), of, ("step", "steps"))
        elif entry["part"] not in self.parts:
            name = str(entry["part"])
            self.parts[name] = entry["found"]
            kind = name.partition(" ")[0]
            count = sum(other.partition(" ")[0] == kind for other in self.parts)
            # What is done once, before or after, is not what a search is counted by.
            if count > 1 or not self._progress.parts:
                self._progress = Kept("its search", count, of, (kind, f"{kind}s"))
        self.search_seconds = max(self.search_seconds, seconds)

    def _spent(self) -> float:
        return self.search_seconds + time.perf_counter() - self._search_start

    def _search_is_lost(self, error: PrunebenchError, hashes: Iterable[str]) -> None:
        """Its files go too: one of a wrong content must not pass for the one that is made again."""
        console.warn(f"{error}; the search is made again")
        remove(self.folder, hashes)

    def _tell_shortage(self, what: str) -> None:
        console.warn(f"{self._head['case']}: too little memory to keep {what}")

    def _stop(self, why: str) -> None:
        self._sound = False
        self.close()
        console.warn(f"{why}; a killed run would start over")

    def _begin(self, folder: Path) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        # Named by time, so that names are in the order of the runs that wrote them.
        file = folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl"
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o666)
        self._synced = time.monotonic()
        try:
            checksum_lines.write(handle, self._head)
        except OSError:
            os.close(handle)
            raise
        return handle


def _begun(file: Path) -> int:
    """When a file of a journal was begun, as its name says; 0 for a name that is not ours."""
    stamp = file.name.partition("-")[0]
    return int(stamp) if stamp.isascii() and stamp.isdigit() else 0

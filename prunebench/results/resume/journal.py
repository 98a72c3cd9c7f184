"""The on-disk journal of one unfinished case.

A journal is a folder. Every run of the case appends to a file of its own there: a line per finished
batch or metric, and per step, part or state of a search. Tensors are files next to it, named by
their hash.
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
from .entries import FinishedMetric, FinishedSearch, PendingState, SavedProgress, SavedState
from .search_state import StateFiles, TooSlowError, is_hash, is_shortage, remove

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA = 1

#: Seconds between two fsyncs. A killed process loses nothing it has written; a power cut may lose
#: as much.
SYNC_EVERY = 2.0

#: Seconds that saving a stopped search may take without a message.
SILENT = 1.0


class Journal:
    """The saved results of one unfinished case, and the file that more are appended to.

    Without a *folder* nothing is saved. *key* is the case's content key, *metrics* the names of its
    metrics in order; files begun before *since* (nanoseconds since 1970) are ignored.
    """

    def __init__(
        self,
        folder: Path | None = None,
        case_id: str = "",
        key: str = "",
        metrics: Sequence[str] = (),
        since: int = 0,
    ) -> None:
        self.folder = folder
        self._head = {"journal": SCHEMA, "case": case_id, "key": key}
        self._metrics = metrics
        self._search: FinishedSearch | None = None
        self._metrics_done: dict[int, FinishedMetric] = {}
        #: The first steps of an interrupted search.
        self.steps: list[Step] = []
        self._ahead: dict[int, Step] = {}
        #: The results of the parts of an interrupted search, by name.
        self.parts: dict[str, Any] = {}
        self._state: SavedState | None = None
        #: The latest state of the search, if it is not saved yet.
        self._pending: PendingState | None = None
        #: Held while a state is written, by the search or by another thread.
        self._write_lock = threading.Lock()
        #: How far the search came, and its seconds.
        self._progress = SavedProgress("its search")
        self.search_seconds = 0.0
        self._batches: dict[str, tuple[Any, float]] = {}
        #: Saved batches per loop over batches: (metric, models, number of batches).
        self._loops: dict[tuple[int, str, int], int] = {}
        self._handle: int | None = None
        self._synced = 0.0
        self._writable = True
        self._state_files = StateFiles(folder)
        self.begin_search()
        #: Seconds that earlier runs spent on the results that are reused.
        self.saved_seconds = 0.0
        for file in files.listed(folder, ".jsonl") if folder else ():
            # A name begins with the time; another's file has none and counts as old.
            stamp = file.name.partition("-")[0]
            if (int(stamp) if stamp.isdecimal() else 0) < since:
                continue
            for entry in checksum_lines.entries(file, self._head):
                self._read(file, entry)

    @property
    def empty(self) -> bool:
        """Whether nothing is saved."""
        begun = self.steps or self.parts or self._state
        return not (self._search or self._metrics_done or begun or self._batches)

    @property
    def progress(self) -> SavedProgress:
        """How far the case came."""
        if not (self._search or self._metrics_done or self._loops):
            return self._progress
        left = [i for i in range(len(self._metrics)) if i not in self._metrics_done]
        if not left:
            return SavedProgress("its end")
        loops = [loop for loop in self._loops if loop[0] == left[0]]
        if not loops:
            return SavedProgress(self._metrics[left[0]])
        return SavedProgress(self._metrics[left[0]], self._loops[loops[-1]], loops[-1][2])

    def search(self) -> tuple[Plan, FinishedSearch] | None:
        """The plan of the finished search, with its tensors, or None."""
        if (found := self._search) is None or self.folder is None:
            return None
        from ...models import plan_files

        plan = Plan(found.edits, found.trace)
        try:
            return plan_files.with_tensors(self.folder / "plan.json", plan), found
        except PrunebenchError as error:
            self._discard_search(error, [getattr(edit, "tensors", "") for edit in plan])
            self._search = None
            return None

    def state(self) -> tuple[Any, dict[str, Tensor]] | None:
        """The saved state of an interrupted search: its data and its tensors, on the CPU."""
        if self._state is None or self.folder is None:
            return None
        try:
            return self._state.data, self._state_files.read(self._state.tensors)
        except PrunebenchError as error:
            self._discard_search(error, [sha256 for sha256, _ in self._state.tensors.values()])
            self._state, self.search_seconds = None, 0.0
            return None

    def finished(self, metric: int) -> tuple[Measurement, ...] | None:
        """The measurements of metric number *metric*, if it was finished."""
        if (done := self._metrics_done.get(metric)) is None:
            return None
        self.saved_seconds += done.seconds
        return done.measurements

    def batch(self, name: str) -> tuple[Any, float] | None:
        """The result of a batch and its seconds, if it is saved."""
        return self._batches.get(name)

    def begin_search(self) -> None:
        """Count the time of a search from now on."""
        self._search_start = time.perf_counter()
        self._state_files.restart()

    def save_search(self, plan: Plan, seconds: float, tokens: int, memory: int | None) -> None:
        """Save a plan; its tensors are written next to the journal, under their hash."""
        if self.folder is None or self._search is not None:
            return
        found = FinishedSearch(plan.edits, plan.trace, seconds, tokens, memory)
        try:
            if plan.tensors is not None:
                plan.tensors.save(self.folder)
        except PrunebenchError as error:
            console.warn(f"{error}; the search is not saved")
            return
        except MemoryError:
            self._warn_shortage("the result of its search")
            return
        self.append({"search": msgspec.to_builtins(found)}, at_once=self._state is not None)
        if self._writable:
            self._state_files.end()

    def save_step(self, step: Step, of: int = 0) -> None:
        """Save the next step of the search, of *of*."""
        self.append({"step": msgspec.to_builtins(step), "of": of, "seconds": self._spent()})

    def save_part(self, name: str, result: Any, of: int = 0) -> None:
        """Save the result of a part of the search."""
        self.parts[name] = result
        self.append({"part": name, "of": of, "seconds": self._spent(), "found": result})

    def save_state(self, data: Any, tensors: dict[str, Tensor], done: int, of: int = 0) -> None:
        """Save the state of the search, in place of the last one.

        If the last write was so recent that it is not worth it, the state is held for
        *save_pending*.

        Args:
            data: plain JSON data, numbers that are not finite included.
            tensors: by name. None may be changed in place later; a tensor that is the same object
                as in the last state is not written again.
            done: the number of steps so far.
            of: the number of steps in all, 0 if unknown.
        """
        if self.folder is None or not self._writable:
            return
        with self._write_lock:
            try:
                # A copy: the search may change both afterwards.
                data, tensors = msgspec.to_builtins(data), dict(tensors)
                self._pending = PendingState(data, tensors, done, of, self._spent())
                if self._state_files.worth(tensors):
                    self._write_pending(self._pending)
            except (MemoryError, RuntimeError) as error:
                if not is_shortage(error):
                    raise
                self._warn_shortage("the state of its search")

    def save_pending(self, limit: float) -> None:
        """Save the latest state of a search that is being stopped, if it is not saved yet.

        It may take *limit* seconds; if they are too few, a warning says so.
        """
        start = time.monotonic()
        if not self._write_lock.acquire(timeout=min(max(limit, 0.0), threading.TIMEOUT_MAX)):
            return  # another thread is writing it
        try:
            if (pending := self._pending) is None or not self._writable:
                return
            size = self._state_files.size(pending.tensors)
            if limit > self._state_files.seconds(pending.tensors) > SILENT:
                console.print_note(f"saving the state of the search, {size / 1e6:,.0f} MB")
            try:
                self._write_pending(pending, limit - (time.monotonic() - start))
            except TooSlowError:
                saved = f"step {self._state.done}" if self._state else "its beginning"
                console.warn(
                    f"{self._head['case']}: its search resumes from {saved}, not from step "
                    f"{pending.done}: {size / 1e6:,.0f} MB cannot be written in "
                    f"{max(limit, 0):.0f} s"
                )
            except Exception as error:  # a stop stays a stop: it must not become a case's failure
                if is_shortage(error):
                    self._warn_shortage("the state of its search")
                else:
                    why = f"{type(error).__name__}: {error}"
                    console.warn(f"{self._head['case']}: its search cannot be saved: {why}")
        finally:
            self._write_lock.release()

    def end_search(self) -> None:
        """Release the state of a search that ended, however it did.

        If another thread is writing it, that is waited for, unless it takes too long.
        """
        acquired = self._write_lock.acquire(timeout=signals.LAST_WORDS)
        self._pending = None
        if acquired:
            self._write_lock.release()

    def _write_pending(self, pending: PendingState, limit: float = math.inf) -> None:
        try:
            files = self._state_files.write(pending.tensors, limit)
        except TooSlowError:
            raise
        except PrunebenchError as error:
            self._stop(str(error))
            return
        if self._pending is not pending:  # the search ended without waiting
            self._state_files.roll_back()
            return
        state = SavedState(pending.data, files, pending.done, pending.of)
        entry = {"state": msgspec.to_builtins(state), "seconds": pending.seconds}
        self.append(entry, at_once=bool(pending.tensors))
        if self._writable:
            self._state = state
            self._state_files.commit()
            self._pending = None

    def save_metric(self, metric: int, measurements: Sequence[Measurement], seconds: float) -> None:
        """Save the measurements of a finished metric."""
        done = FinishedMetric(tuple(measurements), seconds)
        self.append({"metric": metric, "done": msgspec.to_builtins(done)})

    def append(self, entry: dict[str, Any], *, at_once: bool = False) -> None:
        """Write one line; if disk or memory is full, the journal ends and the case goes on."""
        if self.folder is None or not self._writable:
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
        """Close the file."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    def _read(self, file: Path, entry: dict[str, Any]) -> None:
        try:
            if "search" in entry:
                self._search = msgspec.convert(entry["search"], FinishedSearch)
            elif "done" in entry:
                self._metrics_done[entry["metric"]] = msgspec.convert(entry["done"], FinishedMetric)
            elif "batch" in entry:
                if entry["batch"] not in self._batches:
                    loop = (entry["metric"], entry["who"], entry["of"])
                    self._batches[entry["batch"]] = (entry["found"], entry["seconds"])
                    self._loops[loop] = self._loops.get(loop, 0) + 1
            elif "step" in entry or "part" in entry or "state" in entry:
                self._read_search(entry)
        except (msgspec.ValidationError, KeyError, TypeError, ValueError) as error:
            console.warn(f"{file}: damaged: {error}; that entry is computed again")

    def _read_search(self, entry: dict[str, Any]) -> None:
        seconds, of = float(entry["seconds"]), int(entry.get("of", 0))
        if "state" in entry:
            state = msgspec.convert(entry["state"], SavedState)
            if not all(is_hash(sha256) for sha256, _ in state.tensors.values()):
                raise ValueError("a tensor without a hash")
            if self._state is not None and state.done < self._state.done:
                return
            self._state = state
            self._progress = SavedProgress("its search", state.done, state.of, ("step", "steps"))
        elif "step" in entry:
            step = msgspec.convert(entry["step"], Step)
            # If a clock was set back, the files of two runs are read in the wrong order.
            self._ahead.setdefault(step.step, step)
            while (following := self._ahead.get(len(self.steps))) is not None:
                self.steps.append(following)
            self._progress = SavedProgress("its search", len(self.steps), of, ("step", "steps"))
        elif entry["part"] not in self.parts:
            name = str(entry["part"])
            self.parts[name] = entry["found"]
            kind = name.partition(" ")[0]
            count = sum(other.partition(" ")[0] == kind for other in self.parts)
            # A part that is done once, before or after the others, does not measure progress.
            if count > 1 or not self._progress.parts:
                self._progress = SavedProgress("its search", count, of, (kind, f"{kind}s"))
        self.search_seconds = max(self.search_seconds, seconds)

    def _spent(self) -> float:
        return self.search_seconds + time.perf_counter() - self._search_start

    def _discard_search(self, error: PrunebenchError, hashes: Iterable[str]) -> None:
        """Remove its files too: a damaged one must not be taken for the next one written."""
        console.warn(f"{error}; the search starts over")
        remove(self.folder, hashes)

    def _warn_shortage(self, what: str) -> None:
        console.warn(f"{self._head['case']}: too little memory to save {what}")

    def _stop(self, why: str) -> None:
        self._writable = False
        self.close()
        console.warn(f"{why}; a killed run would start over")

    def _begin(self, folder: Path) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        # Named by time, so that sorted names are in the order of the runs.
        file = folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl"
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o666)
        self._synced = time.monotonic()
        try:
            checksum_lines.write(handle, self._head)
        except OSError:
            os.close(handle)
            raise
        return handle

"""What a case has so far: a journal beside the store, so that a killed run goes on where it was.

A journal is a folder ``<store>/partial/<key of the case>/`` and is gone once the record is saved.
What the dense model answers for all cases alike has journals of its own below ``partial/dense/``,
gone once a run ends with no case unfinished.
Every run that works on the case appends to a file of its own there, a line per finished batch,
metric or step of a search, each with a checksum. A torn last line, which is what a kill leaves, is
dropped; so at most the batch at hand is lost.

A batch is known by the metric it belongs to, the model that runs it, a hash of everything it is
given, and how often the same was asked before. Work goes through the same batches in the same order
whether or not their results are here already, so what is kept stands for exactly what would have
been computed, and numbers are those of a run that nothing disturbed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
import uuid
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
from msgspec import Struct

from .errors import PrunebenchError, PrunebenchWarning
from .plan import AnyEdit, Plan, Step
from .record import Measurement

T = TypeVar("T")

SCHEMA = 1

#: The folder of journals that cases share.
DENSE = "dense"

#: Seconds between two times that the disk is waited for. A killed process loses nothing that was
#: written before; a power cut may lose so much.
SYNC_EVERY = 2.0


class Found(Struct, frozen=True):
    """A search as it is kept: the plan, what it cost, and what it took."""

    edits: tuple[AnyEdit, ...]
    trace: tuple[Step, ...]
    seconds: float
    tokens: int
    memory: int | None = None


class Done(Struct, frozen=True):
    """A finished metric."""

    measurements: tuple[Measurement, ...]
    seconds: float


class Kept(NamedTuple):
    """How far an interrupted case came: what it was at, and how many parts of that are kept.

    *of* is how many parts there are, 0 where that is not known.
    """

    at: str
    parts: int = 0
    of: int = 0
    unit: tuple[str, str] = ("batch", "batches")

    def __str__(self) -> str:
        if not self.parts:
            return f"at {self.at}"
        one, many = self.unit
        parts = f"{self.parts} of {self.of}" if self.of else f"{self.parts}"
        return f"at {self.at}, {parts} {one if parts == '1' else many} kept"


class Partials:
    """The journals below a results folder; without a folder nothing is kept."""

    def __init__(self, root: Path | None = None) -> None:
        self.folder = root / "partial" if root else None

    def journal(self, case_id: str, key: str | None, metrics: Sequence[str] = ()) -> Journal:
        """The journal of exactly this content; *metrics* are the names of what is measured."""
        folder = self.folder / key[:20] if self.folder and key else None
        return Journal(folder, case_id, key or "", metrics)

    def dense(self, key: str | None) -> Journal:
        """The journal of what a dense model answers to one metric, whatever the case."""
        folder = self.folder / DENSE / key[:20] if self.folder and key else None
        return Journal(folder, "", key or "")

    def tidy(self) -> None:
        """At the end of a run: forget the dense models' answers, unless a case is unfinished."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):  # none is there, or another run did it
            if {file.name for file in self.folder.iterdir()} <= {DENSE}:
                shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self, key: str) -> None:
        """The record of this content is saved: remove what led to it."""
        if self.folder is None or not key:
            return
        shutil.rmtree(self.folder / key[:20], ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # only where no other case has one

    def case_ids(self) -> set[str]:
        """The cases that have one, of whatever content; reads only the first line of each."""
        found = (_first_line(path) for path in self._files())
        return {str(head.get("case", "")) for head in found if head}

    def _files(self) -> Iterable[Path]:
        return sorted(self.folder.glob("*/*.jsonl")) if self.folder else ()


class Journal:
    """What is known of one case so far, and where more is written.

    Args:
        folder: where it lies; None keeps nothing.
        case_id: the case's.
        key: its content, all of it.
        metrics: the names of what is measured, in order.
    """

    def __init__(
        self, folder: Path | None, case_id: str, key: str, metrics: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self._head = {"journal": SCHEMA, "case": case_id, "key": key}
        self._metrics = metrics
        self._searched: Found | None = None
        self._done: dict[int, Done] = {}
        #: The first steps of a search that was cut off.
        self.steps: list[Step] = []
        #: Seconds that they took.
        self.steps_seconds = 0.0
        self._search_start = 0.0
        self._batches: dict[str, tuple[Any, float]] = {}
        #: Per loop over batches (metric, who runs it, how many there are) how many are kept.
        self._loops: dict[tuple[int, str, int], int] = {}
        self._handle: int | None = None
        self._synced = 0.0
        self._sound = True
        #: Seconds that went into what was taken from here instead of being computed.
        self.saved_seconds = 0.0
        for file in sorted(folder.glob("*.jsonl")) if folder else ():
            for entry in _entries(file, self._head):
                self._take(file, entry)

    @classmethod
    def none(cls) -> Journal:
        """One that keeps nothing."""
        return cls(None, "", "")

    # ----------------------------------------------------------------- reading

    @property
    def empty(self) -> bool:
        """Whether nothing is kept."""
        return not (self._searched or self._done or self.steps or self._batches)

    @property
    def kept(self) -> Kept:
        """How far the case came."""
        if not (self._searched or self._done or self._loops):
            return Kept("its search", len(self.steps), unit=("step", "steps"))
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
        from . import planfile

        plan = Plan(found.edits, found.trace)
        try:
            return planfile.with_tensors(self.folder / "plan.json", plan), found
        except PrunebenchError as error:
            _warn(f"{error}; the search is made again")
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

    def keep_search(self, plan: Plan, seconds: float, tokens: int, memory: int | None) -> None:
        """Keep a plan; its tensors go beside the journal, under their hash."""
        if self.folder is None or self._searched is not None:
            return
        found = Found(plan.edits, plan.trace, seconds, tokens, memory)
        try:
            if plan.tensors is not None:
                plan.tensors.save(self.folder)
        except PrunebenchError as error:
            _warn(f"{error}; the search is not kept")
            return
        self.append({"search": msgspec.to_builtins(found)})

    def keep_step(self, step: Step) -> None:
        """Keep a step of a search that goes on."""
        seconds = self.steps_seconds + time.perf_counter() - self._search_start
        self.append({"step": msgspec.to_builtins(step), "seconds": seconds})

    def keep_metric(self, metric: int, found: Sequence[Measurement], seconds: float) -> None:
        """Keep the measurements of a finished metric."""
        done = Done(tuple(found), seconds)
        self.append({"metric": metric, "done": msgspec.to_builtins(done)})

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line; a disk that is full or read-only costs the journal, not the case."""
        if self.folder is None or not self._sound:
            return
        try:
            if self._handle is None:
                self._handle = self._begin(self.folder)
            _write(self._handle, entry)
            if (now := time.monotonic()) - self._synced > SYNC_EVERY:
                os.fsync(self._handle)
                self._synced = now
        except OSError as error:
            self._sound = False
            self.close()
            reason = error.strerror or error
            _warn(f"{self.folder}: cannot be written: {reason}; a killed run would start over")

    def close(self) -> None:
        """Write no more."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None

    # ----------------------------------------------------- work that is watched

    @contextmanager
    def searching(self) -> Iterator[None]:
        """Within the block, *steps* gives the steps of a search that was cut off."""
        self._search_start = time.perf_counter()
        token = _SEARCH.set(self)
        try:
            yield
        finally:
            _SEARCH.reset(token)

    @contextmanager
    def measuring(
        self, metric: int, models: dict[str, Any], dense: Callable[[], Journal] | None = None
    ) -> Iterator[None]:
        """Within the block, *once* keeps the batches that one of *models* runs.

        Args:
            metric: its number in the case.
            models: name to model; what ``dense`` runs alone goes to the journal that *dense* opens.
            dense: opens it, when it is first needed.
        """
        scope = _Scope(self, metric, models, dense)
        token = _METRIC.set(scope)
        try:
            yield
        finally:
            _METRIC.reset(token)
            scope.close()

    # ------------------------------------------------------------------ private

    def _take(self, file: Path, entry: dict[str, Any]) -> None:
        try:
            if "search" in entry:
                self._searched = msgspec.convert(entry["search"], Found)
            elif "done" in entry:
                self._done[entry["metric"]] = msgspec.convert(entry["done"], Done)
            elif "step" in entry:
                step = msgspec.convert(entry["step"], Step)
                if step.step == len(self.steps):
                    self.steps.append(step)
                    self.steps_seconds = float(entry["seconds"])
            elif "batch" in entry and entry["batch"] not in self._batches:
                loop = (entry["metric"], entry["who"], entry["of"])
                self._batches[entry["batch"]] = (entry["found"], entry["seconds"])
                self._loops[loop] = self._loops.get(loop, 0) + 1
        except (msgspec.ValidationError, KeyError, TypeError) as error:
            _warn(f"{file}: damaged: {error}; what it holds there is computed again")

    def _begin(self, folder: Path) -> int:
        folder.mkdir(parents=True, exist_ok=True)
        # Named by time, so that names are in the order of the runs that wrote them.
        file = folder / f"{time.time_ns()}-{uuid.uuid4().hex[:8]}.jsonl"
        handle = os.open(file, os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_WRONLY, 0o666)
        self._synced = time.monotonic()
        try:
            _write(handle, self._head)
        except OSError:
            os.close(handle)
            raise
        return handle


class _Scope:
    """One metric at work."""

    def __init__(
        self,
        journal: Journal,
        metric: int,
        models: dict[str, Any],
        dense: Callable[[], Journal] | None,
    ) -> None:
        self.journal = journal
        self.metric = metric
        self.models = models
        self.asked: dict[str, int] = {}
        self._dense = dense
        self._shared: Journal | None = None

    def place(self, who: str) -> tuple[Journal, int]:
        """The journal for what *who* runs, and the metric's number there."""
        if who != DENSE or self._dense is None:
            return self.journal, self.metric
        if self._shared is None:
            self._shared = self._dense()
        return self._shared, -1

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()

    def who(self, models: Sequence[Any]) -> str:
        """The names of *models*; nothing where one of them is a stranger."""
        names = [next((n for n, own in self.models.items() if own is m), "") for m in models]
        return "+".join(names) if all(names) else ""

    def once(self, who: str, given: object, make: Callable[[], T], of: int) -> T:
        journal, metric = self.place(who)
        digest = hashlib.blake2b(repr(given).encode(), digest_size=16).hexdigest()
        name = f"{metric}/{who}/{digest}"
        # A metric may change a model in place and ask the same again: each time stands for itself.
        self.asked[name] = nth = self.asked.get(name, 0) + 1
        name += f"/{nth}"
        if (kept := journal.batch(name)) is not None:
            self.journal.saved_seconds += kept[1]
            found: T = kept[0]
            return found
        start = time.perf_counter()
        found = make()
        seconds = round(time.perf_counter() - start, 6)
        told = {"metric": metric, "who": who, "of": of, "seconds": seconds, "found": found}
        journal.append({"batch": name, **told})
        return found


_SEARCH: ContextVar[Journal | None] = ContextVar("search", default=None)
_METRIC: ContextVar[_Scope | None] = ContextVar("metric", default=None)


def once(
    models: Sequence[Any], given: Callable[[], object], make: Callable[[], T], of: int = 0
) -> T:
    """``make()``, or what an earlier run of the same case got from it at this very point.

    Outside of a run with a journal, and for a model that is none of the case's, it is just that.

    Args:
        models: which models it runs.
        given: everything else that the result depends on; plain data whose ``repr`` says it all.
        make: the work; what it gives is plain JSON data, numbers that are not finite included.
        of: how many such batches there are in this loop, where it is known.
    """
    scope = _METRIC.get()
    if scope is None or not (who := scope.who(models)):
        return make()
    return scope.once(who, given(), make, of)


def steps() -> list[Step]:
    """The first steps of the search at hand, as an earlier run of the same case made them."""
    journal = _SEARCH.get()
    return journal.steps if journal else []


def keep_step(step: Step) -> None:
    """Keep a step of the search at hand."""
    if journal := _SEARCH.get():
        journal.keep_step(step)


def _write(handle: int, entry: dict[str, Any]) -> None:
    # Python's own JSON has words for what is not finite, and floats keep every bit.
    body = json.dumps(entry, separators=(",", ":")).encode()
    line = _sum(body) + b" " + body + b"\n"
    while line:
        line = line[os.write(handle, line) :]


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


def _first_line(file: Path) -> dict[str, Any] | None:
    try:
        with file.open("rb") as stream:
            return _parsed(stream.readline().removesuffix(b"\n"))
    except OSError:
        return None


def _entries(file: Path, head: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The lines of a file after the first, up to the first that is damaged."""
    try:
        lines = file.read_bytes().split(b"\n")[:-1]  # a line without its end was cut off
    except OSError as error:
        _warn(f"{file}: cannot be read: {error.strerror}; what it holds is computed again")
        return
    for number, line in enumerate(lines):
        if (entry := _parsed(line)) is None:
            _warn(f"{file}:{number + 1}: damaged; what it holds from there on is computed again")
            return
        if number:
            yield entry
        elif entry != head:
            return  # of another content


def _warn(text: str) -> None:
    warnings.warn(text, PrunebenchWarning, stacklevel=3)

"""A pool of worker processes on this machine, each bound to a GPU and a share of the cores.

This process hands out cases and never imports torch. Cases that share a search go to one worker in
order. Cases that time something come last, because they have their device alone (see
``system.locks``), and models that are spread over several GPUs come after all others, in one worker
that sees all of them. A worker that dies loses only its current case, which is tried once more in a
new one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..case import Case, search_key
from ..errors import PrunebenchError
from ..results.baselines.files import Baselines
from ..results.resume import folders
from ..results.store import Store
from ..system import signals
from ..system.console import plain_warnings
from ..system.machine import before_torch
from ..verdicts.verdict import Verdict
from .gpu_slots import Slot, cores
from .result import Result
from .session import Session

#: Seconds that a worker has to save its state after SIGTERM, its last words included; less than a
#: scheduler gives the whole run.
PATIENCE = signals.PATIENCE + signals.LAST_WORDS + 1.0

#: How often a case is tried whose worker dies.
TRIES = 2

#: Called with the number of a worker, its case, and the step.
WorkerProgress = Callable[[int, Case, str], None]


class Recipe(Struct, frozen=True):
    """What another process makes a session from, except for its cases.

    *options* are keyword arguments of ``Session``.
    """

    store: Path
    baselines: Path
    device: str | None
    options: dict[str, Any]

    @classmethod
    def of(cls, session: Session, device: str | None) -> Recipe:
        """The recipe that rebuilds *session* on *device*."""
        names = ("fresh", "since", "fail_on", "conditions", "alpha")
        return cls(
            store=session.store.root.absolute(),
            baselines=session.baselines.root.absolute(),
            device=device,
            options={name: getattr(session, name) for name in names},
        )

    def session(self, cases: Sequence[Case], progress: Callable[[Case, str], None]) -> Session:
        """A new session.

        Raises:
            PrunebenchError: if there is no such device, or the papers' numbers cannot be read.
        """
        store, baselines = Store(self.store), Baselines(self.baselines)
        return Session(cases, store, baselines, self.device, progress=progress, **self.options)


def groups(cases: Sequence[Case], numbers: Sequence[int]) -> list[list[int]]:
    """*numbers* of cases per group that one worker answers in order, for they share a search.

    Groups that time something come last.
    """
    found: dict[object, list[int]] = {}
    for number in numbers:
        found.setdefault(search_key(cases[number]), []).append(number)
    return sorted(found.values(), key=lambda group: any(cases[i].times for i in group))


class _Worker:
    """A worker process: its number, its slot, the cases assigned to it and the current one."""

    def __init__(self, number: int, slot: Slot, recipe: Recipe, cases: Sequence[Case]) -> None:
        self.number = number
        self.slot = slot
        self.group: deque[int] = deque()
        self.at: int | None = None
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(theirs, recipe, list(cases)), name=f"worker {number}"
        )
        with _inherited(slot):
            self.process.start()
        theirs.close()

    def ask(self, number: int, *, waiting: bool) -> None:
        """Send it a case; its sentinel shows if it is dead already."""
        self.at = number
        with contextlib.suppress(OSError):
            self.pipe.send((number, waiting))

    def retire(self) -> None:
        """Let it end."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(PATIENCE)
        self.kill(signal.SIGKILL)

    def kill(self, number: int) -> None:
        """Send a signal to it and to every process that it started."""
        pid = self.process.pid
        assert pid is not None  # noqa: S101  # it was started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.process.is_alive():  # it may have no process group of its own yet
                os.kill(pid, number)
            os.killpg(pid, number)


class Pool:
    """Answers cases with several workers, one for each slot; *progress* has every step."""

    def __init__(
        self,
        cases: Sequence[Case],
        recipe: Recipe,
        slots: Sequence[Slot],
        progress: WorkerProgress,
    ) -> None:
        self._cases = cases
        self._recipe = recipe
        self._slots = slots
        self._progress = progress
        self._workers: list[_Worker] = []
        self._tries: dict[int, int] = {}
        self._queue: deque[list[int]] = deque()
        self._later: deque[int] = deque()

    def answers(self, numbers: Sequence[int]) -> Iterator[Result]:
        """The results of the cases of these *numbers* as they finish.

        Raises:
            PrunebenchError: if a record cannot be saved, or there is no such device.
        """
        found = groups(self._cases, numbers)
        wide = [group for group in found if any(_spread(self._cases[i]) for i in group)]
        narrow = [group for group in found if group not in wide]
        yield from self._run(narrow, self._slots)
        if wide:
            gpus = list(dict.fromkeys(s.gpus for s in self._slots if s.gpus is not None))
            everything = Slot(",".join(gpus) if gpus else None, cores())
            yield from self._run(wide, [everything])

    def _run(self, groups: Sequence[list[int]], slots: Sequence[Slot]) -> Iterator[Result]:
        self._queue.extend(groups)
        try:
            for number, slot in enumerate(slots[: len(groups)]):
                self._start(number, slot)
            while self._workers:
                yield from self._listen()
        finally:
            self._stop()

    def _start(self, number: int, slot: Slot) -> None:
        worker = _Worker(number, slot, self._recipe, self._cases)
        self._workers.append(worker)
        self._next(worker)

    def _next(self, worker: _Worker) -> None:
        """Give *worker* its next case, or one that another process holds, or let it end."""
        last, worker.at = worker.at, None
        if not worker.group and self._queue:
            # The next group is one of the loaded model, or else the first.
            models = [self._cases[group[0]].model for group in self._queue]
            loaded = None if last is None else self._cases[last].model
            place = models.index(loaded) if loaded in models else 0
            worker.group.extend(self._queue[place])
            del self._queue[place]
        if worker.group:
            worker.ask(worker.group.popleft(), waiting=False)
        elif self._later:
            worker.ask(self._later.popleft(), waiting=True)
        else:
            self._workers.remove(worker)
            worker.retire()

    def _listen(self) -> Iterator[Result]:
        workers = list(self._workers)
        ready = wait([*(h.pipe for h in workers), *(h.process.sentinel for h in workers)])
        for worker in workers:
            if worker.pipe in ready:
                yield from self._heard(worker)
            if worker.process.sentinel in ready and worker in self._workers:
                yield from self._died(worker)

    def _heard(self, worker: _Worker) -> Iterator[Result]:
        """Handle every message that *worker* has sent."""
        try:
            while worker in self._workers and worker.pipe.poll():
                kind, number, content = worker.pipe.recv()
                if kind == "step":
                    self._progress(worker.number, self._cases[number], content)
                elif kind == "failed":
                    raise PrunebenchError(content)
                else:
                    if content is None:
                        self._later.append(number)
                    else:
                        yield content
                    self._next(worker)
        except (EOFError, OSError):
            return  # dead: its sentinel shows

    def _died(self, worker: _Worker) -> Iterator[Result]:
        yield from self._heard(worker)
        if worker not in self._workers:
            return
        self._workers.remove(worker)
        worker.process.join()
        worker.kill(signal.SIGKILL)  # processes that it may have started
        rest = list(worker.group)
        if (number := worker.at) is not None:
            self._tries[number] = self._tries.get(number, 0) + 1
            if self._tries[number] < TRIES:
                rest.insert(0, number)
            else:
                case = self._cases[number]
                error = _death(worker.process.exitcode or 0)
                yield Result(case, Verdict(case.id, ok=False, error=error))
        if rest:
            self._queue.appendleft(rest)
        if self._queue or self._later:
            self._start(worker.number, worker.slot)

    def _stop(self) -> None:
        """End all remaining workers: they save their state, or are killed."""
        left, self._workers = self._workers, []
        self._queue.clear()
        for worker in left:
            worker.kill(signal.SIGTERM)
        end = time.monotonic() + PATIENCE
        for worker in left:
            worker.process.join(max(0.0, end - time.monotonic()))
            worker.kill(signal.SIGKILL)
            worker.process.join()


def _spread(case: Case) -> bool:
    """Whether a case needs several GPUs."""
    return case.model.device_map is not None or (case.needs.gpus or 1) > 1


def _death(code: int) -> str:
    if code >= 0:
        return f"the worker ended with exit code {code}, twice"
    why = " (killed, perhaps out of memory)" if -code == signal.SIGKILL else ""
    return f"the worker died with signal {-code}{why}, twice"


@contextmanager
def _inherited(slot: Slot) -> Iterator[None]:
    """Set what a worker inherits: its environment, and no Ctrl-C until it has a process group."""
    before_torch()
    mine = {"OMP_NUM_THREADS": str(slot.threads), "MKL_NUM_THREADS": str(slot.threads)}
    if slot.gpus is not None:
        mine["CUDA_VISIBLE_DEVICES"] = slot.gpus
    before = {key: os.environ[key] for key in mine if key in os.environ}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    os.environ.update(mine)
    try:
        yield
    finally:
        for key in mine:
            del os.environ[key]
        os.environ.update(before)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _work(pipe: Connection, recipe: Recipe, cases: Sequence[Case]) -> None:
    """The main loop of a worker process: answer cases until there are no more."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_parent, daemon=True, name="parent").start()
    places = {case.id: number for number, case in enumerate(cases)}
    plain_warnings()

    def progress(case: Case, what: str) -> None:
        with contextlib.suppress(OSError):  # the parent has closed it
            pipe.send(("step", places[case.id], what))

    number = 0
    try:
        with signals.handled(folders.last_words):
            session = recipe.session(cases, progress)
            while (asked := pipe.recv()) is not None:
                number, waiting = asked
                case = cases[number]
                result = session.answer(case) if waiting else session.attempt(case)
                pipe.send(("done", number, result))
    except PrunebenchError as error:
        pipe.send(("failed", number, str(error)))
    except (EOFError, signals.StopRequest):
        pass  # the case's state is saved, and its claim released


def _end_with_parent() -> None:
    """Stop when the process that hands out cases has ended, for whatever reason."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.killpg(0, signal.SIGTERM)
    time.sleep(PATIENCE)
    os.killpg(0, signal.SIGKILL)

"""Cases spread over worker processes of this machine, each bound to a GPU and a share of the cores.

This process hands out cases and never imports torch. Cases that share a search go to one worker in
order; those that time something come last, because they have their device alone (see `claims`); and
models that are spread over several GPUs come after all others, in one worker that sees all of them.
A worker that dies loses only the case at hand, which is tried once more in a fresh one.
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

from msgspec import Struct

from ..case import Case, search_of
from ..errors import PrunebenchError
from ..results.baselines.files import Baselines
from ..results.resume import folders
from ..results.store import Store
from ..system import signals
from ..system.console import plain_warnings
from ..system.machine import before_torch
from ..verdicts.conditions import Condition
from ..verdicts.verdict import Outcome, Verdict
from .gpu_slots import Slot, cores
from .session import Result, Session

#: Seconds that a worker is given to save what it has once it is told to stop: its own last words
#: included, and less than a scheduler gives all of us.
PATIENCE = signals.PATIENCE + signals.LAST_WORDS + 1.0

#: How often a case is tried that its worker does not survive.
TRIES = 2

#: Told the number of a worker, its case, and the step.
WorkerProgress = Callable[[int, Case, str], None]


class Recipe(Struct, frozen=True):
    """What a session in another process is made from, but for its cases."""

    store: Path
    baselines: Path
    device: str | None
    fresh: bool
    since: str
    fail_on: tuple[Outcome, ...] | None
    conditions: tuple[Condition, ...] | None
    alpha: float | None

    @classmethod
    def of(cls, session: Session, device: str | None) -> Recipe:
        """That of one like *session*, on *device*."""
        return cls(
            store=session.store.root.absolute(),
            baselines=session.baselines.root.absolute(),
            device=device,
            fresh=session.fresh,
            since=session.since,
            fail_on=session.fail_on,
            conditions=session.conditions,
            alpha=session.alpha,
        )

    def session(self, cases: Sequence[Case], progress: Callable[[Case, str], None]) -> Session:
        """A new session.

        Raises:
            PrunebenchError: if there is no such device, or the papers' numbers cannot be read.
        """
        return Session(
            cases,
            Store(self.store),
            Baselines(self.baselines),
            self.device,
            fresh=self.fresh,
            since=self.since,
            fail_on=self.fail_on,
            conditions=self.conditions,
            alpha=self.alpha,
            progress=progress,
        )


def groups(cases: Sequence[Case]) -> list[list[int]]:
    """Numbers of cases that one worker should do in order, for they share a model and a search.

    Those that time something come last.
    """
    found: dict[object, list[int]] = {}
    for number, case in enumerate(cases):
        found.setdefault(search_of(case), []).append(number)
    return sorted(found.values(), key=lambda group: any(cases[i].times for i in group))


class _Hand:
    """A worker process: its number, its place, the cases it is to do and the one at hand."""

    def __init__(self, number: int, slot: Slot, recipe: Recipe, cases: Sequence[Case]) -> None:
        self.number = number
        self.slot = slot
        self.group: deque[int] = deque()
        self.at: int | None = None
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=_work, args=(theirs, recipe, list(cases)), name=f"worker {number}"
        )
        with _environment(slot), _no_interrupt():
            self.process.start()
        theirs.close()

    def ask(self, number: int, *, waiting: bool) -> None:
        """Have a case done; if it is dead already, that is found out by its sentinel."""
        self.at = number
        with contextlib.suppress(OSError):
            self.pipe.send((number, waiting))

    def retire(self) -> None:
        """Have it end."""
        with contextlib.suppress(OSError):
            self.pipe.send(None)
        self.process.join(PATIENCE)
        self.kill(signal.SIGKILL)

    def kill(self, number: int) -> None:
        """Send a signal to it and whatever it started."""
        pid = self.process.pid
        assert pid is not None  # noqa: S101  # it was started
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if self.process.is_alive():  # perhaps it has no group of its own yet
                os.kill(pid, number)
            os.killpg(pid, number)


class Pool:
    """Answers cases with several workers.

    Args:
        cases: the cases.
        recipe: what the workers' sessions are made from.
        places: a slot for each worker.
        progress: told what every worker is at.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        recipe: Recipe,
        places: Sequence[Slot],
        progress: WorkerProgress,
    ) -> None:
        self._cases = cases
        self._recipe = recipe
        self._places = places
        self._progress = progress
        self._hands: list[_Hand] = []
        self._tries: dict[int, int] = {}
        self._queue: deque[list[int]] = deque()
        self._later: deque[int] = deque()

    def answers(self, numbers: Sequence[int]) -> Iterator[tuple[int, Result]]:
        """The results of the cases of these numbers as they come, with their numbers.

        Raises:
            PrunebenchError: if a record cannot be saved, or there is no such device.
        """
        chosen = [self._cases[i] for i in numbers]
        found = [[numbers[i] for i in group] for group in groups(chosen)]
        wide = [group for group in found if any(_spread(self._cases[i]) for i in group)]
        narrow = [group for group in found if group not in wide]
        yield from self._run(narrow, self._places)
        if wide:
            gpus = list(dict.fromkeys(s.gpus for s in self._places if s.gpus is not None))
            everything = Slot(",".join(gpus) if gpus else None, cores())
            yield from self._run(wide, [everything])

    def _run(
        self, found: Sequence[list[int]], places: Sequence[Slot]
    ) -> Iterator[tuple[int, Result]]:
        self._queue.extend(found)
        try:
            for number, slot in enumerate(places[: len(found)]):
                self._start(number, slot)
            while self._hands:
                yield from self._listen()
        finally:
            self._stop()

    def _start(self, number: int, slot: Slot) -> None:
        hand = _Hand(number, slot, self._recipe, self._cases)
        self._hands.append(hand)
        self._next(hand)

    def _next(self, hand: _Hand) -> None:
        """Give *hand* its next case, or what others hold, or let it go."""
        last, hand.at = hand.at, None
        if not hand.group and self._queue:
            place = self._nearest(last)
            hand.group.extend(self._queue[place])
            del self._queue[place]
        if hand.group:
            hand.ask(hand.group.popleft(), waiting=False)
        elif self._later:
            hand.ask(self._later.popleft(), waiting=True)
        else:
            self._hands.remove(hand)
            hand.retire()

    def _nearest(self, last: int | None) -> int:
        """Which group is next: one of the model that is loaded already, or else the first."""
        if last is not None:
            for place, group in enumerate(self._queue):
                if self._cases[group[0]].model == self._cases[last].model:
                    return place
        return 0

    def _listen(self) -> Iterator[tuple[int, Result]]:
        hands = list(self._hands)
        ready = wait([*(h.pipe for h in hands), *(h.process.sentinel for h in hands)])
        for hand in hands:
            if hand.pipe in ready:
                yield from self._heard(hand)
            if hand.process.sentinel in ready and hand in self._hands:
                yield from self._died(hand)

    def _heard(self, hand: _Hand) -> Iterator[tuple[int, Result]]:
        """Everything that *hand* has said."""
        try:
            while hand in self._hands and hand.pipe.poll():
                kind, number, content = hand.pipe.recv()
                if kind == "step":
                    self._progress(hand.number, self._cases[number], content)
                elif kind == "failed":
                    raise PrunebenchError(content)
                else:
                    if content is None:
                        self._later.append(number)
                    else:
                        yield number, content
                    self._next(hand)
        except (EOFError, OSError):
            return  # dead: its sentinel tells

    def _died(self, hand: _Hand) -> Iterator[tuple[int, Result]]:
        yield from self._heard(hand)
        if hand not in self._hands:
            return
        self._hands.remove(hand)
        hand.process.join()
        hand.kill(signal.SIGKILL)  # what it may have started
        rest = list(hand.group)
        if (number := hand.at) is not None:
            self._tries[number] = self._tries.get(number, 0) + 1
            if self._tries[number] < TRIES:
                rest.insert(0, number)
            else:
                case = self._cases[number]
                error = _death(hand.process.exitcode or 0)
                yield number, Result(case, Verdict(case.id, ok=False, error=error))
        if rest:
            self._queue.appendleft(rest)
        if self._queue or self._later:
            self._start(hand.number, hand.slot)

    def _stop(self) -> None:
        """End all workers that there still are: they save, or are killed."""
        left, self._hands = self._hands, []
        self._queue.clear()
        for hand in left:
            hand.kill(signal.SIGTERM)
        end = time.monotonic() + PATIENCE
        for hand in left:
            hand.process.join(max(0.0, end - time.monotonic()))
            hand.kill(signal.SIGKILL)
            hand.process.join()


def _spread(case: Case) -> bool:
    """Whether a case takes several GPUs."""
    return case.model.device_map is not None or (case.needs.gpus or 1) > 1


def _death(code: int) -> str:
    if code >= 0:
        return f"the worker ended with exit code {code}, twice"
    why = " (killed, perhaps for want of memory)" if -code == signal.SIGKILL else ""
    return f"the worker died with signal {-code}{why}, twice"


@contextmanager
def _environment(slot: Slot) -> Iterator[None]:
    """What has to be in a worker's environment before it starts Python, for this process's."""
    before_torch()
    mine = {"OMP_NUM_THREADS": str(slot.threads), "MKL_NUM_THREADS": str(slot.threads)}
    if slot.gpus is not None:
        mine["CUDA_VISIBLE_DEVICES"] = slot.gpus
    before = {key: os.environ.get(key) for key in mine}
    os.environ.update(mine)
    try:
        yield
    finally:
        for key, value in before.items():
            if value is None:
                del os.environ[key]
            else:
                os.environ[key] = value


@contextmanager
def _no_interrupt() -> Iterator[None]:
    """Ctrl-C reaches a new process only once it has a group of its own, and then not at all."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _work(pipe: Connection, recipe: Recipe, cases: Sequence[Case]) -> None:
    """The life of a worker: answers what it is asked until there is no more."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_outlive_nobody, daemon=True, name="parent").start()
    places = {case.id: number for number, case in enumerate(cases)}
    plain_warnings()

    def progress(case: Case, what: str) -> None:
        with contextlib.suppress(OSError):  # nobody listens any more
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
        pass  # what the case has so far is kept, and it is claimed no longer


def _outlive_nobody() -> None:
    """Stop when the process that hands out cases is gone, however it went."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return
    parent.join()
    os.killpg(0, signal.SIGTERM)
    time.sleep(PATIENCE)
    os.killpg(0, signal.SIGKILL)

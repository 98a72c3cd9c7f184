"""Where the cases of a run are answered: in this process, in workers beside it, or as jobs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from ..case import Case
from ..errors import PrunebenchError
from ..system import signals
from ..system.machine import has_gpu_files
from . import job_collect, job_submit
from . import worker_pool as workers
from .gpu_slots import slots
from .session import Result, Session
from .worker_pool import Pool, Recipe


class Display(Protocol):
    """Where progress goes: ``reports.progress_bar.Display``, or whoever else listens."""

    def note(self, text: str) -> None:
        """Show a line."""

    def worker_step(self, worker: int, case: Case, what: str) -> None:
        """Show what a worker does."""


class How(Struct, frozen=True):
    """What the command line says of it: *workers* as text, *executor* empty for none."""

    workers: str = ""
    per_gpu: int = 1
    executor: str = ""
    options: tuple[str, ...] = ()
    detach: bool = False

    @property
    def here(self) -> bool:
        """Whether this process does all the work."""
        return not self.workers and not self.executor

    @property
    def patience(self) -> float:
        """Seconds after a scheduler's signal that this process may take to come to its end."""
        return workers.PATIENCE + 1.0 if self.workers else signals.PATIENCE

    @property
    def jobs(self) -> job_submit.Jobs:
        """What jobs to make, with an executor."""
        return job_submit.Jobs(self.executor, self.workers, self.options)

    def check(self) -> None:
        """Refuse what does not go together, before anything is done.

        Raises:
            PrunebenchError: with a line that says what does.
        """
        if self.executor and self.executor not in job_submit.EXECUTORS:
            allowed = ", ".join(job_submit.EXECUTORS)
            raise PrunebenchError(f"--executor {self.executor}: unknown; allowed: {allowed}")
        if (self.options or self.detach) and not self.executor:
            option = "--slurm" if self.options else "--detach"
            raise PrunebenchError(f"{option} goes with --executor slurm")
        if self.detach and self.executor != "slurm":
            raise PrunebenchError("--detach goes with --executor slurm: other jobs end with us")
        if self.per_gpu > 1 and not self.workers:
            raise PrunebenchError("--per-gpu goes with -n")
        if self.executor:
            job_submit.check(self.jobs)

    def device_here(self, device: str | None) -> str | None:
        """The device of this process: where others do the work, it leaves the GPUs alone."""
        return device if self.here or device == "cpu" else None


def answers(
    session: Session, device: str | None, how: How, display: Display
) -> Generator[Result, None, None]:
    """The results of all cases of *session*, as they come.

    Raises:
        PrunebenchError: if the whole run fails.
    """
    if how.executor:
        yield from job_collect.answers(session, device, how.jobs, display.note, detach=how.detach)
    elif how.workers:
        yield from _by_workers(session, device, how, display)
    else:
        yield from session.answers(session.cases)


def in_order(results: Sequence[Result], cases: Sequence[Case]) -> list[Result]:
    """*results* in the order of their cases."""
    places = {case.id: place for place, case in enumerate(cases)}
    return sorted(results, key=lambda result: places[result.case.id])


def _by_workers(
    session: Session, device: str | None, how: How, display: Display
) -> Iterator[Result]:
    places = slots(how.workers, device, how.per_gpu)
    left = []
    # To ask what a GPU is called takes memory on it; then the workers look into the store.
    light = device == "cpu" or not has_gpu_files()
    for number, case in enumerate(session.cases):
        if light and (result := session.reused(case)):
            yield result
        else:
            left.append(number)
    pool = Pool(session.cases, Recipe.of(session, device), places, display.worker_step)
    for _, result in pool.answers(left):
        yield result

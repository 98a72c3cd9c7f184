"""Chooses an executor: in-process, worker pool, or Slurm jobs."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

from msgspec import Struct

from ..case import Case
from ..errors import PrunebenchError
from ..system import signals
from ..system.machine import has_gpu_files
from . import job_collect, worker_pool
from .gpu_slots import slots
from .job_submit import JobOptions
from .result import Result
from .session import Session
from .worker_pool import Pool, Recipe

#: What ``--executor`` may be.
EXECUTORS = ("slurm",)


class Display(Protocol):
    """Shows progress, as ``reports.progress_bar.Display`` does."""

    def note(self, text: str) -> None:
        """Show a line."""

    def worker_step(self, worker: int, case: Case, what: str) -> None:
        """Show the current step of a worker."""


class ExecutionOptions(Struct, frozen=True):
    """Executor options from the command line: ``-n``, ``--per-gpu``, ``--executor``, ``--slurm``.

    *workers* and *executor* are as given, empty without the option.
    """

    workers: str = ""
    per_gpu: int = 1
    executor: str = ""
    options: tuple[str, ...] = ()
    detach: bool = False

    @property
    def here(self) -> bool:
        """Whether this process measures all cases itself."""
        return not self.workers and not self.executor

    @property
    def patience(self) -> float:
        """Seconds after a scheduler's signal that this process may take to end."""
        return worker_pool.PATIENCE + 1.0 if self.workers else signals.PATIENCE

    @property
    def jobs(self) -> JobOptions:
        """How jobs are submitted."""
        return JobOptions(self.workers, self.options)

    def check(self) -> None:
        """Refuse options that exclude each other, before anything is done.

        Raises:
            PrunebenchError: with a line that says what is allowed.
        """
        if self.executor and self.executor not in EXECUTORS:
            raise PrunebenchError(
                f"--executor {self.executor}: unknown; allowed: {', '.join(EXECUTORS)}; "
                "-n N runs workers on this machine"
            )
        if (self.options or self.detach) and not self.executor:
            option = "--slurm" if self.options else "--detach"
            raise PrunebenchError(f"{option} goes with --executor slurm")
        if self.per_gpu > 1 and not self.workers:
            raise PrunebenchError("--per-gpu goes with -n")
        if self.executor:
            self.jobs.check()

    def device_here(self, device: str | None) -> str | None:
        """The device of this process: where others measure, it leaves the GPUs alone."""
        return device if self.here or device == "cpu" else None


def answers(
    session: Session, device: str | None, how: ExecutionOptions, display: Display
) -> Generator[Result, None, None]:
    """The results of all cases of *session*, as they finish.

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
    session: Session, device: str | None, how: ExecutionOptions, display: Display
) -> Iterator[Result]:
    places = slots(how.workers, device, how.per_gpu)
    missing = []
    # Asking a GPU for its name takes memory on it; then the workers look into the store.
    light = device == "cpu" or not has_gpu_files()
    for number, case in enumerate(session.cases):
        if light and (result := session.reused(case)):
            yield result
        else:
            missing.append(number)
    pool = Pool(session.cases, Recipe.of(session, device), places, display.worker_step)
    for _, result in pool.answers(missing):
        yield result

"""Chooses an executor: in-process, worker pool, or Slurm jobs."""

from __future__ import annotations

from collections.abc import Callable, Generator

from msgspec import Struct

from ..errors import PrunebenchError
from ..system import signals
from ..system.machine import has_gpu_files
from . import job_collect, job_submit, worker_pool
from .gpu_slots import slots
from .result import Result
from .session import Session
from .worker_pool import Pool, Recipe, WorkerProgress

#: What ``--executor`` may be.
EXECUTORS = ("slurm",)


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
            job_submit.parameters(self.workers, self.options)
            job_submit.library()

    def device_here(self, device: str | None) -> str | None:
        """The device of this process: where others measure, it leaves the GPUs alone."""
        return device if self.here or device == "cpu" else None


def answers(
    session: Session,
    device: str | None,
    how: ExecutionOptions,
    note: Callable[[str], None],
    worker_step: WorkerProgress,
) -> Generator[Result, None, None]:
    """The results of all cases of *session*, as they finish.

    Raises:
        PrunebenchError: if the whole run fails.
    """
    if how.executor:
        parameters = job_submit.parameters(how.workers, how.options)
        yield from job_collect.answers(session, device, parameters, note, detach=how.detach)
        return
    if not how.workers:
        yield from session.answers(session.cases)
        return
    places = slots(how.workers, device, how.per_gpu)
    missing = []
    # Asking a GPU for its name takes memory on it; then the workers look into the store.
    light = device == "cpu" or not has_gpu_files()
    for number, case in enumerate(session.cases):
        if light and (result := session.reused(case)):
            yield result
        else:
            missing.append(number)
    pool = Pool(session.cases, Recipe.of(session, device), places, worker_step)
    yield from pool.answers(missing)

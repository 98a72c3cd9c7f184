"""Submits cases as Slurm jobs, through the library submitit.

Jobs need what this process has: the same folders and the same Python. Each answers its cases one
after the other and saves every record at once. A job that gets SIGUSR1, before its time is over or
when it is preempted, requeues itself and then resumes with what is not in the store. Which job has
which cases is noted next to the logs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..case import Case
from ..errors import PrunebenchError
from ..system import files
from ..system.console import print_note
from ..system.machine import before_torch
from ..verdicts.verdict import Verdict
from .worker_pool import Recipe, groups

#: Minutes that a job may take without ``--slurm time=``.
MINUTES = 240

#: Seconds between Slurm's signal and the end of a job, in which it saves and requeues itself.
NOTICE = 90

#: How often a job may run out of time and be requeued.
REQUEUES = 50


class Note(Struct, frozen=True):
    """The cases of a job, as a file next to its log: their ids and questions."""

    job: str
    cases: tuple[tuple[str, dict[str, Any]], ...]


class Task(Struct):
    """The work of a job, as submitit calls and pickles it: the cases *numbers* of all *cases*."""

    cases: Sequence[Case]
    recipe: Recipe
    numbers: Sequence[int]

    def __call__(self) -> tuple[dict[str, Verdict], str]:
        """Answer the cases; those that are in the store already take no time.

        Returns:
            The verdicts of the cases without a record, by id, and the error that ended the whole
            job or an empty text.
        """
        before_torch()
        verdicts = {}
        try:
            session = self.recipe.session(self.cases, _log)
            for result in session.answers([self.cases[i] for i in self.numbers]):
                print_note(f"{result.case.id}: {result.verdict.outcome}")
                if result.record is None:
                    verdicts[result.case.id] = result.verdict
        except PrunebenchError as error:
            return verdicts, str(error)
        return verdicts, ""

    def checkpoint(self, *_: object, **__: object) -> Any:
        """What submitit requeues: the same task, since finished cases are in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Job(Struct):
    """A submitted job, the numbers of its cases, and how often the queue lacked it in a row."""

    job: Any
    numbers: list[int]
    missing: int = 0


def submit(
    cases: Sequence[Case],
    recipe: Recipe,
    numbers: Sequence[int],
    folder: Path,
    parameters: Mapping[str, Any],
) -> list[Job]:
    """Submit the cases of these *numbers* as one array, and note in *folder* which job has which.

    Raises:
        PrunebenchError: if Slurm refuses.
    """
    submitit = library()
    slurm = _executor(submitit, folder, parameters)
    shared = groups(cases, numbers)
    try:
        with slurm.batch():  # one array
            submitted = [slurm.submit(Task(cases, recipe, group)) for group in shared]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        last = str(error).strip().splitlines()[-1]
        raise PrunebenchError(f"--executor slurm: sbatch refuses: {last}") from None
    jobs = [Job(job, group) for job, group in zip(submitted, shared, strict=True)]
    for job in jobs:
        asked = tuple((cases[i].id, cases[i].asked) for i in job.numbers)
        files.write_json(folder / f"{job.job.job_id}.note.json", Note(job.job.job_id, asked))
    return jobs


def _executor(submitit: Any, folder: Path, parameters: Mapping[str, Any]) -> Any:
    try:
        slurm = submitit.SlurmExecutor(folder, max_num_timeout=REQUEUES)
    except RuntimeError:
        raise PrunebenchError("--executor slurm: there is no srun here") from None
    slurm.update_parameters(
        job_name="prunebench",
        time=MINUTES,
        signal_delay_s=NOTICE,
        stderr_to_stdout=True,
        setup=["export SUBMITIT_PREEMPT_SIGNAL=USR1"],
    )
    others: dict[str, Any] = {"requeue": True, "signal": f"USR1@{NOTICE}"}
    for key, value in parameters.items():
        try:
            slurm.update_parameters(**{key: value})
        except ValueError:  # submitit does not know it; sbatch may
            others[key.replace("_", "-")] = value
    slurm.update_parameters(additional_parameters=others)
    return slurm


def _log(case: Case, what: str) -> None:
    # Into the job's log, without the many small steps of a search.
    if "," not in what:
        print_note(f"{case.id}: {what}")


def library() -> Any:
    """The module submitit, set up so that jobs are preempted by SIGUSR1.

    Raises:
        PrunebenchError: if it is not installed.
    """
    # Read when submitit is imported. Its own default is USR2, which schedulers' manuals do not use.
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "ERROR")
    try:
        import submitit
    except ImportError:
        raise PrunebenchError(
            "--executor needs submitit: pip install 'prunebench[slurm]'"
        ) from None
    return submitit


def parameters(workers: str, options: Sequence[str]) -> dict[str, Any]:
    """Slurm's parameters for a limit of *workers* jobs at once and ``KEY=VALUE`` *options*.

    Raises:
        PrunebenchError: with a line that says what is expected.
    """
    found: dict[str, Any] = {}
    if workers not in ("", "auto"):
        if not workers.isdecimal() or not int(workers):
            raise PrunebenchError(f"-n {workers}: expected a number from 1, or auto")
        found["array_parallelism"] = int(workers)
    for text in options:
        key, equals, value = text.partition("=")
        key = key.strip().lstrip("-").replace("-", "_")
        if not equals or not key:
            raise PrunebenchError(f"--slurm {text}: expected KEY=VALUE, e.g. partition=gpu")
        found[key] = minutes(value) if key == "time" else _typed(value)
    return found


def _typed(value: str) -> Any:
    if value.isdecimal() and str(int(value)) == value:  # an account may be called 007
        return int(value)
    return {"true": True, "false": False}.get(value, value)


def minutes(text: str) -> int:
    """A time as ``sbatch --time`` takes it (man sbatch), in minutes, rounded up.

    Raises:
        PrunebenchError: if it has another form.
    """
    form = re.fullmatch(r"(?:([0-9]+)-)?([0-9]+)(?::([0-9]+))?(?::([0-9]+))?", text)
    if form is None:
        raise PrunebenchError(
            f"--slurm time={text}: expected minutes, HH:MM:SS, MM:SS or D-HH[:MM[:SS]]"
        )
    days, *rest = form.groups()
    numbers = [int(part) for part in rest if part is not None]
    if days is None and len(numbers) < 3:
        numbers.insert(0, 0)
    hours, mins, seconds = [*numbers, 0, 0][:3]
    return int(days or 0) * 1440 + hours * 60 + mins + (seconds > 0)

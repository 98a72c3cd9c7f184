"""Jobs through the library submitit: what they are given, how Slurm or a process here gets them.

Jobs need what this process has: the same folders, the same Python. Each does its cases one after
the other and saves every record at once; a job that is told to go (SIGUSR1, before its time is over
or when it is preempted) puts itself into the queue again and then goes on with what is not in the
store. Which cases were given to which job is noted beside the logs.

submitit's executors ``local`` (processes here) and ``debug`` (this process) do the same without
Slurm.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from msgspec import Struct

from ..case import Case
from ..errors import PrunebenchError
from ..system import files
from ..system.machine import before_torch
from ..verdicts.verdict import Verdict
from .gpu_slots import cores, visible_gpus
from .worker_pool import Recipe, groups

EXECUTORS = ("slurm", "local", "debug")

#: Minutes of a job where ``--slurm time=`` does not say.
MINUTES = 240

#: Seconds between Slurm's signal and its end, in which a job saves and requeues.
NOTICE = 90

#: How often a job may run out of time and come again.
COMEBACKS = 50


class Note(Struct, frozen=True):
    """What a job was given: the ids of its cases and what they asked."""

    job: str
    cases: tuple[tuple[str, dict[str, Any]], ...]


class Jobs(Struct, frozen=True):
    """What jobs to make: by which of EXECUTORS, how many at once, with ``KEY=VALUE`` of sbatch.

    *parallel* is text as ``-n`` takes it; empty for as many as there are.
    """

    executor: str
    parallel: str = ""
    options: tuple[str, ...] = ()


class Task:
    """What a job does: some *mine* of all *cases* of a run.

    Called, it gives the verdicts of the cases that left no record, by id, and what failed it as a
    whole, or an empty text.
    """

    def __init__(self, cases: Sequence[Case], recipe: Recipe, mine: Sequence[int]) -> None:
        self.cases = list(cases)
        self.recipe = recipe
        self.mine = list(mine)

    def __call__(self) -> tuple[dict[str, Verdict], str]:
        """Do the cases; those that are in the store already take no time."""
        before_torch()
        verdicts = {}
        try:
            session = self.recipe.session(self.cases, _log)
            for result in session.answers([self.cases[i] for i in self.mine]):
                print(f"{result.case.id}: {result.verdict.outcome}", flush=True)  # noqa: T201
                if result.record is None:
                    verdicts[result.case.id] = result.verdict
        except PrunebenchError as error:
            return verdicts, str(error)
        return verdicts, ""

    def checkpoint(self, *_: object, **__: object) -> Any:
        """The same again: what is finished is in the store."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)


class Job(Struct):
    """A job on its way, with the numbers of its cases."""

    job: Any
    mine: list[int]
    missing: int = 0


def check(how: Jobs) -> None:
    """Refuse options that are none, and a machine without submitit.

    Raises:
        PrunebenchError: with a line that says what to do.
    """
    _parsed(how.options)
    _count(how.parallel)
    library()


def submit(
    cases: Sequence[Case],
    recipe: Recipe,
    left: Sequence[int],
    folder: Path,
    how: Jobs,
) -> list[Job]:
    """Jobs for the cases numbered *left*; with Slurm, *folder* notes which have which.

    Raises:
        PrunebenchError: if Slurm takes none.
    """
    shared = [[left[i] for i in group] for group in groups([cases[i] for i in left])]
    if how.executor == "slurm":
        jobs = _to_slurm(cases, recipe, shared, folder, how)
        for job in jobs:
            asked = tuple((cases[i].id, cases[i].asked) for i in job.mine)
            files.write_json(folder / f"{job.job.job_id}.note.json", Note(job.job.job_id, asked))
        return jobs
    submitit = library()
    if how.executor == "debug":
        debug = submitit.DebugExecutor(folder)
        return [Job(debug.submit(Task(cases, recipe, mine)), mine) for mine in shared]
    # These all start at once, so there are only as many as shall run at once.
    count = _count(how.parallel) or max(1, cores() // 2)
    bundles = [list(chain(*shared[i::count])) for i in range(min(count, len(shared)))]
    gpus = visible_gpus(recipe.device)
    jobs = []
    for number, mine in enumerate(bundles):
        local = submitit.LocalExecutor(folder)
        mine_only = {"gpus_per_node": 1, "visible_gpus": [number % len(gpus)]} if gpus else {}
        local.update_parameters(timeout_min=7 * 24 * 60, **mine_only)
        jobs.append(Job(local.submit(Task(cases, recipe, mine)), mine))
    return jobs


def _to_slurm(
    cases: Sequence[Case],
    recipe: Recipe,
    shared: Sequence[list[int]],
    folder: Path,
    how: Jobs,
) -> list[Job]:
    submitit = library()
    try:
        slurm = submitit.SlurmExecutor(folder, max_num_timeout=COMEBACKS)
    except RuntimeError:
        raise PrunebenchError("--executor slurm: there is no srun here") from None
    slurm.update_parameters(
        job_name="prunebench",
        time=MINUTES,
        signal_delay_s=NOTICE,
        stderr_to_stdout=True,
        setup=["export SUBMITIT_PREEMPT_SIGNAL=USR1"],
    )
    if count := _count(how.parallel):
        slurm.update_parameters(array_parallelism=count)
    others: dict[str, Any] = {"requeue": True, "signal": f"USR1@{NOTICE}"}
    for key, value in _parsed(how.options).items():
        try:
            slurm.update_parameters(**{key: value})
        except ValueError:  # none of submitit's: sbatch may know it
            others[key.replace("_", "-")] = value
    slurm.update_parameters(additional_parameters=others)
    try:
        with slurm.batch():  # one array
            submitted = [slurm.submit(Task(cases, recipe, mine)) for mine in shared]
    except (submitit.core.utils.FailedJobError, submitit.core.utils.FailedSubmissionError) as error:
        last = str(error).strip().splitlines()[-1]
        raise PrunebenchError(f"--executor slurm: sbatch refuses: {last}") from None
    return [Job(job, mine) for job, mine in zip(submitted, shared, strict=True)]


def _count(parallel: str) -> int | None:
    """How many jobs at once; None where that is left open.

    Raises:
        PrunebenchError: if it is no number.
    """
    if parallel in ("", "auto"):
        return None
    if parallel.isdecimal() and int(parallel):
        return int(parallel)
    raise PrunebenchError(f"-n {parallel}: expected a number from 1, or auto")


def _log(case: Case, what: str) -> None:
    # Into the job's log; the many small steps of a search would only bloat it.
    if "," not in what:
        print(f"{case.id}: {what}", flush=True)  # noqa: T201


def library() -> Any:
    """The module submitit, told by which signal a job learns that it has to go.

    Raises:
        PrunebenchError: if it is not installed.
    """
    # Read when submitit is imported. Its own choice is USR2, which no scheduler's manual names.
    os.environ.setdefault("SUBMITIT_PREEMPT_SIGNAL", "USR1")
    os.environ.setdefault("SUBMITIT_LOG_LEVEL", "ERROR")
    try:
        import submitit
    except ImportError:
        raise PrunebenchError(
            "--executor needs submitit: pip install 'prunebench[slurm]'"
        ) from None
    return submitit


def _parsed(options: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
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
    """Slurm's ways to write a time (man sbatch, ``--time``) in minutes, rounded up.

    Raises:
        PrunebenchError: if it is none of them.
    """
    days, dash, rest = text.rpartition("-")
    parts = rest.split(":")
    if not all(p.isdecimal() for p in parts) or len(parts) > 3 or (dash and not days.isdecimal()):
        raise PrunebenchError(
            f"--slurm time={text}: expected minutes, HH:MM:SS, MM:SS or D-HH[:MM[:SS]]"
        )
    numbers = [int(part) for part in parts]
    if dash:
        hours, mins, seconds = [*numbers, 0, 0][:3]
        return int(days) * 1440 + hours * 60 + mins + (seconds > 0)
    if len(numbers) == 3:
        return numbers[0] * 60 + numbers[1] + (numbers[2] > 0)
    return numbers[0] + (len(numbers) == 2 and numbers[1] > 0)

"""Cases as jobs of Slurm, through the library submitit: an array over groups of cases, one store.

Jobs need what this process has: the same folders, the same Python. Each does its cases one after
the other and saves every record at once; a job that is told to go (SIGUSR1, before its time is over
or when it is preempted) puts itself into the queue again and then goes on with what is not in the
store. Which cases were given to which job is noted beside the logs, in ``<store>/slurm``, so that
the same command, given again, waits for what is on its way instead of submitting it twice.

submitit's executors ``local`` (processes here) and ``debug`` (this process) do the same without
Slurm.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from msgspec import Struct

from . import cache, files
from .case import Case
from .errors import PrunebenchError
from .machine import before_torch
from .options import say
from .places import cores, visible_gpus
from .record import Record
from .session import Result, Session
from .verdict import Verdict
from .workers import Recipe, groups

EXECUTORS = ("slurm", "local", "debug")

#: Minutes of a job where ``--slurm time=`` does not say.
MINUTES = 240

#: Seconds between Slurm's signal and its end, in which a job saves and requeues.
NOTICE = 90

#: How often a job may run out of time and come again.
COMEBACKS = 50

#: Seconds between two looks at the jobs, and how often one has to be missing from the queue.
POLL, MISSING = 2.0, 3


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


class _Job(Struct):
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
    _submitit()


def answers(
    session: Session,
    device: str | None,
    how: Jobs,
    note: Callable[[str], None],
    *,
    detach: bool = False,
) -> Iterator[Result]:
    """The results of the cases of *session*: from the store, then from jobs as they end.

    Args:
        session: judges; it does no work.
        device: what the jobs compute on.
        how: what jobs.
        note: told what is being waited for.
        detach: submit, say how to collect, and do not wait.

    Raises:
        PrunebenchError: if nothing can be submitted.
    """
    if device is None and any(option.startswith(("gpu", "gres")) for option in how.options):
        device = "cuda"
    left = []
    for number, case in enumerate(session.cases):
        if record := stored(session, case, device):
            yield _judged(session, case, record, cached=True)
        else:
            left.append(number)
    folder = (session.store.root / "slurm").absolute()
    jobs = _on_their_way(session, left, folder) if how.executor == "slurm" else []
    going = {number for job in jobs for number in job.mine}
    left = [number for number in left if number not in going]
    if left:
        recipe = Recipe.of(session, device)
        new = _submit(session.cases, recipe, left, folder, how)
        jobs += new
        if how.executor == "slurm":
            _tell(new, session.cases)
    if detach:
        if jobs:
            many = sum(len(job.mine) for job in jobs)
            say(f"{many} cases are on their way; to collect them, run the same command again")
        return
    yield from _collected(session, device, jobs, how.executor, note)


def stored(session: Session, case: Case, device: str | None) -> Record | None:
    """The record of *case* on any machine that is such a *device*, if its content is today's."""
    kind = (device or "").split(":")[0]
    for record in session.store.answers(case.id, case.asked):
        name = record.environment.device
        if session.fresh and record.created <= session.since:
            continue
        if kind and (name == "cpu") != (kind == "cpu"):
            continue
        with contextlib.suppress(PrunebenchError):  # whoever is to run it says what is wrong
            if cache.key(case, name) == record.key:
                return record
    return None


def _judged(session: Session, case: Case, record: Record, *, cached: bool) -> Result:
    judged = session.judge(case, record)
    return Result(case, judged, record, cached, session.published(record))


def _log(case: Case, what: str) -> None:
    # Into the job's log; the many small steps of a search would only bloat it.
    if "," not in what:
        print(f"{case.id}: {what}", flush=True)  # noqa: T201


def _submitit() -> Any:
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
    if value.isdecimal():
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


def _submit(
    cases: Sequence[Case],
    recipe: Recipe,
    left: Sequence[int],
    folder: Path,
    how: Jobs,
) -> list[_Job]:
    shared = [[left[i] for i in group] for group in groups([cases[i] for i in left])]
    if how.executor == "slurm":
        jobs = _to_slurm(cases, recipe, shared, folder, how)
        for job in jobs:
            asked = tuple((cases[i].id, cases[i].asked) for i in job.mine)
            files.write_json(folder / f"{job.job.job_id}.note.json", Note(job.job.job_id, asked))
        return jobs
    submitit = _submitit()
    if how.executor == "debug":
        debug = submitit.DebugExecutor(folder)
        return [_Job(debug.submit(Task(cases, recipe, mine)), mine) for mine in shared]
    # These all start at once, so there are only as many as shall run at once.
    count = _count(how.parallel) or max(1, cores() // 2)
    bundles = [list(chain(*shared[i::count])) for i in range(min(count, len(shared)))]
    gpus = visible_gpus(recipe.device)
    jobs = []
    for number, mine in enumerate(bundles):
        local = submitit.LocalExecutor(folder)
        mine_only = {"gpus_per_node": 1, "visible_gpus": [number % len(gpus)]} if gpus else {}
        local.update_parameters(timeout_min=7 * 24 * 60, **mine_only)
        jobs.append(_Job(local.submit(Task(cases, recipe, mine)), mine))
    return jobs


def _to_slurm(
    cases: Sequence[Case],
    recipe: Recipe,
    shared: Sequence[list[int]],
    folder: Path,
    how: Jobs,
) -> list[_Job]:
    submitit = _submitit()
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
    return [_Job(job, mine) for job, mine in zip(submitted, shared, strict=True)]


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


def _tell(jobs: Sequence[_Job], cases: Sequence[Case]) -> None:
    for job in jobs:
        first, more = cases[job.mine[0]].id, len(job.mine) - 1
        what = first + (f" and {more} more" if more else "")
        say(f"submitted job {job.job.job_id}: {what} (log {job.job.paths.stdout})")


def _on_their_way(session: Session, left: Sequence[int], folder: Path) -> list[_Job]:
    """Jobs of an earlier command that are still in the queue and have some of the cases *left*."""
    if session.fresh or not folder.is_dir():
        return []
    queue = _queue()
    submitit = _submitit()
    wanted = {session.cases[i].id: i for i in left}
    found = []
    for file in sorted(folder.glob("*.note.json")):
        with contextlib.suppress(PrunebenchError):
            note = files.read_json(file, Note)
            asked = dict(note.cases)
            mine = [i for k, i in wanted.items() if asked.get(k) == session.cases[i].asked]
            if mine and queue is not None and note.job in queue:
                found.append(_Job(submitit.SlurmJob(folder, note.job), mine))
                wanted = {k: i for k, i in wanted.items() if i not in mine}
    return found


def _queue() -> set[str] | None:
    """The jobs in Slurm's queue, array elements each by itself; None where it does not answer."""
    command = ["squeue", "--noheader", "--array", "--me", "--format", "%i|%F_%K"]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if done.returncode:
        return None
    return {name for line in done.stdout.splitlines() for name in line.strip().split("|")}


def _collected(
    session: Session,
    device: str | None,
    jobs: list[_Job],
    executor: str,
    note: Callable[[str], None],
) -> Iterator[Result]:
    total = len(jobs)
    try:
        while jobs:
            queue = _queue() if executor == "slurm" else None
            for job in [job for job in jobs if _ended(job, executor, queue)]:
                jobs.remove(job)
                yield from _of(session, device, job, executor)
            if jobs:
                note(f"{total - len(jobs)} of {total} jobs are done")
                time.sleep(POLL if executor == "slurm" else 0.2)
    except (KeyboardInterrupt, GeneratorExit):
        for job in jobs:
            if executor == "local":
                job.job.cancel()
        if jobs and executor == "slurm":
            names = " ".join(job.job.job_id for job in jobs)
            say(f"the jobs go on; scancel {names} ends them")
        raise


def _ended(job: _Job, executor: str, queue: set[str] | None) -> bool:
    """Whether *job* will not come to anything more."""
    if executor == "debug" or job.job.paths.result_pickle.exists():
        return True
    if executor == "local":
        return bool(job.job.done())
    # sacct would know, where a site keeps accounts; the queue is everywhere. A job that is being
    # requeued may be missing for a moment.
    if queue is not None:
        job.missing = 0 if job.job.job_id in queue else job.missing + 1
    return job.missing >= MISSING


def _of(session: Session, device: str | None, job: _Job, executor: str) -> Iterator[Result]:
    """The results of a job's cases: records from the store, what else there is from the job."""
    verdicts, failed = _outcome(job, executor)
    for number in job.mine:
        case = session.cases[number]
        if record := stored(session, case, device):
            yield _judged(session, case, record, cached=False)
        elif case.id in verdicts:
            yield Result(case, verdicts[case.id])
        else:
            yield Result(case, Verdict(case.id, ok=False, error=failed))


def _outcome(job: _Job, executor: str) -> tuple[dict[str, Verdict], str]:
    """The verdicts that a job gave back, and why others are missing."""
    paths = job.job.paths
    lost = f"job {job.job.job_id} ended without an answer (log {paths.stdout})"
    if executor != "debug" and not paths.result_pickle.exists():
        return {}, lost
    try:
        verdicts, failed = job.job.result()
    except Exception as error:
        if os.environ.get("PRUNEBENCH_DEBUG"):
            say(str(error))
        return {}, lost
    return verdicts, failed or lost

"""Collects the results of Slurm jobs: from the store, and from the jobs as they end.

Which job has which cases is noted in ``<store>/slurm`` (see ``job_submit``), so that the same
command, given again, waits for jobs in the queue instead of submitting their cases twice.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..case import Case
from ..errors import PrunebenchError
from ..record import Record
from ..results import answer_key
from ..system import files
from ..system.console import print_note
from ..verdicts.verdict import Verdict
from .job_submit import Job, Note, library, submit
from .result import Result
from .session import Session
from .worker_pool import Recipe

#: Seconds between two looks at the jobs, and how often one has to be missing from the queue.
POLL, MISSING = 2.0, 3


def answers(
    session: Session,
    device: str | None,
    parameters: Mapping[str, Any],
    note: Callable[[str], None],
    *,
    detach: bool = False,
) -> Iterator[Result]:
    """The results of the cases of *session*: from the store, then from jobs as they end.

    *note* is called with what is being waited for; *detach* submits and does not wait.

    Raises:
        PrunebenchError: if nothing can be submitted.
    """
    if device is None and any(key.startswith(("gpu", "gres")) for key in parameters):
        device = "cuda"
    missing = []
    for number, case in enumerate(session.cases):
        if record := stored(session, case, device):
            yield session.result(case, record, cached=True)
        else:
            missing.append(number)
    folder = (session.store.root / "slurm").absolute()
    jobs = _queued(session, missing, folder)
    queued = {number for job in jobs for number in job.numbers}
    missing = [number for number in missing if number not in queued]
    if missing:
        new = submit(session.cases, Recipe.of(session, device), missing, folder, parameters)
        for job in new:
            first, more = session.cases[job.numbers[0]].id, len(job.numbers) - 1
            what = first + (f" and {more} more" if more else "")
            print_note(f"submitted job {job.job.job_id}: {what} (log {job.job.paths.stdout})")
        jobs += new
    if not detach:
        yield from _collected(session, device, jobs, note)
    elif jobs:
        count = sum(len(job.numbers) for job in jobs)
        print_note(f"{count} cases are submitted; to collect them, run the same command again")


def stored(session: Session, case: Case, device: str | None) -> Record | None:
    """The current record of *case* from any machine that has such a *device*."""
    kind = (device or "").split(":")[0]
    for record in session.store.answers(case.id, case.asked):
        name = record.environment.device
        if session.fresh and record.created <= session.since:
            continue
        if kind and (name == "cpu") != (kind == "cpu"):
            continue
        with contextlib.suppress(PrunebenchError):  # the job reports it as the case's error
            if answer_key.key(case, name) == record.key:
                return record
    return None


def _queued(session: Session, missing: Sequence[int], folder: Path) -> list[Job]:
    """Jobs of an earlier command that are still in the queue and have some of these cases.

    Raises:
        PrunebenchError: if there may be some, and the queue does not answer.
    """
    if session.fresh or not folder.is_dir():
        return []
    queue = _queue()
    submitit = library()
    wanted = {session.cases[i].id: i for i in missing}
    found = []
    for file in files.listed(folder, ".note.json"):
        try:
            note = files.read_json(file, Note)
        except PrunebenchError:  # damaged: its cases are submitted again
            continue
        asked = dict(note.cases)
        numbers = [i for k, i in wanted.items() if asked.get(k) == session.cases[i].asked]
        if numbers and queue is None:
            # Submitting them again might measure the same cases twice.
            raise PrunebenchError(
                f"--executor slurm: squeue does not answer, and job {note.job} of an earlier "
                f"command may still run {session.cases[numbers[0]].id}; try again"
            )
        if numbers and queue is not None and note.job in queue:
            found.append(Job(submitit.SlurmJob(folder, note.job), numbers))
            wanted = {k: i for k, i in wanted.items() if i not in numbers}
    return found


def _queue() -> set[str] | None:
    """The ids of the jobs in Slurm's queue, one per array element; None without an answer."""
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
    session: Session, device: str | None, jobs: list[Job], note: Callable[[str], None]
) -> Iterator[Result]:
    total = len(jobs)
    try:
        while jobs:
            queue = _queue()
            for job in [job for job in jobs if _ended(job, queue)]:
                jobs.remove(job)
                yield from _results(session, device, job)
            if jobs:
                note(f"{total - len(jobs)} of {total} jobs are done")
                time.sleep(POLL)
    except (KeyboardInterrupt, GeneratorExit):
        if jobs:
            names = " ".join(job.job.job_id for job in jobs)
            print_note(f"the jobs keep running; scancel {names} ends them")
        raise


def _ended(job: Job, queue: set[str] | None) -> bool:
    """Whether *job* has returned, or is missing from the queue for long enough."""
    if job.job.paths.result_pickle.exists():
        return True
    # sacct would know, but only where a site keeps accounts; every site has the queue. A job that
    # is being requeued may be missing for a moment.
    if queue is not None:
        job.missing = 0 if job.job.job_id in queue else job.missing + 1
    return job.missing >= MISSING


def _results(session: Session, device: str | None, job: Job) -> Iterator[Result]:
    """The results of a job's cases: from the store, or the verdict or error that it returned."""
    verdicts, error = _returned(job)
    for number in job.numbers:
        case = session.cases[number]
        if record := stored(session, case, device):
            yield session.result(case, record, cached=False)
        elif case.id in verdicts:
            yield Result(case, verdicts[case.id])
        else:
            yield Result(case, Verdict(case.id, ok=False, error=error))


def _returned(job: Job) -> tuple[dict[str, Verdict], str]:
    """The verdicts that a job returned, and why others are missing."""
    paths = job.job.paths
    lost = f"job {job.job.job_id} ended without an answer (log {paths.stdout})"
    if not paths.result_pickle.exists():
        return {}, lost
    try:
        verdicts, error = job.job.result()
    except Exception as problem:
        if os.environ.get("PRUNEBENCH_DEBUG"):
            print_note(str(problem))
        return {}, lost
    return verdicts, error or lost

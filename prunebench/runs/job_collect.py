"""The results of cases that are jobs of Slurm: from the store, and from the jobs as they end.

Which cases were given to which job is noted in ``<store>/slurm`` (see `submitting`), so that the
same command, given again, waits for what is on its way instead of submitting it twice.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from ..case import Case
from ..errors import PrunebenchError
from ..record import Record
from ..results import answer_key
from ..system import files
from ..system.console import print_note
from ..verdicts.verdict import Verdict
from .job_submit import (
    Job,
    Jobs,
    Note,
    library,
    submit,
)
from .session import Result, Session
from .worker_pool import Recipe

#: Seconds between two looks at the jobs, and how often one has to be missing from the queue.
POLL, MISSING = 2.0, 3


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
        new = submit(session.cases, recipe, left, folder, how)
        jobs += new
        if how.executor == "slurm":
            _tell(new, session.cases)
    if detach:
        if jobs:
            many = sum(len(job.mine) for job in jobs)
            print_note(
                f"{many} cases are on their way; to collect them, run the same command again"
            )
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
            if answer_key.key(case, name) == record.key:
                return record
    return None


def _judged(session: Session, case: Case, record: Record, *, cached: bool) -> Result:
    judged = session.judge(case, record)
    return Result(case, judged, record, cached, session.published(record))


def _tell(jobs: Sequence[Job], cases: Sequence[Case]) -> None:
    for job in jobs:
        first, more = cases[job.mine[0]].id, len(job.mine) - 1
        what = first + (f" and {more} more" if more else "")
        print_note(f"submitted job {job.job.job_id}: {what} (log {job.job.paths.stdout})")


def _on_their_way(session: Session, left: Sequence[int], folder: Path) -> list[Job]:
    """Jobs of an earlier command that are still in the queue and have some of the cases *left*.

    Raises:
        PrunebenchError: if there may be some, and the queue does not answer.
    """
    if session.fresh or not folder.is_dir():
        return []
    queue = _queue()
    submitit = library()
    wanted = {session.cases[i].id: i for i in left}
    found = []
    for note in _notes(folder):
        asked = dict(note.cases)
        mine = [i for k, i in wanted.items() if asked.get(k) == session.cases[i].asked]
        if mine and queue is None:
            # To submit them all the same would take twice the machines for one answer.
            raise PrunebenchError(
                f"--executor slurm: squeue does not answer, and job {note.job} of an earlier "
                f"command may still be at {session.cases[mine[0]].id}; try again"
            )
        if mine and queue is not None and note.job in queue:
            found.append(Job(submitit.SlurmJob(folder, note.job), mine))
            wanted = {k: i for k, i in wanted.items() if i not in mine}
    return found


def _notes(folder: Path) -> Iterator[Note]:
    for file in files.listed(folder, ".note.json"):
        with contextlib.suppress(PrunebenchError):  # damaged: what it says is submitted again
            yield files.read_json(file, Note)


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
    jobs: list[Job],
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
            print_note(f"the jobs go on; scancel {names} ends them")
        raise


def _ended(job: Job, executor: str, queue: set[str] | None) -> bool:
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


def _of(session: Session, device: str | None, job: Job, executor: str) -> Iterator[Result]:
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


def _outcome(job: Job, executor: str) -> tuple[dict[str, Verdict], str]:
    """The verdicts that a job gave back, and why others are missing."""
    paths = job.job.paths
    lost = f"job {job.job.job_id} ended without an answer (log {paths.stdout})"
    if executor != "debug" and not paths.result_pickle.exists():
        return {}, lost
    try:
        verdicts, failed = job.job.result()
    except Exception as error:
        if os.environ.get("PRUNEBENCH_DEBUG"):
            print_note(str(error))
        return {}, lost
    return verdicts, failed or lost

"""Lists, reviews and removes baselines: who accepted each, and whether it answers its case."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ...case import Case
from ...errors import PrunebenchError
from ...formatting import counted
from ...record import Record
from ...verdicts import verdict
from ...verdicts.verdict import Finding, Outcome
from .. import judging
from .files import Accepted, Baselines, read_accepted

State = Literal["ok", "forced", "stale", "orphaned", "missing", "damaged"]
#: What ``baseline list --strict`` does not let pass.
AMISS = ("stale", "orphaned", "missing", "damaged")

Effect = Literal["create", "change", "unchanged", "stale", "orphaned", "no record"]


class Shelved(Struct, frozen=True, omit_defaults=True):
    """A baseline, or the lack of one.

    *state* ``stale``: the case asks something else now; ``orphaned``: there is no such case any
    more; *what* says how, or what is damaged. *trees* are ``quality`` and ``latency <device>``.
    """

    case_id: str
    state: State
    what: str = ""
    trees: tuple[str, ...] = ()
    accepted: Accepted | None = None


class Change(Struct, frozen=True, omit_defaults=True):
    """What accepting the newest record would do to the baseline of a case.

    *findings* compare the two; *what* says why they cannot be compared.
    """

    case_id: str
    effect: Effect
    what: str = ""
    findings: tuple[Finding, ...] = ()
    now: Record | None = None
    was: Record | None = None


def look(
    baselines: Baselines,
    cases: Iterable[Case],
    orphans: Iterable[str] = (),
    others: Iterable[str] = (),
) -> list[Shelved]:
    """The baseline of each case, or that it is missing; then the orphans.

    *others* are ids of baselines whose case is not available: only damage can be found.
    """
    judged = [case for case in cases if not case.for_interval]
    rows = [_row(baselines, case.id, case) for case in judged]
    rows += [_row(baselines, case_id, None) for case_id in others]
    return rows + [
        Shelved(i, "orphaned", _GONE, _trees(baselines, i), _accepted(baselines, i))
        for i in orphans
    ]


def orphans(baselines: Baselines, cases: Iterable[Case]) -> list[str]:
    """Ids of baselines that none of *cases*, which are all there are, has (``is_known``)."""
    known = {case.id for case in cases}
    return [case_id for case_id in baselines.all_case_ids() if not is_known(case_id, known)]


def is_known(case_id: str, known: Collection[str]) -> bool:
    """Whether there is such a case.

    One that ``--set`` made (``...@key=value``) is in no file; it is known while its file has any.
    """
    folder = case_id.split("@")[0].rsplit("/", 1)[0]
    return case_id in known or (
        "@" in case_id and any(case.rsplit("/", 1)[0] == folder for case in known)
    )


def hint(baselines: Baselines, cases: Iterable[Case]) -> str:
    """A line for the end of a run of whole files, with all their *cases*; empty with no orphan."""
    own = list(cases)
    files = {case.id.rsplit("/", 1)[0] for case in own}
    count = sum(case_id.rsplit("/", 1)[0] in files for case_id in orphans(baselines, own))
    if not count:
        return ""
    left = f"{counted(count, 'baseline')} {'has' if count == 1 else 'have'}"
    return f"{left} no case any more; prunebench baseline rm --orphaned"


def remove(baselines: Baselines, case_ids: Iterable[str], *, dry_run: bool = False) -> list[Path]:
    """Remove every file of these baselines, and folders that this leaves empty.

    Returns:
        The files, also when *dry_run* leaves them.

    Raises:
        PrunebenchError: if one cannot be removed.
    """
    paths = [path for case_id in case_ids for path in baselines.files(case_id)]
    if dry_run:
        return paths
    for path in paths:
        unlink(path, baselines.root)
    return paths


def review(
    cases: Sequence[Case], records: Sequence[Record], baselines: Baselines, orphans: Iterable[str]
) -> list[Change]:
    """What accepting *records* would do, case by case; nothing is written."""
    by_id = {record.case_id: record for record in records}
    judged = [case for case in cases if not case.for_interval]
    changes = [_change(case, by_id.get(case.id), baselines) for case in judged]
    return changes + [Change(case_id, "orphaned", _GONE) for case_id in orphans]


_GONE = "no case of that name any more"


def _row(baselines: Baselines, case_id: str, case: Case | None) -> Shelved:
    trees = _trees(baselines, case_id)
    if not trees:
        return Shelved(case_id, "missing")
    row = Shelved(case_id, "ok", "", trees, _accepted(baselines, case_id))
    timed = baselines.timed(case_id)
    try:
        was = baselines.load(case_id, "cpu")
        for device in timed:
            baselines.load(case_id, device)
    except PrunebenchError as error:
        return replace(row, state="damaged", what=str(error))
    if was is None:
        what = f"{baselines.latency(case_id, timed[0])}: no quality baseline next to it"
        return replace(row, state="damaged", what=what)
    if case is not None and (what := outdated(case, was)):
        return replace(row, state="stale", what=what)
    return replace(row, state="forced") if row.accepted and row.accepted.forced else row


def outdated(case: Case, was: Record) -> str:
    """What the case asks that the baseline does not answer, or an empty text."""
    if case.asked == was.asked:
        return ""
    answered = verdict.compare(replace(was, asked=case.asked), was, case.tolerance_for)
    lines = [f.note for f in answered.findings if f.outcome == Outcome.NOT_COMPARABLE]
    ours, theirs = (verdict.split_question(one.asked)[1] for one in (case, was))
    lines += [f"{name} was not measured then" for name in ours if name not in theirs]
    lines += [f"{name} is no longer measured" for name in theirs if name not in ours]
    return "; ".join(lines) or "its metrics were asked for otherwise"


def _trees(baselines: Baselines, case_id: str) -> tuple[str, ...]:
    quality = ["quality"] if baselines.quality(case_id).is_file() else []
    timed = baselines.timed(case_id)
    return (*quality, *(f"latency {device}" for device in timed))


def _accepted(baselines: Baselines, case_id: str) -> Accepted | None:
    for path in baselines.files(case_id):
        if path.suffix == ".json":
            with contextlib.suppress(PrunebenchError):
                return read_accepted(path)
    return None


def _change(case: Case, now: Record | None, baselines: Baselines) -> Change:
    try:
        was = baselines.load(case.id, now.environment.device if now else "cpu")
    except PrunebenchError as error:
        return Change(case.id, "change" if now else "no record", str(error), now=now)
    what = outdated(case, was) if was else ""
    if what:
        return Change(case.id, "stale", what, now=now, was=was)
    if now is None:
        return Change(case.id, "no record")
    findings = judging.judge(now, was, case, conditions=()).findings
    if was is None:
        return Change(case.id, "create", findings=findings, now=now)
    moved = tuple(_moved(findings))
    return Change(case.id, "change" if moved else "unchanged", "", moved, now, was)


def _moved(findings: Collection[Finding]) -> Iterator[Finding]:
    """Findings of anything that would be another number, however small, or another plan."""
    for finding in findings:
        tie = finding.what == "plan" and finding.note.startswith("a tie")
        quiet = finding.outcome in (Outcome.SAME, Outcome.UNSURE) and not tie
        if not quiet or finding.now != finding.was:
            yield finding


def unlink(path: Path, root: Path) -> None:
    """Remove a file, if it is there, and the folders above it, below *root*, that are empty then.

    Raises:
        PrunebenchError: if it cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
        folder = path.parent
        while folder != root and root in folder.parents and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent
    except OSError as error:
        raise PrunebenchError(f"{path}: cannot be removed: {error.strerror}") from None

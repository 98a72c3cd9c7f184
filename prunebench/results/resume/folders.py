"""The journals of a results folder, one per unfinished case, which let a killed run continue.

A journal is a folder ``<store>/partial/<key of the case>/``, removed once the record is saved.
Answers of the dense model, which all cases share, have journals below ``partial/dense/``, removed
once a run ends with no case unfinished. A torn last line, which is what a kill leaves, is dropped;
so at most the current batch is lost.

A batch is identified by its metric, the model that runs it, a hash of all its inputs, and how often
the same was asked before. A resumed run goes through the same batches in the same order and takes
the saved results of those that have one; so its numbers are those of an uninterrupted run.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...resume import DENSE, METRIC, SEARCH, Scope
from ...system import files, signals
from . import checksum_lines
from .journal import Journal


class Partials:
    """The journals below the results folder *root*; without one nothing is saved.

    Files begun before *since* (nanoseconds since 1970) are ignored (``--fresh``), in every process
    of the run.
    """

    def __init__(self, root: Path | None = None, since: int = 0) -> None:
        self.folder = root / "partial" if root else None
        self._since = since

    def journal(self, case_id: str, key: str | None, metrics: Sequence[str] = ()) -> Journal:
        """The journal of the case with exactly this content key; *metrics* are their names."""
        folder = self.folder / key[:20] if self.folder and key else None
        return Journal(folder, case_id, key or "", metrics, self._since)

    def dense(self, key: str | None) -> Journal:
        """The journal of a dense model's answers to one metric, shared by all cases."""
        folder = self.folder / DENSE / key[:20] if self.folder and key else None
        return Journal(folder, "", key or "", since=self._since)

    def tidy(self) -> None:
        """At the end of a run: remove the dense models' answers, unless a case is unfinished."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):  # no folder, or another run removed it
            if {file.name for file in self.folder.iterdir()} <= {DENSE}:
                shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self, key: str) -> None:
        """Remove the journal of this content: its record is saved."""
        if self.folder is None or not key:
            return
        shutil.rmtree(self.folder / key[:20], ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # fails if another case has one

    def case_ids(self) -> set[str]:
        """The cases that have a journal; reads only the first line of each."""
        folders = files.listed(self.folder) if self.folder else []
        paths = (path for folder in folders for path in files.listed(folder, ".jsonl"))
        return {str(head.get("case", "")) for head in map(checksum_lines.first, paths) if head}


#: The journals of running searches, for another thread.
_SEARCHING: list[Journal] = []


@contextmanager
def searching(journal: Journal) -> Iterator[None]:
    """Within the block a search saves to *journal* and finds what an earlier run saved there.

    If it is stopped, by Ctrl-C or by a scheduler, its latest state is saved.
    """
    journal.begin_search()
    token = SEARCH.set(journal)
    _SEARCHING.append(journal)
    try:
        yield
    except KeyboardInterrupt:
        try:
            journal.save_pending(signals.time_left())
        except signals.StopRequest:  # while the state was being written
            journal.save_pending(signals.time_left())
            raise
        raise
    except SystemExit:  # submitit's handler of Slurm's signal raises it
        journal.save_pending(signals.SAVING)
        raise
    finally:
        _SEARCHING.remove(journal)
        SEARCH.reset(token)
        journal.end_search()


def last_words() -> None:
    """Save the state of searches whose thread does not respond; called from another thread."""
    for journal in [*_SEARCHING]:
        journal.save_pending(signals.LAST_WORDS)


@contextmanager
def measuring(
    journal: Journal,
    metric: int,
    models: dict[str, Any],
    dense: Callable[[], Journal] | None = None,
) -> Iterator[None]:
    """Within the block, *once* saves the batches of metric number *metric* that *models* run.

    Batches that the model called ``dense`` runs alone go to the journal that *dense* opens.
    """
    scope = Scope(journal, metric, models, dense)
    token = METRIC.set(scope)
    try:
        yield
    finally:
        METRIC.reset(token)
        scope.close()

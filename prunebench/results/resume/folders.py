"""What a case has so far: a journal beside the store, so that a killed run goes on where it was.

A journal is a folder ``<store>/partial/<key of the case>/`` and is gone once the record is saved.
What the dense model answers for all cases alike has journals of its own below ``partial/dense/``,
gone once a run ends with no case unfinished.
A torn last line, which is what a kill leaves, is dropped; so at most the batch at hand is lost.

A batch is known by the metric it belongs to, the model that runs it, a hash of everything it is
given, and how often the same was asked before. Work goes through the same batches in the same order
whether or not their results are here already, so what is kept stands for exactly what would have
been computed, and numbers are those of a run that nothing disturbed.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ...resume import DENSE, METRIC, SEARCH, Scope
from ...system import files, signals
from . import checksum_lines
from .journal import Journal


class Partials:
    """The journals below a results folder; without a folder nothing is kept.

    Args:
        root: the results folder.
        since: nanoseconds since 1970; what was begun before is passed over, in every process that
            works on a run which asks for fresh results.
    """

    def __init__(self, root: Path | None = None, since: int = 0) -> None:
        self.folder = root / "partial" if root else None
        self._since = since

    def journal(self, case_id: str, key: str | None, metrics: Sequence[str] = ()) -> Journal:
        """The journal of exactly this content; *metrics* are the names of what is measured."""
        folder = self.folder / key[:20] if self.folder and key else None
        return Journal(folder, case_id, key or "", metrics, self._since)

    def dense(self, key: str | None) -> Journal:
        """The journal of what a dense model answers to one metric, whatever the case."""
        folder = self.folder / DENSE / key[:20] if self.folder and key else None
        return Journal(folder, "", key or "", since=self._since)

    def tidy(self) -> None:
        """At the end of a run: forget the dense models' answers, unless a case is unfinished."""
        if self.folder is None:
            return
        with contextlib.suppress(OSError):  # none is there, or another run did it
            if {file.name for file in self.folder.iterdir()} <= {DENSE}:
                shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self, key: str) -> None:
        """The record of this content is saved: remove what led to it."""
        if self.folder is None or not key:
            return
        shutil.rmtree(self.folder / key[:20], ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()  # only where no other case has one

    def case_ids(self) -> set[str]:
        """The cases that have one, of whatever content; reads only the first line of each."""
        found = (checksum_lines.first(path) for path in self._files())
        return {str(head.get("case", "")) for head in found if head}

    def _files(self) -> Iterable[Path]:
        folders = files.listed(self.folder) if self.folder else []
        return [path for folder in folders for path in files.listed(folder, ".jsonl")]


#: The journals of searches under way, for another thread.
_UNDER_WAY: list[Journal] = []


@contextmanager
def searching(journal: Journal) -> Iterator[None]:
    """Within the block a search may keep things in *journal*, and finds what one kept before.

    Where it is stopped, by Ctrl-C or by a scheduler, what it last stood on is kept if it was not.
    """
    journal.begin_search()
    token = SEARCH.set(journal)
    _UNDER_WAY.append(journal)
    try:
        yield
    except KeyboardInterrupt:
        try:
            journal.keep_last(signals.time_left())
        except signals.StopRequest:  # while what Ctrl-C stopped was written
            journal.keep_last(signals.time_left())
            raise
        raise
    except SystemExit:  # submitit's handler of Slurm's signal ends a job so
        journal.keep_last(signals.SAVING)
        raise
    finally:
        _UNDER_WAY.remove(journal)
        SEARCH.reset(token)
        journal.end_search()


def last_words() -> None:
    """Keep what a search stands on though its thread does not come back; for another thread."""
    for journal in [*_UNDER_WAY]:
        journal.keep_last(signals.LAST_WORDS)


@contextmanager
def measuring(
    journal: Journal,
    metric: int,
    models: dict[str, Any],
    dense: Callable[[], Journal] | None = None,
) -> Iterator[None]:
    """Within the block, *once* keeps the batches that one of *models* runs.

    Args:
        journal: the case's.
        metric: its number in the case.
        models: name to model; what ``dense`` runs alone goes to the journal that *dense* opens.
        dense: opens it, when it is first needed.
    """
    scope = Scope(journal, metric, models, dense)
    token = METRIC.set(scope)
    try:
        yield
    finally:
        METRIC.reset(token)
        scope.close()

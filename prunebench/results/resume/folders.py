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
import hashlib
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ...plan import Step
from ...system import files, signals
from . import checksum_lines
from .journal import Journal

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

#: The folder of journals that cases share.
DENSE = "dense"


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


class _Scope:
    """One metric at work."""

    def __init__(
        self,
        journal: Journal,
        metric: int,
        models: dict[str, Any],
        dense: Callable[[], Journal] | None,
    ) -> None:
        self.journal = journal
        self.metric = metric
        self.models = models
        self.asked: dict[str, int] = {}
        self._dense = dense
        self._shared: Journal | None = None

    def place(self, who: str) -> tuple[Journal, int]:
        """The journal for what *who* runs, and the metric's number there."""
        if who != DENSE or self._dense is None:
            return self.journal, self.metric
        if self._shared is None:
            self._shared = self._dense()
        return self._shared, -1

    def close(self) -> None:
        if self._shared is not None:
            self._shared.close()

    def who(self, models: Sequence[Any]) -> str:
        """The names of *models*; nothing where one of them is a stranger."""
        names = [next((n for n, own in self.models.items() if own is m), "") for m in models]
        return "+".join(names) if all(names) else ""

    def once(self, who: str, given: object, make: Callable[[], T], of: int) -> T:
        journal, metric = self.place(who)
        digest = hashlib.blake2b(repr(given).encode(), digest_size=16).hexdigest()
        name = f"{metric}/{who}/{digest}"
        # A metric may change a model in place and ask the same again: each time stands for itself.
        self.asked[name] = nth = self.asked.get(name, 0) + 1
        name += f"/{nth}"
        if (kept := journal.batch(name)) is not None:
            self.journal.saved_seconds += kept[1]
            found: T = kept[0]
            return found
        start = time.perf_counter()
        found = make()
        seconds = round(time.perf_counter() - start, 6)
        told = {"metric": metric, "who": who, "of": of, "seconds": seconds, "found": found}
        journal.append({"batch": name, **told})
        return found


_SEARCH: ContextVar[Journal | None] = ContextVar("search", default=None)
_METRIC: ContextVar[_Scope | None] = ContextVar("metric", default=None)


def once(
    models: Sequence[Any], given: Callable[[], object], make: Callable[[], T], of: int = 0
) -> T:
    """``make()``, or what an earlier run of the same case got from it at this very point.

    Outside of a run with a journal, and for a model that is none of the case's, it is just that.

    Args:
        models: which models it runs.
        given: everything else that the result depends on; plain data whose ``repr`` says it all.
        make: the work; what it gives is plain JSON data, numbers that are not finite included.
        of: how many such batches there are in this loop, where it is known.
    """
    scope = _METRIC.get()
    if scope is None or not (who := scope.who(models)):
        return make()
    return scope.once(who, given(), make, of)


#: The journals of searches under way, for another thread.
_UNDER_WAY: list[Journal] = []


@contextmanager
def searching(journal: Journal) -> Iterator[None]:
    """Within the block a search may keep things in *journal*, and finds what one kept before.

    Where it is stopped, by Ctrl-C or by a scheduler, what it last stood on is kept if it was not.
    """
    journal.begin_search()
    token = _SEARCH.set(journal)
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
        _SEARCH.reset(token)
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
    scope = _Scope(journal, metric, models, dense)
    token = _METRIC.set(scope)
    try:
        yield
    finally:
        _METRIC.reset(token)
        scope.close()


def steps() -> list[Step]:
    """The first steps of the search at hand, as an earlier run of the same case made them."""
    journal = _SEARCH.get()
    return journal.steps if journal else []


def keep_step(step: Step, of: int = 0) -> None:
    """Keep a step of the search at hand; *of* is how many there will be, 0 if nobody knows."""
    if journal := _SEARCH.get():
        journal.keep_step(step, of)


def part(name: str, make: Callable[[], Any], of: int = 0) -> Any:
    """``make()``, or what an earlier run of the same search got from it.

    Args:
        name: says all that tells this part from the others of the search; its first word is what
            they are called: "trial 3-5".
        make: the work; gives plain JSON data, numbers that are not finite included.
        of: how many such parts there are, 0 where that is not known.
    """
    if (journal := _SEARCH.get()) is None:
        return make()
    if name not in journal.parts:
        journal.keep_part(name, make(), of)
    return journal.parts[name]


def state() -> tuple[Any, dict[str, Tensor]] | None:
    """Where an earlier run of the search at hand stood, as it was given to *keep_state*.

    The tensors are on the CPU, laid out in memory as they were.
    """
    journal = _SEARCH.get()
    return journal.state() if journal else None


def keep_state(data: Any, tensors: dict[str, Tensor], done: int, of: int = 0) -> None:
    """Keep where the search at hand stands: when the time since the last time is worth it.

    Or when the search is stopped before that; till the next call all of it is held in memory.

    Args:
        data: plain JSON data.
        tensors: by name; they are not copied, so none may be changed in place later (the mapping
            may), and one that is the same object as the last time is not written again.
        done: how many steps led there.
        of: how many there will be, 0 where that is not known.
    """
    if journal := _SEARCH.get():
        journal.keep_state(data, tensors, done, of)

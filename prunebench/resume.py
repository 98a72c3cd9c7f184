"""Resume: functions that methods, models and metrics call so that finished work is not repeated.

A search uses ``steps`` and ``save_step``, ``part``, or ``state`` and ``save_state``; a metric uses
``once``. Outside a run, or where no journal is open, each of them just does the work. The journals
on disk are ``results.resume``; a run opens one with ``folders.searching`` or ``folders.measuring``,
and this module finds it through a context variable.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from .plan import Step

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

#: The name of the dense model, whose batches all cases share.
DENSE = "dense"


class Journal(Protocol):
    """The methods of ``results.resume.journal.Journal`` that are used here."""

    steps: list[Step]
    parts: dict[str, Any]
    saved_seconds: float

    def batch(self, name: str) -> tuple[Any, float] | None:
        """A saved batch and the seconds it took, if there is one."""

    def append(self, entry: dict[str, Any]) -> None:
        """Write one line."""

    def close(self) -> None:
        """Close the file."""

    def save_step(self, step: Step, of: int = 0) -> None:
        """Save a step of the search."""

    def save_part(self, name: str, result: Any, of: int = 0) -> None:
        """Save a named part of the search."""

    def state(self) -> tuple[Any, dict[str, Tensor]] | None:
        """The saved state of the search, if there is one."""

    def save_state(self, data: Any, tensors: dict[str, Tensor], done: int, of: int = 0) -> None:
        """Save the state of the search, now or when it is stopped."""


class Scope:
    """A metric that is being measured: which journal holds the batches of which model.

    Args:
        journal: the case's.
        metric: its number in the case.
        models: name to model.
        dense: opens the journal that all cases share for the dense model.
    """

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
        self._asked: dict[str, int] = {}
        self._dense = dense
        self._shared: Journal | None = None

    def place(self, who: str) -> tuple[Journal, int]:
        """The journal for batches that *who* runs, and the metric's number there."""
        if who != DENSE or self._dense is None:
            return self.journal, self.metric
        if self._shared is None:
            self._shared = self._dense()
        return self._shared, -1

    def close(self) -> None:
        """Close the shared journal, if it was opened."""
        if self._shared is not None:
            self._shared.close()

    def who(self, models: Sequence[Any]) -> str:
        """The names of *models* joined; empty if one is not a model of this case."""
        names = [next((n for n, known in self.models.items() if known is m), "") for m in models]
        return "+".join(names) if all(names) else ""

    def once(self, who: str, given: object, make: Callable[[], T], of: int) -> T:
        """The saved result of a batch, or that of *make*, which is then saved."""
        journal, metric = self.place(who)
        digest = hashlib.blake2b(repr(given).encode(), digest_size=16).hexdigest()
        name = f"{metric}/{who}/{digest}"
        # A metric may change a model in place and ask again, so the nth time has its own result.
        self._asked[name] = nth = self._asked.get(name, 0) + 1
        name += f"/{nth}"
        if (saved := journal.batch(name)) is not None:
            self.journal.saved_seconds += saved[1]
            result: T = saved[0]
            return result
        start = time.perf_counter()
        result = make()
        seconds = round(time.perf_counter() - start, 6)
        entry = {"metric": metric, "who": who, "of": of, "seconds": seconds, "found": result}
        journal.append({"batch": name, **entry})
        return result


SEARCH: ContextVar[Journal | None] = ContextVar("search", default=None)
METRIC: ContextVar[Scope | None] = ContextVar("metric", default=None)


def once(
    models: Sequence[Any], given: Callable[[], object], make: Callable[[], T], of: int = 0
) -> T:
    """Run *make*, or return the result that an earlier run of this case saved at this point.

    Args:
        models: the models that *make* runs.
        given: everything else the result depends on, as plain data with a complete ``repr``.
        make: does the work; returns plain JSON data, non-finite numbers included.
        of: the number of batches in this loop, 0 if unknown.
    """
    scope = METRIC.get()
    if scope is None or not (who := scope.who(models)):
        return make()
    return scope.once(who, given(), make, of)


def steps() -> list[Step]:
    """The steps of this search that an earlier run of the case saved."""
    journal = SEARCH.get()
    return journal.steps if journal else []


def save_step(step: Step, of: int = 0) -> None:
    """Save a step of this search; *of* is the number of steps, 0 if unknown."""
    if journal := SEARCH.get():
        journal.save_step(step, of)


def part(name: str, make: Callable[[], Any], of: int = 0) -> Any:
    """Run *make*, or return what an earlier run of this search saved under *name*.

    Args:
        name: unique within the search; its first word names the kind: "trial 3-5".
        make: does the work; returns plain JSON data, non-finite numbers included.
        of: the number of such parts, 0 if unknown.
    """
    if (journal := SEARCH.get()) is None:
        return make()
    if name not in journal.parts:
        journal.save_part(name, make(), of)
    return journal.parts[name]


def state() -> tuple[Any, dict[str, Tensor]] | None:
    """The state that an earlier run of this search gave to ``save_state``, if there is one.

    Tensors are on the CPU, with the memory layout they had.
    """
    journal = SEARCH.get()
    return journal.state() if journal else None


def save_state(data: Any, tensors: dict[str, Tensor], done: int, of: int = 0) -> None:
    """Save the state of this search, in place of the last one.

    It is written when the work since the last write is worth it, or when the search is stopped;
    until then, or the next call, it is held in memory.

    Args:
        data: plain JSON data.
        tensors: by name. They are not copied, so do not change one in place later (the mapping may
            change); a tensor that is the same object as last time is not written again.
        done: the number of steps so far.
        of: the number of steps in all, 0 if unknown.
    """
    if journal := SEARCH.get():
        journal.save_state(data, tensors, done, of)

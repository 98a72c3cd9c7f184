"""GPU seconds held for a case, by step of the run.

Other than ``load_time`` and ``search_time`` of a record, which say what its case would take alone,
these are seconds of this run: a load or a search that several cases share is in the one that made
it. So they add up to the cost of a run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from ..case import Case, Progress
from ..record import Record

KINDS = TOTAL, LOADS, SEARCHES = "gpu_time", "gpu_load_time", "gpu_search_time"


class Clock:
    """Passes every step on to *progress*, and sums up the seconds of each kind."""

    def __init__(self, progress: Progress, now: Callable[[], float] = time.perf_counter) -> None:
        self._progress = progress
        self._now = now
        self._kind = ""
        self._since = now()
        self._seconds: dict[str, float] = {}

    def step(self, case: Case, what: str) -> None:
        """A case has come to the next step: ``loading``, ``searching, removal 2 of 7``, ..."""
        self._turn(what.split(",")[0])
        self._progress(case, what)

    def restart(self) -> None:
        """From now on a new case is timed."""
        self._turn("")
        self._seconds = {}

    def cost(self, gpus: int = 1) -> dict[str, float]:
        """GPU seconds since the restart, for a case that holds so many *gpus*; 0 without one."""
        self._turn(self._kind)
        if not gpus:
            return {}
        seconds = self._seconds
        return {
            TOTAL: gpus * sum(seconds.values()),
            LOADS: gpus * seconds.get("loading", 0.0),
            SEARCHES: gpus * seconds.get("searching", 0.0),
        }

    def _turn(self, kind: str) -> None:
        now = self._now()
        self._seconds[self._kind] = self._seconds.get(self._kind, 0.0) + now - self._since
        self._kind, self._since = kind, now


def added(cost: dict[str, float], held: dict[str, float]) -> dict[str, float]:
    """*cost* of a record with what a second look at its timings held the GPU for."""
    return {**cost, **{kind: cost.get(kind, 0.0) + held[kind] for kind in held}}


def total(records: Iterable[Record]) -> dict[str, float]:
    """The sum over *records*, by kind; empty where none held a GPU."""
    held = [record.cost for record in records if record.cost.get(TOTAL)]
    return {k: sum(c.get(k, 0.0) for c in held) for k in KINDS} if held else {}

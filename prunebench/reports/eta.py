"""How long a run still takes: from how long its cases took before, or else took so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean

from ..case import Case, search_of
from ..runs.dry_run import Outlook


class TimeLeft:
    """Counts what is done and says what is left, in seconds.

    A case that was answered before takes what it took then, times how far off such guesses were so
    far; another the mean of those that this run measured. Reused answers take no time and say
    nothing of the others.

    Args:
        clock: seconds that only grow.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._expected: dict[str, float] = {}
        self._pending: list[str] = []
        self._begun: dict[str, float] = {}
        self._took: dict[str, float] = {}
        self._finished: set[str] = set()

    def expect(self, case_ids: Sequence[str], expected: Mapping[str, float]) -> None:
        """Take *case_ids* as the run's, and how long those take of which it is known."""
        self._expected = dict(expected)
        self._pending = [i for i in case_ids if i not in self._finished]

    def begin(self, case_id: str, *, anew: bool = False) -> None:
        """A case has begun, if it was not known to have; *anew* begins in earnest only now."""
        if anew or case_id not in self._begun:
            self._begun[case_id] = self._clock()

    def finish(self, case_id: str, *, reused: bool = False) -> float | None:
        """A case is finished; returns how long it took, where that was seen."""
        self._finished.add(case_id)
        if case_id in self._pending:
            self._pending.remove(case_id)
        began = self._begun.pop(case_id, None)
        if began is None or reused:
            return None
        self._took[case_id] = took = self._clock() - began
        return took

    def left(self, workers: int = 1) -> float | None:
        """Seconds until all is done, or None while that is not known.

        With several *workers* no less than the longest case alone.
        """
        if not self._pending or not (self._begun or self._took):
            return None
        scale, mean = self._scale(), fmean(self._took.values()) if self._took else None
        now = self._clock()
        each = []
        for case_id in self._pending:
            known = self._expected.get(case_id)
            whole = mean if known is None else known * scale
            if whole is None:
                return None
            spent = now - self._begun[case_id] if case_id in self._begun else 0.0
            each.append(max(0.0, whole - spent))
        return max(sum(each) / max(1, workers), max(each))

    def _scale(self) -> float:
        """How far off the guesses were for those that are finished."""
        known = [i for i in self._took if self._expected.get(i, 0.0) > 0]
        guessed = sum(self._expected[i] for i in known)
        return sum(self._took[i] for i in known) / guessed if guessed else 1.0


def expected(cases: Sequence[Case], outlooks: Sequence[Outlook]) -> dict[str, float]:
    """Seconds of each case that is known: nothing for stored ones, else as it took.

    What cases share, a model's loading and a search, counts for the first of them.
    """
    found: dict[str, float] = {}
    seen: list[object] = []
    for case, look in zip(cases, outlooks, strict=True):
        if look.status != "run":
            found[case.id] = 0.0
        elif look.parts is not None and look.basis == "measured":
            seconds = look.parts.own
            for shared, cost in (
                (case.model, look.parts.load),
                (search_of(case), look.parts.search),
            ):
                if shared not in seen:
                    seen.append(shared)
                    seconds += cost
            found[case.id] = seconds
    return found

"""The outcomes and the rules of judging, which ``verdict`` applies."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

from msgspec import Struct

#: One-sided: in how many runs over unchanged models one of all tests may call worse by chance.
ALPHA = 0.05
#: The same for scheduled runs: many follow each other, and nobody waits for the answer.
NIGHTLY_ALPHA = 0.01


class Outcome(StrEnum):
    """The words of a finding."""

    BETTER = "better"
    SAME = "same"
    WORSE = "worse"
    UNSURE = "unsure"
    NEW = "new"
    GONE = "gone"
    CHANGED_PLAN = "changed_plan"
    NOT_COMPARABLE = "not_comparable"


#: What fails a case that says nothing.
FAILING = (Outcome.WORSE, Outcome.GONE)


class Rules(Struct, frozen=True):
    """How to judge.

    *alpha* is the one-sided level, and *family* the number of tests that share it: one, unless the
    other tests of a run cannot be seen from here. *gates* name measurements that decide although
    others are judged in their place. *noise* is, per measurement, the smallest
    relative effect that can be believed on this machine.
    """

    alpha: float = ALPHA
    family: int = 1
    gates: Collection[str] = ()
    noise: Mapping[str, float] = {}

"""The words and the rules of judging: what a case may say of it; `verdict` does it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import StrEnum

from msgspec import Struct

#: One-sided: in how many runs over unchanged models one of all tests may call worse by chance.
ALPHA = 0.05
#: The same where nobody waits for the answer and many nights follow each other.
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
    others stand in their place. *noise* is, per measurement, the smallest part of its value that
    can be believed on this machine.
    """

    alpha: float = ALPHA
    family: int = 1
    gates: Collection[str] = ()
    noise: Mapping[str, float] = {}

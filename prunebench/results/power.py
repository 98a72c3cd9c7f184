"""What a gate could see: the smallest drop in accuracy that its number of questions shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from msgspec import Struct

from ..case import Case
from ..errors import PrunebenchError
from ..verdicts import significance
from ..verdicts.evidence import tasks_of
from .baselines.files import Baselines


class Gate(Struct, frozen=True):
    """Of so many *questions* the *least* drop that is seen, and the drop that is *allowed*.

    *alpha* is the level of the case, for a single test.
    """

    case_id: str
    metric: str
    questions: int
    least: float
    allowed: float
    alpha: float


def of_cases(
    cases: Iterable[Case],
    baselines: Baselines,
    disagreement: float,
    alpha: float | None,
    power: float,
) -> Iterator[Gate]:
    """A gate for every right-or-wrong measurement that the baselines of *cases* are judged by.

    *disagreement* is the fraction of questions on which only one of two models is right, *alpha*
    the one-sided level in place of what each case says, *power* the probability to find the drop.

    Raises:
        PrunebenchError: if a baseline is damaged.
    """
    for case in cases:
        was = baselines.load(case.id, "cpu")
        rules = case.rules(alpha)
        for m in was.measurements if was else ():
            if was and m.paired and not m.instead and set(m.samples) <= {0.0, 1.0}:
                tasks = [len(task.samples) for task, _ in tasks_of(m, was, was)]
                count = significance.effective_count(tasks or [len(m.samples)])
                least = significance.detectable(count, disagreement, rules.alpha, power)
                allowed = case.tolerance_for(m.metric).allowed(m.value or 0.0)
                yield Gate(case.id, m.metric, len(m.samples), least, allowed, rules.alpha)


def questions(drop: float, disagreement: float, alpha: float, power: float) -> int:
    """How many questions it takes to find *drop*.

    Raises:
        PrunebenchError: if no such drop is possible.
    """
    if drop > disagreement:
        raise PrunebenchError(
            f"no drop exceeds the disagreement: found {drop:g} and {disagreement:g}"
        )
    return math.ceil(significance.sample_size(drop, disagreement, alpha, power))


def fraction(text: str, flag: str) -> float:
    """``0.5pp``, ``0.5%`` or ``0.005``, given to *flag*, as a fraction.

    Raises:
        PrunebenchError: if it is none of these, or not between 0 and 1.
    """
    per_cent = text.endswith(("pp", "%"))
    try:
        value = float(text.removesuffix("pp").removesuffix("%")) / (100 if per_cent else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        expected = "expected a part of the questions: 0.5pp, 0.5% or 0.005"
        raise PrunebenchError(f"{flag} {text}: {expected}")
    return value

"""Ranks that chance does not give: shared where no test tells two methods apart. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..verdicts import significance as stats
from ..verdicts.outcomes import ALPHA
from . import pair_test
from .pair_test import Entry


class Place(Struct, frozen=True):
    """Where a row stands: 1 + the number of rows of its group that are significantly better.

    *better* and *worse* are the numbers of the rows that are so; no test tells the others apart.
    """

    rank: int
    of: int
    better: tuple[int, ...]
    worse: tuple[int, ...]

    @property
    def last(self) -> int:
        """The rank that it would have if all that are not significantly worse were better."""
        return self.of - len(self.worse)

    @property
    def text(self) -> str:
        """``3``, or ``3-8`` where it shares what lies between."""
        return f"{self.rank}" if self.rank == self.last else f"{self.rank}\N{EN DASH}{self.last}"


class Test(Struct, frozen=True):
    """One comparison of two rows: two-sided *p*, *adjusted* among all of the board (Holm).

    *first_better* says which way the difference goes.
    """

    first: int
    second: int
    p: float
    first_better: bool
    adjusted: float = 1.0


def places(
    entries: Sequence[Entry], groups: Sequence[Sequence[int]], metric: str, alpha: float = ALPHA
) -> list[Place | None]:
    """The place of each of *entries* among its group, by *metric*; None without a value.

    Args:
        entries: what is ranked.
        groups: numbers of the entries that are ranked among each other.
        metric: the measurement to rank by.
        alpha: how often, by chance, any difference at all is called one on a board of equals.
    """
    ranked = [
        [i for i in group if pair_test.value(entries[i], metric) is not None] for group in groups
    ]
    found = tests(entries, ranked, metric)
    beaten: dict[int, set[int]] = {i: set() for group in ranked for i in group}
    for test in found:
        if test.adjusted < alpha:
            ends = (test.first, test.second) if test.first_better else (test.second, test.first)
            beaten[ends[1]].add(ends[0])
    placed: list[Place | None] = [None] * len(entries)
    for group in ranked:
        for i in group:
            better, worse = sorted(beaten[i]), sorted(j for j in group if i in beaten[j])
            placed[i] = Place(1 + len(better), len(group), tuple(better), tuple(worse))
    return placed


def tests(entries: Sequence[Entry], groups: Sequence[Sequence[int]], metric: str) -> list[Test]:
    """Every pair within every group that can be tested, with p-values adjusted over them all."""
    found = [pair for group in groups for pair in _pairs(entries, group, metric)]
    adjusted = stats.holm([p for _, _, p, _ in found])
    return [Test(*pair, a) for pair, a in zip(found, adjusted, strict=True)]


def _pairs(
    entries: Sequence[Entry], group: Sequence[int], metric: str
) -> Iterator[tuple[int, int, float, bool]]:
    """Every pair of *group* with the same questions: p-value, and whether the first is better."""
    sides = pair_test.prepare(entries, group, metric)
    for i, first in enumerate(sides):
        others = [other for other in sides[i + 1 :] if other.layout is first.layout]
        for other, result in zip(others, pair_test.compared(first, others), strict=True):
            yield first.at, other.at, *result


def alike(sparsities: Sequence[float], reach: float) -> list[list[int]]:
    """Groups of rows to rank among each other: from least to most no further apart than *reach*.

    Going up from the least sparse, a group takes what is within *reach* of its first, so that a
    row is never ranked with one that has more than *reach* less removed. Returns the numbers of
    the rows, groups from sparse to sparser.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(sparsities)), key=lambda i: sparsities[i]):
        # A whole group may be one hair further apart than fractions of parameters can say.
        if groups and sparsities[i] - sparsities[groups[-1][0]] <= reach + 1e-9:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [sorted(group) for group in groups]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The points that no other one beats: none is at least as good in both and better in one.

    Args:
        points: two numbers each, of both of which more is better.

    Returns:
        Their numbers, by the first number; equal points are all on the front.
    """

    def unbeaten(i: int) -> bool:
        x, y = points[i]
        return not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)

    return sorted(filter(unbeaten, range(len(points))), key=lambda i: (points[i], i))

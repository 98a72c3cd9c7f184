"""Ranks by significance: rows that no test tells apart share theirs. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from msgspec import Struct

from ..verdicts import significance as stats
from ..verdicts.outcomes import ALPHA
from . import pair_test
from .pair_test import Entry


class Place(Struct, frozen=True):
    """A row's rank: 1 + the number of rows of its group that are significantly better.

    *of* is the size of the group; *better* and *worse* are the numbers of the rows that are
    significantly so.
    """

    rank: int
    of: int
    better: tuple[int, ...]
    worse: tuple[int, ...]

    @property
    def last(self) -> int:
        """The rank if every row that is not significantly worse were better."""
        return self.of - len(self.worse)

    @property
    def text(self) -> str:
        """``3``, or ``3-8`` for a shared rank."""
        return f"{self.rank}" if self.rank == self.last else f"{self.rank}\N{EN DASH}{self.last}"


class Test(Struct, frozen=True):
    """One comparison of two rows: two-sided *p*, *adjusted* among all of the board (Holm).

    *first_better* is the direction of the difference.
    """

    first: int
    second: int
    p: float
    first_better: bool
    adjusted: float = 1.0


def places(
    entries: Sequence[Entry], groups: Sequence[Sequence[int]], metric: str
) -> list[Place | None]:
    """The place of each of *entries* among its group, by *metric*; None without a value.

    Args:
        entries: what is ranked.
        groups: numbers of the entries that are ranked among each other.
        metric: the measurement to rank by.
    """
    ranked = [
        [i for i in group if pair_test.value(entries[i], metric) is not None] for group in groups
    ]
    found = tests(entries, ranked, metric)
    beaten: dict[int, set[int]] = {i: set() for group in ranked for i in group}
    for test in found:
        if test.adjusted < ALPHA:
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


def by_sparsity(sparsities: Sequence[float], reach: float) -> list[list[int]]:
    """Groups of rows to rank among each other, each spanning at most *reach* of sparsity.

    Going up from the least sparse, a group takes what is within *reach* of its first, so that a
    row is never ranked with one that has more than *reach* less removed. Returns the numbers of
    the rows, groups from sparse to sparser.
    """
    groups: list[list[int]] = []
    for i in sorted(range(len(sparsities)), key=lambda i: sparsities[i]):
        # Allows for the rounding of the fractions.
        if groups and sparsities[i] - sparsities[groups[-1][0]] <= reach + 1e-9:
            groups[-1].append(i)
        else:
            groups.append([i])
    return [sorted(group) for group in groups]


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """The Pareto front: no other point is at least as good in both and better in one.

    Args:
        points: pairs of numbers; more is better in both.

    Returns:
        Indices in order of the first number; of equal points all.
    """

    def unbeaten(i: int) -> bool:
        x, y = points[i]
        return not any(a >= x and b >= y and (a, b) != (x, y) for a, b in points)

    return sorted(filter(unbeaten, range(len(points))), key=lambda i: (points[i], i))

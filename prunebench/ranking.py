"""Ranks that chance does not give: shared where no test tells two methods apart. Pure."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from itertools import combinations
from statistics import fmean

from msgspec import Struct
from msgspec.structs import replace

from . import stats
from .evidence import evidence, tasks_of
from .outcomes import ALPHA
from .record import Measurement, Record

#: The records of one method over its seeds.
Entry = Sequence[Record]


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
    ranked = [[i for i in group if _value(entries[i], metric) is not None] for group in groups]
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
    found = []
    for group in groups:
        for i, j in combinations(sorted(group), 2):
            if (seen := compared(entries[i], entries[j], metric)) is not None:
                p, first_better = seen
                found.append(Test(i, j, p, first_better))
    adjusted = stats.holm([test.p for test in found])
    return [replace(t, adjusted=a) for t, a in zip(found, adjusted, strict=True)]


def compared(first: Entry, second: Entry, metric: str) -> tuple[float, bool] | None:
    """Two-sided p-value that two entries are equal, and whether the first is the better one.

    Over the same questions or windows: the paired tests of verdicts. Where there are seeds, the
    answers are averaged over them first, and the seeds must show the difference too: the larger of
    the two p-values counts. None where nothing is paired.
    """
    ours, theirs = _mean(first, metric), _mean(second, metric)
    if ours is None or theirs is None or not _paired(ours, theirs):
        return None
    if ours.samples == theirs.samples:
        return 1.0, False
    # Of the two sides only that of the printed numbers: a rank must not contradict them.
    first_better = _looks_better(ours, theirs)
    better, worse = (first, second) if first_better else (second, first)
    if (one_sided := _p_worse(worse, better, metric)) is None:
        return None
    p = min(1.0, 2 * one_sided)
    if (over_seeds := _seeds_differ(first, second, metric)) is not None:
        p_seeds, seeds_say_first = over_seeds
        p = max(p, p_seeds) if seeds_say_first == first_better else 1.0
    return p, first_better


def _p_worse(worse: Entry, better: Entry, metric: str) -> float | None:
    """One-sided p-value that *worse* is worse; None where samples are no numbers."""
    now, was = _mean(worse, metric), _mean(better, metric)
    assert now is not None and was is not None  # noqa: S101, PT018  # the caller has seen them
    if now.unit == "ppl" and not now.clusters:  # one of the two tests that evidence does
        # As there: what is the same in single precision has not moved.
        ours, theirs = (array("f", m.samples) for m in (now, was))
        lost = [n - w for n, w in zip(ours, theirs, strict=True)]
        return stats.p_paired(lost) if all(map(math.isfinite, lost)) else None
    tasks = tasks_of(now, worse[0], better[0]) if len(worse) == len(better) == 1 else ()
    seen = evidence(now, was, [(_answers(a), _answers(b)) for a, b in tasks])
    return None if seen is None else seen.p


def _answers(measurement: Measurement) -> Measurement:
    """Right or wrong alone: margins tell models apart that answer every question alike."""
    return replace(measurement, margins=())


def _looks_better(ours: Measurement, theirs: Measurement) -> bool:
    assert ours.value is not None and theirs.value is not None  # noqa: S101, PT018  # of _mean
    return (ours.value < theirs.value) == (ours.better == "lower")


def _paired(ours: Measurement, theirs: Measurement) -> bool:
    same = len(ours.samples) == len(theirs.samples) and ours.unit == theirs.unit
    return bool(ours.samples) and ours.paired and theirs.paired and same


def _value(entry: Entry, metric: str) -> float | None:
    own = [m.value for r in entry if (m := r.find(metric)) is not None and m.value is not None]
    return fmean(own) if len(own) == len(entry) else None


def _mean(entry: Entry, metric: str) -> Measurement | None:
    """The measurement, its samples averaged over the seeds."""
    own = [m for r in entry if (m := r.find(metric)) is not None and m.value is not None]
    if len(own) != len(entry) or len({len(m.samples) for m in own}) != 1:
        return None
    if len(own) == 1:
        return _answers(own[0])
    samples = tuple(map(fmean, zip(*(m.samples for m in own), strict=True)))
    value = fmean(m.value for m in own if m.value is not None)
    return replace(own[0], value=value, samples=samples, margins=())


def _seeds_differ(first: Entry, second: Entry, metric: str) -> tuple[float, bool] | None:
    """Welch's test over seeds; against one that has no seed, Student's of one sample."""
    sides = [_per_seed(entry, metric) for entry in (first, second)]
    if max(map(len, sides)) < 2:
        return None
    measured = first[0].find(metric)
    assert measured is not None  # noqa: S101  # _mean found it
    apart = fmean(sides[0]) - fmean(sides[1])
    first_better = (apart < 0) == (measured.better == "lower")
    if all(len(set(side)) == 1 for side in sides):  # no seed matters
        return float(apart == 0), first_better
    from scipy import stats as tests_of

    if min(map(len, sides)) > 1:
        p = tests_of.ttest_ind(*sides, equal_var=False).pvalue
    else:
        many, one = sorted(sides, key=len, reverse=True)
        p = tests_of.ttest_1samp(many, one[0]).pvalue
    return float(p), first_better


def _per_seed(entry: Entry, metric: str) -> list[float]:
    """A value per seed; of perplexity its logarithm, which does not leap."""
    found = [m for r in entry if (m := r.find(metric)) is not None and m.value is not None]
    return [math.log(m.value) if m.unit == "ppl" and m.value else m.value or 0.0 for m in found]


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

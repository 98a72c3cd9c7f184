"""All pairs of a board at once: the p-values that ``contest.compared`` gives one by one. Pure.

What a test needs of a row is made ready once per row. Rows with the same questions are tested
against each other as arrays; what is odd (samples that are no numbers, tasks that do not match) is
left to ``contest``, pair by pair.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import combinations
from statistics import fmean, variance
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from ..record import Measurement
from ..verdicts import significance as tests
from . import pair_test, vectorized_tests
from .pair_test import Entry

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from .vectorized_tests import Floats, Whole

#: Two entries by their numbers, the two-sided p-value, and whether the first is the better one.
Pair = tuple[int, int, float, bool]
#: Numbers that are held at once.
ROOM = 2_000_000
#: Clusters with more questions than this differ in too many sizes to be counted one size at a time.
LONG = 1000


class Side(Struct, frozen=True):
    """A row, ready to be tested: *at* is its number, *measured* its mean over its seeds.

    *kind* says what its samples are: right or wrong, of more than one size, or nothing that many
    are tested on. *tasks* are the strata of right and wrong, the measurement itself if there are
    none.
    """

    at: int
    entry: Entry
    measured: Measurement
    kind: Literal["answers", "graded", "odd"]
    tasks: tuple[Measurement, ...]

    @property
    def alike(self) -> tuple[object, ...]:
        """What two sides share whose samples are of the same questions."""
        m = self.measured
        return m.unit, m.better, m.paired, len(m.samples), m.clusters, self.kind == "odd"

    @property
    def strata(self) -> tuple[object, ...]:
        """What two sides share whose tasks are the same."""
        return tuple((t.metric, len(t.samples), t.clusters) for t in self.tasks)


def pairs(entries: Sequence[Entry], group: Sequence[int], metric: str) -> list[Pair]:
    """Every pair of *group* that can be tested, in order."""
    sides = [s for i in sorted(group) if (s := _side(i, entries[i], metric)) is not None]
    classes: dict[tuple[object, ...], list[Side]] = {}
    for side in sides:
        classes.setdefault(side.alike, []).append(side)
    found: list[Pair] = []
    for number, own in enumerate(classes.values()):
        if own[0].kind == "odd" or _long(own):
            found += _one_by_one(combinations(own, 2), metric)
        elif own[0].measured.paired:
            found += _all(own, metric)
        for other in list(classes.values())[number + 1 :]:
            if pair_test.paired(own[0].measured, other[0].measured):
                found += _one_by_one(((a, b) for a in own for b in other), metric)
    return sorted(found)


def _one_by_one(chosen: Iterator[tuple[Side, Side]], metric: str) -> Iterator[Pair]:
    for one, other in chosen:
        first, second = sorted((one, other), key=lambda side: side.at)
        if (seen := pair_test.compared(first.entry, second.entry, metric)) is not None:
            yield first.at, second.at, *seen


def _long(sides: Sequence[Side]) -> bool:
    """Whether clusters of right and wrong are too long for a table of sizes by rows by rows."""
    answers = (s for s in sides if s.kind == "answers")
    groups = {m.clusters for s in answers for m in (s.measured, *s.tasks)}
    longest = max((n for clusters in groups for n in Counter(clusters).values()), default=0)
    return longest > LONG or longest * len(sides) ** 2 > 10 * ROOM


# ------------------------------------------------------------------------------------- a row


def _side(at: int, entry: Entry, metric: str) -> Side | None:
    measured = pair_test.mean(entry, metric)
    if measured is None or not measured.samples:
        return None
    tasks: tuple[Measurement, ...] = (measured,)
    if len(entry) == 1:
        own = [
            m
            for m in entry[0].measurements
            if m.instead == metric and m.unit == measured.unit and m.samples
        ]
        if sum(len(t.samples) for t in own) == len(measured.samples):
            tasks = tuple(own)
    return Side(at, entry, measured, _kind(measured, tasks), tasks)


def _kind(
    measured: Measurement, tasks: tuple[Measurement, ...]
) -> Literal["answers", "graded", "odd"]:
    # Baselines keep samples in single precision.
    sizes = set(array("f", measured.samples)) - {0.0}
    names = {t.metric for t in tasks}
    if not all(map(math.isfinite, sizes)) or len(names) < len(tasks):
        return "odd"
    if measured.unit == "ppl" and not measured.clusters:
        return "graded"
    if sizes <= {1.0}:
        return "answers" if all({*t.samples} <= {0.0, 1.0} for t in tasks) else "odd"
    return "graded" if len(sizes) > 1 else "odd"


# ------------------------------------------------------------------------------- pairs alike


class Duels(Struct, frozen=True):
    """All pairs of *sides*, by the places of their *first* and *second* there.

    *sign* is 1 where the first is asked to be the worse, by the numbers that are printed, and -1
    where the second is.
    """

    sides: Sequence[Side]
    first: Whole
    second: Whole
    sign: Whole

    @property
    def loses(self) -> int:
        """1 where less is better: what the first has more of is how much worse it is."""
        return 1 if self.sides[0].measured.better == "lower" else -1


def _all(sides: Sequence[Side], metric: str) -> Iterator[Pair]:
    """Every pair of *sides*, which have the same questions."""
    import numpy as np

    first, second = np.triu_indices(len(sides), 1)
    values = np.array([s.measured.value for s in sides])
    higher = sides[0].measured.better == "higher"
    first_better = (values[first] > values[second]) == higher
    duels = Duels(sides, first, second, np.where(first_better, -1, 1))
    p = np.minimum(1.0, 2 * _tested(duels, metric))
    _over_seeds(duels, p, metric)
    p[values[first] == values[second]] = 1.0
    found = (a.tolist() for a in (first, second, p, first_better))
    for i, j, seen, better in zip(*found, strict=True):
        yield sides[i].at, sides[j].at, seen, better


def _tested(duels: Duels, metric: str) -> Floats:
    """One-sided p-values over questions or windows."""
    import numpy as np

    first, second = duels.first, duels.second
    p = np.ones(len(first))
    answers = np.array([s.kind == "answers" for s in duels.sides])
    single = np.array([len(s.entry) == 1 for s in duels.sides])
    strata: dict[tuple[object, ...], list[int]] = {}
    for i in np.flatnonzero(answers & single).tolist():
        strata.setdefault(duels.sides[i].strata, []).append(i)
    left = np.ones(len(first), bool)
    for own in strata.values():
        these = np.isin(first, own) & np.isin(second, own)
        tasks = list(zip(*(duels.sides[i].tasks for i in own), strict=True))
        _answered(tasks, own, duels, these, p)
        left &= ~these
    right_or_wrong = left & answers[first] & answers[second]
    unlike = np.flatnonzero(right_or_wrong & single[first] & single[second])
    for k, i, j in zip(unlike, first[unlike].tolist(), second[unlike].tolist(), strict=True):
        one, other = duels.sides[i], duels.sides[j]
        seen = pair_test.compared(one.entry, other.entry, metric)
        p[k] = 1.0 if seen is None else seen[0] / 2
    right_or_wrong &= ~(single[first] & single[second])
    if right_or_wrong.any():
        own = np.flatnonzero(answers).tolist()
        pooled = [[duels.sides[i].measured for i in own]]
        _answered(pooled, own, duels, right_or_wrong, p)
    _graded(duels, np.flatnonzero(~(answers[first] & answers[second])), p)
    return p


def _answered(
    tasks: Sequence[Sequence[Measurement]],
    own: Sequence[int],
    duels: Duels,
    these: NDArray[np.bool_],
    p: Floats,
) -> None:
    """Put into *p* the sign flips of right and wrong, of *these* pairs of the sides *own*.

    One task at a time, so that no more than its answers are held as an array.
    """
    import numpy as np

    at = np.zeros(len(duels.sides), int)
    at[own] = np.arange(len(own))
    one, other = at[duels.first[these]], at[duels.second[these]]
    flips: dict[int, Whole] = {}
    seen = np.zeros(len(one), int)
    for weight, alike in zip(tests.weights([len(t[0].samples) for t in tasks]), tasks, strict=True):
        right = _right(alike)
        for size, moved in _moved(right, one, other):
            flips[weight * size] = flips.get(weight * size, 0) + moved
        total = right.sum(axis=1).astype(int)
        seen += weight * (total[one] - total[other])
    worse = duels.loses * duels.sign[these] * seen
    sizes = np.array(list(flips))
    p[these] = vectorized_tests.sign_flips(sizes, np.stack(list(flips.values()), axis=1), worse)


def _right(alike: Sequence[Measurement]) -> NDArray[np.float32]:
    """Rows x questions, or clusters of these: how many are right. Whole numbers, so exact."""
    import numpy as np

    right = np.array([array("f", m.samples) for m in alike], dtype=np.float32)
    if not alike[0].clusters:
        return right
    order, starts, _ = _clustered(alike[0].clusters)
    found: NDArray[np.float32] = np.add.reduceat(right[:, order], starts, axis=1)
    return found


def _clustered(clusters: Sequence[int]) -> tuple[Whole, Whole, Whole]:
    """The order that puts clusters together, where each starts in it, and its size."""
    import numpy as np

    numbers = np.asarray(clusters)
    order = np.argsort(numbers, kind="stable")
    _, starts, sizes = np.unique(numbers[order], return_index=True, return_counts=True)
    return order, starts, sizes


def _moved(right: NDArray[np.float32], one: Whole, other: Whole) -> Iterator[tuple[int, Whole]]:
    """By how many right answers clusters differ, and in how many clusters of each pair."""
    import numpy as np

    if right.max(initial=0) <= 1:
        total, both = right.sum(axis=1), right @ right.T
        yield 1, (total[one] + total[other] - 2 * both[one, other]).astype(int)
        return
    counts = right.astype(np.int16)  # at most LONG
    most = int(counts.max())
    table = np.zeros((most, len(counts), len(counts)), np.int32)
    for i, row in enumerate(counts):
        apart = np.abs(counts[i + 1 :] - row)
        for size in range(1, most + 1):
            table[size - 1, i, i + 1 :] = np.count_nonzero(apart == size, axis=1)
    table += table.transpose(0, 2, 1)
    for size in range(1, most + 1):
        yield size, table[size - 1, one, other].astype(int)


def _graded(duels: Duels, these: Whole, p: Floats) -> None:
    """Put into *p* the signed ranks of *these* pairs."""
    import numpy as np

    first = duels.sides[0].measured
    samples = np.array([array("f", s.measured.samples) for s in duels.sides], dtype=np.float64)
    nats = first.unit == "ppl" and not first.clusters
    step = max(1, ROOM // samples.shape[1])
    for start in range(0, len(these), step):
        own = these[start : start + step]
        lost = samples[duels.first[own]] - samples[duels.second[own]]
        lost *= (duels.loses * duels.sign[own])[:, None]
        if first.clusters:
            order, starts, sizes = _clustered(first.clusters)
            lost = np.add.reduceat(lost[:, order], starts, axis=1) / sizes
        p[own] = vectorized_tests.signed_ranks(lost)
        if nats:
            single, signs = vectorized_tests.one_size(lost)
            p[own] = np.where(single, signs, p[own])


def _over_seeds(duels: Duels, p: Floats, metric: str) -> None:
    """Raise *p* to what seeds say, where there are any: to 1 if they say the other way."""
    import numpy as np

    own = [pair_test.per_seed(side.entry, metric) for side in duels.sides]
    seeds = np.array([len(values) for values in own])
    these = np.flatnonzero(np.maximum(seeds[duels.first], seeds[duels.second]) > 1)
    if not len(these):
        return
    means = np.array([fmean(values) for values in own])
    # Values that are all the same have no variance, to the last digit.
    spreads = np.array([variance(v) if len({*v}) > 1 else 0.0 for v in own])
    one, other = duels.first[these], duels.second[these]
    differ = vectorized_tests.seeds_differ(
        (means[one], means[other]), (spreads[one], spreads[other]), (seeds[one], seeds[other])
    )
    first_worse = duels.loses * (means[one] - means[other]) > 0
    agreed = first_worse == (duels.sign[these] > 0)
    p[these] = np.where(agreed, np.maximum(p[these], differ), 1.0)

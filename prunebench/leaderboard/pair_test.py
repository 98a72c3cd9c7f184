"""Whether rows of a board differ: paired over questions or windows, and over seeds. Pure.

One row is tested against many at once, because a board of 500 rows has 124,750 pairs.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from statistics import fmean
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from ..record import Measurement, Record
from ..verdicts.evidence import tasks_of
from ..verdicts.significance import weights
from . import axis_tests

if TYPE_CHECKING:
    from .axis_tests import Floats, Whole

#: The records of one method over its seeds.
Entry = Sequence[Record]
#: The most differences of samples that are held in memory at once.
MAX_DIFFERENCES = 2_000_000


class Layout(Struct, frozen=True, eq=False):
    """How samples combine; rows with the same questions share one.

    *weights* has the weight of each sample's task. *clusters*, if there are any, are the order that
    sorts the samples by cluster, and the position of each cluster's first in it.
    """

    weights: Floats
    clusters: tuple[Whole, Whole] | None = None

    def sums(self, values: Floats) -> Floats:
        """*values* (pairs x samples) summed by cluster; unchanged where nothing clusters."""
        import numpy as np

        if self.clusters is None:
            return values
        order, starts = self.clusters
        summed: Floats = np.add.reduceat(values[:, order], starts, axis=1)
        return summed


class Side(Struct, frozen=True, eq=False):
    """A row, prepared for its tests: *at* is its number, *value* its mean over its seeds.

    *samples* are averaged over the seeds. *answers* are the samples task by task where the row has
    one seed and tasks, else *samples*. *full* is what a right answer counts where every sample is
    that or 0 (0 where all are 0), and None where samples are graded. *seeds* has a value per seed.
    """

    at: int
    value: float
    better: str
    nats: bool
    full: float | None
    samples: Floats
    layout: Layout
    answers: Floats
    answers_layout: Layout
    seeds: Sequence[float]


def prepare(entries: Sequence[Entry], group: Sequence[int], metric: str) -> list[Side]:
    """The rows of *group* that have finite paired samples of *metric*, in order."""
    layouts: dict[object, Layout] = {}
    sides = (_side(i, entries[i], metric, layouts) for i in sorted(group))
    return [side for side in sides if side is not None]


def _side(at: int, entry: Entry, metric: str, layouts: dict[object, Layout]) -> Side | None:
    import numpy as np

    measured = mean(entry, metric)
    if measured is None or measured.value is None or not (measured.samples and measured.paired):
        return None
    samples = _single_precision([measured])
    if not np.isfinite(samples).all():
        return None  # somebody else's record: what is not a number has no test
    tasks = [task for task, _ in tasks_of(measured, *entry, *entry)] if len(entry) == 1 else []
    nats = measured.unit == "ppl" and not measured.clusters
    sizes = set(samples[samples != 0].tolist())
    return Side(
        at=at,
        value=measured.value,
        better=measured.better,
        nats=nats,
        full=None if nats or len(sizes) > 1 else max(sizes, default=0.0),
        samples=samples,
        layout=_layout([measured], layouts),
        answers=_single_precision(tasks or [measured]),
        answers_layout=_layout(tasks or [measured], layouts),
        seeds=_per_seed(entry, metric),
    )


def _single_precision(tasks: Sequence[Measurement]) -> Floats:
    """All samples; baselines store single precision, so what is equal there has not moved."""
    import numpy as np

    return np.concatenate([np.array(array("f", task.samples), float) for task in tasks])


def _layout(tasks: Sequence[Measurement], layouts: dict[object, Layout]) -> Layout:
    """The layout of *tasks*: that in *layouts* where an earlier row has the same questions."""
    import numpy as np

    key = tuple((t.metric, t.unit, t.better, len(t.samples), t.clusters) for t in tasks)
    if key not in layouts:
        sizes = [len(task.samples) for task in tasks]
        clustered = any(task.clusters for task in tasks)
        layouts[key] = Layout(
            np.repeat(np.array(weights(sizes), float), sizes),
            _clusters(tasks) if clustered else None,
        )
    return layouts[key]


def _clusters(tasks: Sequence[Measurement]) -> tuple[Whole, Whole]:
    import numpy as np

    numbers = np.concatenate([t.clusters or range(len(t.samples)) for t in tasks])
    task = np.repeat(range(len(tasks)), [len(t.samples) for t in tasks])
    order = np.lexsort((numbers, task))
    changes = np.diff([task[order], numbers[order]], prepend=-1).any(axis=0)
    return order, np.flatnonzero(changes)


def compared(first: Side, others: Sequence[Side]) -> list[tuple[float, bool]]:
    """The two-sided p-value that *first* equals each of *others*, and whether *first* is better.

    Over the same questions or windows: the paired tests of verdicts. Where there are seeds, the
    answers are averaged over them first, and the seeds must show the difference too: the larger of
    the two p-values counts.

    Args:
        first: the one side of each pair.
        others: the other sides, which have the layout of *first*.
    """
    step = max(1, MAX_DIFFERENCES // len(first.samples))
    blocks = (others[start : start + step] for start in range(0, len(others), step))
    return [result for block in blocks for result in _compared(first, block)]


def _compared(first: Side, others: Sequence[Side]) -> list[tuple[float, bool]]:
    import numpy as np

    values = np.array([other.value for other in others])
    # Of the two sides only that of the printed numbers: a rank must not contradict them.
    first_better = (first.value < values) == (first.better == "lower")
    sign = np.where(first_better, 1, -1) * (1 if first.better == "lower" else -1)
    by_test: dict[tuple[float | None, bool], list[int]] = {}
    for k, other in enumerate(others):
        by_test.setdefault(_test(first, other), []).append(k)
    p = np.ones(len(others))
    for (full, by_task), at in by_test.items():
        these = [others[k] for k in at]
        if full is None:
            p[at] = _graded(first, these, sign[at, None])
        else:
            p[at] = _right_or_wrong(first, these, sign[at, None], full, by_task=by_task)
    p = np.minimum(1.0, 2 * p)
    if seeded := [k for k, o in enumerate(others) if max(len(first.seeds), len(o.seeds)) > 1]:
        differ, first_above = axis_tests.seeds_differ(
            first.seeds, [others[k].seeds for k in seeded]
        )
        agree = (first_above == (first.better == "higher")) == first_better[seeded]
        p[seeded] = np.where(agree, np.maximum(p[seeded], differ), 1.0)
    p[values == first.value] = 1.0
    return list(zip(p.tolist(), first_better.tolist(), strict=True))


def _test(first: Side, other: Side) -> tuple[float | None, bool]:
    """What a right answer counts in a pair, None if any is graded; whether its tasks are equal."""
    if first.full is None or other.full is None:
        return None, False
    fulls = {first.full, other.full} - {0.0} or {1.0}
    full = fulls.pop()
    return None if fulls else full, first.answers_layout is other.answers_layout


def _graded(first: Side, others: Sequence[Side], sign: Whole) -> Floats:
    """One-sided p-values that the worse of each pair is worse, by signed ranks of windows."""
    import numpy as np

    lost = sign * (np.array([other.samples for other in others]) - first.samples)
    by_cluster = first.layout.sums(lost) / first.layout.sums(np.ones((1, lost.shape[1])))
    return axis_tests.signed_ranks(by_cluster, sign_test=first.nats)


def _right_or_wrong(
    first: Side, others: Sequence[Side], sign: Whole, full: float, *, by_task: bool
) -> Floats:
    """One-sided p-values that the worse of each pair is worse, by sign flips of answers."""
    import numpy as np

    layout = first.answers_layout if by_task else first.layout
    theirs = np.array([other.answers if by_task else other.samples for other in others])
    lost = sign * np.rint((theirs - (first.answers if by_task else first.samples)) / full)
    return axis_tests.sign_flips(layout.sums(layout.weights * lost).astype(int))


def value(entry: Entry, metric: str) -> float | None:
    """The mean over the seeds; None unless every one of them has a value."""
    own = [m.value for r in entry if (m := r.find(metric)) is not None and m.value is not None]
    return fmean(own) if len(own) == len(entry) else None


def mean(entry: Entry, metric: str) -> Measurement | None:
    """The measurement, its samples averaged over the seeds; None unless all seeds have as many."""
    own = [m for r in entry if (m := r.find(metric)) is not None and m.value is not None]
    if len(own) != len(entry) or len({len(m.samples) for m in own}) != 1:
        return None
    if len(own) == 1:
        return own[0]
    samples = tuple(map(fmean, zip(*(m.samples for m in own), strict=True)))
    return replace(own[0], value=value(entry, metric), samples=samples)


def _per_seed(entry: Entry, metric: str) -> list[float]:
    """A value per seed; of perplexity its logarithm, which has no outliers."""
    found = [m for r in entry if (m := r.find(metric)) is not None and m.value is not None]
    own = [(m.value or 0.0, m.unit) for m in found]
    return [math.log(v) if unit == "ppl" and v > 0 else v for v, unit in own]

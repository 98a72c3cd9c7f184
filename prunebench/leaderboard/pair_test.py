"""Whether two rows of a board differ: paired over questions or windows, and over seeds. Pure."""

from __future__ import annotations

import math
import warnings
from array import array
from collections.abc import Sequence
from statistics import fmean

from msgspec.structs import replace

from ..record import Measurement, Record
from ..verdicts import significance as tests
from ..verdicts.evidence import evidence, tasks_of

#: The records of one method over its seeds.
Entry = Sequence[Record]


def compared(first: Entry, second: Entry, metric: str) -> tuple[float, bool] | None:
    """Two-sided p-value that two entries are equal, and whether the first is the better one.

    Over the same questions or windows: the paired tests of verdicts. Where there are seeds, the
    answers are averaged over them first, and the seeds must show the difference too: the larger of
    the two p-values counts. None where nothing is paired.
    """
    ours, theirs = mean(first, metric), mean(second, metric)
    if ours is None or theirs is None or not paired(ours, theirs):
        return None
    # Of the two sides only that of the printed numbers: a rank must not contradict them.
    if ours.samples == theirs.samples or ours.value == theirs.value:
        return 1.0, False
    first_better = looks_better(ours, theirs)
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
    now, was = mean(worse, metric), mean(better, metric)
    assert now is not None and was is not None  # noqa: S101, PT018  # the caller has seen them
    if now.unit == "ppl" and not now.clusters:  # one of the two tests that evidence does
        # As there: what is the same in single precision has not moved.
        ours, theirs = (array("f", m.samples) for m in (now, was))
        lost = [n - w for n, w in zip(ours, theirs, strict=True)]
        return tests.p_paired(lost) if all(map(math.isfinite, lost)) else None
    tasks = tasks_of(now, worse[0], better[0]) if len(worse) == len(better) == 1 else ()
    seen = evidence(now, was, [(_answers(a), _answers(b)) for a, b in tasks])
    return None if seen is None else seen.p


def _answers(measurement: Measurement) -> Measurement:
    """Right or wrong alone: margins tell models apart that answer every question alike."""
    return replace(measurement, margins=())


def looks_better(ours: Measurement, theirs: Measurement) -> bool:
    """Whether the first of two values that differ is the better one."""
    assert ours.value is not None and theirs.value is not None  # noqa: S101, PT018  # of mean
    return (ours.value < theirs.value) == (ours.better == "lower")


def paired(ours: Measurement, theirs: Measurement) -> bool:
    """Whether both have samples of the same questions."""
    same = len(ours.samples) == len(theirs.samples) and ours.unit == theirs.unit
    return bool(ours.samples) and ours.paired and theirs.paired and same


def value(entry: Entry, metric: str) -> float | None:
    """The mean over the seeds; None unless every one of them has a value."""
    own = [m.value for r in entry if (m := r.find(metric)) is not None and m.value is not None]
    return fmean(own) if len(own) == len(entry) else None


def mean(entry: Entry, metric: str) -> Measurement | None:
    """The measurement, its samples averaged over the seeds."""
    own = [m for r in entry if (m := r.find(metric)) is not None and m.value is not None]
    if len(own) != len(entry) or len({len(m.samples) for m in own}) != 1:
        return None
    if len(own) == 1:
        return _answers(own[0])
    samples = tuple(map(fmean, zip(*(m.samples for m in own), strict=True)))
    average = fmean(m.value for m in own if m.value is not None)
    return replace(own[0], value=average, samples=samples, margins=())


def _seeds_differ(first: Entry, second: Entry, metric: str) -> tuple[float, bool] | None:
    """Welch's test over seeds; against one that has no seed, Student's of one sample."""
    sides = [per_seed(entry, metric) for entry in (first, second)]
    if max(map(len, sides)) < 2:
        return None
    measured = first[0].find(metric)
    assert measured is not None  # noqa: S101  # mean found it
    apart = fmean(sides[0]) - fmean(sides[1])
    first_better = (apart < 0) == (measured.better == "lower")
    if all(len(set(side)) == 1 for side in sides):  # no seed matters
        return float(apart == 0), first_better
    from scipy import stats as tests_of

    with warnings.catch_warnings():
        # One side may have no spread at all.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        if min(map(len, sides)) > 1:
            p = tests_of.ttest_ind(*sides, equal_var=False).pvalue
        else:
            many, one = sorted(sides, key=len, reverse=True)
            p = tests_of.ttest_1samp(many, one[0]).pvalue
    return float(p), first_better


def per_seed(entry: Entry, metric: str) -> list[float]:
    """A value per seed; of perplexity its logarithm, which does not leap."""
    found = [m for r in entry if (m := r.find(metric)) is not None and m.value is not None]
    own = [(m.value or 0.0, m.unit) for m in found]
    return [math.log(v) if unit == "ppl" and v > 0 else v for v, unit in own]

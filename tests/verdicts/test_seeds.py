"""What has an interval over calibration seeds, and standard errors, against SciPy."""

from __future__ import annotations

import math
from typing import Any

import pytest
from factories import record
from msgspec.structs import replace
from scipy import stats

from prunebench import Measurement
from prunebench.verdicts.seeds import intervals, standard_error


def bare(value: float | None, metric: str = "accuracy/x") -> Measurement:
    return Measurement(metric, value, "acc", "higher")


def answered(right: str, metric: str = "accuracy/x", **more: Any) -> Measurement:
    samples = tuple(float(letter) for letter in right)
    return Measurement(
        metric, sum(samples) / len(samples), "acc", "higher", samples, paired=True, **more
    )


def test_only_what_decides_and_has_a_value_for_every_seed_has_one() -> None:
    """No timing, no task of a mean, nothing that one seed lost."""
    timing = Measurement("latency/x", 1.0, "ms", "lower")
    task = replace(bare(0.5, "accuracy/t"), instead="accuracy/x")
    whole = [record(bare(0.5), timing, task, bare(0.4, "accuracy/y")) for _ in range(3)]
    lost = record(bare(0.5), timing, task, bare(None, "accuracy/y"))
    absent = record(bare(0.5), timing, task)

    assert [i.metric for i in intervals({"a": whole})] == ["accuracy/x", "accuracy/y"]
    for other in (lost, absent):
        assert [i.metric for i in intervals({"a": [*whole, other]})] == ["accuracy/x"]


def test_standard_errors_are_what_they_are_called() -> None:
    """Of a mean by SciPy; of a perplexity its value times that; of fewer than two none."""
    losses = (2.1, 2.4, 1.9, 2.2)
    nats = Measurement("kl/x", 2.15, "nats", "lower", losses)
    ppl = Measurement("perplexity/x", 8.6, "ppl", "lower", losses)

    assert standard_error(nats, record(nats)) == pytest.approx(stats.sem(losses))
    assert standard_error(ppl, record(ppl)) == pytest.approx(8.6 * stats.sem(losses))
    assert standard_error(replace(ppl, value=None), record(ppl)) == 0.0
    for few in ((), (2.0,)):
        assert standard_error(replace(nats, samples=few), record()) == 0.0


def test_what_clusters_is_one_question() -> None:
    """Clusters of one size: the error of their means; one cluster alone has none."""
    doubled = answered("1100110000", clusters=(0, 0, 1, 1, 2, 2, 3, 3, 4, 4))

    assert standard_error(doubled, record(doubled)) == pytest.approx(stats.sem([1, 0, 1, 0, 0]))
    lone = replace(doubled, clusters=(7,) * 10)
    assert standard_error(lone, record(lone)) == 0.0


def test_of_a_mean_of_tasks_every_task_counts_alike() -> None:
    """The root of the sum of squares over their number, whatever else the record has."""
    small, large = answered("10", "accuracy/s"), answered("1" * 30 + "0" * 70, "accuracy/l")
    tasks = [replace(m, instead="accuracy/mean") for m in (small, large)]
    mean = replace(answered("1" * 31 + "0" * 71), metric="accuracy/mean")
    other = replace(answered("1010", "match/s"), unit="match", instead="accuracy/mean")
    silent = replace(bare(0.5, "accuracy/z"), instead="accuracy/mean")
    expected = math.hypot(stats.sem([1, 0]), math.sqrt(0.3 * 0.7 / 99)) / 2

    assert standard_error(mean, record(*tasks, mean, other, silent)) == pytest.approx(expected)
    assert standard_error(mean, record(mean)) == pytest.approx(stats.sem(mean.samples))


def test_samples_beyond_floats_have_no_error() -> None:
    """Somebody else's record is told as far as it can be."""
    huge = Measurement("kl/x", 1e300, "nats", "lower", (1e300, -1e300))

    assert standard_error(huge, record(huge)) == 0.0

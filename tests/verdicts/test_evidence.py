"""What samples say of two measurements, against closed forms and SciPy's own intervals."""

from __future__ import annotations

import math
from typing import Any

import pytest
from factories import record
from msgspec.structs import replace
from scipy import stats as scipy_stats

from prunebench import Measurement
from prunebench.verdicts.evidence import evidence, p_among, tasks_of
from prunebench.verdicts.significance import Evidence


def graded(samples: list[float], value: float, unit: str = "ppl", **more: Any) -> Measurement:
    fields = {"better": "lower", "paired": True, **more}
    return Measurement("perplexity/x", value, unit, samples=tuple(samples), **fields)


def answers(right: str, name: str = "x", mark: float = 1.0, **more: Any) -> Measurement:
    """One answer per letter: ``1`` is right and counts *mark*."""
    samples = tuple(mark * int(letter) for letter in right)
    fields = {"better": "higher", "paired": True, **more}
    value = sum(samples) / len(samples)
    return Measurement(f"accuracy/{name}", value, "acc", samples=samples, **fields)


def seen(now: Measurement, was: Measurement, *tasks: Any) -> Evidence:
    found = evidence(now, was, *tasks)
    assert found is not None
    return found


LOST = [0.02, 0.015, 0.03, -0.005, 0.01, 0.025]


def interval(values: list[float]) -> tuple[float, float, float]:
    """Mean and both one-sided 95 % ends, as SciPy has Student's interval."""
    test = scipy_stats.ttest_1samp(values, 0.0)
    low, high = test.confidence_interval(0.90)
    return sum(values) / len(values), low, high


def test_nats_become_perplexity() -> None:
    """exp(a + b) - exp(a) of the baseline's perplexity, for the loss and both ends of it."""
    was = graded([2.0] * 6, 10.0)
    now = graded([2.0 + d for d in LOST], 10.2)
    found = seen(now, was)
    mean, low, high = interval(LOST)

    for ours, nats in ((found.loss, mean), (found.low, low), (found.high, high)):
        assert ours == pytest.approx(10.0 * (math.exp(nats) - 1), rel=1e-4)
    error = scipy_stats.sem(LOST)
    assert found.spread == pytest.approx(10.0 * error, rel=1e-4)
    assert found.p == pytest.approx(
        scipy_stats.wilcoxon(LOST, alternative="greater").pvalue
    )  # of the nats: a test of ranks


def test_what_is_no_perplexity_stays_in_its_unit() -> None:
    """A divergence in nats is lost in nats; without a baseline's value there is no perplexity."""
    mean, low, high = interval(LOST)
    for unit, value in (("nats", 10.0), ("ppl", None)):
        was = replace(graded([2.0] * 6, 10.0, unit), value=value)
        found = seen(graded([2.0 + d for d in LOST], 10.2, unit), was)
        assert [found.loss, found.low, found.high] == pytest.approx([mean, low, high], rel=1e-4)


def test_more_nats_than_exp_can_hold_are_infinite() -> None:
    """A model that lost everything has no finite end, and no error either."""
    found = seen(graded([1000.0, 1001.0, 1002.0], 1e300), graded([1.0, 1.0, 1.0], math.e))

    assert (found.loss, found.high) == (math.inf, math.inf)


def test_a_side_without_samples_is_no_evidence() -> None:
    """Whichever it is."""
    with_samples, without = answers("1101"), replace(answers("1101"), samples=())

    assert evidence(with_samples, without) is None
    assert evidence(without, with_samples) is None


@pytest.mark.parametrize("mark", [0.5, 0.25])
def test_what_a_right_answer_counts_scales_the_loss_alone(mark: float) -> None:
    """Half a point each: the same test, half the loss; no number of questions goes with it."""
    now, was = "0000000011", "1111000011"
    whole, part = (seen(answers(now, mark=m), answers(was, mark=m)) for m in (1.0, mark))

    assert (part.p, part.p_better, part.worse) == (whole.p, whole.p_better, whole.worse)
    assert whole.p == 1 / 16  # four of four changed for the worse: 2 ** -4
    for name in ("loss", "low", "high", "spread"):
        assert getattr(part, name) == pytest.approx(mark * getattr(whole, name))
    assert whole.loss == pytest.approx(0.4)
    assert whole.effective == 10
    assert (part.effective, part.disagreement) == (None, None)


def test_all_wrong_on_both_sides_is_ten_questions_that_agree() -> None:
    """No mark at all is left to tell what a right answer counts."""
    found = seen(answers("0" * 10), answers("0" * 10))

    assert (found.loss, found.p, found.effective, found.disagreement) == (0.0, 1.0, 10, 0.0)


def test_of_mistakes_fewer_are_better() -> None:
    """The same answers, counted the other way round."""
    now, was = answers("0000000011", better="lower"), answers("1111000011", better="lower")
    found, turned = seen(now, was), seen(answers("0000000011"), answers("1111000011"))

    assert found.loss == pytest.approx(-0.4)
    assert (found.p, found.p_better) == (turned.p_better, turned.p)


def mean_of(*tasks: Measurement) -> Measurement:
    samples = tuple(s for task in tasks for s in task.samples)
    return replace(answers("1", "mean"), samples=samples)


def test_tasks_stand_for_their_mean_only_where_both_sides_have_all_of_them() -> None:
    """Whole tasks, their samples as many on both sides, and together those of the mean."""
    one, two = (answers(right, name, instead="accuracy/mean") for right, name in
                (("1100", "one"), ("10", "two")))  # fmt: skip
    mean = mean_of(one, two)
    now = record(one, two, mean)

    def named(*old: Measurement) -> list[str]:
        return [task.metric for task, _ in tasks_of(mean, now, record(*old))]

    assert named(one, two, mean) == ["accuracy/one", "accuracy/two"]
    assert named(one, mean) == []
    assert named(one, replace(two, samples=two.samples[:1]), mean) == []
    for odd in (replace(two, instead=""), replace(two, unit="match"), replace(two, samples=())):
        assert tasks_of(mean, record(one, odd, mean), record(one, two, mean)) == []
    assert tasks_of(mean_of(one), now, record(one, two, mean)) == []


def test_p_among_weighs_tasks_where_both_sides_have_them() -> None:
    """Five of six changed for the worse; a question of the small task weighs more than one."""
    first = [answers("1" * 400, "one", instead="accuracy/mean"),
             answers("1110", "two", instead="accuracy/mean")]  # fmt: skip
    then = [answers("0" * 5 + "1" * 395, "one", instead="accuracy/mean"),
            answers("1111", "two", instead="accuracy/mean")]  # fmt: skip
    now, was = record(*then, mean_of(*then)), record(*first, mean_of(*first))
    ours, theirs = now.measurements[-1], was.measurements[-1]
    # Of tasks a hundred times apart in size they weigh 20 to 10: round(10 * 100 ** 0.15).
    signs = [[1 if bits >> i & 1 else -1 for i in range(6)] for bits in range(64)]
    reached = [10 * sum(s[:5]) + 20 * s[5] >= 50 - 20 for s in signs]

    assert p_among(ours, theirs, now, None) == pytest.approx(7 / 64)
    assert p_among(ours, theirs, now, was) == pytest.approx(sum(reached) / 64)
    assert sum(reached) != 7
    assert p_among(ours, replace(theirs, samples=()), now, was) is None


def test_margins_count_as_they_are_kept() -> None:
    """In half precision, where 70,000 is the largest there is and 1 + 2 ** -12 is 1."""
    was = answers("1" * 8, margins=(1.0,) * 8)
    for margins, moved in (((1 + 2**-12,) * 8, False), ((1 - 2**-5,) * 8, True)):
        found = seen(answers("1" * 8, margins=margins), was)
        assert (found.p_margins == 1.0) is not moved
    huge = answers("1" * 8, margins=(70_000.0,) * 8)
    assert seen(huge, replace(huge, margins=(65504.0,) * 8)).p_margins == 1.0
    assert seen(answers("1" * 8, margins=(0.5,) * 8), was).p_margins == pytest.approx(2**-8)
    assert seen(answers("1" * 8), was).p_margins is None


def test_right_answers_and_margins_are_two_tests_of_one_question() -> None:
    """Simes: twice the smaller p, but no more than the larger; for either direction."""
    was = answers("1" * 12, margins=(1.0,) * 12)
    for right, step in (("0" * 5 + "1" * 7, 0.01), ("0" * 2 + "1" * 10, -0.5), ("1" * 12, 0.25)):
        margins = tuple(1.0 - step * (i + 1) for i in range(12))
        found = seen(answers(right, margins=margins), was)
        assert found.p_right is not None
        assert found.p_margins is not None
        small, large = sorted((found.p_right, found.p_margins))
        assert found.p == pytest.approx(2 * small if 2 * small < large else large)
        assert found.p_right == pytest.approx(2.0 ** -right.count("0"))


def test_the_test_is_called_what_it_is() -> None:
    """McNemar's exact sign test of one task without clusters; random signs of anything else."""
    now, was = answers("1100"), answers("1111")
    names = ("x", "y")
    tasks = [(replace(now, metric=n), replace(was, metric=n)) for n in names]

    assert seen(now, was).test == "sign test"
    assert seen(replace(now, clusters=(0, 0, 1, 1)), was).test == "sign flips"
    assert seen(now, was, tasks).test == "sign flips"
    assert seen(replace(now, paired=False), was).test == "rank sum"


@pytest.mark.parametrize("paired", [True, False])
def test_of_numbers_too_the_better_side_decides_what_is_lost(*, paired: bool) -> None:
    """The same numbers, once where lower and once where higher is better."""
    low, high = [1.0 + i / 100 for i in range(12)], [1.5 + i / 90 for i in range(12)]
    sides = (graded(high, 1.55, "x", paired=paired), graded(low, 1.05, "x", paired=paired))
    lower = seen(*sides)
    higher = seen(*(replace(side, better="higher") for side in sides))

    assert lower.loss > 0.4
    assert higher.loss == pytest.approx(-lower.loss)
    assert (higher.p, higher.p_better) == pytest.approx((lower.p_better, lower.p))
    assert lower.p < 0.001

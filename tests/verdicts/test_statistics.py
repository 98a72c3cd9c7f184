"""The tests that judge, against enumeration, other libraries and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from factories import p_paired
from scipy import stats as scipy_stats

from prunebench.results.timing_noise import effect
from prunebench.verdicts.significance import (
    Stratum,
    answers,
    detectable,
    graded,
    holm,
    rounds,
    sign_flips,
)


def drawn(rng: np.random.Generator, n: int, worse: float, better: float) -> list[float]:
    u = rng.random(n)
    return np.where(u < worse, 1.0, np.where(u < worse + better, -1.0, 0.0)).tolist()


def test_sign_flips_equal_the_count_of_all_signs() -> None:
    """Of all 2^n ways to sign the magnitudes, those with as large a sum."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        sums = rng.integers(-6, 7, size=9).tolist()
        sizes = [abs(s) for s in sums if s]
        ways = list(itertools.product((1, -1), repeat=len(sizes)))
        as_large = sum(
            sum(a * b for a, b in zip(signs, sizes, strict=True)) >= sum(sums) for signs in ways
        )

        assert sign_flips(sums) == pytest.approx(as_large / len(ways), rel=1e-12)


def test_many_magnitudes_are_as_good_as_normal() -> None:
    """Beyond what is summed exactly: within a twentieth of the p of the exact sum."""
    sums = [(i % 3 + 1) * (1 if i < 480 else -1) for i in range(900)]
    exact = sign_flips(sums)
    # The same magnitudes on a lattice a hundred times as fine, with one grain of dust.
    approximate = sign_flips([100 * s for s in sums] + [1])

    assert 1e-4 < exact < 0.2
    assert approximate == pytest.approx(exact, rel=0.05)


def test_one_task_is_mcnemars_test() -> None:
    """The stratified test of a single task is the exact sign test."""
    worse_by = drawn(np.random.default_rng(2), 500, 0.06, 0.03)
    seen = answers([Stratum(worse_by)])

    assert seen.p == p_paired(worse_by)
    assert seen.loss == pytest.approx(np.mean(worse_by))
    assert (seen.worse, seen.better) == (worse_by.count(1.0), worse_by.count(-1.0))
    assert seen.spread == pytest.approx(np.std(worse_by) / math.sqrt(500))


def test_equal_tasks_are_one_large_task() -> None:
    """Weights differ with the sizes of tasks alone: p, loss and interval of all questions alike."""
    rng = np.random.default_rng(3)
    tasks = [drawn(rng, 300, 0.06, 0.04) for _ in range(4)]
    together = list(itertools.chain(*tasks))
    one, many = answers([Stratum(together)]), answers([Stratum(t) for t in tasks])

    assert (many.p, many.loss) == pytest.approx((one.p, one.loss))
    assert many.high == pytest.approx(one.high, rel=1e-3)  # each task about its own mean
    assert many.effective == pytest.approx(1200)


def test_tasks_of_other_sizes_equal_a_permutation_test() -> None:
    """SciPy flips signs at random; the statistic is the weighted mean of the tasks' drops."""
    rng = np.random.default_rng(4)
    tasks = [np.array(drawn(rng, n, 0.10, 0.06)) for n in (400, 120, 60)]
    seen = answers([Stratum(task.tolist()) for task in tasks])
    weights = np.concatenate(
        [np.full(len(t), round(10 * (400 / len(t)) ** 0.15), float) for t in tasks]
    )
    values = np.concatenate(tasks) * weights
    moved = values[values != 0]
    found = scipy_stats.permutation_test(
        (moved,),
        lambda x, axis: x.sum(axis),
        permutation_type="samples",
        n_resamples=20_000,
        alternative="greater",
        vectorized=True,
        rng=np.random.default_rng(5),
    )

    assert seen.p == pytest.approx(found.pvalue, abs=0.01)
    assert seen.loss == pytest.approx(values.sum() / weights.sum())


def test_no_task_drowns_the_others() -> None:
    """The papers' seven: the largest weighs less than its half, a small one more than its part."""
    sizes = [3270, 1838, 10042, 1267, 2376, 1172, 500]

    def weight(task: int) -> float:
        """A question lost in one task alone moves the loss by the weight of its task."""
        lost = [
            Stratum([float(i == task and not q) for q in range(n)]) for i, n in enumerate(sizes)
        ]
        return answers(lost).loss * sizes[task]

    assert weight(2) == pytest.approx(10042**0.85 / sum(n**0.85 for n in sizes), abs=0.01)
    assert weight(2) < 0.44 < 10042 / sum(sizes)
    assert weight(6) > 1.3 * 500 / sum(sizes)


def test_clustered_questions_count_once() -> None:
    """Each question asked five times over is no more evidence than asked once."""
    once = drawn(np.random.default_rng(6), 200, 0.12, 0.05)
    five = [d for d in once for _ in range(5)]
    margins = np.random.default_rng(7).normal(0.1, 1, 200).tolist()
    clusters = [i for i in range(200) for _ in range(5)]
    single = answers([Stratum(once, margins)])
    fivefold = answers([Stratum(five, [m for m in margins for _ in range(5)], clusters)])

    assert fivefold.p == pytest.approx(single.p)
    assert fivefold.high == pytest.approx(single.high)
    assert fivefold.effective == pytest.approx(200, rel=0.01)
    assert answers([Stratum(five)]).p < single.p_right / 100


@pytest.mark.slow
def test_clustered_questions_raise_no_more_alarms_than_stated() -> None:
    """Passages of eight questions that move together: each for itself alarms far too often."""
    rng = np.random.default_rng(8)
    alarms = np.zeros(2)
    for _ in range(300):
        moods = rng.normal(0, 1, 60)
        worse_by = [d for mood in moods for d in np.sign(np.round(rng.normal(mood, 0.7, 8)))]
        clusters = [i for i in range(60) for _ in range(8)]
        alone, together = (answers([Stratum(worse_by, (), c)]).p < 0.05 for c in ((), clusters))
        alarms += [alone, together]

    assert alarms[0] / 300 > 0.15
    assert alarms[1] / 300 <= 0.08


def test_margins_join_by_stouffer_and_simes() -> None:
    """SciPy's Wilcoxon per task, weighted Stouffer over them, twice the smaller p or the larger."""
    rng = np.random.default_rng(9)
    lost = [rng.normal(0.05, 1, n).tolist() for n in (500, 200)]
    worse_by = [drawn(rng, n, 0.05, 0.03) for n in (500, 200)]
    seen = answers([Stratum(w, m) for w, m in zip(worse_by, lost, strict=True)])
    ps = [scipy_stats.wilcoxon(m, alternative="greater").pvalue for m in lost]
    z = np.array([500**0.35, 200**0.35])
    joined = scipy_stats.norm.sf((z * scipy_stats.norm.isf(ps)).sum() / np.sqrt((z**2).sum()))
    right = answers([Stratum(w) for w in worse_by]).p

    assert seen.p_margins == pytest.approx(joined)
    assert seen.p_right == right
    assert seen.p == pytest.approx(min(2 * min(joined, right), max(joined, right)))


def test_identical_answers_are_no_evidence() -> None:
    """Nothing moved: p is 1, the loss 0 with certainty, and a drop must still be large to show."""
    seen = answers([Stratum([0.0] * 100, [0.0] * 100)])

    assert (seen.p, seen.loss, seen.low, seen.high) == (1.0, 0.0, 0.0, 0.0)
    assert seen.smallest(0.05) == detectable(100, 0.0) > 0.05


def test_losses_per_window_have_students_interval() -> None:
    """SciPy's one-sided t-interval and its signed ranks."""
    lost = np.random.default_rng(10).normal(0.02, 0.1, 40)
    seen = graded(lost.tolist())
    student = scipy_stats.ttest_1samp(lost, 0, alternative="less").confidence_interval(0.95)

    assert seen.high == pytest.approx(student.high)
    assert seen.p == pytest.approx(scipy_stats.wilcoxon(lost, alternative="greater").pvalue)
    assert graded([0.0] * 5).high == 0.0
    assert math.isinf(graded([0.1]).high)


def test_the_shift_of_timings_is_the_median_of_all_differences() -> None:
    """Hodges and Lehmann's estimate, shifted exactly with the data; its interval covers 90 %."""
    rng = np.random.default_rng(11)
    was = rng.normal(10, 1, 30)
    for shift in (0.0, 0.5):
        seen = rounds((was + shift).tolist(), was.tolist())
        assert seen.loss == pytest.approx(shift, abs=1e-9)
    covered = 0
    for _ in range(400):
        a, b = rng.normal(10, 1, 20), rng.normal(10, 1, 20)
        seen = rounds(a.tolist(), b.tolist())
        covered += seen.low <= 0 <= seen.high

    assert 0.86 <= covered / 400 <= 0.94
    assert math.isinf(rounds([1.0], [2.0]).high)


@pytest.mark.parametrize(("rounds_each", "critical"), [(10, 27), (20, 138)])
def test_the_interval_of_a_shift_leaves_out_what_the_tables_reject(
    rounds_each: int, critical: int
) -> None:
    """Mann and Whitney's U is significant at 5 % one-sided up to this, in any table of it."""
    rng = np.random.default_rng(15)
    now, was = rng.normal(10, 1, rounds_each), rng.normal(9, 1, rounds_each)
    shifts = sorted(a - b for a in now for b in was)
    seen = rounds(now.tolist(), was.tolist())

    assert (seen.low, seen.high) == (shifts[critical], shifts[-1 - critical])
    # As far from end to end as a normal error of that size would have it.
    assert seen.spread == pytest.approx((seen.high - seen.low) / (2 * 1.6448536))


def test_holm_is_the_closure_of_bonferroni() -> None:
    """A hypothesis goes when every set of hypotheses that has it is rejected by Bonferroni."""
    rng = np.random.default_rng(12)
    for _ in range(30):
        ps = (rng.random(5) ** 2).tolist()
        expected = []
        for i in range(5):
            sets = [s for k in range(1, 6) for s in itertools.combinations(range(5), k) if i in s]
            expected.append(max(min(1.0, len(s) * min(ps[j] for j in s)) for s in sets))
        assert holm(ps) == pytest.approx(expected)
    assert holm([]) == []


def test_the_smallest_loss_is_found_four_times_in_five() -> None:
    """Of losses per window and of timings, as of answers: printed against simulated."""
    rng = np.random.default_rng(13)
    spread = graded(rng.normal(0, 0.1, 50_000).tolist()).spread * math.sqrt(50_000 / 60)
    least = (scipy_stats.norm.isf(0.05) + scipy_stats.norm.isf(0.2)) * spread
    found = [graded(rng.normal(least, 0.1, 60).tolist()).p < 0.05 for _ in range(600)]

    assert np.mean(found) == pytest.approx(0.8, abs=0.04)
    once = graded(rng.normal(0, 0.1, 60).tolist())
    assert once.smallest(0.05) == pytest.approx(least, rel=0.3)


def test_the_believable_effect_is_the_largest_difference_of_few_pairs() -> None:
    """And of many the 0.99 quantile, by NumPy."""
    assert effect([2.0, 2.1, 2.0]) == pytest.approx(0.05)
    assert effect([1.0]) == 0.0
    values = np.exp(np.random.default_rng(14).normal(0, 0.03, 60))
    parts = [max(a, b) / min(a, b) - 1 for a, b in itertools.combinations(values, 2)]

    assert effect(values.tolist()) == pytest.approx(np.quantile(parts, 0.99), rel=0.03)

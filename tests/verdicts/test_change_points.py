"""Step detection against all partitions, known answers, simulated nights and symmetries."""

from __future__ import annotations

import itertools
import random
from itertools import pairwise
from statistics import fmean

import pytest

from prunebench.verdicts.change_points import LevelStep, noise, partition, price, steps


def squares(values: list[float]) -> float:
    mean = fmean(values)
    return sum((v - mean) ** 2 for v in values)


def best_of_all(values: list[float], step_price: float, shortest: int) -> tuple[float, list[int]]:
    """The cheapest of every partition there is, by trying them."""
    places = range(1, len(values))
    tried = []
    for count in range(len(values)):
        for cuts in itertools.combinations(places, count):
            bounds = [0, *cuts, len(values)]
            if all(b - a >= shortest for a, b in pairwise(bounds)):
                cost = sum(squares(values[a:b]) for a, b in pairwise(bounds))
                tried.append((cost + step_price * count, list(cuts)))
    return min(tried)


def ats(values: list[float]) -> list[int]:
    return [step.at for step in steps(values)]


def gauss(seed: int, nights: int = 60) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(0, 1) for _ in range(nights)]


@pytest.mark.parametrize("shortest", [1, 2, 3])
@pytest.mark.parametrize("step_price", [0.1, 1.0, 5.0])
def test_the_partition_is_the_best_of_all(shortest: int, step_price: float) -> None:
    """Every series of 4 to 8 values, every partition: same cuts, same cost."""
    rng = random.Random(7)
    for _ in range(20):
        size = rng.randint(max(4, shortest), 8)
        values = [rng.gauss(0, 1) + 3 * (i > size // 2) for i in range(size)]
        cost, cuts = best_of_all(values, step_price, shortest)
        found = partition(values, step_price, shortest)
        bounds = [0, *found, size]
        own = sum(squares(values[a:b]) for a, b in pairwise(bounds)) + step_price * len(found)

        assert found == cuts
        assert own == pytest.approx(cost)


def test_an_exact_change_of_equal_numbers_is_found_exactly() -> None:
    """However small, wherever it is, as long as two nights show it."""
    for at in (2, 9, 18):
        values = [0.9625] * at + [0.9624999] * (20 - at)

        assert steps(values) == [LevelStep(at, 0.9625, 0.9624999)]
    assert steps([2.5, 2.5, 7.0, 7.0]) == [LevelStep(2, 2.5, 7.0)]
    assert ats([1.0] * 6 + [2.0] * 6 + [1.0] * 6) == [6, 12]


def test_equal_nights_and_short_series_have_no_step() -> None:
    """Nothing, one, zeros, sixty equal values; and what only the last night shows."""
    for values in ([], [1.0], [1.0, 5.0, 5.0], [0.0] * 60, [0.1 + 0.2] * 60, [1.0] * 59 + [9.0]):
        assert steps(values) == []


@pytest.mark.parametrize("height", [10.0, 20.0, 1e6])
def test_a_lone_spike_is_no_step(height: float) -> None:
    """At any night, in noise or in equal numbers, up or down."""
    quiet = gauss(3)
    assert ats(quiet) == []
    for at in range(60):
        for sign in (1, -1):
            noisy, equal = list(quiet), [0.5] * 60
            noisy[at] += sign * height
            equal[at] += sign * height

            assert ats(noisy) == []
            assert ats(equal) == []


def test_a_step_beside_a_spike_is_still_found() -> None:
    """Equal numbers, one broken night, later a lasting change."""
    values = [0.95] * 10 + [0.25] + [0.95] * 20 + [0.94] * 30
    noisy = [v + e / 1000 for v, e in zip(values, gauss(5, 61), strict=True)]

    assert ats(values) == [31]
    assert ats(noisy) == [31]


def test_nights_that_keep_flipping_between_two_values_are_noise() -> None:
    """Equal but for spikes now and then: two of them side by side are no change of level."""
    values = [0.95] * 60
    for at in (3, 11, 19, 26, 40, 52):
        values[at] = 0.9525
    assert ats(values) == []
    values[27] = 0.9525
    assert ats(values) == []
    assert ats([v - 0.02 * (i >= 45) for i, v in enumerate(values)]) == [45]


def test_noise_is_the_standard_deviation_of_gaussian_noise() -> None:
    """On many values, and hardly moved by a large step or a spike."""
    values = gauss(11, 4000)
    stepped = [v + 50 * (i >= 2000) for i, v in enumerate(values)]
    stepped[7] += 1e9

    assert noise(values) == pytest.approx(1, abs=0.04)
    assert noise(stepped) == pytest.approx(noise(values), rel=2e-3)


def test_quiet_nights_show_few_steps_and_real_ones_are_located() -> None:
    """150 series each: what ``bench/steps.py`` measures on more, within chance."""
    false = sum(bool(steps(gauss(seed))) for seed in range(150))
    located = 0
    for seed in range(150):
        at = random.Random(seed).randint(5, 55)
        values = [v + 3 * (i >= at) for i, v in enumerate(gauss(1000 + seed))]
        located += any(abs(step.at - at) <= 1 for step in steps(values))

    assert false <= 4  # of 150 at 1 %: exceeded by chance in 2 % of seeds
    assert located >= 135


@pytest.mark.parametrize("seed", range(8))
def test_units_offset_sign_and_direction_do_not_matter(seed: int) -> None:
    """Scaled, shifted, negated or reversed nights have the same steps."""
    values = [v + 4 * (20 <= i < 45) - 6 * (i >= 50) for i, v in enumerate(gauss(seed))]
    cuts = ats(values)

    assert len(cuts) >= 2
    assert ats([v * 1e-3 for v in values]) == cuts
    assert ats([v * 1024 + 7 for v in values]) == cuts
    assert ats([-v for v in values]) == cuts
    assert [60 - at for at in ats(values[::-1])][::-1] == cuts


def test_levels_are_the_medians_of_the_stretches() -> None:
    """A spike within a stretch does not move what is reported."""
    values = [1.0, 1.1, 0.9, 1.0, 9.0, 1.0, 1.1, 0.9, 3.0, 3.1, 2.9, 3.0, 3.1, 3.0]
    (step,) = steps(values)

    assert (step.at, step.before, step.after) == (8, 1.0, 3.0)


def test_more_nights_make_a_step_dearer_only_by_bic() -> None:
    """The price falls towards 2 ln n: at a million nights what is ours is under 0.3 % of it."""
    assert price(60) == pytest.approx(17.871, abs=1e-3)
    assert price(10**6) == pytest.approx(27.631, rel=3e-3)

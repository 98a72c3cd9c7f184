"""Many pairs at once against one pair at a time, by the tests of the verdicts."""

from __future__ import annotations

import itertools
import math
import random
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from factories import board_case as case
from factories import p_paired
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from scipy import stats as tests_of
from sites import crowd

from prunebench import Measurement, Record
from prunebench.leaderboard import axis_tests, build, pair_test, ranking
from prunebench.leaderboard.pair_test import Entry
from prunebench.verdicts import significance
from prunebench.verdicts.evidence import evidence, tasks_of

METRIC = "accuracy/mean"


def measured(samples: Sequence[float], metric: str = METRIC, **more: object) -> Measurement:
    fields = {"value": sum(samples) / len(samples), "unit": "acc", "better": "higher"}
    return Measurement(metric, samples=tuple(samples), paired=True, **{**fields, **more})


def perplexity(samples: Sequence[float], **more: object) -> Measurement:
    value = math.exp(sum(samples) / len(samples))
    return measured(samples, value=value, unit="ppl", better="lower", **more)


Draw = random.Random
Made = Callable[[Draw, int], list[Record]]


def bits(draw: Draw, n: int, skill: float) -> list[float]:
    return [float(draw.random() < skill) for _ in range(n)]


def tasks(*sizes: int, cluster: int = 0, full: float = 1.0) -> Made:
    """Rows of so many tasks, with their mean."""

    def made(draw: Draw, i: int) -> list[Record]:
        skill = 0.3 + 0.05 * i
        parts = [[full * b for b in bits(draw, n, skill)] for n in sizes]

        def grouped(n: int) -> tuple[int, ...]:
            return tuple(q // cluster for q in range(n)) if cluster else ()

        own = [
            measured(part, f"accuracy/t{k}", instead=METRIC, clusters=grouped(len(part)))
            for k, part in enumerate(parts)
        ]
        # The mean is of tasks, not of questions: what is printed may point the other way.
        mean = sum(m.value or 0.0 for m in own) / len(own)
        whole = measured([b for part in parts for b in part], value=mean)
        return [case(f"r{i}", whole, *own)]

    return made


def windows(n: int, digits: int = 9, cluster: int = 0) -> Made:
    def made(draw: Draw, i: int) -> list[Record]:
        base = Draw(0)
        own = [
            round(
                2 + base.random() + (0.02 * i + draw.gauss(0, 0.05)) * (draw.random() < 0.8), digits
            )
            for _ in range(n)
        ]
        clusters = tuple(q // cluster for q in range(n)) if cluster else ()
        return [case(f"r{i}", perplexity(own, clusters=clusters))]

    return made


def shifted(n: int) -> Made:
    """Differences of one size alone."""

    def made(draw: Draw, i: int) -> list[Record]:
        own = [2.0 + 0.25 * (draw.random() < 0.2 + 0.1 * i) for _ in range(n)]
        return [case(f"r{i}", perplexity(own))]

    return made


def seeds(one: Made, *, same: bool = False) -> Made:
    """Three seeds, two, or one, in turn."""

    def made(draw: Draw, i: int) -> list[Record]:
        if same:
            return one(draw, i) * (3 - i % 3)
        return [r for _ in range(3 - i % 3) for r in one(draw, i)]

    return made


def mixed(*kinds: Made) -> Made:
    return lambda draw, i: kinds[i % len(kinds)](draw, i)


def odd(draw: Draw, i: int) -> list[Record]:
    """Nothing, no samples, not paired, not a number, three sizes."""
    kinds: list[Measurement] = [
        measured([0.5] * 40),
        measured([math.nan] * 40, value=0.5),
        replace(measured(bits(draw, 40, 0.5)), paired=False),
        Measurement(METRIC, 0.5, "acc", "higher"),
        Measurement(METRIC, None, "acc", "higher"),
        measured([draw.random() for _ in range(40)]),
        measured(bits(draw, 40, 0.8), clusters=tuple(q // 2 for q in range(40))),
        measured(bits(draw, 30, 0.8)),
        replace(measured(bits(draw, 40, 0.1)), better="lower"),
        measured(bits(draw, 40, 0.05)),
        measured(bits(draw, 40, 0.95)),
    ]
    return [case(f"r{i}", kinds[i % len(kinds)])]


SORTS: dict[str, Made] = {
    "one task": tasks(60),
    "tasks alike": tasks(30, 30, 30),
    "tasks of any size": tasks(90, 31, 11, 57),
    "clusters": tasks(60, 30, cluster=3),
    "of dense": tasks(60, full=0.8),
    "windows": windows(120),
    "windows that tie": windows(120, 2),
    "few windows": windows(30),
    "few that tie": windows(30, 2),
    "very few that tie": windows(8, 1),
    "windows in clusters": windows(90, cluster=3),
    "one size": shifted(60),
    "seeds": seeds(tasks(40, 25)),
    "seeds of windows": seeds(windows(60)),
    "seeds in clusters": seeds(tasks(60, cluster=3)),
    "seeds that do not matter": mixed(seeds(tasks(40), same=True), tasks(40)),
    "odd": odd,
    "odd among sound": mixed(tasks(40), tasks(20, 20), odd, seeds(tasks(40))),
}


def compared(first: Entry, second: Entry, metric: str) -> tuple[float, bool] | None:
    """The test of two rows by definition: two-sided p-value, and whether the first is better."""
    ours, theirs = pair_test.mean(first, metric), pair_test.mean(second, metric)
    if ours is None or theirs is None or not (ours.samples and ours.paired and theirs.paired):
        return None
    questions = [(m.unit, m.better, len(m.samples), m.clusters) for m in (ours, theirs)]
    if questions[0] != questions[1]:
        return None
    assert ours.value is not None
    assert theirs.value is not None
    first_better = (ours.value < theirs.value) == (ours.better == "lower")
    better, worse = (first, second) if first_better else (second, first)
    if (one_sided := p_worse(worse, better, metric)) is None:
        return None
    p = min(1.0, 2 * one_sided)
    if max(len(first), len(second)) > 1:
        p_seeds, seeds_say_first = over_seeds(first, second, ours)
        p = max(p, p_seeds) if seeds_say_first == first_better else 1.0
    return (1.0 if ours.value == theirs.value else p), first_better


def p_worse(worse: Entry, better: Entry, metric: str) -> float | None:
    now, was = pair_test.mean(worse, metric), pair_test.mean(better, metric)
    assert now is not None
    assert was is not None
    if now.unit == "ppl" and not now.clusters:
        lost = np.subtract(*(np.array(m.samples, np.float32).astype(float) for m in (now, was)))
        return p_paired(lost.tolist()) if np.isfinite(lost).all() else None
    tasks = tasks_of(now, worse[0], better[0]) if len(worse) == len(better) == 1 else ()
    seen = evidence(now, was, tasks)
    return None if seen is None else seen.p


def over_seeds(first: Entry, second: Entry, measured: Measurement) -> tuple[float, bool]:
    """Welch's test over seeds, or Student's against a single seed, and whether the first leads."""
    logs = measured.unit == "ppl"
    found = [[r.find(measured.metric) for r in entry] for entry in (first, second)]
    drawn = [[m.value or 0.0 for m in own if m is not None] for own in found]
    sides = [[math.log(v) if logs and v > 0 else v for v in own] for own in drawn]
    means = [sum(own) / len(own) for own in sides]
    first_better = (means[0] < means[1]) == (measured.better == "lower")
    if all(len(set(own)) == 1 for own in sides):
        return float(sides[0][0] == sides[1][0]), first_better
    if min(map(len, sides)) > 1:
        return welch(*sides), first_better
    many, one = sorted(sides, key=len, reverse=True)
    return float(tests_of.ttest_1samp(many, one[0]).pvalue), first_better


def welch(one: Sequence[float], other: Sequence[float]) -> float:
    with warnings.catch_warnings():
        # One side may have no spread at all.
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        return float(tests_of.ttest_ind(one, other, equal_var=False).pvalue)


def one_by_one(
    entries: Sequence[Sequence[Record]], groups: Sequence[Sequence[int]], metric: str
) -> list[ranking.Test]:
    """What the tests of a board are by definition."""
    found = [
        (i, j, *seen)
        for group in groups
        for i, j in itertools.combinations(sorted(group), 2)
        if (seen := compared(entries[i], entries[j], metric)) is not None
    ]
    adjusted = significance.holm([p for _, _, p, _ in found])
    return [ranking.Test(*pair, a) for pair, a in zip(found, adjusted, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("made", SORTS.values(), ids=SORTS)
def test_all_at_once_is_one_by_one(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same pairs with the same p-values, the same way round, and so the same places."""
    draw = Draw(1)
    entries = [made(draw, i) for i in range(11)]
    entries.append(entries[3])  # one that equals another
    groups = [[*range(5)], [11, *range(5, 11)]]

    slow, fast = (find(entries, groups, METRIC) for find in (one_by_one, ranking.tests))

    assert len(slow) > 1
    assert any(test.p < 0.05 for test in slow)
    assert [(t.first, t.second) for t in fast] == [(t.first, t.second) for t in slow]
    assert [t.p for t in fast] == pytest.approx([t.p for t in slow], rel=1e-9, abs=5e-12)
    assert [t.first_better for t in fast if t.p < 1] == [t.first_better for t in slow if t.p < 1]
    placed = ranking.places(entries, groups, METRIC)
    monkeypatch.setattr(ranking, "tests", one_by_one)
    assert placed == ranking.places(entries, groups, METRIC)


def test_long_clusters_are_as_one_by_one() -> None:
    """With more right answers in a cluster than sixteen bits count."""
    draw = Draw(4)
    entries = [tasks(120_000, cluster=40_000)(draw, i) for i in (0, 13, 13)]

    slow, fast = (find(entries, [[0, 1, 2]], METRIC) for find in (one_by_one, ranking.tests))

    assert [t.p for t in fast] == pytest.approx([t.p for t in slow], rel=1e-12)


def test_blocks_of_any_size_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many differences are held at once changes nothing."""
    draw = Draw(2)
    for made in (windows(60), tasks(90, 31, 11, 57)):
        entries = [made(draw, i) for i in range(9)]
        whole = ranking.tests(entries, [range(9)], METRIC)
        monkeypatch.setattr(pair_test, "MAX_DIFFERENCES", 200)
        blocks = ranking.tests(entries, [range(9)], METRIC)

        assert [t.p for t in blocks] == pytest.approx([t.p for t in whole], rel=1e-10, abs=1e-13)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(
        st.tuples(st.integers(1, 25), st.integers(0, 60), st.integers(0, 60)),
        min_size=1,
        max_size=5,
        unique_by=lambda part: part[0],
    ),
    st.randoms(use_true_random=False),
)
def test_sign_flips_are_those_of_one(parts: list[tuple[int, int, int]], draw: Draw) -> None:
    """Against the exact sum's own distribution, by convolution, for sums on either side of zero."""
    lines = []
    for _ in range(6):
        line = []
        for size, up, down in parts:
            plus, minus = draw.randint(0, up), draw.randint(0, down)
            line += [size] * plus + [-size] * minus + [0] * (up + down - plus - minus)
        lines.append(line)

    seen = axis_tests.sign_flips(np.array(lines, int))

    assert seen.tolist() == pytest.approx(
        list(map(significance.sign_flips, lines)), rel=1e-9, abs=5e-12
    )


def test_sign_flips_of_more_than_is_summed_are_normal() -> None:
    """Past sixty thousand units as ``significance`` has it, after their common divisor."""
    signs = np.array([1, -1] * 1500 + [1] * 1600 + [-1] * 1100)
    exact = np.repeat([30, 20], [3000, 2700]) * signs
    normal = exact + np.eye(1, len(exact), dtype=int)[0]
    assert np.abs(exact).sum() / 10 < significance.EXACT < np.abs(normal).sum()

    found = axis_tests.sign_flips(np.stack([exact, normal]))

    ours = [significance.sign_flips(line.tolist()) for line in (exact, normal)]
    assert found.tolist() == pytest.approx(ours, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 5, 12, 40, 50, 51, 200])
@pytest.mark.parametrize("digits", [1, 2, 12])
def test_signed_ranks_are_scipys(n: int, digits: int) -> None:
    """Line by line: exact, permuted or normal, with ties and zeros."""
    draw = np.random.default_rng(n)
    lines = draw.normal(0.1, 1, (8, n)).round(digits)
    lines[0] = 0.0

    found = axis_tests.signed_ranks(lines, sign_test=False)

    moved = [line[line != 0] for line in lines]
    ours = [tests_of.wilcoxon(m, alternative="greater").pvalue if len(m) else 1.0 for m in moved]
    assert found.tolist() == pytest.approx(ours, rel=1e-9)


def test_seeds_are_welchs_and_students() -> None:
    """Pairs of several sizes against SciPy's tests of the values themselves."""
    one, other, alone, same = [1.0, 1.2, 1.1], [1.4, 1.1, 1.5, 1.45], [1.6], [0.7, 0.7]

    p, above = axis_tests.seeds_differ(one, [other, alone, same])
    fixed, _ = axis_tests.seeds_differ(same, [[0.7], alone, other])

    assert p.tolist() == pytest.approx(
        [
            welch(one, other),
            tests_of.ttest_1samp(one, alone[0]).pvalue,
            welch(one, same),
        ]
    )
    assert above.tolist() == [False, False, True]
    assert fixed.tolist()[:2] == [1.0, 0.0]
    assert fixed[2] == pytest.approx(tests_of.ttest_1samp(other, 0.7).pvalue)


def test_rows_with_the_same_number_are_not_ordered() -> None:
    """Equal means though signed ranks tell the windows apart: neither is the better one."""
    a = [2.0] * 20 + [3.0]
    b = [2.0 - 0.0625 * (k % 2 + 1) / 2 for k in range(20)]
    b.append(sum(a) - sum(b))
    first, second = case("a", perplexity(a)), case("b", perplexity(b))
    assert first.measurements[0].value == second.measurements[0].value
    assert tests_of.wilcoxon(np.subtract(a, b), alternative="greater").pvalue < 0.01

    for pair in ([[first], [second]], [[second], [first]]):
        assert [t.p for t in ranking.tests(pair, [[0, 1]], METRIC)] == [1.0]


def test_a_perplexity_that_none_can_be_has_no_logarithm() -> None:
    """Somebody's record with a value below zero: tested as it is, over seeds as well."""
    broken = [case("a", replace(perplexity([2.0, 2.5] * 20), value=v)) for v in (-1.0, 0.0, -2.0)]
    sound = [case("b", perplexity([2.0 + i, 2.5] * 20)) for i in range(3)]

    for entries in ([broken[:1], sound[:1]], [broken, sound]):
        (test,) = ranking.tests(entries, [[0, 1]], METRIC)
        seen = compared(entries[0], entries[1], METRIC)
        assert seen is not None
        assert seen[0] == pytest.approx(test.p)


def test_a_large_board_is_ranked_in_seconds() -> None:
    """120 rows in groups, with answers and windows; pair by pair it takes ten times as long."""
    records = crowd(120)
    start = time.process_time()

    (board,) = build.boards(records)

    assert time.process_time() - start < 10
    assert len(board.rows) == 120
    assert max(place.of for row in board.rows for place in row.places.values()) >= 40
    assert len({place.rank for row in board.rows for place in row.places.values()}) > 10

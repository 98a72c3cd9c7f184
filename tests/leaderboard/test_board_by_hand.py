"""A shipped board computed again, from the records alone, with NumPy and SciPy and nothing of ours.

The reference cases have dense, seeds, several sparsities and two measurements that rank.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as tests_of
from sites import ROOT

from prunebench import Measurement, Record
from prunebench.leaderboard import build
from prunebench.leaderboard.board import Board, Row
from prunebench.leaderboard.site import cells, pages
from prunebench.results import archive

Z = 1.959963984540054


@pytest.fixture(scope="module")
def board() -> Board:
    (found,) = build.boards(archive.read([ROOT / "baselines/quality/reference"]).records)
    return found


def samples(record: Record, metric: str) -> Any:
    found = record.find(metric)
    assert found is not None
    return np.array(found.samples, dtype=np.float32).astype(float)


def values(row: Row, metric: str) -> Any:
    return np.array([m.value for r in row.records if (m := r.find(metric))])


def p_value(a: Row, b: Row, metric: str) -> tuple[float, bool]:
    """Of two rows, and whether *a* is the better one."""
    first, second = (np.mean([samples(r, metric) for r in row.records], axis=0) for row in (a, b))
    if metric.startswith("perplexity"):
        first, second = -first, -second
        means = [-values(row, metric).mean() for row in (a, b)]
        seeds = [-np.log(values(row, metric)) for row in (a, b)]
    else:
        means = [values(row, metric).mean() for row in (a, b)]
        seeds = [values(row, metric) for row in (a, b)]
    better = bool(means[0] > means[1])
    gained = (first - second) * (1 if better else -1)
    moved = gained[gained != 0]
    if means[0] == means[1] or not len(moved):
        return 1.0, better
    if len(a.records) == len(b.records) == 1 and metric.startswith("accuracy"):
        # The tasks of this board are about equally large, and so weigh alike: McNemar's exact test.
        p = tests_of.binomtest(int((moved > 0).sum()), len(moved), alternative="greater").pvalue
    else:
        p = tests_of.wilcoxon(moved, alternative="greater").pvalue
    p = min(1.0, 2 * p)
    if max(map(len, seeds)) > 1:
        if min(map(len, seeds)) > 1:
            q = tests_of.ttest_ind(*seeds, equal_var=False).pvalue
        else:
            many, one = sorted(seeds, key=len, reverse=True)
            q = tests_of.ttest_1samp(many, one[0]).pvalue
        p = max(p, q) if (seeds[0].mean() > seeds[1].mean()) == better else 1.0
    return p, better


@pytest.mark.parametrize("metric", ["accuracy/mean", "perplexity/tinyworld"])
def test_ranks(board: Board, metric: str) -> None:
    """Holm over the pairs of all groups: the smallest times all, the next times one less, ..."""
    assert metric in board.rank_by
    assert {len(row.records) for row in board.rows} == {1, 5}
    for row in board.rows:
        tasks = [m for m in row.record.measurements if m.instead == "accuracy/mean"]
        assert {len(m.samples) for m in tasks if m.unit == "acc"} <= {600, 602}
    groups = [list(g) for _, g in itertools.groupby(board.rows, key=lambda row: row.group)]
    pairs = [pair for group in groups for pair in itertools.combinations(group, 2)]
    found = sorted(((*p_value(a, b, metric), a, b) for a, b in pairs), key=lambda one: one[0])
    better: dict[str, set[str]] = {row.record.case_id: set() for row in board.rows}
    for k, (p, first_better, a, b) in enumerate(found):
        if p * (len(found) - k) >= 0.05:
            break
        winner, loser = (a, b) if first_better else (b, a)
        better[loser.record.case_id].add(winner.record.case_id)

    assert 40 < sum(map(len, better.values())) < len(pairs)
    for group in groups:
        for row in group:
            own = row.record.case_id
            worse = sum(own in better[other.record.case_id] for other in group)
            place = row.places[metric]
            assert place.rank == 1 + len(better[own])
            assert place.last == len(group) - worse
            assert {board.rows[i].record.case_id for i in place.better} == better[own]


def interval(row: Row, metric: str) -> tuple[float, float]:
    """Value and half of its interval, over questions and seeds."""
    first = row.record.find(metric)
    assert first is not None
    assert not first.clusters

    def error(m: Measurement) -> float:
        own = np.array(m.samples)
        return float(own.std(ddof=1) / math.sqrt(len(own)))

    if metric == "accuracy/mean":
        tasks = [m for m in row.record.measurements if m.instead == metric and m.unit == "acc"]
        asked = math.sqrt(sum(error(m) ** 2 for m in tasks)) / len(tasks)
    else:
        asked = error(first) * (first.value or 0.0)
    own = values(row, metric)
    n = len(own)
    over = tests_of.t.ppf(0.975, n - 1) * own.std(ddof=1) / math.sqrt(n) if n > 1 else 0.0
    return float(own.mean()), math.hypot(over, Z * asked)


@pytest.mark.parametrize("metric", ["accuracy/mean", "perplexity/tinyworld"])
def test_intervals(board: Board, metric: str) -> None:
    """Clipped to the possible; what is printed is the longer arm, which clipping leaves alone."""
    for row in board.rows:
        mean, half = interval(row, metric)
        value = row.values[metric]
        most = 1.0 if metric.startswith("accuracy") else math.inf
        assert value.value == pytest.approx(mean)
        if half:
            assert value.low == pytest.approx(max(0.0, mean - half), rel=1e-5)
            assert value.high == pytest.approx(min(most, mean + half), rel=1e-5)
            assert value.arm == pytest.approx(half, rel=1e-5)
    seeded = next(row for row in board.rows if len(row.records) > 1 and row.sparsity > 0.3)
    clipped = seeded.values["perplexity/tinyworld"]
    assert clipped.low == 0.0
    assert cells.value_cell(clipped).small == f"±{interval(seeded, 'perplexity/tinyworld')[1]:.0f}"


def test_recovery_is_the_score_over_the_dense_one(board: Board) -> None:
    """Of the means over tasks, each of its row's own model."""
    (dense,) = (row for row in board.rows if row.dense)
    whole = values(dense, "accuracy/mean")[0]
    told = 0
    for row in board.rows:
        if (value := row.values.get("accuracy/recovery")) is not None and not row.dense:
            told += 1
            assert value.value == pytest.approx(values(row, "accuracy/mean").mean() / whole)

    assert told == len(board.rows) - 1


def test_the_front_of_perplexity_against_sparsity(board: Board) -> None:
    """No other row has as much gone and as low a perplexity, and more or a lower one."""
    ((plot, _),) = pages._plots(board)
    xs = np.array([row.sparsity for row in board.rows])
    ys = np.array([values(row, "perplexity/tinyworld").mean() for row in board.rows])
    as_good = (xs[None] >= xs[:, None]) & (ys[None] <= ys[:, None])
    more = (xs[None] > xs[:, None]) | (ys[None] < ys[:, None])
    expected = {i for i in range(len(xs)) if not (as_good & more)[i].any()}

    assert set(plot.front) == expected
    assert [p.x for p in plot.points] == pytest.approx((100 * xs).tolist())
    assert [p.y for p in plot.points] == pytest.approx(ys.tolist())

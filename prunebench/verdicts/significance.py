"""Significance tests of one set of samples against another, and the minimum detectable loss.

SciPy has most tests used here; it is imported inside, because most comparisons never need it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING

from msgspec import Struct

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

#: Each end of an interval is passed by chance in one case of twenty.
CONFIDENCE = 0.95
#: The power at which the minimum detectable loss is reported.
POWER = 0.8
#: A task of n questions weighs n to this power: between equal weights of questions (1) and
#: of tasks (0), where a task of 500 questions would count as much as one of 10,000. At 0.85 the
#: largest of the papers' seven tasks falls from 49 % to 43 %, for 2 % of the questions' worth.
TEMPER = 0.85
#: More randomly signed units than this are as good as normal, and the exact sum takes long.
EXACT = 60_000
#: The test of what is not paired.
RANKS = "rank sum"
#: A chance too small to affect any p-value that is reported.
NEVER = 1e-60


class Evidence(Struct, frozen=True, omit_defaults=True):
    """What a test saw.

    Of *count* questions, windows or rounds some came out *worse* and some *better*. *loss* is how
    much was lost, positive for the worse, in the metric's unit; it is below *high*, and above
    *low*, with a confidence of 95 % each. *p* is one-sided, that it got worse; *p_better* that it
    got better. Where answers have margins, *p_right* and *p_margins* are the two tests behind *p*.

    *spread* is the standard error of the loss; *effective* the number of equally weighted questions
    that would know as much, and *disagreement* their part on which only one model is right.
    *least* is the minimum detectable loss at a power of 0.8, *family* the number
    of tests that share the level, and *adjusted* its p-value among them (Holm). *noise* is what
    two measurements of one model differ by on this machine, where that is more than is allowed.
    """

    test: str
    count: int
    loss: float
    low: float
    high: float
    p: float
    p_better: float
    spread: float
    worse: int = 0
    better: int = 0
    p_right: float | None = None
    p_margins: float | None = None
    effective: float | None = None
    disagreement: float | None = None
    least: float | None = None
    alpha: float | None = None
    family: int = 1
    adjusted: float | None = None
    noise: float | None = None

    def smallest(self, alpha: float) -> float:
        """The minimum detectable loss of a test at *alpha*, at a power of 0.8."""
        if self.effective is None or self.disagreement is None:
            return _z(1 - alpha, POWER) * self.spread
        return detectable(self.effective, self.disagreement, alpha, POWER)


class Stratum(Struct, frozen=True):
    """The paired answers of one task, or the windows of one text.

    *worse_by* is how much worse the newer answer is, per question; *margins_lost* by how much the
    right choice's lead shrank; *clusters* which questions belong together, each alone if empty.
    """

    worse_by: Sequence[float]
    margins_lost: Sequence[float] = ()
    clusters: Sequence[int] = ()


def answers(strata: Sequence[Stratum]) -> Evidence:
    """Whether right-or-wrong answers got worse: the paired difference over all questions.

    One test for all tasks. A task of n questions weighs n ** 0.85, so that none drowns the others,
    and every question of it alike. The signs of the answers that changed are flipped at random, all
    of a cluster together (the exact sign test, McNemar's with one task). Where margins are known,
    Wilcoxon's signed ranks of each task are joined by Stouffer's method with the same weights, and
    the two by Simes': twice the smaller p, or the larger.
    """
    sizes = [len(s.worse_by) for s in strata]
    units = weights(sizes)
    total = sum(u * n for u, n in zip(units, sizes, strict=True))
    sums = [
        unit * round(change)
        for unit, stratum in zip(units, strata, strict=True)
        for change in together(stratum.worse_by, stratum.clusters)
        if round(change)
    ]
    # Each answer alone, whatever it clusters with: what a reader would count.
    changed = [[d for d in stratum.worse_by if d] for stratum in strata]
    weighted = [(unit, len(own)) for unit, own in zip(units, changed, strict=True)]
    p, p_better = (sign_flips([sign * s for s in sums]) for sign in (1, -1))
    spread = math.sqrt(sum(map(_squares, units, strata))) / total
    seen = _margins(strata)
    joined = (_simes(p, seen[0]), _simes(p_better, seen[1])) if seen else None
    loss = sum(sums) / total
    reach = _z(CONFIDENCE) * spread
    return Evidence(
        test="sign flips" if len(strata) > 1 or any(s.clusters for s in strata) else "sign test",
        count=sum(sizes),
        worse=sum(d > 0 for own in changed for d in own),
        better=sum(d < 0 for own in changed for d in own),
        loss=loss,
        low=max(-1.0, loss - reach),
        high=min(1.0, loss + reach),
        p=joined[0] if joined else p,
        p_better=joined[1] if joined else p_better,
        p_right=p if joined else None,
        p_margins=seen[0] if seen else None,
        spread=spread,
        effective=effective_count(sizes) * _independence(sums, weighted),
        disagreement=sum(u * k for u, k in weighted) / total,
    )


def _independence(sums: Sequence[int], weighted: Sequence[tuple[int, int]]) -> float:
    """The share of the questions that clusters leave, by the variance that these add."""
    clustered = sum(s * s for s in sums)
    independent = sum(unit**2 * count for unit, count in weighted)
    return min(1.0, independent / clustered) if clustered else 1.0


def _squares(unit: int, stratum: Stratum) -> float:
    """The squared deviations of a task's drops from their mean, by cluster, as weighted."""
    mean = math.fsum(stratum.worse_by) / len(stratum.worse_by)
    apart = [d - mean for d in stratum.worse_by]
    return unit**2 * math.fsum(d * d for d in together(apart, stratum.clusters))


def effective_count(sizes: Sequence[int]) -> float:
    """How many equally weighted questions know as much as tasks of these *sizes* together."""
    pairs = list(zip(weights(sizes), sizes, strict=True))
    return sum(u * n for u, n in pairs) ** 2 / sum(u * u * n for u, n in pairs)


def weights(sizes: Sequence[int]) -> list[int]:
    """What a question of each task weighs: whole numbers, so that every sum lies on a lattice."""
    return [round(10 * (max(sizes) / n) ** (1 - TEMPER)) for n in sizes]


def graded(worse_by: Sequence[float], clusters: Sequence[int] = ()) -> Evidence:
    """Whether paired losses grew: Wilcoxon's signed ranks, and the mean with Student's interval.

    *worse_by* is per window, in nats or whatever the metric counts. Of windows that belong together
    by *clusters* the means are compared.
    """
    own = together(worse_by, clusters, mean=True)
    n = len(own)
    loss = math.fsum(own) / n
    spread = math.sqrt(math.fsum((d - loss) ** 2 for d in own) / max(1, n - 1) / n)
    from scipy import stats

    # One window alone says nothing of how much windows differ.
    student = float(stats.t.ppf(CONFIDENCE, n - 1)) * spread if n > 1 else math.inf
    reach = student if any(own) else 0.0
    return Evidence(
        test="signed ranks",
        count=len(worse_by),
        worse=sum(d > 0 for d in worse_by),
        better=sum(d < 0 for d in worse_by),
        loss=loss,
        low=loss - reach,
        high=loss + reach,
        p=signed_ranks(own),
        p_better=signed_ranks([-d for d in own]),
        spread=spread,
    )


def rounds(now: Sequence[float], was: Sequence[float]) -> Evidence:
    """Whether timings got worse: Mann-Whitney, and the shift of Hodges and Lehmann.

    Rounds of two runs have nothing in common, so they are not paired. Both have one number per
    round; larger is worse.
    """
    import numpy as np

    shifts = np.sort(np.subtract.outer(np.asarray(now), np.asarray(was)).ravel())
    m, n = len(now), len(was)
    # How many of the shifts lie outside, by the normal approximation of the statistic.
    cut = math.floor(m * n / 2 - _z(CONFIDENCE) * math.sqrt(m * n * (m + n + 1) / 12))
    low, high = (shifts[cut - 1], shifts[-cut]) if cut > 0 else (-math.inf, math.inf)
    loss = float(np.median(shifts))
    return Evidence(
        test=RANKS,
        count=m,
        loss=loss,
        low=float(low),
        high=float(high),
        p=_mann_whitney(now, was),
        p_better=_mann_whitney(was, now),
        spread=float(high - low) / 2 / _z(CONFIDENCE),
    )


def _mann_whitney(worse: Sequence[float], better: Sequence[float]) -> float:
    """One-sided p-value that the values of *worse* are not above those of *better*."""
    from scipy import stats

    return float(stats.mannwhitneyu(worse, better, alternative="greater").pvalue)


def sign_flips(sums: Sequence[int]) -> float:
    """P(a sum of randomly signed magnitudes >= the sum seen), exact up to sixty thousand units.

    *sums* are signed whole numbers, one per independent question or cluster.
    """
    sizes = Counter(abs(s) for s in sums if s)
    seen = sum(sums)
    if not sizes:
        return 1.0
    from scipy import stats

    if len(sizes) == 1:
        ((size, n),) = sizes.items()
        ups = (seen // size + n) // 2
        return float(stats.binomtest(ups, n, alternative="greater").pvalue)
    common = math.gcd(*sizes)
    counts = {size // common: n for size, n in sizes.items()}
    if sum(size * n for size, n in counts.items()) > EXACT:
        spread = math.sqrt(sum(size * size * n for size, n in counts.items()))
        return float(stats.norm.sf((seen // common - 1) / spread))
    return _tail(counts, seen // common)


def _tail(counts: Mapping[int, int], seen: int) -> float:
    """P(sum >= *seen*) of *counts* magnitudes with random signs, by convolution."""
    import numpy as np
    from scipy import stats

    reach = sum(size * n for size, n in counts.items())
    chances: NDArray[np.float64] = np.ones(1)
    # The sum is 2 * (what has a plus) - reach.
    for size, n in sorted(counts.items()):
        longer = np.zeros(len(chances) + size * n)
        for plus, chance in enumerate(stats.binom.pmf(np.arange(n + 1), n, 0.5)):
            if chance < NEVER:
                continue
            longer[plus * size : plus * size + len(chances)] += chance * chances
        chances = longer
    return float(min(1.0, chances[-(-(seen + reach) // 2) :].sum()))


def holm(ps: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given.

    Called worse below alpha, all of them together alarm by chance in no more than that part of the
    runs, however they depend on each other. Holm, Scandinavian Journal of Statistics 6 (1979).
    """
    adjusted = [1.0] * len(ps)
    highest = 0.0
    for rank, i in enumerate(sorted(range(len(ps)), key=ps.__getitem__)):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[i]))
        adjusted[i] = highest
    return adjusted


def detectable(
    questions: float, disagreement: float, alpha: float = 0.05, power: float = POWER
) -> float:
    """The smallest drop in accuracy that the paired sign test finds with probability *power*.

    Args:
        questions: how many both models answer.
        disagreement: the fraction of them on which only one is right. A larger drop takes as much
            disagreement as itself.
        alpha: one-sided level of the test.
        power: the probability to find it.

    Returns:
        A fraction of the questions, at most 1.

    Connor, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987), solved for the difference, which is a question larger as the test is
    exact.
    """
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        found = sample_size(middle, max(disagreement, middle), alpha, power) <= questions
        low, high = (low, middle) if found else (middle, high)
    return high


def sample_size(
    drop: float, disagreement: float, alpha: float = 0.05, power: float = POWER
) -> float:
    """How many questions it takes to find *drop*; the other arguments are those of *detectable*."""
    if drop <= 0:
        return float("inf")
    level, found = (NormalDist().inv_cdf(p) for p in (1 - alpha, power))
    spread = level * disagreement**0.5 + found * max(0.0, disagreement - drop**2) ** 0.5
    # Counts move in steps of two, and an exact test waits for the next: one question of the drop.
    return float(((spread + (spread**2 + 4 * drop) ** 0.5) / (2 * drop)) ** 2)


def _z(*levels: float) -> float:
    return sum(NormalDist().inv_cdf(level) for level in levels)


def together(
    values: Sequence[float], clusters: Sequence[int], *, mean: bool = False
) -> list[float]:
    """The sum or mean of each cluster's values; each alone where nothing clusters."""
    if not clusters:
        return list(values)
    groups: dict[int, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        groups.setdefault(cluster, []).append(value)
    return [math.fsum(g) / (len(g) if mean else 1) for g in groups.values()]


def _margins(strata: Sequence[Stratum]) -> tuple[float, float] | None:
    """One-sided p-values, for the worse and for the better, of the margins of all tasks at once."""
    if not all(s.margins_lost for s in strata):
        return None
    lost = [together(s.margins_lost, s.clusters, mean=True) for s in strata]
    moving = [own for own in lost if any(own)]
    if not moving:
        return 1.0, 1.0
    from scipy import stats

    weights = [len(own) ** (TEMPER - 0.5) for own in moving]

    def joined(sign: int) -> float:
        ps = [signed_ranks([sign * d for d in own]) for own in moving]
        return float(stats.combine_pvalues(ps, "stouffer", weights=weights).pvalue)

    return joined(1), joined(-1)


def signed_ranks(worse_by: Sequence[float]) -> float:
    """One-sided p-value of Wilcoxon's signed ranks; zeros are left out."""
    moved = [d for d in worse_by if d != 0]
    if not moved:
        return 1.0
    from scipy import stats

    return float(stats.wilcoxon(moved, alternative="greater").pvalue)


def _simes(one: float, other: float) -> float:
    """P-value of two tests of one question (Simes, Biometrika 73, 1986)."""
    return min(2 * min(one, other), max(one, other))

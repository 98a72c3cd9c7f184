"""How surely one set of samples is worse than another: one-sided p-values.

SciPy has every test used here; it is imported inside, because most comparisons never need it.
"""

from __future__ import annotations

from collections.abc import Sequence


def p_paired(worse_by: Sequence[float]) -> float:
    """One-sided p-value that paired differences are not above zero.

    Args:
        worse_by: per question or window, how much worse the newer answer is.

    Right/wrong answers (differences of one size) take the exact sign test, which is McNemar's;
    graded ones take Wilcoxon's signed-rank test.
    """
    from scipy import stats

    moved = [d for d in worse_by if d != 0]
    if not moved:
        return 1.0
    if len({abs(d) for d in moved}) == 1:
        ups = sum(d > 0 for d in moved)
        return float(stats.binomtest(ups, len(moved), alternative="greater").pvalue)
    return float(stats.wilcoxon(moved, alternative="greater").pvalue)


def p_unpaired(worse: Sequence[float], better: Sequence[float]) -> float:
    """One-sided Mann-Whitney p-value that the values of *worse* are not above those of *better*."""
    from scipy import stats

    return float(stats.mannwhitneyu(worse, better, alternative="greater").pvalue)


def detectable(
    questions: int, disagreement: float, alpha: float = 0.05, power: float = 0.8
) -> float:
    """The smallest drop in accuracy that the paired sign test finds with probability *power*.

    Args:
        questions: how many both models answer.
        disagreement: the fraction of them on which only one is right, in [drop, 1].
        alpha: one-sided level of the test.
        power: the probability to find it.

    Returns:
        A fraction of the questions; *disagreement* itself where even losing all of them is not
        found that often.

    Connor, "Sample size for testing differences in proportions for the paired-sample design",
    Biometrics 43 (1987), solved for the difference.
    """
    low, high = 0.0, disagreement
    if sample_size(high, disagreement, alpha, power) > questions:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        found = sample_size(middle, disagreement, alpha, power) <= questions
        low, high = (low, middle) if found else (middle, high)
    return high


def sample_size(drop: float, disagreement: float, alpha: float = 0.05, power: float = 0.8) -> float:
    """How many questions it takes to find *drop*; the other arguments are those of *detectable*."""
    from statistics import NormalDist

    if drop <= 0:
        return float("inf")
    level, found = (NormalDist().inv_cdf(p) for p in (1 - alpha, power))
    spread = level * disagreement**0.5 + found * max(0.0, disagreement - drop**2) ** 0.5
    return float((spread / drop) ** 2)

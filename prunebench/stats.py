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

"""The tests of ``verdicts.significance`` for many pairs at once: each row of an array is a pair.

NumPy and SciPy are imported inside.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from ..verdicts import significance

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]
    Booleans = NDArray[np.bool_]

#: The least p-value that ``_tails`` returns: below it is the rounding error of the sum.
LEAST = 1e-12
#: A sum further from zero than this many standard deviations has a chance below 1e-18 (Hoeffding).
BEYOND = 9.2
#: SciPy takes signed ranks of up to this many differences as exact if none are tied.
EXACT_RANKS = 50


def sign_flips(sums: Whole) -> Floats:
    """``significance.sign_flips`` of each row: P(a randomly signed sum >= the one seen).

    Args:
        sums: pairs x clusters, signed whole numbers.

    Returns:
        A p-value per pair, right to about 1e-13, and at least 1e-12 where magnitudes differ.
    """
    import numpy as np
    from scipy import stats

    sizes = np.abs(sums)
    kinds = 1 + np.flatnonzero(np.bincount(sizes.ravel())[1:])
    p = _sign_tests(sums)
    if len(kinds) < 2:
        return p
    counts = np.array([np.count_nonzero(sizes == kind, axis=1) for kind in kinds]).T
    several = np.flatnonzero(np.count_nonzero(counts, axis=1) > 1)
    counts, seen = counts[several], sums[several].sum(axis=1)
    common = np.gcd.reduce(np.where(counts > 0, kinds, 0), axis=1)
    spread = np.sqrt(counts @ kinds**2)
    normal = counts @ kinds > significance.EXACT * common
    p[several[normal]] = stats.norm.sf((seen - common)[normal] / spread[normal])
    if not normal.all():
        p[several[~normal]] = _tails(kinds, counts[~normal], seen[~normal])
    return p


def _sign_tests(differences: Floats | Whole) -> Floats:
    """P(at least as many of the differences above zero), by fair coins; exact (McNemar's test)."""
    import numpy as np
    from scipy import stats

    ups = np.count_nonzero(differences > 0, axis=1)
    p: Floats = stats.binom.sf(ups - 1, np.count_nonzero(differences, axis=1), 0.5)
    return p


def _tails(sizes: Whole, counts: Whole, seen: Whole) -> Floats:
    """P(sum >= *seen*) of randomly signed *sizes*, *counts* of each, for each pair.

    The distribution of the sum is the inverse Fourier transform of its characteristic function,
    the product of cos(size * angle) ** count.
    """
    import numpy as np
    from scipy import fft

    divisor = np.gcd.reduce(sizes)
    sizes, seen = sizes // divisor, seen // divisor
    reach = np.minimum(counts @ sizes, BEYOND * np.sqrt(counts @ sizes**2)).max()
    period = fft.next_fast_len(2 * int(reach) + 2, real=True)
    waves = np.cos(np.outer(sizes, 2 * np.pi / period * np.arange(period // 2 + 1)))
    # A cosine of 0 must stay 1 to the power of 0, not become infinity times 0.
    transform = np.exp(counts @ np.log(np.maximum(np.abs(waves), 1e-300)))
    transform *= 1 - 2 * (((counts % 2) @ (waves < 0)) % 2)
    chances = fft.irfft(transform, period, axis=1)[:, : period // 2]
    # Symmetric: a sum at or below zero has the tail that lies above it, the other way round.
    above = np.where(seen > 0, seen, 1 - seen)
    tails = np.where(np.arange(chances.shape[1]) >= above[:, None], chances, 0.0).sum(axis=1)
    clipped: Floats = np.clip(np.where(seen > 0, tails, 1 - tails), LEAST, 1.0)
    return clipped


def signed_ranks(worse_by: Floats, *, sign_test: bool) -> Floats:
    """``significance.signed_ranks`` of each row, Wilcoxon's one-sided test; zeros are left out.

    Args:
        worse_by: pairs x windows, how much worse each window is; finite.
        sign_test: use the sign test for rows of one magnitude, which is McNemar's.
    """
    import numpy as np
    from scipy import stats

    sizes = np.abs(worse_by)
    moved = np.count_nonzero(sizes, axis=1)
    if worse_by.shape[1] > EXACT_RANKS:
        batched = moved > EXACT_RANKS  # normal for SciPy
    else:  # without zeros and ties: exact for SciPy
        batched = (np.diff(np.sort(sizes, axis=1), prepend=0.0, axis=1) > 0).all(axis=1)
    p = np.ones(len(worse_by))
    if batched.any():
        p[batched] = stats.wilcoxon(worse_by[batched], alternative="greater", axis=1).pvalue
    for i in np.flatnonzero(~batched):
        p[i] = significance.signed_ranks(worse_by[i].tolist())
    if sign_test:
        single = ((sizes == 0) | (sizes == sizes.max(axis=1, keepdims=True))).all(axis=1)
        p[single] = _sign_tests(worse_by[single])
    return p


def seeds_differ(
    first: Sequence[float], others: Sequence[Sequence[float]]
) -> tuple[Floats, Booleans]:
    """Two-sided p-values over seeds, and where the mean of *first* is above the other.

    Welch's test; where one side has a single seed, or seeds that do not matter, it has no variance,
    and the test is Student's of one sample. Where neither varies, p is whether they are equal.
    """
    import numpy as np
    from scipy import stats

    mean, spread, count = np.array([_moments(seeds) for seeds in [first, *others]]).T
    _, p = stats.ttest_ind_from_stats(
        mean[0], spread[0], count[0], mean[1:], spread[1:], count[1:], equal_var=False
    )
    fixed = (spread[0] == 0) & (spread[1:] == 0)
    return np.where(fixed, mean[0] == mean[1:], p), mean[0] > mean[1:]


def _moments(seeds: Sequence[float]) -> tuple[float, float, int]:
    """Mean, standard deviation, number of seeds; a single seed counts as two equal ones."""
    # Equal values have no variance, to the last digit.
    spread = stdev(seeds) if len(set(seeds)) > 1 else 0.0
    return fmean(seeds), spread, max(2, len(seeds))

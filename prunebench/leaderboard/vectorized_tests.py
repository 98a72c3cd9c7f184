"""The tests of ``stats`` for many pairs at once: arrays in, a p-value per pair out.

A board of five hundred rows has a hundred thousand pairs; one at a time they take minutes. NumPy
and SciPy are imported inside.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ..verdicts import significance as tests

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]
    Whole = NDArray[np.int64]

#: A chance below this is told as this: what it is lies below the rounding of the sum.
LEAST = 1e-12
#: What is left out of an infinite sum: exp of this is beyond the last digit of a double.
_NOTHING = -45.0
#: Fewer moved windows than this, none of them tied, have exact ranks (as SciPy has it).
_EXACT_RANKS = 50
#: With ties, that many are permuted in every way (as SciPy has it), one pair at a time.
_PERMUTED = 13
#: Numbers that are held at once.
ROOM = 2_000_000


def sign_tests(ups: Whole, moved: Whole) -> Floats:
    """P(at least *ups* of *moved* fair coins fall so), 1 of none; exact (McNemar's test)."""
    from scipy import stats as tests_of

    p: Floats = tests_of.binom.sf(ups - 1, moved, 0.5)
    p[moved == 0] = 1.0
    return p


def sign_flips(sizes: Whole, counts: Whole, seen: Whole) -> Floats:
    """``stats.sign_flips`` of many sums: P(a sum of randomly signed magnitudes >= the sum seen).

    Args:
        sizes: the K magnitudes that occur, different positive numbers.
        counts: pairs x K, how often each pair has each.
        seen: the sum of each pair.

    Returns:
        A p-value per pair, right to about 1e-13, at least 1e-12 where magnitudes differ.
    """
    import numpy as np
    from scipy import special

    present = counts > 0
    kinds = present.sum(axis=1)
    p = np.ones(len(seen))
    if (one := kinds == 1).any():
        size = sizes[present[one].argmax(axis=1)]
        moved = counts[one].sum(axis=1)
        p[one] = sign_tests((seen[one] // size + moved) // 2, moved)
    if not (more := kinds > 1).any():
        return p
    common = np.gcd.reduce(np.where(present, sizes, 0), axis=1)
    common[~more] = 1
    reach = (counts @ sizes) // common
    spread = np.sqrt(counts @ sizes**2) / common
    normal = more & (reach > tests.EXACT)
    p[normal] = special.ndtr(-(seen[normal] // common[normal] - 1) / spread[normal])
    whole = np.flatnonzero(more & ~normal)
    for divisor in np.unique(common[whole]):
        own = whole[common[whole] == divisor]
        # Symmetric, in steps of two: what lies below zero is told by what lies above.
        sums = seen[own] // divisor
        low = sums <= 0
        tails = _tails(sizes / divisor, counts[own], np.where(low, 2 - sums, sums))
        p[own] = np.where(low, 1 - tails, tails)
    return p


def _tails(sizes: Floats, counts: Whole, sums: Whole) -> Floats:
    """P(sum >= *sums*) of random signs, *sums* above zero, by Fourier inversion on the lattice.

    The sum's characteristic function is the product of cos(size * angle) ** count. Its terms that
    are no smaller than a double's last digit are few. The lattice is taken as periodic, with a
    period that leaves less than 1e-18 outside (Hoeffding).
    """
    import numpy as np

    used = counts.any(axis=0)
    sizes, times = sizes[used], counts[:, used].astype(np.float64)
    reach, variance = times @ sizes, times @ sizes**2
    beyond = np.minimum(reach, np.sqrt(-2 * _NOTHING * variance))
    p = np.full(len(sums), LEAST)
    order = np.argsort(beyond)
    order = order[sums[order] <= beyond[order]]
    start = 0
    while start < len(order):
        # Of about one width, so that they share angles.
        width = 2 * beyond[order[start]] + 64
        most = max(1, int(ROOM / width))
        stop = start + int(np.searchsorted(beyond[order[start:]], width, side="right"))
        own = order[start : min(stop, start + most)]
        p[own] = _inverted(sizes, times[own], sums[own].astype(np.float64), beyond[own])
        start += len(own)
    clipped: Floats = np.clip(p, LEAST, 1.0)
    return clipped


def _inverted(sizes: Floats, counts: Floats, sums: Floats, beyond: Floats) -> Floats:
    import numpy as np

    period = 2 * (int(beyond.max()) // 2) + 5
    angles = np.pi / period * np.arange(1, (period + 1) // 2)
    waves = np.cos(np.outer(sizes, angles))
    # A cosine of nothing, to a power above zero, must not be minus infinity times zero elsewhere.
    logs = np.log(np.maximum(np.abs(waves), 1e-300))
    heights = counts @ logs
    pair, at = np.nonzero(heights > _NOTHING)
    odd = ((counts % 2) @ (waves < 0))[pair, at] % 2
    terms = np.exp(heights[pair, at]) * (1 - 2 * odd)
    # The lattice's points from each sum to where nothing is left, two apart.
    points = (beyond - sums) // 2 + 1
    angle, many = angles[at], points[pair]
    terms *= np.sin(angle * many) / np.sin(angle) * np.cos(angle * (sums[pair] + many - 1))
    found: Floats = (points + 2 * np.bincount(pair, terms, len(sums))) / period
    return found


def signed_ranks(worse_by: Floats) -> Floats:
    """Wilcoxon's one-sided test of each line of *worse_by*, as ``stats.p_paired`` has it of one.

    Args:
        worse_by: pairs x windows, how much worse each window is; finite.
    """
    import numpy as np
    from scipy import special

    moved = np.count_nonzero(worse_by, axis=1)
    plus, ties, tied = _rank_sums(worse_by)
    p = np.ones(len(worse_by))
    few = (moved > 0) & (moved <= _EXACT_RANKS)
    permuted = few & tied & (moved <= _PERMUTED)
    exact = few & ~tied
    normal = (moved > 0) & ~permuted & ~exact
    count = moved[normal].astype(np.float64)
    spread = np.sqrt((count * (count + 1) * (2 * count + 1) - ties[normal] / 2) / 24)
    p[normal] = special.ndtr(-(plus[normal] - count * (count + 1) * 0.25) / spread)
    for size in np.unique(moved[exact]):
        own = exact & (moved == size)
        p[own] = _rank_tail(int(size))[plus[own].astype(np.int64)]
    for i in np.flatnonzero(permuted):
        p[i] = tests.signed_ranks(worse_by[i][worse_by[i] != 0].tolist())
    return p


def one_size(worse_by: Floats) -> tuple[NDArray[np.bool_], Floats]:
    """Which lines have moved by one size alone, and the sign tests of all lines."""
    import numpy as np

    sizes = np.abs(worse_by)
    moved = np.count_nonzero(sizes, axis=1)
    largest = sizes.max(axis=1, initial=0.0)
    single = ((sizes == 0) | (sizes == largest[:, None])).all(axis=1)
    return single, sign_tests(np.count_nonzero(worse_by > 0, axis=1), moved)


def _rank_sums(worse_by: Floats) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Of each line the ranks' sum of what is above zero, and what its ties take from the variance.

    Sizes that are equal share their middle rank; zeros have none.
    """
    import numpy as np

    lines, n = worse_by.shape
    # Sorted with the sign in the last bit: a size's own first bit, of its sign, is free.
    keys = np.abs(worse_by).view(np.uint64)
    keys <<= np.uint64(1)
    keys |= worse_by > 0
    keys.sort(axis=1)
    up = (keys & np.uint64(1)).astype(bool)
    keys >>= np.uint64(1)
    zeros = n - np.count_nonzero(keys, axis=1)
    ups = np.count_nonzero(up, axis=1)
    plus: Floats = up @ np.arange(1.0, n + 1) - zeros * ups
    same = np.zeros((lines, n + 1), bool)
    np.logical_and(keys[:, 1:] == keys[:, :-1], keys[:, 1:] != 0, out=same[:, 1:n])
    tied: NDArray[np.bool_] = np.asarray(same.any(axis=1))
    ties: Floats = np.zeros(lines)
    if tied.any():
        own = np.flatnonzero(tied)
        same, up = same[own], up[own]
        # A run is from the place before the first that equals its neighbour to the last that does.
        line, first = np.nonzero(same[:, 1:] & ~same[:, :-1])
        _, last = np.nonzero(same[:, :-1] & ~same[:, 1:])
        length = last - first + 1.0
        places = np.arange(n)
        until = np.zeros((2, len(own), n + 1))
        np.cumsum(up, axis=1, out=until[0, :, 1:])
        np.cumsum(up * places, axis=1, out=until[1, :, 1:])
        number, ranks = until[:, line, last + 1] - until[:, line, first]
        shift = number * (first + last) / 2 - ranks
        plus[own] += np.bincount(line, shift, len(own))
        ties[own] = np.bincount(line, length**3 - length, len(own))
    return plus, ties, tied


@cache
def _rank_tail(n: int) -> Floats:
    """P(rank sum >= k) for every k, of *n* ranks with random signs; exact."""
    import numpy as np

    ways = np.ones(1)
    for rank in range(1, n + 1):
        longer = np.zeros(len(ways) + rank)
        longer[: len(ways)] = ways
        longer[rank:] += ways
        ways = longer / 2
    tail: Floats = ways[::-1].cumsum()[::-1]
    return tail


def seeds_differ(
    means: tuple[Floats, Floats], variances: tuple[Floats, Floats], sizes: tuple[Whole, Whole]
) -> Floats:
    """Two-sided p-values over seeds: Welch's test; Student's where one side has a single seed.

    Args:
        means: of the seeds' values, on each side of each pair.
        variances: of the same, over n - 1; anything where there is but one seed.
        sizes: how many seeds; at least one side has two.

    Returns:
        A p-value per pair; where no seed matters, whether the means are equal.
    """
    import numpy as np
    from scipy import special

    # What is known has no error; then Welch's degrees of freedom are the other side's own.
    errors = [np.where(n > 1, v, 0.0) / n for v, n in zip(variances, sizes, strict=True)]
    total = errors[0] + errors[1]
    fixed = total == 0
    total = np.where(fixed, 1.0, total)
    parts = (e**2 / np.maximum(n - 1, 1) for e, n in zip(errors, sizes, strict=True))
    freedom = total**2 / np.where(fixed, 1.0, sum(parts))
    apart = means[0] - means[1]
    p = 2 * special.stdtr(freedom, -np.abs(apart) / np.sqrt(total))
    found: Floats = np.where(fixed, (apart == 0).astype(np.float64), p)
    return found

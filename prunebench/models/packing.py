"""Packs token sequences with a common prefix into one row, so that no prefix is run twice.

A pack is the prefix tree of its sequences, its tokens in depth-first order. Token j sees token i
exactly when i is on the path from the root to j, that is when ``i <= j < end[i]``, and a token's
position is its depth. Under that mask attention gives every sequence the result that it has alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

#: A sequence joins a pack if it shares at least this fraction of its tokens with it. Less does not
#: pay for the wider mask: unrelated questions share a word or two by chance.
SHARED = 0.25

#: The most tokens of a pack, as a multiple of its first sequence: attention is over all pairs.
GROWTH = 4


class Request(NamedTuple):
    """A sequence of tokens, of which the last *scored* are predicted."""

    tokens: Sequence[int]
    scored: int


class Pack(NamedTuple):
    """One row of a batch.

    *depth* and *end* are the position of each token and the end of the part of the row that sees
    it. *reads* are, for every request in the pack, its number and the places of the row whose
    outputs predict its scored tokens.
    """

    tokens: list[int]
    depth: list[int]
    end: list[int]
    reads: list[tuple[int, list[int]]]

    @property
    def is_chain(self) -> bool:
        """Whether the row is one plain sequence, for which a causal mask is enough."""
        return self.depth[-1] == len(self.tokens) - 1


def pack(requests: Sequence[Request], *, share: bool = True) -> list[Pack]:
    """Assign every request to one pack; the longest pack comes first.

    Args:
        requests: sequences to score. A request's last token is predicted, never read.
        share: False gives every request a row of its own.
    """
    order = sorted(range(len(requests)), key=lambda i: list(requests[i].tokens))
    packs = list(_packs(requests, order)) if share else [_alone(requests[i], i) for i in order]
    return sorted(packs, key=lambda p: -len(p.tokens))


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """The length of the common prefix of two sequences."""
    low, high = 0, min(len(a), len(b))
    while low < high:  # slices compare far faster than a loop over tokens
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


def _packs(requests: Sequence[Request], order: Sequence[int]) -> Iterator[Pack]:
    """Packs in lexicographic order: neighbours share most, and come in depth-first order."""
    current: Pack | None = None
    before: list[int] = []
    path: list[int] = []
    most = 0
    for index in order:
        request = requests[index]
        read = list(request.tokens[:-1])
        same = common(before, read)
        new = len(read) - same
        if current is None or same < SHARED * len(read) or len(current.tokens) + new > most:
            if current is not None:
                yield _closed(current)
            current, same, path, most = Pack([], [], [], []), 0, [], GROWTH * len(read)
        start = len(current.tokens)
        for place in path[same:]:
            current.end[place] = start
        current.tokens.extend(read[same:])
        current.depth.extend(range(same, len(read)))
        current.end.extend([0] * (len(read) - same))
        path = path[:same] + list(range(start, len(current.tokens)))
        current.reads.append((index, path[len(read) - request.scored :]))
        before = read
    if current is not None:
        yield _closed(current)


def _closed(pack: Pack) -> Pack:
    """Let tokens whose branch is still open be seen up to the end of the row."""
    size = len(pack.tokens)
    pack.end[:] = [end or size for end in pack.end]
    return pack


def _alone(request: Request, index: int) -> Pack:
    read = list(request.tokens[:-1])
    size = len(read)
    places = list(range(size - request.scored, size))
    return Pack(read, list(range(size)), [size] * size, [(index, places)])

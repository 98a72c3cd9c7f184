"""Packs against what they stand for: a request reads its own tokens, in order, and no others."""

from __future__ import annotations

import random

import pytest

from prunebench.models.packing import Pack, Request, common, pack


def requests(seed: int) -> list[Request]:
    """Questions with several choices, some of them alike, some contexts beginning alike."""
    rng = random.Random(seed)
    asked = []
    stems = [[rng.randrange(4) for _ in range(rng.randint(0, 9))] for _ in range(4)]
    for _ in range(12):
        context = rng.choice(stems) + [rng.randrange(4) for _ in range(rng.randint(1, 6))]
        for _ in range(rng.randint(1, 4)):
            choice = [rng.randrange(4) for _ in range(rng.randint(1, 5))]
            asked.append(Request(context + choice, len(choice)))
    return asked


def seen_by(row: Pack, place: int) -> list[int]:
    """The tokens that the token at *place* attends to, in order, itself last."""
    return [row.tokens[i] for i in range(place + 1) if place < row.end[i]]


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("seed", range(8))
def test_every_read_place_sees_its_own_sequence(seed: int, share: bool) -> None:
    """What a place sees is the request up to there, at the positions 0, 1, 2, ..."""
    asked = requests(seed)
    found = {}
    for row in pack(asked, share=share):
        for index, places in row.reads:
            found[index] = [(seen_by(row, place), row.depth[place]) for place in places]
    assert set(found) == set(range(len(asked)))
    for index, (tokens, scored) in enumerate(asked):
        first = len(tokens) - scored
        expected = [(tokens[:stop], stop - 1) for stop in range(first, len(tokens))]
        assert found[index] == expected


@pytest.mark.parametrize("seed", range(4))
def test_a_beginning_is_run_once_per_pack(seed: int) -> None:
    """A pack has as many tokens as its requests have different beginnings."""
    asked = requests(seed)
    for row in pack(asked):
        reads = [tuple(asked[index].tokens[:-1]) for index, _ in row.reads]
        beginnings = {read[:stop] for read in reads for stop in range(1, len(read) + 1)}
        assert len(row.tokens) == len(beginnings)


def test_choices_of_a_question_share_a_pack_and_strangers_do_not() -> None:
    """Four choices hang on one context; questions that share one word have rows of their own."""
    contexts = ([1, *range(10, 30)], [1, *range(40, 60)])
    asked = [Request([*c, 70 + i, 80 + i], 2) for c in contexts for i in range(4)]
    rows = pack(asked)

    assert [len(row.tokens) for row in rows] == [25, 25]
    assert [len(row.reads) for row in rows] == [4, 4]
    assert not any(row.is_chain for row in rows)


def test_one_token_choices_need_no_branch() -> None:
    """The context alone predicts them all, so that row is a plain sequence."""
    (row,) = pack([Request([1, 2, 3, choice], 1) for choice in (5, 6, 7)])

    assert row.tokens == [1, 2, 3]
    assert row.is_chain
    assert [places for _, places in row.reads] == [[2], [2], [2]]


def test_the_common_beginning() -> None:
    """Equal to counting, for all short sequences of two tokens."""
    rng = random.Random(0)
    for _ in range(200):
        a, b = ([rng.randrange(2) for _ in range(rng.randint(0, 12))] for _ in range(2))
        count = 0
        while count < min(len(a), len(b)) and a[count] == b[count]:
            count += 1
        assert common(a, b) == count

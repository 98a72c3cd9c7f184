from __future__ import annotations

import pytest
from conftest import FAMILIES

from prunebench.stream import Stream


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("alive", [range(6), (0, 2, 3, 5)])
def test_candidate_losses_equal_whole_forwards(family: str, alive, tiny, ids) -> None:
    """Sharing prefixes gives the losses of the naive loop, in every family."""
    lm = tiny(family)
    candidates = alive[1:-1]
    losses = Stream(lm, ids, batch_size=4).without_each(list(alive), list(candidates))
    for block in candidates:
        gone = {b for b in range(6) if b not in alive} | {block}
        with lm.skipping(gone):
            expected = lm.nll(ids)

        assert losses[block] == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize("n", [5, 8])
def test_block_forwards_follow_the_formula(n: int, tiny, ids) -> None:
    """(n-2)(n+1)/2 per window with one block kept at each end; (n-1)(n+2)/2 with none."""
    lm = tiny("llama", blocks=n)
    stream = Stream(lm, ids)
    stream.without_each(range(n), range(1, n - 1))

    assert stream.forwards == len(ids) * (n - 2) * (n + 1) // 2
    stream = Stream(lm, ids)
    stream.without_each(range(n), range(n))
    assert stream.forwards == len(ids) * (n - 1) * (n + 2) // 2


def test_the_model_is_left_as_it_was(tiny, ids) -> None:
    """Searching changes no parameter, no hook, no structure."""
    lm = tiny("qwen2")
    before = lm.hf.state_dict()
    copies = {k: v.clone() for k, v in before.items()}
    stream = Stream(lm, ids)
    stream.without_each(range(6), range(6))
    stream.noise()

    assert all((before[k] == v).all() for k, v in copies.items())
    assert len(lm.blocks) == 6
    assert not any(block._forward_pre_hooks for block in lm.blocks)


def test_noise_is_small_and_never_zero(tiny, ids) -> None:
    """Rebatching moves a float32 loss by a little, which is what margins are held against."""
    stream = Stream(tiny("llama"), ids)

    assert 0 < stream.noise() < 1e-5
    assert stream.dense_nll == pytest.approx(stream.lm.nll(ids), abs=1e-6)

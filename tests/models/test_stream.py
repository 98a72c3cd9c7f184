"""Shared hidden states against whole forwards and against the closed forms of their cost."""

from __future__ import annotations

import pytest
import torch
from factories import FAMILIES

from prunebench.models.stream import Stream, Thinning


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("budget", [0, 20_000, 10**9])
@pytest.mark.parametrize("removals", [(3, 1), (1, 3), (4, 2), (2, 4)])
def test_candidate_losses_equal_whole_forwards(family, budget, removals, tiny, ids) -> None:
    """Whatever is kept between removals, early or late, the losses are those of the naive loop."""
    lm = tiny(family)
    thinning = Thinning(Stream(lm, ids, batch_size=4), budget=budget)
    gone: set[int] = set()
    for removed in (*removals, None):
        candidates = [b for b in range(1, 5) if b not in gone]
        losses = thinning.losses(candidates)
        for block in candidates:
            with lm.skipping({*gone, block}):
                assert losses[block] == pytest.approx(lm.nll(ids), abs=2e-6)
        if removed is not None:
            thinning.remove(removed)
            gone.add(removed)


def test_ends_may_go_too(tiny, ids) -> None:
    """The first and the last block can be candidates and can be removed."""
    lm = tiny("llama")
    thinning = Thinning(Stream(lm, ids))
    thinning.losses(range(6))
    for removed in (0, 5):
        thinning.remove(removed)
        losses = thinning.losses(thinning.alive)
        for block in thinning.alive:
            with lm.skipping({*range(6)} - {*thinning.alive} | {block}):
                assert losses[block] == pytest.approx(lm.nll(ids), abs=2e-6)


@pytest.mark.parametrize("n", [5, 8])
def test_block_forwards_follow_the_formula(n: int, tiny, ids) -> None:
    """(n-2)(n+1)/2 per window with one block kept at each end; (n-1)(n+2)/2 with none."""
    lm = tiny("llama", blocks=n)
    stream = Stream(lm, ids)
    Thinning(stream, budget=0).losses(range(1, n - 1))

    assert stream.forwards == len(ids) * (n - 2) * (n + 1) // 2
    stream = Stream(lm, ids)
    Thinning(stream, budget=0).losses(range(n))
    assert stream.forwards == len(ids) * (n - 1) * (n + 2) // 2


@pytest.mark.parametrize("removed", [1, 3, 6])
def test_keeping_every_state_costs_what_the_closed_form_says(removed: int, tiny, ids) -> None:
    """After position p went, n alive: sum over k from p of min(k-1, n-2), plus max(0, n-2-p)."""
    before = 8
    stream = Stream(tiny("llama", blocks=before), ids)
    thinning = Thinning(stream)
    thinning.losses(range(1, before - 1))
    first = stream.forwards
    thinning.remove(removed)
    thinning.losses([b for b in range(1, before - 1) if b != removed])
    n = before - 1
    expected = sum(min(k - 1, n - 2) for k in range(removed, n)) + max(0, n - 2 - removed)

    assert (stream.forwards - first) == len(ids) * expected


def test_the_model_is_left_as_it_was(tiny, ids) -> None:
    """Searching changes no parameter, no hook, no structure."""
    lm = tiny("qwen2")
    before = lm.hf.state_dict()
    copies = {k: v.clone() for k, v in before.items()}
    stream = Stream(lm, ids)
    Thinning(stream).losses(range(6))
    stream.noise()

    assert all((before[k] == v).all() for k, v in copies.items())
    assert len(lm.blocks) == 6
    assert not any(block._forward_pre_hooks for block in lm.blocks)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_block_is_the_sum_of_its_halves(family: str, tiny, ids) -> None:
    """Attention and MLP, each added to the stream, are the block bit for bit."""
    lm = tiny(family)
    (batch,) = Stream(lm, ids).batches
    hidden = batch.entering
    with torch.no_grad():
        for index, block in enumerate(lm.blocks):
            whole = batch.call(block, index, hidden)
            for half in lm.family.halves:
                hidden = hidden + batch.branch(block, index, half, hidden)
            assert torch.equal(hidden, whole)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_final_state_is_what_transformers_reports(family: str, tiny, ids) -> None:
    """Running all blocks and the final layers gives the last hidden state."""
    lm = tiny(family)
    stream = Stream(lm, ids)
    (batch,) = stream.batches
    with torch.no_grad():
        state = batch.final(lm, stream.run(batch, batch.entering, range(6)))
        expected = lm.hf.base_model(ids, use_cache=False).last_hidden_state

    assert torch.equal(state, expected)


def test_noise_is_small_and_never_zero(tiny, ids) -> None:
    """Rebatching moves a float32 loss by a little, which is what margins are held against."""
    stream = Stream(tiny("llama"), ids)

    assert 0 < stream.noise() < 1e-5
    assert stream.dense_nll == pytest.approx(stream.lm.nll(ids), abs=1e-6)

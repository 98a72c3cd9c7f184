"""SLEB and Shortened LLaMA against the authors' outputs and against plain re-implementations."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import FAMILIES, oracle_of

import prunebench
from prunebench import PrunebenchError


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Any]:
    return oracle_of(shared, "depth", "depth_ids")


@pytest.mark.slow
@pytest.mark.parametrize("run", ["all", "half1", "half2"])
def test_sleb_decides_as_the_released_code(run: str, oracle) -> None:
    """Same removals, every candidate's loss within 5e-6 nats, same margins."""
    calib = oracle["ids"]["calib"]
    if run != "all":
        calib = [calib[i] for i in oracle["ids"][f"{run}_windows"]]
    theirs = oracle["sleb"]["runs"][run]
    plan = prunebench.choose(oracle["lm"], "sleb", blocks=6, calibration=calib)

    assert list(plan.edits[0].blocks) == theirs["removal_list"]
    for mine, step in zip(plan.trace, theirs["steps"], strict=True):
        losses = [loss / step["loss_scale"] for loss in step["losses"]]
        assert list(mine.scores) == [str(c) for c in step["candidates"]]
        assert list(mine.scores.values()) == pytest.approx(losses, abs=5e-6)
        assert mine.margin == pytest.approx(step["margin_to_second_nats_per_token"], abs=5e-6)
        assert mine.determined


@pytest.mark.slow
def test_sleb_spends_less_than_sharing_prefixes_alone(oracle) -> None:
    """Each step costs at most what shared prefixes cost; the official loop spends 3,200."""
    plan = prunebench.choose(oracle["lm"], "sleb", blocks=6, calibration=oracle["ids"]["calib"])
    spent = [step.block_forwards for step in plan.trace]
    shared = [8 * (n - 2) * (n + 1) // 2 for n in range(12, 6, -1)]

    assert spent[0] == shared[0]
    assert all(mine <= formula for mine, formula in zip(spent, shared, strict=True))
    assert sum(spent) < sum(shared) == 1960


CRITERIA = {
    "magnitude": ("magnitude_p1_sum_sum", 1e-6),
    "taylor": ("taylor_p1_onebatch", 1e-5),
}


@pytest.mark.parametrize("criterion", CRITERIA)
def test_shortened_llama_scores_equal_the_released_code(criterion: str, oracle) -> None:
    """Every block's score and the whole order."""
    name, tolerance = CRITERIA[criterion]
    theirs = oracle["shortened_llama"][name]
    plan = ranking(oracle, criterion)

    mine = [plan.trace[0].scores[str(block)] for block in range(12)]
    assert mine == pytest.approx(theirs["block_scores"], rel=tolerance)
    assert list(plan.edits[0].blocks) == theirs["order"][:11]


def test_shortened_llama_perplexities_equal_the_released_code(oracle) -> None:
    """The perplexity without each block, and the order by it, near-tie of 5 and 6 included."""
    theirs = oracle["shortened_llama"]["ppl"]
    plan = ranking(oracle, "ppl")

    mine = [plan.trace[0].scores[str(block)] for block in range(12)]
    assert mine == pytest.approx(theirs["block_ppl"], rel=5e-6)
    assert list(plan.edits[0].blocks) == theirs["order"][:11]


def ranking(oracle, criterion: str, **options: Any) -> prunebench.Plan:
    options = {"keep_first": 0, "keep_last": 0, "blocks": 11, **options}
    calib = oracle["ids"]["calib"]
    return prunebench.choose(
        oracle["lm"], "shortened_llama", criterion=criterion, calibration=calib, **options
    )


@pytest.mark.slow
def test_shortened_llama_selections_equal_the_released_code(oracle) -> None:
    """All recorded selections, with and without "+", and the perplexity they leave."""
    names = {"magnitude_p1_sum_sum": "magnitude", "taylor_p1_onebatch": "taylor", "ppl": "ppl"}
    seen = 0
    for theirs in oracle["shortened_llama_selections"]:
        criterion = names.get(theirs["criterion"])
        if criterion is None:
            continue
        kept = {} if not theirs["plus_heuristic"] else {"keep_first": 4, "keep_last": 2}
        plan = ranking(oracle, criterion, blocks=theirs["R"], **kept)
        pruned = prunebench.apply(oracle["lm"].share(), plan)

        assert list(plan.edits[0].blocks) == theirs["removed_in_rank_order"]
        ppl = prunebench.perplexity(pruned, oracle["ids"]["eval"])
        assert ppl == pytest.approx(theirs["pooled_ppl_no_bos"], rel=1e-5)
        seen += 1
    assert seen >= 10


def test_perplexity_after_each_removal_equals_the_released_code(oracle) -> None:
    """Mean of window means, for 0 to 6 removals."""
    theirs = oracle["perplexity"]["sleb_mean_of_window_means_after_removals"]
    order = oracle["sleb"]["runs"]["all"]["removal_list"]
    for count, expected in enumerate(theirs):
        plan = prunebench.Plan((prunebench.DropBlocks(tuple(order[:count])),))
        pruned = prunebench.apply(oracle["lm"].share(), plan)

        assert prunebench.perplexity(pruned, oracle["ids"]["eval"]) == pytest.approx(
            expected, rel=1e-5
        )


def naive_sleb(lm: Any, ids: Any, count: int) -> list[int]:
    """The loop as published: every candidate a whole forward, window by window."""
    removed: list[int] = []
    for _ in range(count):
        best, chosen = math.inf, -1
        for block in range(1, 5):
            if block in removed:
                continue
            with lm.skipping({*removed, block}):
                loss = sum(lm.nll(row[None]) for row in ids)
            if loss < best:
                best, chosen = loss, block
        removed.append(chosen)
    return removed


@pytest.mark.parametrize("family", FAMILIES)
def test_sleb_equals_the_naive_loop_in_every_family(family: str, tiny, ids) -> None:
    """Prefix reuse and batching change no decision, and the model is left bit-identical."""
    lm = tiny(family)
    before = lm.window_nll(ids)
    plan = prunebench.choose(lm, "sleb", blocks=3, calibration=ids)

    assert list(plan.edits[0].blocks) == naive_sleb(lm, ids, 3)
    assert torch.equal(lm.window_nll(ids), before)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["shortened_llama", "random"])
def test_one_shot_methods_run_on_every_family(method: str, family: str, tiny, ids) -> None:
    """Each removes what was asked and leaves gradients, flags and weights as they were."""
    lm = tiny(family)
    options = {"keep_first": 1, "keep_last": 1} if method == "shortened_llama" else {}
    plan = prunebench.choose(lm, method, blocks=3, calibration=ids, **options)

    assert plan.size == 3
    assert all(p.grad is None for p in lm.hf.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_block_influence_is_the_cosine_of_hidden_states(family: str, tiny, ids) -> None:
    """1 - cosine between the hidden states that transformers itself reports, mean over tokens."""
    lm = tiny(family)
    plan = prunebench.choose(lm, "block_influence", blocks=2, calibration=ids)
    with torch.no_grad():
        states = lm.hf(ids, output_hidden_states=True).hidden_states
    scores = plan.trace[0].scores
    # What leaves the last block is reported after the final norm, so it is left out here.
    for block in range(5):
        cosine = torch.cosine_similarity(states[block], states[block + 1], dim=-1).mean().item()

        assert scores[str(block)] == pytest.approx(1 - cosine, abs=1e-6)
    assert list(plan.edits[0].blocks) == [int(b) for b in sorted(scores, key=scores.get)[:2]]


def test_positional_controls_drop_what_they_say(tiny) -> None:
    """Front, back, and a run around the middle, on six blocks."""
    lm = tiny("llama")

    def dropped(method: str, count: int) -> list[int]:
        return list(prunebench.choose(lm, method, blocks=count).edits[0].blocks)

    assert dropped("first", 3) == [0, 1, 2]
    assert dropped("last", 3) == [5, 4, 3]
    assert dropped("middle", 2) == [2, 3]
    assert dropped("middle", 3) == [1, 2, 3]


def test_taylor_is_weight_times_the_gradient_by_finite_differences(tiny, ids) -> None:
    """D loss / d log-scale of one tensor, from central differences in float64, is sum w * grad."""
    lm = tiny("llama", blocks=3)
    lm.hf.double()
    from prunebench.methods.shortened_llama import _gradients

    with _gradients(lm, ids) as groups:
        weight = groups[1][0]
        analytic = (weight * weight.grad).sum().item()
    losses = []
    for scale in (1 + 3e-3, 1 - 3e-3):  # the family's norm rounds to float32, so no smaller
        with torch.no_grad():
            original = weight.clone()
            weight.mul_(scale)
            logs = lm.hf(ids).logits[:, :-1].log_softmax(-1)
            losses.append(-logs.gather(-1, ids[:, 1:, None]).mean().item())
            weight.copy_(original)

    assert analytic == pytest.approx((losses[0] - losses[1]) / 6e-3, rel=0.01)


@pytest.mark.parametrize(
    "method", ["sleb", "shortened_llama", "random", "first", "last", "block_influence"]
)
def test_a_smaller_amount_is_a_prefix_of_a_larger_one(method: str, tiny, ids) -> None:
    """Nested methods: one search serves every amount, choice by choice."""
    lm = tiny("llama", blocks=10)
    large = prunebench.choose(lm, method, blocks=4, calibration=ids)
    for count in range(1, 4):
        small = prunebench.choose(lm, method, blocks=count, calibration=ids)

        assert small.edits == large.prefix(count).edits


@pytest.mark.parametrize(
    ("method", "blocks", "says"),
    [
        ("sleb", 5, "5 of 6 blocks are to go, but at most 4 may"),
        ("shortened_llama", 1, "at most 0 may: the first 4 and the last 2 are kept"),
        ("random", 7, "at most 6 may"),
    ],
)
def test_more_than_may_go_is_refused(method: str, blocks: int, says: str, tiny, ids) -> None:
    """The released code silently drops protected blocks here; we say what may go."""
    with pytest.raises(PrunebenchError, match=says):
        prunebench.choose(tiny("llama"), method, blocks=blocks, calibration=ids)


def test_when_no_score_is_finite_nothing_is_chosen(tiny, ids) -> None:
    """The released code then removes the last block; we refuse."""
    lm = tiny("llama")
    with torch.no_grad():
        lm.hf.get_input_embeddings().weight.fill_(float("nan"))
    with pytest.raises(PrunebenchError, match="no candidate has a finite score"):
        prunebench.choose(lm, "sleb", blocks=1, calibration=ids)


def test_equal_scores_go_to_the_lower_block() -> None:
    """The tie rule, and a NaN that never wins."""
    from prunebench.search import lowest

    assert lowest({4: 1.0, 2: 1.0, 3: float("nan"), 1: 2.0}) == (2, 0.0, 4)
    assert lowest({4: 1.0}) == (4, None, None)


@pytest.mark.parametrize(
    ("windows", "says"),
    [
        (torch.zeros(2, 65, dtype=torch.long), "65 tokens, but the context holds 64"),
        (torch.full((2, 8), 64), "token id 64, but the vocabulary has 0 to 63"),
        ([[1, 2, 3], [1, 2]], "equally long"),
    ],
)
def test_calibration_that_does_not_fit_the_model_is_refused(windows, says: str, tiny) -> None:
    """Longer than the context, outside the vocabulary, ragged: one line each."""
    with pytest.raises(PrunebenchError, match=says):
        prunebench.choose(tiny("llama"), "sleb", blocks=1, calibration=windows)


def test_unknown_options_are_named(tiny, ids) -> None:
    """The same check as in a case file."""
    with pytest.raises(PrunebenchError, match="did you mean 'keep_first'"):
        prunebench.choose(tiny("llama"), "sleb", blocks=1, calibration=ids, keep_frist=2)

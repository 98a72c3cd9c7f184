"""Checks that training can stop and go on, and that deepening a model changes nothing."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from bench.reference import scores, train, world
from bench.reference.grow import deal, grow, origins
from bench.reference.lean import Lean, Objective
from bench.reference.muon import Muon, orthogonal
from bench.reference.train import Phase, Recipe, Run

MICRO = Recipe(
    phases=(Phase(1, 4, 1e-3), Phase(2, 4, 1e-3, 0.5, 2.0), Phase(3, 4, 1e-3, parts=(1, 2))),
    width=16,
    heads=2,
    shared_heads=1,
    head_size=8,
    inner=16,
    batch=2,
    length=16,
    warmup=2,
    compile=False,
    every=2,
    questions=0,
)


def stirred(blocks: int) -> LlamaForCausalLM:
    """Makes a small model whose weights are all random, the norms too."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(train.config(MICRO, blocks))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def weights(model: LlamaForCausalLM) -> dict[str, Tensor]:
    """Copies a model's weights."""
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def interrupted(folder: Path, steps: int) -> None:
    """Trains a few steps, over as many phases as they last, and stops there."""
    run = train.start(MICRO, folder)
    while steps:
        train.enter_phase(run)
        steps -= len(list(itertools.islice(train.steps(run), steps)))
        if run.step == MICRO.phases[run.phase].steps:
            run.phase, run.step = run.phase + 1, 0
    train.save(run)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 4, 6, 9])
def test_a_run_that_stopped_goes_on_with_identical_bits(tmp_path: Path, stop: int) -> None:
    """Weights and optimizer state after an interruption equal those of a run in one go."""
    whole = train.train(MICRO, tmp_path / "whole")
    interrupted(tmp_path / "parts", stop)
    parts = train.train(MICRO, tmp_path / "parts")
    assert parts.done
    first, second = weights(whole.model), weights(parts.model)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)
    one, other = whole.moments(), parts.moments()
    assert one.keys() == other.keys() == first.keys()
    for name, moments in one.items():
        assert all(torch.equal(value, other[name][key]) for key, value in moments.items())


def test_the_curve_is_written_with_the_recipe(tmp_path: Path) -> None:
    """curve.json has a point every two steps and the options that made it."""
    train.train(MICRO, tmp_path)
    record = json.loads((tmp_path / "curve.json").read_text(encoding="utf-8"))
    assert [point["steps"] for point in record["curve"]] == [2, 4, 6, 8, 10, 12]
    assert [point["blocks"] for point in record["curve"]] == [1, 1, 2, 2, 3, 3]
    assert record["curve"][-1]["tokens"] == 12 * 2 * 16
    assert record["recipe"]["width"] == 16


def test_the_exported_folder_is_the_trained_model_in_float16(tmp_path: Path) -> None:
    """Loading the exported folder gives the trained weights, rounded to float16."""
    run = train.train(MICRO, tmp_path)
    loaded = LlamaForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    for name, value in weights(run.model).items():
        assert torch.equal(loaded.state_dict()[name], value.half().float())


def test_other_options_do_not_go_on_from_a_run(tmp_path: Path) -> None:
    """A state made with another batch size is refused, one with other later phases is not."""
    interrupted(tmp_path, 1)
    changed = {**vars(MICRO), "batch": 3}
    with pytest.raises(ValueError, match="other options"):
        train.start(Recipe(**changed), tmp_path)
    longer = {**vars(MICRO), "phases": (*MICRO.phases, Phase(4, 1, 1e-3))}
    assert train.start(Recipe(**longer), tmp_path).step == 1


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 6), (2, 6)])
def test_growing_keeps_the_logits_exactly(old: int, new: int) -> None:
    """A deeper model gives bit-identical logits, through transformers' own forward pass."""
    model = stirred(old)
    deeper = grow(model, new)
    ids = torch.randint(4, 100, (3, 40))
    with torch.no_grad():
        assert torch.equal(model(ids).logits, deeper(ids).logits)
    assert len(deeper.model.layers) == new


def test_new_blocks_learn_at_once() -> None:
    """The output projections of a new block get gradients that are not zero."""
    deeper = grow(stirred(1), 2)
    Objective(Lean(deeper))(torch.randint(4, 100, (2, 20)), torch.ones(2, 19)).backward()
    block = deeper.model.layers[1]
    assert block.self_attn.o_proj.weight.grad.abs().sum() > 0
    assert block.mlp.down_proj.weight.grad.abs().sum() > 0


def test_blocks_can_only_grow_evenly() -> None:
    """Copies stand behind their originals, and a depth that does not divide is refused."""
    assert origins(2, 4) == [(0, False), (0, True), (1, False), (1, True)]
    with pytest.raises(ValueError, match="cannot grow 3 blocks to 4"):
        origins(3, 4)


def test_dealing_in_two_parts_keeps_the_logits() -> None:
    """A block dealt in two computes the same: heads first, inner units behind them."""
    model = stirred(2)
    ids = torch.randint(4, 100, (3, 40))
    dealt = deal(model, (2, 2))
    with torch.no_grad():
        torch.testing.assert_close(dealt(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    assert len(dealt.model.layers) == 4
    assert not dealt.model.layers[0].mlp.down_proj.weight.any()
    assert not dealt.model.layers[1].self_attn.o_proj.weight.any()


@pytest.mark.parametrize("count", [2, 3, 4])
def test_dealing_gives_every_head_and_inner_unit_to_one_part(count: int) -> None:
    """The parts' output projections add up to the block's, and no two of them overlap."""
    model = stirred(1)
    for part in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
        whole = model.model.layers[0].get_parameter(part)
        parts = [b.get_parameter(part) for b in deal(model, (count,)).model.layers]
        assert torch.equal(sum(parts, torch.zeros_like(whole)), whole)
        assert int(sum((p != 0).int() for p in parts).max()) == 1


def test_dealing_drops_blocks_and_keeps_others_as_they_are() -> None:
    """With parts 1, 0, 1 the model is the old one without its second block."""
    model = stirred(3)
    dealt = deal(model, (1, 0, 1))
    del model.model.layers[1]
    model.config.num_hidden_layers = 2
    ids = torch.randint(4, 100, (2, 30))
    with torch.no_grad():
        assert torch.equal(dealt(ids).logits, model(ids, use_cache=False).logits)


def test_the_lean_forward_pass_is_that_of_transformers() -> None:
    """Logits of the lean forward pass agree with transformers' to rounding."""
    model = stirred(2)
    ids = torch.randint(4, 100, (3, 50))
    with torch.no_grad():
        torch.testing.assert_close(Lean(model)(ids), model(ids).logits, atol=1e-5, rtol=1e-5)
        wanted = model(ids, labels=ids).loss
        loss = Objective(Lean(model))(ids, torch.ones(3, 49))
        torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=1e-5)


def test_the_loss_weighs_words_as_told() -> None:
    """With weight on one word alone, the loss is that word's."""
    model, weights = stirred(1), torch.zeros(2, 9)
    ids = torch.randint(4, 100, (2, 10))
    weights[1, 4] = 3.0
    with torch.no_grad():
        loss = Objective(Lean(model))(ids, weights)
        chance = model(ids).logits[1, 4].softmax(-1)[ids[1, 5]]
    torch.testing.assert_close(loss, -chance.log(), atol=1e-5, rtol=1e-5)


def test_training_text_is_of_the_training_split() -> None:
    """The whole documents in the windows of a step all belong to the training split."""
    ids = scores.word_ids()
    words = {index: word for word, index in ids.items()}
    rows, marked = train.text_windows(Recipe(bos=0.0), 5)
    assert rows.shape == (32, 129)
    text = " ".join(words[index] for index in rows.flatten().tolist())
    documents = text.split(" \n ")[1:-1]
    assert len(documents) > 20
    assert {world.split_of(document) for document in documents} == {"train"}
    assert not torch.equal(rows, train.text_windows(Recipe(bos=0.0), 6)[0])
    told = {words[index] for index in rows[marked > 0].tolist()}
    assert len(told) > 10
    assert told < {*world.NAMES, *world.PLACES, *world.OBJECTS}


def test_the_learning_rate_warms_up_and_decays() -> None:
    """The rate rises over the warm-up, stays level and falls straight to almost zero."""
    phase, recipe = Phase(3, 100, 1.0, decay=0.5), Recipe(warmup=10)
    rates = [train.rate_at(recipe, phase, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10] == rates[49] == 1.0
    assert rates[75] == pytest.approx(0.5)
    assert 0 < rates[99] < 0.05


@pytest.mark.parametrize("shape", [(3, 16, 8), (2, 8, 24)])
def test_updates_of_matrices_have_even_singular_values(shape: tuple[int, ...]) -> None:
    """The iteration keeps the singular directions and brings all singular values near one."""
    torch.manual_seed(0)
    batch = torch.randn(shape)
    out = orthogonal(batch, dtype=torch.float32)
    values = torch.linalg.svdvals(out)
    assert 0.6 < values.min() < values.max() < 1.3
    u, _, vt = torch.linalg.svd(batch, full_matrices=False)
    inner = u.mT @ out @ vt.mT
    off = inner - torch.diag_embed(inner.diagonal(dim1=-2, dim2=-1))
    assert off.abs().max() < 1e-3


def test_matrices_of_one_shape_are_updated_as_if_alone() -> None:
    """Updating several matrices in one batch gives what updating each alone gives."""
    torch.manual_seed(0)
    starts, gradients = torch.randn(3, 8, 12), torch.randn(3, 8, 12)
    together = [torch.nn.Parameter(start.clone()) for start in starts]
    alone = [torch.nn.Parameter(start.clone()) for start in starts]
    for group in (together, *([p] for p in alone)):
        optimizer = Muon(group, lr=0.1, weight_decay=0.1)
        for parameter in group:
            index = next(i for i, start in enumerate(starts) if torch.equal(start, parameter))
            parameter.grad = gradients[index].clone()
        optimizer.step()
    for first, second in zip(together, alone, strict=True):
        torch.testing.assert_close(first, second)
        assert not torch.equal(first, starts[0])


def test_phases_are_read_from_the_command_line() -> None:
    """The text form of the phases gives all fields, with the last ones left out at will."""
    assert train.parse_phases("3:10:3e-3,6:20:1e-3:0.5,12:5:1e-3:0:4:222222") == (
        Phase(3, 10, 3e-3),
        Phase(6, 20, 1e-3, 0.5),
        Phase(12, 5, 1e-3, 0.0, 4.0, (2,) * 6),
    )


def test_a_run_counts_its_steps(tmp_path: Path) -> None:
    """The total counts the phases that are over and the steps of this one."""
    model = stirred(1)
    run = Run(MICRO, tmp_path, model, train.optimizers_for(model, MICRO), phase=1, step=2)
    assert run.total == 6
    assert not run.done

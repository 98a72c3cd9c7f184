from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from factories import FAMILIES

from prunebench import CausalLM, DropBlocks, Plan, PrunebenchError, Target, apply, load_model

REMOVED = (0, 3, 4)


def rebuilt(lm: CausalLM, kept: list[int]) -> CausalLM:
    """The pruned model as a new, smaller one whose weights are copied by name: another way."""
    config = type(lm.hf.config).from_dict(lm.hf.config.to_dict())
    if getattr(config, "layer_types", None) is not None:
        config.layer_types = [config.layer_types[i] for i in kept]
    config.num_hidden_layers = len(kept)
    small = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    weights = {}
    for name, value in lm.hf.state_dict().items():
        head, layers, tail = name.partition("layers.")
        number, _, rest = tail.partition(".")
        if layers and int(number) not in kept:
            continue
        weights[f"{head}{layers}{kept.index(int(number))}.{rest}" if layers else name] = value
    small.load_state_dict(weights)
    return CausalLM(small.eval())


@pytest.mark.parametrize("family", FAMILIES)
def test_dropping_equals_a_model_built_smaller(family: str, tiny, ids) -> None:
    """Dropped blocks leave exactly the model that its config would build, masks included."""
    lm = tiny(family)
    kept = [i for i in range(6) if i not in REMOVED]
    expected = rebuilt(lm, kept).window_nll(ids)
    dropped = apply(tiny(family), Plan((DropBlocks(REMOVED),)))

    assert torch.equal(dropped.window_nll(ids), expected)
    assert len(dropped.blocks) == dropped.hf.config.num_hidden_layers == 3


@pytest.mark.parametrize("family", FAMILIES)
def test_skipping_equals_dropping_and_is_undone(family: str, tiny, ids) -> None:
    """Inside the block the model is the dropped one; afterwards it is bit-identical to before."""
    lm = tiny(family)
    before = lm.window_nll(ids)
    config = lm.hf.config.to_dict()
    with lm.skipping(REMOVED):
        skipped = lm.window_nll(ids)
    dropped = apply(tiny(family), Plan((DropBlocks(REMOVED),)))

    assert torch.equal(skipped, dropped.window_nll(ids))
    assert torch.equal(lm.window_nll(ids), before)
    assert lm.hf.config.to_dict() == config


@pytest.mark.parametrize("family", FAMILIES)
def test_a_share_has_the_same_tensors_and_its_own_structure(family: str, tiny, ids) -> None:
    """Pruning a share costs no weight memory and leaves the dense model alone."""
    lm = tiny(family)
    before = lm.window_nll(ids)
    share = lm.share()
    pointers = {p.data_ptr() for p in lm.hf.parameters()}

    assert {p.data_ptr() for p in share.hf.parameters()} == pointers
    assert torch.equal(share.window_nll(ids), before)
    apply(share, Plan((DropBlocks(REMOVED),)))
    assert torch.equal(lm.window_nll(ids), before)
    assert len(lm.blocks) == lm.hf.config.num_hidden_layers == 6


@pytest.mark.parametrize("family", FAMILIES)
def test_generation_agrees_with_and_without_cache(family: str, tiny, ids) -> None:
    """After an edit the key/value cache is indexed rightly: greedy tokens agree."""
    lm = apply(tiny(family), Plan((DropBlocks(REMOVED),)))
    with lm.skipping([1]):
        for model in (lm,):
            kwargs = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
            prompt = {"input_ids": ids[:2, :10], "attention_mask": torch.ones(2, 10).long()}
            cached = model.hf.generate(**prompt, **kwargs, use_cache=True)
            plain = model.hf.generate(**prompt, **kwargs, use_cache=False)

    assert torch.equal(cached, plain)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_pruned_checkpoint_reloads_in_plain_transformers(
    family: str, tiny, ids, tmp_path: Path
) -> None:
    """save_pretrained and AutoModel give the same logits: the config is in step."""
    lm = apply(tiny(family), Plan((DropBlocks(REMOVED),)))
    lm.hf.save_pretrained(tmp_path)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path).eval()

    with torch.no_grad():
        assert torch.equal(again(ids).logits, lm.hf(ids).logits)


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_counted_once(family: str, tiny) -> None:
    """Tied embeddings count once; blocks and the rest add up."""
    lm = tiny(family)
    unique = {p.data_ptr(): p.numel() for p in lm.hf.parameters()}

    assert lm.num_parameters == sum(unique.values())
    assert sum(lm.block_parameters) < lm.num_parameters


def test_sparsity_maps_to_the_nearest_count_of_blocks(tiny) -> None:
    """Every reachable sparsity maps to itself, ties to fewer, a native amount to itself."""
    lm = tiny("llama")
    share = lm.block_parameters[0] / lm.num_parameters
    for count in range(7):
        assert Target(sparsity=count * share).block_count(lm) == count
        assert Target(sparsity=(count + 0.49) * share).block_count(lm) == count
    assert Target(blocks=4).block_count(lm) == 4
    with pytest.raises(PrunebenchError, match="give 'sparsity' or 'blocks'"):
        Target(slicing=0.2).block_count(lm)


def test_losses_equal_a_plain_float64_loop(tiny, ids) -> None:
    """Window losses are the mean log-probability of the next token, at any batch size."""
    lm = tiny("llama")
    with torch.no_grad():
        logs = lm.hf(ids).logits.double().log_softmax(-1)
    expected = [
        -sum(logs[w, t, ids[w, t + 1]].item() for t in range(ids.shape[1] - 1)) / 23
        for w in range(len(ids))
    ]

    for batch_size in (1, 4, None):
        assert lm.window_nll(ids, batch_size).tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("blocks", [(7,), (-1,), (2, 2)])
def test_a_plan_that_does_not_fit_is_refused_whole(blocks: tuple[int, ...], tiny) -> None:
    """A wrong plan changes nothing."""
    lm = tiny("llama")
    with pytest.raises(PrunebenchError, match="the plan drops block"):
        apply(lm, Plan((DropBlocks(blocks),)))

    assert len(lm.blocks) == 6


def test_an_unknown_family_is_named(tiny) -> None:
    """The message names the family and the ones that are known."""
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=16)
    with pytest.raises(PrunebenchError, match=r"'gpt2' is not supported; known: gemma, llama"):
        CausalLM(transformers.GPT2LMHeadModel(config))


def test_a_damaged_file_is_one_line(tiny, tmp_path: Path) -> None:
    """Half a safetensors file is told, not traced."""
    tiny("llama").hf.save_pretrained(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(PrunebenchError, match="cannot be loaded") as caught:
        load_model(tmp_path)

    assert "\n" not in str(caught.value)


def test_a_perplexity_beyond_floats_is_infinite() -> None:
    """No overflow error for a model that is utterly broken."""
    from prunebench.models.causal_lm import perplexity_of

    assert perplexity_of(1.0) == pytest.approx(2.718281828)
    assert perplexity_of(1e6) == float("inf")
    assert perplexity_of(float("nan")) != perplexity_of(float("nan"))

"""A model family is one entry: with it alone a model is loaded, pruned, measured and exported."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from factories import flops_of

from prunebench import CausalLM, DropBlocks, DropSublayers, Plan, apply, choose, load_model
from prunebench.data import families
from prunebench.data.families import Family
from prunebench.data.model_config import shape_of
from prunebench.data.model_shape import Shape
from prunebench.metrics.compute import flops
from prunebench.models import export


def biogpt_shape(config: Mapping[str, Any]) -> Shape:
    """LayerNorms, biases everywhere, an MLP without a gate, and two positions more than stated."""
    hidden, ffn = config["hidden_size"], config["intermediate_size"]
    heads, positions = config["num_attention_heads"], config["max_position_embeddings"]
    attn_mul, mlp_mul = 4 * hidden**2, 2 * hidden * ffn
    table = config["vocab_size"] * hidden
    return Shape(
        blocks=config["num_hidden_layers"],
        hidden=hidden,
        heads=heads,
        head_dim=hidden // heads,
        kv_heads=heads,
        vocabulary=config["vocab_size"],
        positions=positions,
        attn=attn_mul + 4 * hidden + 2 * hidden,
        mlp=mlp_mul + ffn + hidden + 2 * hidden,
        attn_mul=attn_mul,
        mlp_mul=mlp_mul,
        outside=table + (positions + 2) * hidden + 2 * hidden,
        head=table,
    )


#: No module of BioGPT is called what Llama calls it, but for ``self_attn`` and its projections.
BIOGPT = Family(
    "biogpt",
    defaults={"num_hidden_layers": 24, "tie_word_embeddings": True},
    shape=biogpt_shape,
    blocks="biogpt.layers",
    halves=(
        ("self_attn_layer_norm", "self_attn"),
        ("final_layer_norm", "fc1", "activation_fn", "fc2"),
    ),
    attn_out="self_attn.out_proj",
    mlp_in=("fc1",),
    mlp_out="fc2",
    embeddings=("biogpt.embed_tokens", "biogpt.embed_positions"),
    final_norm="biogpt.layer_norm",
    heads_divide_hidden=True,
    free_head_dim=False,
)


@pytest.fixture
def lm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CausalLM:
    """A tiny random BioGPT, loaded from a folder once its entry is in the table."""
    monkeypatch.setitem(families.FAMILIES, "biogpt", BIOGPT)
    config = transformers.BioGptConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=6,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    hf = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    hf.save_pretrained(tmp_path / "dense")
    return load_model(tmp_path / "dense")


HALVES = DropSublayers(((0, "attn"), (1, "attn"), (3, "attn"), (3, "mlp"), (5, "mlp")))


def test_one_entry_gives_sizes_and_operations(lm: CausalLM) -> None:
    """The closed form of the entry against the real class, dense and with parts removed."""
    shape = shape_of(lm.hf.config.to_dict())
    pruned = apply(lm.share(), Plan((DropBlocks((2,)), HALVES)))

    assert shape.parameters() == lm.num_parameters
    assert shape.parameters(attn=2, mlp=3) == pruned.num_parameters
    assert flops(lm, 20) == flops_of(shape, 1, 20)
    assert flops(pruned, 20) == flops_of(shape, 1, 20, attn=2, mlp=3)


def test_one_entry_lets_halves_be_removed(lm: CausalLM, ids: torch.Tensor) -> None:
    """Without a half the losses are those of a model whose half adds zeros, bit for bit."""
    silent = load_model(lm.hf.config.name_or_path)
    with torch.no_grad():
        for block, part in HALVES.sublayers:
            output = BIOGPT.attn_out if part == "attn" else BIOGPT.mlp_out
            for parameter in silent.blocks[block].get_submodule(output).parameters():
                parameter.zero_()
    pruned = apply(lm.share(), Plan((HALVES,)))

    assert len(pruned.blocks) == 5
    assert torch.equal(pruned.window_nll(ids), silent.window_nll(ids))


@pytest.mark.parametrize(
    ("method", "amount"), [("sleb", {"blocks": 2}), ("slicegpt", {"slicing": 0.25})]
)
def test_one_entry_is_enough_for_methods(
    method: str, amount: dict[str, Any], lm: CausalLM, ids: torch.Tensor, tmp_path: Path
) -> None:
    """Choosing, applying, saving and loading again gives the same losses."""
    pruned = apply(lm.share(), choose(lm, method, calibration=ids, **amount))
    export.save(pruned, tmp_path / "pruned")

    assert pruned.num_parameters < lm.num_parameters
    assert torch.equal(load_model(tmp_path / "pruned").window_nll(ids), pruned.window_nll(ids))


def test_a_checkpoint_carries_its_modules_and_old_ones_need_not(
    lm: CausalLM, ids: torch.Tensor, tmp_path: Path
) -> None:
    """The file in a checkpoint knows no family; where a spec names no modules, the entry does."""
    pruned = apply(lm.share(), Plan((HALVES,)))
    export.save(pruned, tmp_path / "pruned")
    path = tmp_path / "pruned" / "config.json"
    config = json.loads(path.read_text())
    spec = config["prunebench"]

    assert spec.pop("blocks") == BIOGPT.blocks
    assert tuple(map(tuple, spec.pop("halves"))) == BIOGPT.halves
    path.write_text(json.dumps(config))
    assert torch.equal(load_model(tmp_path / "pruned").window_nll(ids), pruned.window_nll(ids))

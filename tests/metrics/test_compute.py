"""Parameters and operations: the closed form, the real classes, and torch's own counter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from factories import FAMILIES, ROOT, flops_of, read, tiny_config

from prunebench import CausalLM, DropBlocks, DropSublayers, Plan, apply, choose, load_model
from prunebench.data import families
from prunebench.data.model_config import shape_of
from prunebench.metrics.compute import Compute, flops

SHAPES = ROOT / "cases" / "latency" / "shapes"

NAMES = {"gemma": "Gemma", "llama": "Llama", "mistral": "Mistral", "opt": "OPT"}
NAMES |= {"qwen2": "Qwen2", "qwen3": "Qwen3"}


def on_meta(config: Any) -> CausalLM:
    with torch.device("meta"):
        return CausalLM(transformers.AutoModelForCausalLM.from_config(config))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_config_tells_what_its_class_has(family: str) -> None:
    """Parameters, of the whole and of each half, of tiny models, tied and untied, with biases."""
    for more in (
        {},
        {"tie_word_embeddings": False},
        {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        {"word_embed_proj_dim": 32, "enable_bias": False, "layer_norm_elementwise_affine": False},
        {"num_key_value_heads": 4, "head_dim": 16},
    ):
        config = type(tiny_config(family)).from_dict({**tiny_config(family).to_dict(), **more})
        lm, shape = on_meta(config), shape_of(config.to_dict())
        halves = [(0, "attn"), (1, "mlp"), 2]

        assert shape.parameters() == lm.num_parameters, more
        assert shape.attn + shape.mlp == lm.block_parameters[0], more
        assert lm.gone(halves)[-1] == pytest.approx(
            1 - shape.parameters(attn=4, mlp=4) / shape.parameters()
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_what_a_config_leaves_out_is_what_the_class_says(family: str) -> None:
    """The table of defaults is the classes' own; explicit nothing is the same as absent."""
    plain = getattr(transformers, f"{NAMES[family]}Config")()
    bare = {"model_type": family}

    assert set(families.FAMILIES) == set(FAMILIES)
    assert shape_of(bare).parameters() == on_meta(plain).num_parameters
    assert shape_of({**bare, "num_key_value_heads": None, "head_dim": None}) == shape_of(bare)
    assert shape_of(bare).positions == plain.max_position_embeddings


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("tokens", [1, 20])
def test_operations_are_those_of_the_closed_form(family: str, tokens: int, tiny) -> None:
    """Counted on the real structure, dense and with blocks and halves gone."""
    lm = tiny(family)
    shape = shape_of(lm.hf.config.to_dict())
    halved = apply(lm.share(), Plan((DropSublayers(((0, "attn"), (3, "attn"), (4, "mlp"))),)))
    shorter = apply(lm.share(), Plan((DropBlocks((1, 2)),)))

    assert flops(lm, tokens) == flops_of(shape, 1, tokens)
    assert flops(halved, tokens) == flops_of(shape, 1, tokens, attn=4, mlp=5)
    assert flops(shorter, tokens) == flops_of(shape, 1, tokens, attn=4, mlp=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_operations_of_sliced_models(family: str, tiny, ids) -> None:
    """With shortcut matrices: 2 N (d A + 2 d^2) a block, the last one written at full width."""
    lm = tiny(family)
    shape = shape_of(lm.hf.config.to_dict())
    tokens, d, width = 20, 24, shape.hidden
    sliced = apply(lm.share(), choose(lm, "slicegpt", slicing=0.25, calibration=ids))
    attention = shape.blocks * 4 * tokens**2 * shape.heads * shape.head_dim
    narrow = d * (shape.attn_mul + shape.mlp_mul) // width + 2 * d * d
    wider = (width - d) * (shape.mlp_mul // width // (2 if family == "opt" else 3) + d)
    # Where OPT's embedding is narrower than its stream, only the projection into it is cut.
    cut = 16 * (width - d) if family == "opt" else 0
    matrices = shape.blocks * narrow + wider + shape.head - cut

    assert flops(sliced, tokens) == 2 * tokens * matrices + attention
    assert sliced.hf.get_input_embeddings().weight.device == torch.device("cpu")


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2", "qwen3", "gemma"])
def test_operations_of_a_globally_sliced_model(family: str, tiny, ids) -> None:
    """A narrower plain model: the closed form of its new config."""
    lm = tiny(family)
    sliced = apply(lm.share(), choose(lm, "slice_global", slicing=0.25, calibration=ids))

    assert flops(sliced, 20) == flops_of(shape_of(sliced.hf.config.to_dict()), 1, 20)


def test_the_metric_tells_parameters_operations_and_their_ratio(tiny) -> None:
    """The dense model has no ratio; a pruned one has dense over pruned."""
    lm = tiny("llama")
    pruned = apply(lm.share(), Plan((DropBlocks((1, 2, 3)),)))
    alone = {m.metric: m.value for m in Compute(tokens=16).measure(lm, lm)}
    found = {m.metric: m for m in Compute(tokens=16).measure(pruned, lm)}

    assert set(alone) == {"compute/parameters", "compute/flops"}
    assert alone["compute/parameters"] == lm.num_parameters
    ratio = found["compute/flops-ratio"]
    assert ratio.value == alone["compute/flops"] / found["compute/flops"].value
    assert ratio.better == "higher"
    assert ratio.value > 1
    assert not any(m.varies for m in found.values())


def test_a_spread_model_has_the_operations_of_the_whole(tiny, tmp_path: Path) -> None:
    """Hooks that fetch weights stay out of the count."""
    tiny("mistral").hf.save_pretrained(tmp_path)
    blocks = {f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(6)}
    rest = dict.fromkeys(("model.embed_tokens", "model.norm", "model.rotary_emb", "lm_head"), "cpu")
    spread = load_model(tmp_path, device_map={**rest, **blocks})

    assert flops(spread, 8) == flops(load_model(tmp_path), 8)
    assert torch.isfinite(spread.window_nll(torch.ones((1, 8), dtype=torch.long))).all()


PUBLISHED = {
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-3-8b": 8_030_261_248,
    "opt-6.7b": 6_658_473_984,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_shipped_shapes_have_the_published_sizes(name: str) -> None:
    """By the real class on tensors without storage, and by the closed form."""
    config = transformers.AutoConfig.from_pretrained(SHAPES / name)

    assert on_meta(config).num_parameters == PUBLISHED[name]
    assert shape_of(read(SHAPES / name / "config.json")).parameters() == PUBLISHED[name]

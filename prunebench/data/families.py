"""The supported model families, each one entry of ``FAMILIES``.

Nothing else names a family. An entry says which modules a decoder consists of (read by ``models``
to edit it), what its config class fills in, and how its sizes follow from a config (read without
torch). ``tests/models/test_families.py`` shows what a new entry has to give.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

from ..errors import PrunebenchError
from .model_shape import Shape, gated_decoder

#: What the model types of our own checkpoints start with (see ``models/modeling.py``).
OWN = "prunebench_"

#: Defaults of the config classes of Llama's relatives.
_LLAMA_DEFAULTS: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "max_position_embeddings": 2048,
}


class Family(NamedTuple):
    """One architecture: names of modules, of the model and within a block, and its sizes."""

    #: As in ``config.json``.
    model_type: str
    #: What a config means that leaves a key out: the defaults of transformers' config class.
    defaults: Mapping[str, Any]
    #: A complete config to its sizes.
    shape: Callable[[Mapping[str, Any]], Shape] = gated_decoder
    #: The list of blocks.
    blocks: str = "model.layers"
    #: What runs in a block's attention half and in its MLP half, in order, the norm first. Each
    #: half adds its result to the stream that entered it.
    halves: tuple[tuple[str, ...], tuple[str, ...]] = (
        ("input_layernorm", "self_attn"),
        ("post_attention_layernorm", "mlp"),
    )
    #: The linear layers of a block that read the stream and that write to it.
    attn_in: tuple[str, ...] = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")
    attn_out: str = "self_attn.o_proj"
    mlp_in: tuple[str, ...] = ("mlp.gate_proj", "mlp.up_proj")
    mlp_out: str = "mlp.down_proj"
    #: What a token's stream starts as the sum of; the first is the token embedding.
    embeddings: tuple[str, ...] = ("model.embed_tokens",)
    #: Between the token embedding and the stream, and between the final norm and the head.
    project_in: str = ""
    project_out: str = ""
    final_norm: str = "model.norm"
    #: Norms scale by 1 + weight.
    offset_norm: bool = False
    #: The config class requires the hidden size to be a multiple of the number of heads.
    heads_divide_hidden: bool = False
    #: The config can give the size of a head independently of the hidden size.
    free_head_dim: bool = True


def family_named(model_type: str) -> Family:
    """The family of a model type; that of a checkpoint of ours is the dense model's.

    Raises:
        PrunebenchError: if it is not supported.
    """
    kind = model_type.removeprefix(OWN)
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise PrunebenchError(f"model family {kind!r} is not supported; known: {known}")
    return FAMILIES[kind]


def _opt_shape(config: Mapping[str, Any]) -> Shape:
    """OPT: learned positions, LayerNorms, biases, and in some sizes a narrower embedding."""
    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    ffn = config["ffn_dim"]
    bias = config.get("enable_bias", True)
    norm = 2 * hidden if config.get("layer_norm_elementwise_affine", True) else 0
    attn_mul, mlp_mul = 4 * hidden**2, 2 * hidden * ffn
    attn = attn_mul + norm + (4 * hidden if bias else 0)
    mlp = mlp_mul + norm + (ffn + hidden if bias else 0)
    narrow = config.get("word_embed_proj_dim", hidden)
    projections = 2 * hidden * narrow if narrow != hidden else 0
    final = config.get("do_layer_norm_before", True) and not config.get("_remove_final_layer_norm")
    table = config["vocab_size"] * narrow
    outside = table if config["tie_word_embeddings"] else 2 * table
    outside += (config["max_position_embeddings"] + 2) * hidden
    outside += projections + (norm if final else 0)
    return Shape(
        config["num_hidden_layers"], hidden, heads, hidden // heads, heads, config["vocab_size"],
        config["max_position_embeddings"], attn, mlp, attn_mul, mlp_mul, outside,
        table + projections,
    )  # fmt: skip


FAMILIES = {
    family.model_type: family
    for family in (
        Family(
            "gemma",
            defaults={
                "vocab_size": 256000,
                "hidden_size": 3072,
                "intermediate_size": 24576,
                "num_hidden_layers": 28,
                "num_attention_heads": 16,
                "num_key_value_heads": 16,
                "head_dim": 256,
                "max_position_embeddings": 8192,
                "tie_word_embeddings": True,
            },
            shape=partial(gated_decoder, qkv_bias="attention_bias", out_bias="attention_bias"),
            offset_norm=True,
        ),
        Family(
            "llama",
            defaults=_LLAMA_DEFAULTS,
            shape=partial(
                gated_decoder,
                qkv_bias="attention_bias",
                out_bias="attention_bias",
                mlp_bias="mlp_bias",
            ),
            heads_divide_hidden=True,
        ),
        Family(
            "mistral",
            defaults={
                **_LLAMA_DEFAULTS,
                "intermediate_size": 14336,
                "num_key_value_heads": 8,
                "max_position_embeddings": 131072,
            },
        ),
        Family(
            "opt",
            defaults={
                "vocab_size": 50272,
                "hidden_size": 768,
                "ffn_dim": 3072,
                "num_hidden_layers": 12,
                "num_attention_heads": 12,
                "max_position_embeddings": 2048,
                "tie_word_embeddings": True,
            },
            shape=_opt_shape,
            blocks="model.decoder.layers",
            halves=(
                ("self_attn_layer_norm", "self_attn"),
                ("final_layer_norm", "fc1", "activation_fn", "fc2"),
            ),
            attn_out="self_attn.out_proj",
            mlp_in=("fc1",),
            mlp_out="fc2",
            embeddings=("model.decoder.embed_tokens", "model.decoder.embed_positions"),
            project_in="model.decoder.project_in",
            project_out="model.decoder.project_out",
            final_norm="model.decoder.final_layer_norm",
            heads_divide_hidden=True,
            free_head_dim=False,
        ),
        Family(
            "qwen2",
            defaults={
                **_LLAMA_DEFAULTS,
                "vocab_size": 151936,
                "intermediate_size": 22016,
                "num_key_value_heads": 32,
                "max_position_embeddings": 32768,
            },
            shape=partial(gated_decoder, qkv_bias=True),
        ),
        Family(
            "qwen3",
            defaults={
                **_LLAMA_DEFAULTS,
                "vocab_size": 151936,
                "intermediate_size": 22016,
                "num_key_value_heads": 32,
                "head_dim": 128,
                "max_position_embeddings": 32768,
            },
            shape=partial(
                gated_decoder,
                qkv_bias="attention_bias",
                out_bias="attention_bias",
                qk_norm=True,
            ),
        ),
    )
}

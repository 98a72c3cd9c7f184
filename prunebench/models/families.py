"""Where the parts of a decoder are: an architecture is one entry of a table."""

from __future__ import annotations

import inspect
import sys
from functools import cache
from typing import Any, NamedTuple

from ..errors import PrunebenchError
from .modeling import (
    SPEC,
    STACKS,
    halves_of,
    plain_class,
)


class Family(NamedTuple):
    """Names of modules: of the model, and of what lies in a block."""

    model_type: str
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
    #: The config class insists that the hidden size is a multiple of the number of heads.
    heads_divide_hidden: bool = False
    #: The size of a head can be given apart from the hidden size.
    free_head_dim: bool = True

    @property
    def blocks(self) -> str:
        """The stack of blocks."""
        return STACKS.get(self.model_type, "model.layers")

    @property
    def halves(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The modules of a block's attention half and MLP half, norm first."""
        return halves_of(self.model_type)


FAMILIES = {
    family.model_type: family
    for family in (
        Family("gemma", offset_norm=True),
        Family("llama", heads_divide_hidden=True),
        Family("mistral"),
        Family(
            "opt",
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
        Family("qwen2"),
        Family("qwen3"),
    )
}

#: Settings that change what some families compute. A class whose code never mentions one would
#: build a model without it and say nothing.
_FEATURES = (
    "sliding_window",
    "attention_chunk_size",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "residual_multiplier",
    "embedding_multiplier",
    "attention_multiplier",
    "logits_scaling",
    "num_kv_shared_layers",
    "num_local_experts",
    "num_experts",
    "no_rope_layers",
    "block_configs",
    "drop_attn_list",
    "drop_mlp_list",
)


def family_of(config: Any) -> Family:
    """The family of a model.

    Raises:
        PrunebenchError: if it is not known.
    """
    kind = config.model_type.removeprefix(f"{SPEC}_")
    if kind not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise PrunebenchError(f"model family {kind!r} is not supported; known: {known}")
    return FAMILIES[kind]


@cache
def _source(module: str) -> str:
    return inspect.getsource(sys.modules[module])


def ignored_features(hf: Any) -> list[str]:
    """Settings of the config that the model's own code does not read, as ``name=value``."""
    source = _source(plain_class(hf).__module__)
    config = hf.config
    found = [
        f"{name}={value!r}"
        for name in _FEATURES
        if (value := getattr(config, name, None)) not in (None, False, 0, [], 1.0)
        and name not in source
    ]
    types = {str(t) for t in getattr(config, "layer_types", None) or ()} - {"full_attention"}
    if types and "layer_types" not in source:
        found.append(f"layer_types with {', '.join(sorted(types))}")
    if getattr(config, "is_heterogeneous", False):
        found.append("per_layer_config")
    return found

"""Settings of a config that the code of the model's class does not read."""

from __future__ import annotations

import inspect
import sys
from functools import cache
from typing import Any

from .modeling import plain_class

#: Settings that change what some families compute. A class whose code never mentions one would
#: build a model without it and report no error.
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

"""What a model's config says about its size: parameters, work and cache, without loading it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from ..errors import PrunebenchError

#: What a config means that leaves a key out, by family: the defaults of transformers' classes.
DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {
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
    "llama": {"vocab_size": 32000, "intermediate_size": 11008, "max_position_embeddings": 2048},
    "mistral": {
        "vocab_size": 32000,
        "intermediate_size": 14336,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
    },
    "opt": {
        "vocab_size": 50272,
        "hidden_size": 768,
        "ffn_dim": 3072,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
    },
    "qwen2": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "max_position_embeddings": 32768,
    },
    "qwen3": {
        "vocab_size": 151936,
        "intermediate_size": 22016,
        "num_key_value_heads": 32,
        "head_dim": 128,
        "max_position_embeddings": 32768,
    },
}
_USUAL = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}


class Shape(Struct, frozen=True):
    """The sizes of a decoder.

    *attn* and *mlp* are the parameters of one block's halves, norms included; *attn_mul* and
    *mlp_mul* those of them that every token is multiplied by; *outside* is all that is in no block,
    *head* the parameters that make logits (also where they are the embedding's own).
    """

    blocks: int
    hidden: int
    heads: int
    head_dim: int
    kv_heads: int
    vocabulary: int
    positions: int
    attn: int
    mlp: int
    attn_mul: int
    mlp_mul: int
    outside: int
    head: int

    def parameters(self, attn: int | None = None, mlp: int | None = None) -> int:
        """Unique parameters with so many attentions and MLPs left; by default all."""
        attn, mlp = self._left(attn, mlp)
        return self.outside + attn * self.attn + mlp * self.mlp

    def flops(
        self, windows: int, length: int, attn: int | None = None, mlp: int | None = None
    ) -> int:
        """Floating point operations of one forward over (windows, length) tokens.

        A multiplication and an addition count two; attention is counted over all pairs of tokens,
        masked ones too, as it is computed. Norms, activations and softmax are left out.
        """
        attn, mlp = self._left(attn, mlp)
        tokens = windows * length
        pairs = windows * length**2
        matrices = attn * self.attn_mul + mlp * self.mlp_mul + self.head
        return 2 * tokens * matrices + attn * 4 * pairs * self.heads * self.head_dim

    def cache_values(self, attn: int | None = None) -> int:
        """Numbers that the key/value cache keeps per token."""
        return 2 * self._left(attn, None)[0] * self.kv_heads * self.head_dim

    def _left(self, attn: int | None, mlp: int | None) -> tuple[int, int]:
        return (
            self.blocks if attn is None else attn,
            self.blocks if mlp is None else mlp,
        )


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape that a ``config.json`` describes.

    Raises:
        PrunebenchError: if its family is not known, or a size is no whole number.
    """
    kind = str(config.get("model_type")).removeprefix("prunebench_")
    if kind not in DEFAULTS:
        known = ", ".join(DEFAULTS)
        raise PrunebenchError(f"model family {kind!r} is not supported; known: {known}")
    given = {key: value for key, value in config.items() if value is not None}
    get = {**_USUAL, **DEFAULTS[kind], **given}
    try:
        return _opt(get) if kind == "opt" else _gated(kind, get)
    except (TypeError, KeyError, ArithmeticError):
        raise PrunebenchError(f"the config of this {kind} model has a size that is none") from None


def _gated(kind: str, get: Mapping[str, Any]) -> Shape:
    """Llama and its relatives: rotary attention, a gated MLP, RMS norms."""
    hidden, heads, ffn = get["hidden_size"], get["num_attention_heads"], get["intermediate_size"]
    kv_heads = get.get("num_key_value_heads", heads)
    head_dim = get.get("head_dim", hidden // heads)
    q, kv = heads * head_dim, kv_heads * head_dim
    attn_mul, mlp_mul = 2 * hidden * q + 2 * hidden * kv, 3 * hidden * ffn
    attn, mlp = attn_mul + hidden, mlp_mul + hidden
    if kind == "qwen2":
        attn += q + 2 * kv
    elif kind != "mistral" and get.get("attention_bias"):
        attn += q + 2 * kv + hidden
    if kind == "qwen3":
        attn += 2 * head_dim
    if kind == "llama" and get.get("mlp_bias"):
        mlp += 2 * ffn + hidden
    head = get["vocab_size"] * hidden
    tables = head if get.get("tie_word_embeddings", False) else 2 * head
    return Shape(
        get["num_hidden_layers"], hidden, heads, head_dim, kv_heads, get["vocab_size"],
        get["max_position_embeddings"], attn, mlp, attn_mul, mlp_mul, tables + hidden, head,
    )  # fmt: skip


def _opt(get: Mapping[str, Any]) -> Shape:
    """OPT: learned positions, LayerNorms, biases, and in some sizes a narrower embedding."""
    hidden, heads, ffn = get["hidden_size"], get["num_attention_heads"], get["ffn_dim"]
    bias = get.get("enable_bias", True)
    norm = 2 * hidden if get.get("layer_norm_elementwise_affine", True) else 0
    attn_mul, mlp_mul = 4 * hidden**2, 2 * hidden * ffn
    attn = attn_mul + norm + (4 * hidden if bias else 0)
    mlp = mlp_mul + norm + (ffn + hidden if bias else 0)
    narrow = get.get("word_embed_proj_dim", hidden)
    projections = 2 * hidden * narrow if narrow != hidden else 0
    final = get.get("do_layer_norm_before", True) and not get.get("_remove_final_layer_norm")
    table = get["vocab_size"] * narrow
    outside = table if get["tie_word_embeddings"] else 2 * table
    outside += (get["max_position_embeddings"] + 2) * hidden
    outside += projections + (norm if final else 0)
    return Shape(
        get["num_hidden_layers"], hidden, heads, hidden // heads, heads, get["vocab_size"],
        get["max_position_embeddings"], attn, mlp, attn_mul, mlp_mul, outside, table + projections,
    )  # fmt: skip

"""The sizes of a decoder: parameters, operations and cached values follow from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec import Struct


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
        attn = self.blocks if attn is None else attn
        mlp = self.blocks if mlp is None else mlp
        return self.outside + attn * self.attn + mlp * self.mlp

    def cache_values(self) -> int:
        """Numbers that the key/value cache keeps per token."""
        return 2 * self.blocks * self.kv_heads * self.head_dim


def gated_decoder(
    config: Mapping[str, Any],
    *,
    qkv_bias: bool | str = False,
    out_bias: bool | str = False,
    mlp_bias: bool | str = False,
    qk_norm: bool = False,
) -> Shape:
    """The shape of Llama's relatives: grouped queries, a gated MLP, RMS norms without shifts.

    Args:
        config: a complete config, in the words of transformers.
        qkv_bias: whether the query, key and value projections have biases, or which setting of
            *config* decides.
        out_bias: the same of the attention's output projection.
        mlp_bias: the same of the three projections of the MLP.
        qk_norm: whether queries and keys are normalised, each with one weight per head dimension.
    """

    def has(rule: bool | str) -> bool:
        return bool(config.get(rule)) if isinstance(rule, str) else rule

    hidden, heads = config["hidden_size"], config["num_attention_heads"]
    ffn = config["intermediate_size"]
    kv_heads = config.get("num_key_value_heads", heads)
    head_dim = config.get("head_dim", hidden // heads)
    q, kv = heads * head_dim, kv_heads * head_dim
    attn_mul, mlp_mul = 2 * hidden * q + 2 * hidden * kv, 3 * hidden * ffn
    attn = attn_mul + hidden + has(qkv_bias) * (q + 2 * kv) + has(out_bias) * hidden
    mlp = mlp_mul + hidden + has(mlp_bias) * (2 * ffn + hidden)
    head = config["vocab_size"] * hidden
    tables = head if config.get("tie_word_embeddings", False) else 2 * head
    return Shape(
        config["num_hidden_layers"], hidden, heads, head_dim, kv_heads, config["vocab_size"],
        config["max_position_embeddings"], attn + 2 * qk_norm * head_dim, mlp, attn_mul, mlp_mul,
        tables + hidden, head,
    )  # fmt: skip

"""A lean forward pass over the parameters of a Llama model, for training it on a CPU.

It computes what transformers computes, without caches, masks and options, so that a compiler can
fuse it well. The parameters stay where they are: training this trains the transformers model.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import LlamaForCausalLM


def rotations(length: int, size: int, base: float) -> tuple[Tensor, Tensor]:
    """Gives the cosines and sines that rotate queries and keys at each position."""
    rates = 1.0 / base ** (torch.arange(0, size, 2, dtype=torch.float32) / size)
    angles = torch.arange(length, dtype=torch.float32)[:, None] * rates
    return angles.cos()[None, :, None], angles.sin()[None, :, None]


class Lean(nn.Module):
    """Runs a Llama model without dropout, cache or padding."""

    def __init__(self, llama: LlamaForCausalLM) -> None:
        super().__init__()
        self.llama = llama
        self.config: Any = llama.config
        base = float(self.config.rope_parameters["rope_theta"])
        length = int(self.config.max_position_embeddings)
        cos, sin = rotations(length, self.config.head_dim, base)
        mask = torch.full((length, length), float("-inf")).triu(1)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.register_buffer("mask", mask, persistent=False)

    def attend(self, attention: Any, x: Tensor) -> Tensor:
        """Lets every position look at those before it."""
        config = self.config
        heads, shared, size = (
            config.num_attention_heads,
            config.num_key_value_heads,
            config.head_dim,
        )
        batch, length, _ = x.shape
        weights = (attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight)
        mixed = x @ torch.cat(weights).T
        turned, v = mixed.tensor_split(((heads + shared) * size,), -1)
        first, second = turned.view(batch, length, heads + shared, size).chunk(2, -1)
        cos, sin = self.get_buffer("cos")[:, :length], self.get_buffer("sin")[:, :length]
        turned = torch.cat((first * cos - second * sin, second * cos + first * sin), -1)
        q, k = turned.tensor_split((heads,), 2)
        k = k.transpose(1, 2).repeat_interleave(heads // shared, 1)
        v = v.view(batch, length, shared, size).transpose(1, 2)
        v = v.repeat_interleave(heads // shared, 1)
        scores = q.transpose(1, 2) @ k.transpose(-1, -2) * size**-0.5
        looks = (scores + self.get_buffer("mask")[:length, :length]).softmax(-1)
        seen = (looks @ v).transpose(1, 2).reshape(batch, length, heads * size)
        return functional.linear(seen, attention.o_proj.weight)

    def transform(self, mlp: Any, x: Tensor) -> Tensor:
        """Applies the gated feed-forward part."""
        gate, up = (x @ torch.cat((mlp.gate_proj.weight, mlp.up_proj.weight)).T).chunk(2, -1)
        return functional.linear(functional.silu(gate) * up, mlp.down_proj.weight)

    def norm(self, weight: Tensor, x: Tensor) -> Tensor:
        """Applies root mean square normalisation."""
        return functional.rms_norm(x, (x.shape[-1],), weight, self.config.rms_norm_eps)

    def forward(self, ids: Tensor) -> Tensor:
        """Gives the logits of every position."""
        body: Any = self.llama.model
        x = functional.embedding(ids, body.embed_tokens.weight)
        for block in body.layers:
            x = x + self.attend(block.self_attn, self.norm(block.input_layernorm.weight, x))
            h = self.norm(block.post_attention_layernorm.weight, x)
            x = x + self.transform(block.mlp, h)
        head: Any = self.llama.lm_head
        return functional.linear(self.norm(body.norm.weight, x), head.weight)


class Objective(nn.Module):
    """Gives the weighted mean loss over all positions of a batch of text windows."""

    def __init__(self, lean: Lean) -> None:
        super().__init__()
        self.lean = lean

    def forward(self, windows: Tensor, weights: Tensor) -> Tensor:
        """Predicts every word of each window from those before it."""
        logits, targets = self.lean(windows[:, :-1]).float(), windows[:, 1:].flatten()
        losses = functional.cross_entropy(logits.flatten(0, 1), targets, reduction="none")
        return losses @ weights.flatten() / weights.sum()

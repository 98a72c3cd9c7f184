"""Makes a Llama model deeper by new blocks, or by splitting the work of its blocks."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

#: The projections that write into the residual stream: at zero, a block does nothing.
_OUTPUTS = ("self_attn.o_proj.weight", "mlp.down_proj.weight")


def origins(old: int, new: int) -> list[tuple[int, bool]]:
    """Says for each block of the deeper model which block it is from, and whether it is a copy.

    Each copy follows its original, so the new blocks spread evenly over the depth.
    """
    if old < 1 or new % old:
        raise ValueError(f"cannot grow {old} blocks to {new}")
    return [(index // (new // old), index % (new // old) > 0) for index in range(new)]


def _source(name: str, plan: list[tuple[int, bool]]) -> tuple[str, bool]:
    prefix = "model.layers."
    if not name.startswith(prefix):
        return name, False
    index, rest = name[len(prefix) :].split(".", 1)
    block, copied = plan[int(index)]
    return f"{prefix}{block}.{rest}", copied


def grow(model: LlamaForCausalLM, blocks: int) -> LlamaForCausalLM:
    """Gives a model with more blocks that computes the same: the new ones add zero at first.

    A new block starts as a copy of the one before it, apart from its two output projections. They
    are zero, and get gradients at once because what goes into them is not zero.
    """
    config: LlamaConfig = copy.deepcopy(model.config)
    plan = origins(int(config.num_hidden_layers or 0), blocks)
    config.num_hidden_layers = blocks
    deeper = LlamaForCausalLM(config)
    old = dict(model.named_parameters())
    with torch.no_grad():
        for name, parameter in deeper.named_parameters():
            source, copied = _source(name, plan)
            if copied and name.endswith(_OUTPUTS):
                parameter.zero_()
            else:
                parameter.copy_(old[source])
    return deeper


def carry_moments(
    state: dict[str, dict[str, Any]], deeper: LlamaForCausalLM, old_blocks: int
) -> dict[str, dict[str, Any]]:
    """Keeps the optimizer's moments, by parameter name, for the blocks that are not new."""
    plan = origins(old_blocks, int(deeper.config.num_hidden_layers or 0))
    kept: dict[str, dict[str, Any]] = {}
    for name, _ in deeper.named_parameters():
        source, copied = _source(name, plan)
        if not copied and source in state:
            kept[name] = {
                key: value.clone() if isinstance(value, Tensor) else value
                for key, value in state[source].items()
            }
    return kept


def shares(count: int, parts: int) -> list[range]:
    """Cuts a number of things into consecutive shares that are as even as can be."""
    return [range(count * i // parts, count * (i + 1) // parts) for i in range(parts)]


def _keep(weight: Tensor, columns: range) -> None:
    kept = torch.zeros_like(weight)
    kept[:, columns.start : columns.stop] = weight[:, columns.start : columns.stop]
    weight.copy_(kept)


def deal(model: LlamaForCausalLM, parts: Sequence[int]) -> LlamaForCausalLM:
    """Gives a model in which the work of some blocks is dealt out among several.

    A block's number of parts says how many blocks take its place: none drops it, one keeps it.
    Otherwise the heads go to all parts but the last, and the inner units to all but the first, so
    that inner units come behind the heads they depend on. With two parts nothing changes in what
    the model computes; with more it changes somewhat, as later heads now see what earlier ones
    add, and some training has to follow. The rest of each part's output projections is zero.
    """
    config: LlamaConfig = copy.deepcopy(model.config)
    body: Any = model.model
    plan = [(old, part) for old, count in enumerate(parts) for part in range(count)]
    config.num_hidden_layers = len(plan)
    dealt: Any = LlamaForCausalLM(config)
    state = model.state_dict()
    rest = {name: value for name, value in state.items() if ".layers." not in name}
    dealt.load_state_dict(rest, strict=False)
    with torch.no_grad():
        for block, (old, part) in zip(dealt.model.layers, plan, strict=True):
            block.load_state_dict(body.layers[old].state_dict())
            if parts[old] > 1:
                _keep_part(block, part, parts[old], config)
    return dealt


def _keep_part(block: Any, part: int, parts: int, config: LlamaConfig) -> None:
    size = int(config.head_dim or 0)
    nothing = range(0)
    heads = [*shares(int(config.num_attention_heads), parts - 1), nothing][part]
    units = [nothing, *shares(int(config.intermediate_size), parts - 1)][part]
    _keep(block.self_attn.o_proj.weight, range(heads.start * size, heads.stop * size))
    _keep(block.mlp.down_proj.weight, units)

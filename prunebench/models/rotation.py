"""Rotates and slices the residual stream of a model: the weights of width pruning.

Every norm is first replaced by a root mean square normalisation without weights: its scale and
shift move into the linear layers that read it, and, for a LayerNorm, its mean subtraction into all
layers that write to the stream (Ashkboos et al., 2024, arXiv:2401.15024, section 3). Between two
norms the stream may then be rotated, and sliced to its first coordinates.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PrunebenchError
from . import modeling
from .causal_lm import CausalLM

#: The epsilon that the released code uses in every norm of every model.
RELEASED_EPS = 1e-5

#: The name of stage *i*'s rotation in a plan's tensors; a single one is stage 0.
STAGE = "stage.{}"


class Norms:
    """How a model's norms are replaced: the dense width and their epsilon.

    Args:
        lm: the dense model.
        variant: *exact* keeps the function; *as_released* subtracts the mean of every embedding
            row also where no norm does, and uses 1e-5 as every norm's epsilon.
    """

    def __init__(self, lm: CausalLM, variant: str) -> None:
        self.width: int = lm.hf.config.hidden_size
        final = _module(lm.hf, lm.family.final_norm)
        if final is None:
            raise PrunebenchError("this model has no final norm: its stream cannot be rotated")
        self.layer_norm = isinstance(final, nn.LayerNorm)
        self.offset = lm.family.offset_norm
        self.centred_embeddings = self.layer_norm or variant == "as_released"
        self.eps = RELEASED_EPS if variant == "as_released" else _eps(final)

    def bare(self) -> modeling.Normalize:
        """The norm that replaces the model's own."""
        return modeling.Normalize(self.width, self.eps)

    def scale(self, norm: Any) -> Tensor | None:
        """The factors of a norm, float64, (width,)."""
        if norm.weight is None:
            return None
        weight: Tensor = norm.weight.detach().double()
        return 1 + weight if self.offset else weight

    def shift(self, norm: Any) -> Tensor | None:
        """The bias of a norm, float64, (width,)."""
        bias = getattr(norm, "bias", None)
        return None if bias is None else bias.detach().double()

    def centre(self, rows: Tensor) -> Tensor:
        """*rows*, (..., width), minus their means if the norms subtract means."""
        return rows - rows.mean(-1, keepdim=True) if self.layer_norm else rows


def turn_block(
    block: Any,
    lm: CausalLM,
    norms: Norms,
    entering: Tensor | None,
    middle: Tensor | None,
    leaving: Tensor | None,
) -> None:
    """Fuse a block's norms into its weights and rotate its inputs and outputs, in place.

    Args:
        block: a block of *lm*, or a copy of one.
        lm: the model that gives the family.
        norms: how the norms are replaced.
        entering: rotation of the stream before the attention's norm, (width, kept), float64; None
            for no rotation.
        middle: the same before the MLP's norm.
        leaving: the same after the block.
    """
    family = lm.family
    modeling.adopt(block, family.halves)
    stages = ((entering, middle), (middle, leaving))
    ends = ((family.attn_in, family.attn_out), (family.mlp_in, family.mlp_out))
    shortcuts = ("attn_shortcut", "mlp_shortcut")
    for half, (reads, writes), (before, after), shortcut in zip(
        family.halves, ends, stages, shortcuts, strict=True
    ):
        norm = getattr(block, half[0])
        for name in reads:
            read_from(block.get_submodule(name), norms, norm, before)
        write_to(block.get_submodule(writes), norms, after)
        setattr(block, half[0], norms.bare())
        if before is not None or after is not None:
            weight = block.get_submodule(writes).weight
            eye = torch.eye(norms.width, dtype=torch.float64, device=weight.device)
            turned = (eye if before is None else before).T @ (eye if after is None else after)
            modeling.replace(block, shortcut, turned.to(weight.dtype))


def read_from(linear: Any, norms: Norms, norm: Any, rotation: Tensor | None, by: float = 1) -> None:
    """Fuse *norm* into a linear layer that reads it, rotate its input, scale its weight *by*."""
    weight = linear.weight.detach().double()
    bias = None if linear.bias is None else linear.bias.detach().double()
    if (shift := norms.shift(norm)) is not None:
        bias = weight @ shift + (0 if bias is None else bias)
    if (scale := norms.scale(norm)) is not None:
        weight = weight * scale
    if rotation is not None:
        weight = weight @ rotation
    _put(linear, "weight", weight * by)
    if bias is not None:
        _put(linear, "bias", bias)


def write_to(linear: Any, norms: Norms, rotation: Tensor | None, by: float = 1) -> None:
    """Rotate the output of a linear layer that writes to the stream."""
    for name in ("weight", "bias"):
        if (tensor := getattr(linear, name)) is not None:
            # (width, in) or (width,): the stream's axis comes last for the two steps
            rows = norms.centre(tensor.detach().double().movedim(0, -1))
            rows = rows if rotation is None else rows @ rotation
            _put(linear, name, (rows * by).movedim(-1, 0))


def turn_embeddings(lm: CausalLM, norms: Norms, rotation: Tensor | None, by: float = 1) -> None:
    """Rotate the embeddings, whose sum the stream starts as; *by* scales them."""
    writer = _module(lm.hf, lm.family.project_in)
    tables = lm.family.embeddings[1:] if writer is not None else lm.family.embeddings
    if writer is not None:
        write_to(writer, norms, rotation, by)
    for name in tables:
        table = lm.hf.get_submodule(name)
        rows = table.weight.detach().double()
        if norms.centred_embeddings:
            rows = rows - rows.mean(-1, keepdim=True)
        rows = rows if rotation is None else rows @ rotation
        _put(table, "weight", rows * by)


def turn_head(lm: CausalLM, norms: Norms, rotation: Tensor | None, by: float = 1) -> None:
    """Fuse the final norm into the layer that reads it, and rotate its input; untie the head."""
    norm = _module(lm.hf, lm.family.final_norm)
    reader = _module(lm.hf, lm.family.project_out)
    if reader is None:
        reader = lm.hf.get_output_embeddings()
        lm.hf.config.tie_word_embeddings = False
        lm.hf.all_tied_weights_keys = {}  # or the next tie_weights() would undo it
    read_from(reader, norms, norm, rotation, by)


def slice_hidden(
    lm: CausalLM, tensors: Mapping[str, Tensor], variant: str = "exact", scope: str = "block"
) -> None:
    """Rotate and slice *lm* in place.

    Args:
        lm: the dense model, or a ``share()`` of it: tensors are replaced, none is changed.
        tensors: the rotations, ``stage.0``, ``stage.1``, ..., each (hidden size, kept).
        variant: see *Norms*.
        scope: *block* has a rotation before every norm, *global* one for the whole model.
    """

    def rotation(stage: int) -> Tensor:
        return tensors[STAGE.format(stage)].to(lm.device, torch.float64)

    norms = Norms(lm, variant)
    entering = rotation(0)
    if scope == "global":
        _slice_global(lm, norms, entering)
        return
    turn_embeddings(lm, norms, entering)
    for index, block in enumerate(lm.blocks):
        last = index == len(lm.blocks) - 1  # the output of the last block is not rotated
        leaving = None if last else rotation(2 * index + 2)
        turn_block(block, lm, norms, entering, rotation(2 * index + 1), leaving)
        if leaving is not None:
            entering = leaving
    turn_head(lm, norms, None)
    lm.hf.set_submodule(lm.family.final_norm, norms.bare())


def _slice_global(lm: CausalLM, norms: Norms, rotation: Tensor) -> None:
    """One rotation everywhere: shortcuts are the identity, and plain classes can express it.

    A plain norm divides by its own width. Writes to the stream are therefore scaled by the root of
    the kept over the dense width, and reads by its inverse: mean squares, and with them the norm's
    epsilon, keep their meaning.
    """
    family, config = lm.family, lm.hf.config
    kept = rotation.shape[1]
    by = math.sqrt(kept / norms.width)
    scaled = getattr(lm.hf.get_input_embeddings(), "scalar_embed_scale", None)
    # A family that scales embeddings by the root of its width will do so by the new one.
    turn_embeddings(lm, norms, rotation, by if scaled is None else 1.0)
    if scaled is not None:
        table: Any = lm.hf.get_input_embeddings()
        table.scalar_embed_scale = kept**0.5
        table.embed_scale = torch.tensor(kept**0.5, device=lm.device)
    for block in lm.blocks:
        for half, reads, writes in zip(
            family.halves, (family.attn_in, family.mlp_in), (family.attn_out, family.mlp_out),
            strict=True,
        ):  # fmt: skip
            norm = getattr(block, half[0])
            for name in reads:
                read_from(block.get_submodule(name), norms, norm, rotation, 1 / by)
            write_to(block.get_submodule(writes), norms, rotation, by)
            setattr(block, half[0], _narrow(norm, norms, kept))
    final = lm.hf.get_submodule(family.final_norm)
    turn_head(lm, norms, rotation, 1 / by)
    lm.hf.set_submodule(family.final_norm, _narrow(final, norms, kept))
    if getattr(config, "head_dim", None) is None:
        config.head_dim = norms.width // config.num_attention_heads
    config.hidden_size = kept


def _narrow(norm: Any, norms: Norms, kept: int) -> nn.Module:
    """A norm of the same class with *kept* coordinates and unit weights."""
    narrow: nn.Module = type(norm)(kept, eps=_eps(norm))
    one = torch.zeros if norms.offset else torch.ones
    modeling.replace(narrow, "weight", one(kept, dtype=norm.weight.dtype))
    narrow.to(norm.weight.device)
    narrow.requires_grad_(False)
    return narrow


def _put(module: Any, name: str, tensor: Tensor) -> None:
    modeling.replace(module, name, tensor.to(module.weight.dtype).contiguous())


def _eps(norm: Any) -> float:
    return float(norm.eps if hasattr(norm, "eps") else norm.variance_epsilon)


def _module(hf: Any, name: str) -> Any:
    """The module of that name, or None if the family has no such module."""
    if not name:
        return None
    place, _, own = name.rpartition(".")
    return getattr(hf.get_submodule(place), own, None)

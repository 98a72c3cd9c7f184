"""The widths that a model's stream can be sliced to, with their numbers of parameters."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import torch

from ..errors import PrunebenchError
from . import modeling
from .causal_lm import CausalLM
from .rotation import STAGE, Norms, slice_hidden


def require_sliceable(lm: CausalLM, scope: str) -> None:
    """Refuse a model whose stream cannot be sliced.

    Raises:
        PrunebenchError: with the reason.
    """
    kind = lm.family.model_type
    lm.require_one_device("cutting the width")
    if getattr(lm.hf.config, "do_layer_norm_before", True) is False:
        raise PrunebenchError(
            "this model normalises after each half (do_layer_norm_before=False): its norms "
            "cannot be fused into what follows"
        )
    if any(isinstance(block, modeling.PrunedBlock) for block in lm.blocks):
        raise PrunebenchError("blocks with a half missing or rotated already cannot be sliced")
    if scope == "global" and not lm.family.free_head_dim:
        raise PrunebenchError(
            f"a narrower {kind} model is no plain checkpoint: its config has no head_dim, so heads "
            f"would shrink with the hidden size; slicegpt works"
        )
    if scope == "global" and Norms(lm, "exact").layer_norm:
        raise PrunebenchError(
            f"a narrower {kind} model is no plain checkpoint: its norms subtract means"
        )


def reachable(lm: CausalLM, scope: str, round_to: int) -> list[int]:
    """The widths that may be kept, ascending: multiples of *round_to*.

    With scope *global* also of the number of heads where the family's config requires it.
    """
    config = lm.hf.config
    step = round_to
    if scope == "global" and lm.family.heads_divide_hidden:
        step = math.lcm(round_to, config.num_attention_heads)
    widths = [*range(step, config.hidden_size + 1, step)]
    if not widths:
        raise PrunebenchError(
            f"a width must be a multiple of {step}, but the hidden size is {config.hidden_size}"
        )
    return widths


def width_for(
    lm: CausalLM, scope: str, round_to: int, slicing: float | None, sparsity: float | None
) -> int:
    """The width to keep: *slicing* is rounded down, for *sparsity* the nearest width is taken.

    Raises:
        PrunebenchError: if no width is left, or neither is given.
    """
    hidden: int = lm.hf.config.hidden_size
    widths = reachable(lm, scope, round_to)
    if slicing is not None:
        fitting = [w for w in widths if w <= int((1 - slicing) * hidden)]
        if not fitting:
            raise PrunebenchError(
                f"slicing {slicing:g} of {hidden} leaves less than the least width, {widths[0]}"
            )
        return fitting[-1]
    if sparsity is None:
        raise PrunebenchError("this method narrows the stream: give 'sparsity' or 'slicing'")
    dense = lm.num_parameters
    count = parameter_count(lm, scope)
    return min(widths, key=lambda w: (abs(1 - count(w) / dense - sparsity), -w))


def parameter_count(lm: CausalLM, scope: str) -> Callable[[int], int]:
    """How many parameters *lm* has at a width, without slicing it.

    All shapes are linear in the width except the shortcuts, which are quadratic, so the counts at
    three widths determine it.
    """
    points = [1, 2, 3]
    counts = [_count_at(lm, scope, width) for width in points]

    def count(width: int) -> int:
        total = Fraction(0)
        for i, (at, value) in enumerate(zip(points, counts, strict=True)):
            others = [p for j, p in enumerate(points) if j != i]
            total += Fraction(value * math.prod(width - p for p in others)) / math.prod(
                at - p for p in others
            )
        return int(total)

    return count


def _count_at(lm: CausalLM, scope: str, width: int) -> int:
    ghost = lm.share()
    ghost.hf.to("meta")
    # Moving to meta unties the head; a width of one fits no heads, but only shapes matter here.
    if lm.hf.get_output_embeddings().weight is lm.hf.get_input_embeddings().weight:
        ghost.hf.get_output_embeddings().weight = ghost.hf.get_input_embeddings().weight
    stages = 1 if scope == "global" else 2 * len(lm.blocks)
    hidden = lm.hf.config.hidden_size
    rotation = torch.empty(hidden, width, dtype=torch.float64, device="meta")
    slice_hidden(ghost, {STAGE.format(i): rotation for i in range(stages)}, scope=scope)
    return ghost.num_parameters

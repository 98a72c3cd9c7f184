"""Applies a plan to a model: the structural edits that methods share."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import PrunebenchError
from ..plan import (
    DropBlocks,
    DropSublayers,
    Formula,
    LoadCheckpoint,
    MergeBlocks,
    Plan,
    RefitWeights,
    SliceHidden,
    Sublayer,
)
from . import modeling, rotation, widths
from .causal_lm import CausalLM
from .loading import load_model


def apply(lm: CausalLM, plan: Plan) -> CausalLM:
    """Carry out *plan* on *lm*, in place.

    Args:
        lm: the dense model, or a ``share()`` of it where the dense one is still needed.
        plan: edits in the numbering of the dense model.

    Returns:
        The same *lm*.

    Raises:
        PrunebenchError: if the plan does not fit the model; the model is then unchanged.
    """
    _check(lm, plan)
    edits = plan.edits
    for edit in edits:
        if isinstance(edit, LoadCheckpoint):
            lm.become(load_checkpoint(edit, lm))
        elif isinstance(edit, RefitWeights):
            _refit(lm, {name: plan.tensors[edit.tensors][name] for name in edit.modules})
        elif isinstance(edit, MergeBlocks):
            for low, high in edit.ranges:
                lm.blocks[low] = merged(list(lm.blocks[low : high + 1]), edit.formula)
        elif isinstance(edit, SliceHidden):
            rotation.slice_hidden(lm, edit, plan.tensors[edit.tensors])
    gone, sublayers = _gone(plan)
    if gone or sublayers:
        kept = [i for i in range(len(lm.blocks)) if i not in gone]
        lm.keep(kept)
        lm.lose([(kept.index(block), part) for block, part in sublayers])
    return lm


def merged(blocks: list[nn.Module], formula: Formula) -> nn.Module:
    """One block out of several neighbours, lowest first; no tensor of theirs is changed.

    Only the projections (linear weights) merge; norms and biases are those of the lowest block.
    *as_released* ends with the projections of the highest: the released loop subtracts the copy
    that it is adding to. *as_published* is W_low + sum over k of (W_k - W_low), summed in float32.
    """
    low = blocks[0]
    result = copy.deepcopy(low, {id(t): t for t in [*low.parameters(), *low.buffers()]})
    for name, module in result.named_modules():
        if isinstance(module, nn.Linear):
            weights = [_weight(block, name) for block in blocks]
            if formula == "as_released":
                module.register_parameter("weight", weights[-1])
            else:
                wide = [w.detach().float() for w in weights]
                total = wide[0] + sum((w - wide[0] for w in wide[1:]), torch.zeros_like(wide[0]))
                modeling.replace(module, "weight", total.to(weights[0].dtype))
    return result


def load_checkpoint(edit: LoadCheckpoint, lm: CausalLM) -> CausalLM:
    """The model of somebody's checkpoint, in the place of *lm*.

    Raises:
        PrunebenchError: if it is not what the plan names, or has another vocabulary.
    """
    from ..data.fingerprints import model_hash
    from ..specs import ModelSpec

    if edit.sha256 != (model_hash(ModelSpec(edit.checkpoint)) or ""):
        raise PrunebenchError(f"checkpoint {edit.checkpoint!r} is no longer what the plan names")
    dtype = str(lm.hf.dtype).removeprefix("torch.")
    other = load_model(edit.checkpoint, dtype=dtype, device=str(lm.device), known=False)
    mine, theirs = (m.hf.get_input_embeddings().num_embeddings for m in (lm, other))
    if mine != theirs:
        raise PrunebenchError(
            f"checkpoint {edit.checkpoint!r} has a vocabulary of {theirs} tokens, the dense model "
            f"one of {mine}: their scores would not answer the same questions"
        )
    return other


def _weight(block: nn.Module, name: str) -> nn.Parameter:
    try:
        return block.get_parameter(f"{name}.weight")
    except AttributeError:
        raise PrunebenchError(f"blocks that differ cannot be merged: {name!r}") from None


def _refit(lm: CausalLM, weights: dict[str, Tensor]) -> None:
    for name, weight in weights.items():
        module: Any = lm.hf.get_submodule(name)
        modeling.replace(module, "weight", weight.to(module.weight.dtype))


def _gone(plan: Plan) -> tuple[set[int], list[Sublayer]]:
    """Blocks that go whole, and sublayers that go out of blocks that stay."""
    gone: set[int] = set()
    sublayers: list[Sublayer] = []
    for edit in plan:
        if isinstance(edit, DropBlocks):
            gone.update(edit.blocks)
        elif isinstance(edit, MergeBlocks):
            for low, high in edit.ranges:
                gone.update(range(low + 1, high + 1))
        elif isinstance(edit, DropSublayers):
            sublayers += edit.sublayers
    return gone, sublayers


def _check(lm: CausalLM, plan: Plan) -> None:
    """Refuse a plan that does not fit, before anything is changed."""
    if any(not isinstance(edit, LoadCheckpoint) for edit in plan):
        lm.require_one_basis()
    gone: set[int | Sublayer] = set()
    for edit in plan:
        if isinstance(edit, DropBlocks):
            _check_blocks(lm, edit.blocks, "drops")
            _once(gone, edit.blocks, "drops block")
        elif isinstance(edit, DropSublayers):
            _check_blocks(lm, [block for block, _ in edit.sublayers], "drops a sublayer of")
            _once(gone, edit.sublayers, "drops sublayer")
            for block, part in edit.sublayers:
                has = dict(zip(("attn", "mlp"), lm.halves(lm.blocks[block]), strict=True))
                if not has[part]:
                    raise PrunebenchError(f"the plan drops {block}.{part}, which is not there")
            require_pre_norm(lm)
        elif isinstance(edit, MergeBlocks):
            lm.require_one_device("merging blocks")
            for low, high in edit.ranges:
                _check_blocks(lm, (low, high), "merges")
                if low >= high:
                    raise PrunebenchError(f"the plan merges {low} to {high}, which is no range")
                _once(gone, tuple(range(low, high + 1)), "merges block")
        elif isinstance(edit, SliceHidden):
            widths.check(lm, edit, plan.tensors[edit.tensors] if plan.tensors else {})
        elif isinstance(edit, RefitWeights):
            _check_refit(lm, edit, plan.tensors[edit.tensors] if plan.tensors else {})
    if gone and any(isinstance(e, SliceHidden) and e.scope == "block" for e in plan):
        raise PrunebenchError(
            "the plan turns the stream anew at every norm and removes blocks or halves: what is "
            "left would read it turned otherwise"
        )
    whole = {block for block in gone if isinstance(block, int)}
    if halves := [s for s in gone if not isinstance(s, int) and s[0] in whole]:
        raise PrunebenchError(f"the plan drops block {halves[0][0]} twice")


def require_pre_norm(lm: CausalLM) -> None:
    """Refuse to take blocks apart whose norms come after their halves.

    Raises:
        PrunebenchError: if they do.
    """
    if getattr(lm.hf.config, "do_layer_norm_before", True) is False:
        raise PrunebenchError(
            "this model normalises after each half (do_layer_norm_before=False): its blocks "
            "can be dropped whole, not taken apart"
        )


def _check_blocks(lm: CausalLM, blocks: Iterable[int], does: str) -> None:
    for block in blocks:
        if not 0 <= block < len(lm.blocks):
            last = len(lm.blocks) - 1
            raise PrunebenchError(f"the plan {does} block {block}; this model has 0 to {last}")


def _once(gone: set[int | Sublayer], more: Iterable[int | Sublayer], does: str) -> None:
    for unit in more:
        if unit in gone:
            raise PrunebenchError(f"the plan {does} {unit} twice")
        gone.add(unit)


def _check_refit(lm: CausalLM, edit: RefitWeights, weights: dict[str, Tensor]) -> None:
    lm.require_one_device("fitting weights anew")
    for name in edit.modules:
        try:
            module: Any = lm.hf.get_submodule(name)
        except AttributeError:
            raise PrunebenchError(f"the plan refits {name!r}, which is not there") from None
        if not isinstance(getattr(module, "weight", None), Tensor):
            raise PrunebenchError(f"the plan refits {name!r}, which has no weight")
        given = weights.get(name)
        if given is not None and not given.is_floating_point():
            raise PrunebenchError(f"the plan refits {name!r} with {given.dtype}, no floating point")
        if given is None or given.shape != module.weight.shape:
            shape = "nothing" if given is None else tuple(given.shape)
            raise PrunebenchError(
                f"the plan refits {name!r} with {shape}, expected {tuple(module.weight.shape)}"
            )

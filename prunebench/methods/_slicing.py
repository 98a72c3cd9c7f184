"""Principal axes of the residual stream, stage by stage or for a whole model."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from .. import resume
from ..edits.slice_hidden import SliceHidden, Variant
from ..errors import SearchError
from ..models.causal_lm import CausalLM
from ..models.rotation import STAGE, Norms, turn_block
from ..models.stream import Stream
from ..models.tensors import Tensors, storage_dtype
from ..plan import Plan, Step
from ..progress import say

#: The name of batch *i*'s stream in the saved state of a search.
_STATE = "stream.{}"


def per_block(lm: CausalLM, windows: Tensor, width: int, variant: Variant) -> Plan:
    """A rotation before every norm, each found on the stream that the earlier ones have cut.

    A sliced model is the dense one, norms fused, with its stream projected on the kept axes before
    each norm; so the search runs the dense blocks on projected states, one pass in all.

    Args:
        lm: the dense model.
        windows: token ids, (windows, length).
        width: coordinates to keep.
        variant: see ``SliceGPT``.
    """
    norms = Norms(lm, variant)
    stream = Stream(lm, windows)
    states = [batch.entering for batch in stream.batches]
    if norms.centred_embeddings:
        states = [state - state.mean(-1, keepdim=True) for state in states]
    bases: dict[str, Tensor] = {}
    trace: list[Step] = []
    depth = len(lm.blocks)
    if (saved := resume.state()) is not None:
        steps, bases = saved
        trace = msgspec.convert(steps, list[Step])
        states = [bases.pop(_STATE.format(i)).to(lm.device) for i in range(len(states))]
    for index in range(len(trace) // 2, depth):
        say(f"block {index + 1} of {depth}")
        block = fused(lm, norms, index)
        for half in lm.family.halves:
            axes, step = _axes(states, width, len(trace), len(windows) * (len(trace) % 2))
            bases[STAGE.format(len(trace))] = axes.to(storage_dtype(lm.hf.dtype))
            trace.append(step)
            with torch.no_grad():
                # One after the other: the stream of the last block may still be in memory.
                for i, batch in enumerate(stream.batches):
                    state = projected(states[i], axes)
                    states[i] = state + batch.branch(block, index, half, state)
        if index + 1 < depth:
            tensors = bases | {_STATE.format(i): state for i, state in enumerate(states)}
            resume.save_state(msgspec.to_builtins(trace), tensors, index + 1, depth)
    rotations = Tensors()
    edit = SliceHidden((width,) * len(trace), variant, "block", rotations.add(bases))
    return Plan((edit,), tuple(trace), rotations)


def whole_model(lm: CausalLM, windows: Tensor, width: int) -> Plan:
    """One rotation, from the states of the dense model that enter its norms, scaled to length one.

    Args:
        lm: the dense model.
        windows: token ids, (windows, length).
        width: coordinates to keep.
    """
    stream = Stream(lm, windows)
    hidden = lm.hf.config.hidden_size
    gram = torch.zeros(hidden, hidden, dtype=torch.float64, device=lm.device)
    done, count = 0, len(stream.batches)
    if (saved := resume.state()) is not None:
        done, gram = saved[0], saved[1]["gram"].to(lm.device)
    for number, batch in enumerate(stream.batches[done:], done + 1):
        say(f"batch {number} of {count}")
        state = batch.entering
        with torch.no_grad():
            for index, block in enumerate(lm.blocks):
                for half in lm.family.halves:
                    gram += _directions(state)
                    state = state + batch.branch(block, index, half, state)
            gram += _directions(state)
        if number < count:
            resume.save_state(number, {"gram": gram.clone()}, number, count)
    values, vectors = principal(gram)
    step = _step(values, width, 0, len(windows) * len(lm.blocks))
    tensors = Tensors()
    axes = vectors[:, :width].to(storage_dtype(lm.hf.dtype))
    sha256 = tensors.add({STAGE.format(0): axes})
    return Plan((SliceHidden((width,), "exact", "global", sha256),), (step,), tensors)


def fused(lm: CausalLM, norms: Norms, index: int) -> Any:
    """A copy of a block with its norms fused into it; the block itself is not changed."""
    original = lm.blocks[index]
    tensors = [*original.parameters(), *original.buffers()]
    block = copy.deepcopy(original, {id(t): t for t in tensors})
    turn_block(block, lm, norms, None, None, None)
    return block


def projected(state: Tensor, axes: Tensor) -> Tensor:
    """The part of *state*, (..., width), that lies along *axes*, (width, kept); in float64."""
    basis = axes.to(state.device, torch.float64)
    return ((state.double() @ basis) @ basis.T).to(state.dtype)


def _axes(states: Sequence[Tensor], width: int, stage: int, forwards: int) -> tuple[Tensor, Step]:
    values, vectors = principal(gram_of(states))
    return vectors[:, :width], _step(values, width, stage, forwards)


def _step(values: Tensor, width: int, stage: int, forwards: int) -> Step:
    """The record of one decomposition: what is kept, and how clear the cut is.

    *scores* has the trace, the kept fraction of it and the five largest eigenvalues; the margin is
    between the last kept eigenvalue and the first that is cut, as fractions of the trace.
    """
    total = float(values.sum())
    if not total > 0:
        raise SearchError("the stream is zero everywhere: it has no principal axes")
    scores: dict[str, float | None] = {
        "trace": total,
        "kept": float(values[:width].sum()) / total,
        **{f"eigenvalue {i + 1}": float(v) for i, v in enumerate(values[:5])},
    }
    cut = width < len(values)
    margin = float(values[width - 1] - values[width]) / total if cut else None
    rounding = len(values) * torch.finfo(torch.float32).eps
    return Step(stage, scores, f"width {width}", margin, rounding, forwards)


def _directions(state: Tensor) -> Tensor:
    rows = state.flatten(0, -2).double()
    return gram_of([rows / rows.norm(dim=-1, keepdim=True).clamp_min(1e-30)])


def principal(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues, descending, and eigenvectors of a sum of outer products, in float64.

    The decomposition runs on the CPU for all but the largest: its last bits then do not depend on
    the device, and float64 is slow on many GPUs.

    Raises:
        SearchError: if the sum is not finite.
    """
    wide = (gram + gram.T).double() / 2
    if not bool(torch.isfinite(wide).all()):
        raise SearchError("the stream is not finite; is the model sound in this dtype?")
    if len(wide) <= 2048:
        wide = wide.cpu()
    values, vectors = torch.linalg.eigh(wide)
    return values.flip(0), vectors.flip(1)


def gram_of(states: Sequence[Tensor]) -> Tensor:
    """The sum over all tokens of the outer product of a state with itself, float64."""
    rows = (state.flatten(0, -2).double() for state in states)
    first = states[0]
    zero = first.new_zeros(first.shape[-1], first.shape[-1], dtype=torch.float64)
    return sum((r.T @ r for r in rows), zero)

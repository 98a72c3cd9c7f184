"""SPRINT's search: one removal after the other until enough has gone, as a plan."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .. import resume
from ..api import Target
from ..edits.drop_sublayers import DropSublayers, require_pre_norm
from ..edits.refit_weights import RefitWeights
from ..errors import PrunebenchError, PrunebenchWarning
from ..models.calibration import Calibration
from ..models.causal_lm import CausalLM
from ..models.tensors import Tensors
from ..plan import Plan
from ..progress import say
from ._latency import measure
from ._sprint_scores import Search, sublayer
from ._sprint_state import restore, save

if TYPE_CHECKING:
    from .sprint import Sprint


def search(options: Sprint, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
    """Remove sublayers until *target* or the options' speedup is reached.

    Raises:
        PrunebenchError: if that many may not go.
        SearchError: if no candidate is left with a finite score.
    """
    require_pre_norm(lm)
    if options.refit:
        lm.require_one_device("fitting weights anew")
    if any(not all(lm.halves(block)) for block in lm.blocks):
        raise PrunebenchError(
            "this model has lost halves of blocks already; start from the dense one"
        )
    stop = _stop(options, lm, target)
    attn, mlp = options.attn_latency, options.mlp_latency
    measured = options.latency_aware or options.target_speedup is not None
    if measured and (attn is None or mlp is None):
        found = resume.part("latency", lambda: measure(lm))
        attn, mlp = attn or found[0], mlp or found[1]
    else:
        measured = False
    costs = (attn or 1.0, mlp or 1.0)
    windows = calibration.windows()
    state = Search(options, lm, windows, costs)
    trace, noise = restore(state)
    while not stop(state):
        removal = f"removal {len(state.removed) + 1}"
        if target.sublayers is not None and options.target_speedup is None:
            removal += f" of {target.sublayers}"
        say(removal)
        spent = state.stream.forwards
        state.first_stage()
        if options.refit:
            say(f"{removal}, fitting candidates")
            state.second_stage()
        spent = state.stream.forwards - spent
        if not trace:
            noise = _relative_noise(options, lm, windows, costs, state)
        trace.append(state.remove(noise, spent))
        save(state, trace, noise, target.sublayers or 0)

    def plan(count: int) -> Plan:
        kept = state.removed[:count]
        removed = tuple(sublayer(r.sublayer) for r in kept)
        drop = DropSublayers(removed, *(costs if measured else ()))
        if not kept:
            return Plan()
        gone = {r.sublayer for r in kept}
        # A later fit of the same module replaces an earlier one; a module that went has none.
        weights = {
            r.module: r.weight
            for r in kept
            if r.weight is not None and state.position[r.module] not in gone
        }
        if not weights:
            return Plan((drop,), tuple(trace[:count]), shorten=plan)
        tensors = Tensors()
        modules = tuple(sorted(weights, key=state.position.__getitem__))
        refit = RefitWeights(modules, tensors.add(weights))
        return Plan((drop, refit), tuple(trace[:count]), tensors, plan)

    count = len(state.removed)
    if target.sublayers is not None and options.target_speedup is None:
        count = min(count, target.sublayers)  # an earlier run may have been on its way to more
    if options.target_speedup is not None:
        _check_amount(options, lm, target, state)
    elif target.sparsity is not None:
        count = _nearest(lm, target, state)
    return plan(count)


def _check_amount(options: Sprint, lm: CausalLM, target: Target, state: Search) -> None:
    """Warn where the speedup, which decides, removes another amount than the one beside it."""
    count, asked = len(state.removed), target.sublayers
    if target.sparsity is not None:
        asked = _nearest(lm, target, state)
    if asked is not None and asked != count:
        warnings.warn(
            f"target_speedup {options.target_speedup:g} removes {count} sublayers, which is not "
            f"the amount asked for; the speedup decides",
            PrunebenchWarning,
            stacklevel=2,
        )


def _stop(options: Sprint, lm: CausalLM, target: Target) -> Callable[[Search], bool]:
    """Whether enough has gone; refuses at once what can never be reached."""
    if options.target_speedup is not None:
        speedup = options.target_speedup
        return lambda state: state.speedup >= speedup
    most = 2 * len(lm.blocks) - options.refit
    if target.sublayers is not None:
        wanted = target.sublayers
        if wanted > most:
            kept = "the last MLP is kept for its fit" if options.refit else "there are no more"
            raise PrunebenchError(
                f"{wanted} of {2 * len(lm.blocks)} sublayers are to go, but at most {most} may: "
                f"{kept}"
            )
        return lambda state: len(state.removed) >= wanted
    if target.sparsity is None:
        raise PrunebenchError("this method removes sublayers: give 'sparsity' or 'sublayers'")
    asked = target.sparsity
    can_go = lm.gone([sublayer(s) for s in range(most)])[-1]
    if asked > can_go:
        raise PrunebenchError(
            f"sparsity {asked:g} is asked for, but all sublayers that may go are {can_go:.3f} of "
            f"the parameters"
        )
    return lambda state: lm.gone([sublayer(r.sublayer) for r in state.removed])[-1] >= asked


def _nearest(lm: CausalLM, target: Target, state: Search) -> int:
    return target.nearest(lm.gone([sublayer(r.sublayer) for r in state.removed]))


def _relative_noise(
    options: Sprint, lm: CausalLM, windows: Tensor, costs: tuple[float, float], state: Search
) -> float:
    """How far the best first score moves when nothing but the batching changes, relative to it."""
    scores = state.scores()
    finite_ones = {s: x for s, x in scores.items() if math.isfinite(x)}
    rounding = torch.finfo(torch.float32).eps
    if not finite_ones:
        return rounding
    best = min(finite_ones, key=lambda s: state.rank(s, finite_ones[s]))
    again = Search(options, lm, windows.flip(0), costs, batch_size=1)
    again.ends[best] = again.end_of(best)
    if options.refit:
        other = again.fit([best])[best].score
    else:
        other = sum(again.distance(y, y_hat) for _, y, y_hat in again.outputs([best], {}))
    return max(rounding, abs(other - scores[best]) / max(scores[best], 1e-300))

"""Applies a plan to a model; what each edit does is in its own file (``edits``)."""

from __future__ import annotations

from typing import Any

from ..errors import PrunebenchError
from ..plan import Edit, Plan, Unit, block_of, name
from .causal_lm import CausalLM


def apply(lm: CausalLM, plan: Plan) -> CausalLM:
    """Carry out *plan* on *lm*, in place.

    Args:
        lm: the dense model, or a ``share()`` of it where the dense one is still needed.
        plan: edits in the block numbers of the dense model.

    Returns:
        The same *lm*.

    Raises:
        PrunebenchError: if the plan does not fit the model; the model is then unchanged.
    """
    _check(lm, plan)
    for edit in plan:
        edit.apply(lm, _tensors(plan, edit))
    removed = [unit for edit in plan for unit in edit.units()]
    if removed:
        whole = {unit for unit in removed if isinstance(unit, int)}
        kept = [i for i in range(len(lm.blocks)) if i not in whole]
        lm.keep(kept)
        lm.lose([(kept.index(u[0]), u[1]) for u in removed if not isinstance(u, int)])
    return lm


def _tensors(plan: Plan, edit: Edit) -> dict[str, Any]:
    """The bundle that *edit* names, empty if the plan has no tensors or the edit names none."""
    if plan.tensors is None or edit.bundle is None:
        return {}
    bundle: dict[str, Any] = plan.tensors[edit.bundle]
    return bundle


def _check(lm: CausalLM, plan: Plan) -> None:
    """Refuse a plan that does not fit, before anything is changed."""
    if not all(edit.foreign for edit in plan):
        lm.require_one_basis()
    touched: set[Unit] = set()
    for edit in plan:
        for unit in edit.touched():
            _check_unit(lm, unit, edit.verb, touched)
            touched.add(unit)
        edit.check(lm, _tensors(plan, edit))
    if touched and any(edit.rebases() for edit in plan):
        raise PrunebenchError(
            "the plan rotates the stream at every norm and removes blocks or halves: what is "
            "left would read it turned otherwise"
        )
    for unit in touched:
        if not isinstance(unit, int) and unit[0] in touched:
            raise PrunebenchError(f"the plan drops block {unit[0]} twice")


def _check_unit(lm: CausalLM, unit: Unit, verb: str, touched: set[Unit]) -> None:
    """Refuse a block that is not there, and a unit that an earlier edit touches."""
    block, last = block_of(unit), len(lm.blocks) - 1
    of = "" if isinstance(unit, int) else "a sublayer of "
    if not 0 <= block <= last:
        raise PrunebenchError(f"the plan {verb} {of}block {block}; this model has 0 to {last}")
    if unit in touched:
        kind = "block" if isinstance(unit, int) else "sublayer"
        raise PrunebenchError(f"the plan {verb} {kind} {name(unit)} twice")

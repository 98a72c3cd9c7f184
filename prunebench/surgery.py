"""Applies a plan to a model: the structural edits that methods share."""

from __future__ import annotations

from .errors import PrunebenchError
from .models import CausalLM
from .plan import AnyEdit, DropBlocks, Plan


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
    dropped = _dropped_blocks(lm, plan)
    if dropped:
        lm.keep([i for i in range(len(lm.blocks)) if i not in dropped])
    return lm


def _dropped_blocks(lm: CausalLM, plan: Plan) -> set[int]:
    gone: set[int] = set()
    for edit in plan:
        for block in _blocks(edit):
            if not 0 <= block < len(lm.blocks):
                last = len(lm.blocks) - 1
                raise PrunebenchError(f"the plan drops block {block}; this model has 0 to {last}")
            if block in gone:
                raise PrunebenchError(f"the plan drops block {block} twice")
            gone.add(block)
    return gone


def _blocks(edit: AnyEdit) -> tuple[int, ...]:
    if isinstance(edit, DropBlocks):
        return edit.blocks
    tag = edit.__struct_config__.tag
    raise PrunebenchError(f"this version cannot apply the edit {tag!r} yet")

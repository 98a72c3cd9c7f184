"""The last blocks: the control that early exit amounts to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..edits.drop_blocks import DropBlocks
from ..plan import Plan

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class Last(Method, frozen=True, tag="last"):
    """Drop blocks from the back; none is protected."""

    nested: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:  # noqa: ARG002
        """The last block, the one before it, ..."""
        from ._choosing import removable

        blocks = removable(lm, count := target.block_count(lm), 0, 0)
        return Plan((DropBlocks(tuple(reversed(blocks))[:count]),) if count else ())

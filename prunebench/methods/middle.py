"""A run of blocks in the middle: the control that knows only that the ends matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..edits.drop_blocks import DropBlocks
from ..plan import Plan

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class Middle(Method, frozen=True, tag="middle"):
    """Drop neighbouring blocks around the middle; the earlier run where two are as central."""

    calibrated: ClassVar[bool] = False

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:  # noqa: ARG002
        """Blocks (n - count) // 2 and the following."""
        from ._choosing import removable

        blocks = removable(lm, count := target.block_count(lm), 0, 0)
        start = (len(blocks) - count) // 2
        return Plan((DropBlocks(tuple(blocks[start : start + count])),) if count else ())

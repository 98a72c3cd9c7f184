"""A run of blocks in the middle: the control that knows only that the ends matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..plan import Plan
from ..search import drop, removable

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class Middle(Method, frozen=True, tag="middle"):
    """Drop neighbouring blocks around the middle; the earlier run where two are as central."""

    calibrated: ClassVar[bool] = False

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:  # noqa: ARG002
        """Blocks (n - count) // 2 and the following."""
        count = target.block_count(lm)
        blocks = removable(len(lm.blocks), count, 0, 0)
        start = (len(blocks) - count) // 2
        return drop(blocks[start : start + count])

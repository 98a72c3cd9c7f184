"""The first blocks: a control that shows how much the early ones matter."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..plan import Plan
from ..search import drop, removable

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class First(Method, frozen=True, tag="first"):
    """Drop blocks from the front; none is protected."""

    nested: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:  # noqa: ARG002
        """Blocks 0, 1, 2, ..."""
        count = target.block_count(lm)
        blocks = removable(len(lm.blocks), count, 0, 0)
        return drop(blocks[:count])

"""The last blocks: the control that early exit amounts to."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..plan import Plan
from ..search import drop, removable

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class Last(Method, frozen=True, tag="last"):
    """Drop blocks from the back; none is protected."""

    nested: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:  # noqa: ARG002
        """The last block, the one before it, ..."""
        count = target.block_count(lm)
        blocks = removable(len(lm.blocks), count, 0, 0)
        return drop(blocks[::-1][:count])

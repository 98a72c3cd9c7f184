"""The model before pruning, as a method that removes nothing: what every row is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..plan import Plan

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class Dense(Method, frozen=True, tag="dense"):
    """Remove nothing."""

    unit: ClassVar[str] = "none"
    calibrated: ClassVar[bool] = False

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:  # noqa: ARG002
        """The empty plan."""
        return Plan()

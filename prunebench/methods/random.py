"""Blocks drawn at random: the control that a method has to beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from ..api import Method, Target
from ..plan import Plan
from ..search import drop, removable

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class Random(Method, frozen=True, tag="random"):
    """Drop blocks in an order drawn by *seed*; none is protected."""

    nested: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False

    seed: Annotated[int, Meta(ge=0)] = 0

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:  # noqa: ARG002
        """A prefix of one seeded shuffle."""
        from random import Random as Generator

        count = target.block_count(lm)
        order = [*removable(len(lm.blocks), count, 0, 0)]
        Generator(self.seed).shuffle(order)
        return drop(order[:count])

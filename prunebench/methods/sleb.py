"""SLEB (Song et al., ICML 2024, arXiv:2402.09025): greedy removal of the least needed block.

Take out every block in turn, measure the calibration loss of what is left, drop the block whose
absence hurts least, and look again (the paper's Metric 3). As in the released code, the first and
the last block stay, ties go to the lower block, and *lines* draws the calibration text by lines;
*windows* draws the 128 windows of the paper's text. Hidden states are shared between candidates and
reused after a removal, which changes the cost and no decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from ..api import Method, Target
from ..plan import Plan
from ..search import greedy, removable

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class Sleb(Method, frozen=True, tag="sleb"):
    """Greedy removal by calibration loss; scores are nats per token."""

    nested: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True

    keep_first: Annotated[int, Meta(ge=0)] = 1
    keep_last: Annotated[int, Meta(ge=0)] = 1
    calibration_unit: Literal["lines", "windows"] = "lines"

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Remove the block whose absence hurts least, and look again."""
        from ..models.stream import Stream, Thinning

        count = target.block_count(lm)
        candidates = removable(len(lm.blocks), count, self.keep_first, self.keep_last)
        if not count:
            return Plan()
        stream = Stream(lm, calibration.windows(self.calibration_unit))
        model = Thinning(stream)
        return greedy(stream, candidates, count, score=model.losses, remove=model.remove)

"""SLEB (Song et al., ICML 2024, arXiv:2402.09025): greedy removal of the least needed block.

Take out every block in turn, measure the calibration loss of what is left, drop the block whose
absence hurts least, and look again (the paper's Metric 3). As in the released code, the first and
the last block stay, ties go to the lower block, and *lines* draws the calibration text by lines;
*windows* draws the 128 windows that the paper speaks of. Hidden states are shared between
candidates and kept from one removal to the next, which changes the cost and no decision.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from .. import resume
from ..api import Method, Target
from ..edits.drop_blocks import DropBlocks
from ..plan import Plan, Step
from ..progress import say

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
        """Search greedily, one removal after the other."""
        from ..models.stream import Stream, Thinning
        from ._choosing import choice, removable

        count = target.block_count(lm)
        candidates = list(removable(lm, count, self.keep_first, self.keep_last))
        if not count:
            return Plan()
        stream = Stream(lm, calibration.windows(self.calibration_unit))
        noise = float(resume.part("noise", stream.noise))
        thinning = Thinning(stream)
        removed: list[int] = []
        trace: list[Step] = []
        kept = resume.steps()[:count]
        for step in range(count):
            say(f"removal {step + 1} of {count}")
            if step < len(kept):
                made, chosen = kept[step], int(kept[step].chosen)
                if step == len(kept) - 1:
                    # Run once more for its hidden states, from which the next step goes on.
                    thinning.losses(candidates)
            else:
                before = stream.forwards
                scores = thinning.losses(candidates)
                chosen, made = choice(step, scores, noise, stream.forwards - before)
                resume.save_step(made, count)
            trace.append(made)
            removed.append(chosen)
            thinning.remove(chosen)
            candidates.remove(chosen)
        return Plan((DropBlocks(tuple(removed)),), tuple(trace))

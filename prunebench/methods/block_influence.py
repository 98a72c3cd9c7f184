"""Block Influence (ShortGPT, Men et al., 2024, arXiv:2403.03853): drop what changes least.

A block's influence is one minus the cosine between what enters and what leaves it, averaged over
all calibration tokens; the blocks of least influence go, at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..plan import Plan
from ..search import one_shot, removable, scored_twice

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class BlockInfluence(Method, frozen=True, tag="block_influence"):
    """One-shot ranking by cosine; none is protected. Scores are 1 - cosine, between 0 and 2."""

    nested: ClassVar[bool] = True

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Measure every block of the dense model, then take the lowest."""
        from ..models.stream import Stream

        count = target.block_count(lm)
        candidates = removable(len(lm.blocks), count, 0, 0)
        if not count:
            return Plan()

        def influence(windows: Tensor, batch_size: int | None) -> list[float]:
            return [*Stream(lm, windows, batch_size).influence().values()]

        windows = calibration.windows()
        scores, moved = scored_twice(influence, windows)
        noise = max(2.0**-23, moved)
        return one_shot(scores, candidates, count, noise, len(lm.blocks) * len(windows))

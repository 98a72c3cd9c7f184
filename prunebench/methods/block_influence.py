"""Block Influence (ShortGPT, Men et al., 2024, arXiv:2403.03853): drop what changes least.

A block's influence is one minus the cosine between what enters and what leaves it, averaged over
all calibration tokens; the blocks of least influence go, at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from .. import resume
from ..api import Method, Target
from ..plan import Plan

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
        from ._choosing import one_shot, removable

        count = target.block_count(lm)
        candidates = removable(lm, count, 0, 0)
        if not count:
            return Plan()
        windows = calibration.windows()

        def influence(windows: Tensor, batch_size: int | None = None) -> tuple[list[float], int]:
            stream = Stream(lm, windows, batch_size)
            return list(stream.influence().values()), stream.forwards

        scores, forwards = resume.part("round 1", lambda: influence(windows), of=2)
        again, _ = resume.part("round 2", lambda: influence(windows.flip(0), batch_size=1), of=2)
        noise = max(2.0**-23, *(abs(scores[b] - again[b]) for b in candidates))
        return one_shot(dict(enumerate(scores)), candidates, count, noise, forwards)

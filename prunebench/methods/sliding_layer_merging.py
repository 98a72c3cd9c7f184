"""Sliding Layer Merging (Ding et al., AAAI 2026, arXiv:2502.19159): merge runs of similar blocks.

From the top but one downwards a window of blocks grows as long as the model with the window merged
into one block stays similar to the dense one: cosine of the final hidden state of each calibration
window, flattened, mean over the windows, above *threshold*. When it no longer does, the window so
far is merged for good and the next one starts there. As released, the last block is never merged,
and a window still open at the bottom is dropped.

*as_released* is what the released code computes: its loop subtracts the copy it is adding to, so
the merged block has the projections of the highest block of the window and everything else of the
lowest. *as_published* is the paper's equation, W_low + sum over k of (W_k - W_low), on the
projections.

The paper has no amount: the threshold decides. Given an amount instead, every threshold that makes
a difference is tried, and of those that remove exactly so many blocks the one with the highest
final similarity is taken.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from ..api import Method, Target
from ..edits.merge_blocks import Formula, MergeBlocks
from ..errors import PrunebenchWarning
from ..plan import Plan
from ..search import require_at_most

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class SlidingLayerMerging(Method, frozen=True, tag="sliding_layer_merging"):
    """Merging by similarity; in the trace every trial is a choice between window and threshold."""

    sizing: ClassVar[str] = "threshold"

    threshold: Annotated[float, Meta(ge=-2, le=2)] | None = None
    formula: Formula = "as_released"

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Merge at the threshold, or at the best of all that remove the amount."""
        from ._merge_trials import Trials
        from ._sliding import Sliding

        lm.require_one_device("merging blocks")
        count = self._count(lm, target)
        sliding = Sliding(Trials(lm, calibration.windows(), self.formula), len(lm.blocks))
        if self.threshold is None:
            run = sliding.run_removing(count)
        else:
            run = sliding.run(self.threshold)
            if target != Target() and run.removed != count:
                self._warn(run.removed, count)
        edits = (MergeBlocks(run.windows, self.formula),) if run.windows else ()
        return Plan(edits, tuple(sliding.trace(run)))

    def _warn(self, removed: int, count: int) -> None:
        warnings.warn(
            f"threshold {self.threshold:g} removes {removed} blocks, not the {count} asked for; "
            f"the threshold decides",
            PrunebenchWarning,
            stacklevel=3,
        )

    def _count(self, lm: CausalLM, target: Target) -> int:
        """How many blocks *target* removes, 0 if the threshold alone decides.

        Raises:
            PrunebenchError: if more than can merge.
        """
        if self.threshold is not None and target == Target():
            return 0
        count = target.block_count(lm)
        why = "the last stays, and the others merge into at least one"
        require_at_most(max(0, len(lm.blocks) - 2), count, f"of {len(lm.blocks)} blocks", why)
        return count

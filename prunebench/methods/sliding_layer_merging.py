"""Sliding Layer Merging (Ding et al., AAAI 2026, arXiv:2502.19159): merge runs of similar blocks.

From the top but one downwards a window of blocks grows as long as the model with the window merged
into one block stays similar to the dense one: cosine of the final hidden state of each calibration
window, flattened, mean over the windows, above *threshold*. When it no longer does, the window so
far is merged for good and the next one starts there. The last block is never merged, and a window
still open at the bottom is dropped, both as released.

*as_released* is what the released code computes: its loop subtracts the copy it is adding to, so
the merged block has the projections of the highest block of the window and everything else of the
lowest. *as_published* is the paper's equation, W_low + sum over k of (W_k - W_low), on the
projections.

There is no amount in the paper: the threshold alone decides. Given an amount instead, every
threshold is tried that makes a difference, and of those that remove exactly so many blocks the one
with the highest final similarity is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from ..api import Method, Target
from ..edits.merge_blocks import Formula
from ..plan import Plan

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class SlidingLayerMerging(Method, frozen=True, tag="sliding_layer_merging"):
    """Merging by similarity; in the trace every window tried competes with the threshold."""

    sizing: ClassVar[str] = "threshold"

    threshold: Annotated[float, Meta(ge=-2, le=2)] | None = None
    formula: Formula = "as_released"

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Slide at the threshold, or at the best of all that remove the amount."""
        from ._sliding import choose

        return choose(self, lm, calibration, target)

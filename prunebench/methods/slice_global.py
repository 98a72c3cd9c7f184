"""One rotation for the whole model: width pruning whose result is a plain checkpoint.

Not SliceGPT, though made of its parts: with the same axes before every norm no shortcut matrices
are needed, every sliced parameter is removed, and plain classes express the result, a narrower
model of the same family. The axes are the principal ones of all states that enter a norm of the
dense model, each token's state scaled to length one, as the norms do; with raw states a few tokens
of very large norm would decide. Where a family's config wants the hidden size to be a multiple of
the number of heads, so are the widths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..plan import Plan
from ..specs import Count

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class SliceGlobal(Method, frozen=True, tag="slice_global"):
    """Width pruning with a single rotation; the only step of the trace has its eigenvalues."""

    unit: ClassVar[str] = "width"

    round_to: Count = 8

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Find the one rotation from a single pass of the dense model."""
        from ..models.widths import require_sliceable, width_for
        from ._slicing import whole_model

        require_sliceable(lm, "global")
        width = width_for(lm, "global", self.round_to, target.slicing, target.sparsity)
        return whole_model(lm, calibration.windows(), width)

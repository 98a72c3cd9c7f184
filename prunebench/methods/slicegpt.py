"""SliceGPT (Ashkboos et al., ICLR 2024, arXiv:2401.15024): rotate the stream and cut it.

Before every norm the residual stream is rotated to its principal axes over the calibration tokens
and cut to the first ones; what connects two rotations stays in the model as a *shortcut* matrix on
each residual connection, which counts as parameters. Each stage sees the stream as the stages
before it left it. Axes are those of the stream that enters a norm, uncentred, as released (the
paper's equation speaks of what leaves the norm); what leaves the last block, and the head, are not
cut. The eigendecomposition is in float64.

*exact* keeps the function when nothing is cut. *as_released* also does what the released code adds
to the paper: it subtracts the mean of every embedding row in models whose norms subtract none,
and gives every norm the constant 1e-5. Two things it does are left out because they change
nothing: it damps the covariance, which leaves the axes unchanged, and rotates the kept axes at
random.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..edits.slice_hidden import Variant
from ..plan import Plan
from ..specs import Count

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class SliceGPT(Method, frozen=True, tag="slicegpt"):
    """Width pruning with a rotation per norm; a trace step per stage has its eigenvalues."""

    unit: ClassVar[str] = "width"

    variant: Variant = "exact"
    round_to: Count = 8

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Find the rotations, stage after stage, each on the stream that is already cut."""
        from ..models.widths import require_sliceable, width_for
        from ._slicing import per_block

        require_sliceable(lm, "block")
        width = width_for(lm, "block", self.round_to, target.slicing, target.sparsity)
        return per_block(lm, calibration.windows(), width, self.variant)

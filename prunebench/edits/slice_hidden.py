"""``slice_hidden``: the residual stream is rotated and cut to its first columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import PrunebenchError
from ..plan import Edit, Mark

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.causal_lm import CausalLM

Variant = Literal["exact", "as_released"]


class SliceHidden(Edit, frozen=True, tag="slice_hidden"):
    """The residual stream was rotated and cut.

    *widths* are those of the stream before each norm: two per block, attention first, with scope
    *block*; a single one for the whole model with scope *global*. *tensors* names the rotations.
    """

    widths: tuple[int, ...]
    variant: Variant = "exact"
    scope: Literal["block", "global"] = "block"
    tensors: str = ""

    def last_block(self) -> int:
        """The block of the last width, where widths are per block."""
        return len(self.widths) // 2 - 1 if self.scope == "block" else -1

    def problem(self) -> str:
        """A width below 1."""
        narrow = [width for width in self.widths if width < 1]
        return f"a plan has no width {min(narrow)}" if narrow else ""

    def detail(self) -> str:
        """The widths."""
        return f"to {', '.join(map(str, sorted(set(self.widths))))}"

    def words(self) -> str:
        """The narrowest and the widest."""
        low, high = min(self.widths), max(self.widths)
        widths = f"{low}" if low == high else f"{low} to {high}"
        return f"The residual stream rotated and cut to a width of {widths}"

    def rebases(self) -> bool:
        """Whether each norm has a rotation of its own."""
        return self.scope == "block"

    def check(self, lm: CausalLM, tensors: Mapping[str, Tensor]) -> None:
        """Refuse a model that cannot be sliced, and rotations of another shape or number."""
        from ..models.rotation import STAGE
        from ..models.widths import require_sliceable

        require_sliceable(lm, self.scope)
        hidden = lm.hf.config.hidden_size
        stages = 1 if self.scope == "global" else 2 * len(lm.blocks)
        if len(self.widths) != stages:
            count = len(self.widths)
            raise PrunebenchError(f"the plan has {count} widths; this model has {stages}")
        for i, kept in enumerate(self.widths):
            given = tensors.get(STAGE.format(i))
            turns = f"the plan turns stage {i} by"
            if given is None or tuple(given.shape) != (hidden, kept):
                shape = "nothing" if given is None else tuple(given.shape)
                raise PrunebenchError(f"{turns} {shape}, not by {(hidden, kept)}")
            if not given.is_floating_point():
                raise PrunebenchError(f"{turns} {given.dtype}, no floating point")

    def apply(self, lm: CausalLM, tensors: Mapping[str, Tensor]) -> None:
        """Rotate and cut (``models.rotation``)."""
        from ..models.rotation import slice_hidden

        slice_hidden(lm, tensors, self.variant, self.scope)

    def marks(self, blocks: int, left: Sequence[int]) -> Iterator[Mark]:
        """The widths of all blocks, or, where there are too few for that, of those left."""
        if self.scope == "global":
            yield from (Mark(b, "cut", width) for width in self.widths[:1] for b in range(blocks))
            return
        numbers = range(blocks) if len(self.widths) >= 2 * blocks else left
        attention, mlp = self.widths[::2], self.widths[1::2]
        yield from (Mark((b, "attn"), "cut", w) for b, w in zip(numbers, attention, strict=False))
        yield from (Mark((b, "mlp"), "cut", w) for b, w in zip(numbers, mlp, strict=False))

"""``drop_sublayers``: attention or MLP halves of blocks are removed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from ..errors import PrunebenchError
from ..plan import Edit, Sublayer, name

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class DropSublayers(Edit, frozen=True, tag="drop_sublayers"):
    """Attention or MLP halves of blocks are removed. *sublayers* are in order of removal.

    The latencies (milliseconds per block) are those measured for this choice, if any were.
    """

    verb: ClassVar[str] = "drops"

    sublayers: tuple[Sublayer, ...]
    attn_latency: float | UnsetType = UNSET
    mlp_latency: float | UnsetType = UNSET

    def units(self) -> tuple[Sublayer, ...]:
        """The halves."""
        return self.sublayers

    def with_units(self, kept: Sequence[Any]) -> DropSublayers:
        """The removal of fewer halves."""
        return replace(self, sublayers=tuple(kept))

    def bare(self) -> DropSublayers:
        """Without the latencies, which are measured."""
        return replace(self, attn_latency=UNSET, mlp_latency=UNSET)

    def words(self) -> str:
        """Which halves, in order."""
        listed = ", ".join(map(name, self.sublayers))
        return f"{len(self.sublayers)} sublayers dropped, in this order, counted from 0: {listed}"

    def check(self, lm: CausalLM, tensors: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Refuse a half that the model lacks, and a post-norm model."""
        for block, part in self.sublayers:
            has = dict(zip(("attn", "mlp"), lm.halves(lm.blocks[block]), strict=True))
            if not has[part]:
                raise PrunebenchError(f"the plan drops {block}.{part}, which is not there")
        require_pre_norm(lm)


def require_pre_norm(lm: CausalLM) -> None:
    """Refuse to remove halves of blocks whose norms come after their halves.

    Raises:
        PrunebenchError: if they do.
    """
    if getattr(lm.hf.config, "do_layer_norm_before", True) is False:
        raise PrunebenchError(
            "this model normalises after each half (do_layer_norm_before=False): its blocks "
            "can be dropped whole, not taken apart"
        )

"""``merge_blocks``: neighbouring blocks become one block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ..errors import PrunebenchError
from ..plan import Edit, Mark, no_block

if TYPE_CHECKING:
    from torch import nn

    from ..models.causal_lm import CausalLM

Formula = Literal["as_released", "as_published"]


class MergeBlocks(Edit, frozen=True, tag="merge_blocks"):
    """Each range of blocks, first and last, became one block in the place of the first.

    *as_released*: the projections of the last block with everything else of the first;
    *as_published*: the first block's projections plus every other's difference to them.
    """

    verb: ClassVar[str] = "merges"

    ranges: tuple[tuple[int, int], ...]
    formula: Formula = "as_released"

    def units(self) -> tuple[int, ...]:
        """The blocks that are merged into another."""
        return tuple(block for low, high in self.ranges for block in range(low + 1, high + 1))

    def touched(self) -> Iterator[int]:
        """All blocks of all ranges."""
        return (block for low, high in self.ranges for block in range(low, high + 1))

    def problem(self) -> str:
        """The ends of the ranges are looked at first: a huge range takes all memory."""
        return no_block(block for ends in self.ranges for block in ends)

    def detail(self) -> str:
        """The ranges."""
        return " ".join(f"{low}-{high}" for low, high in self.ranges)

    def words(self) -> str:
        """The ranges."""
        ranges = ", ".join(f"{low} to {high}" for low, high in self.ranges)
        return f"Blocks merged into the first of each range, counted from 0: {ranges}"

    def check(self, lm: CausalLM, tensors: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Refuse an empty range, and a model that is spread over devices."""
        lm.require_one_device("merging blocks")
        for low, high in self.ranges:
            if low >= high:
                raise PrunebenchError(f"the plan merges {low} to {high}, which is no range")

    def apply(self, lm: CausalLM, tensors: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Put the merged block in the place of the first."""
        for low, high in self.ranges:
            lm.blocks[low] = merged(list(lm.blocks[low : high + 1]), self.formula)

    def marks(self, blocks: int, left: Sequence[int]) -> Iterator[Mark]:  # noqa: ARG002
        """Every block but the first of its range is joined to that."""
        for low, high in self.ranges:
            yield from (Mark(block, "joined", into=low) for block in range(low + 1, high + 1))


def merged(blocks: list[nn.Module], formula: Formula) -> nn.Module:
    """One block made of neighbouring *blocks*, lowest first; no tensor of theirs is changed.

    Only the projections (linear weights) merge; norms and biases are those of the lowest block.
    *as_released* ends with the projections of the highest: the released loop subtracts the copy
    that it is adding to. *as_published* is W_low + sum over k of (W_k - W_low), summed in float32.

    Raises:
        PrunebenchError: if the blocks have different modules.
    """
    import copy

    import torch
    from torch import nn

    from ..models import modeling

    low = blocks[0]
    result = copy.deepcopy(low, {id(t): t for t in [*low.parameters(), *low.buffers()]})
    for name, module in result.named_modules():
        if isinstance(module, nn.Linear):
            weights = [_weight(block, name) for block in blocks]
            if formula == "as_released":
                module.register_parameter("weight", weights[-1])
            else:
                wide = [w.detach().float() for w in weights]
                total = wide[0] + sum((w - wide[0] for w in wide[1:]), torch.zeros_like(wide[0]))
                modeling.replace(module, "weight", total.to(weights[0].dtype))
    return result


def _weight(block: nn.Module, name: str) -> nn.Parameter:
    try:
        return block.get_parameter(f"{name}.weight")
    except AttributeError:
        raise PrunebenchError(f"blocks that differ cannot be merged: {name!r}") from None

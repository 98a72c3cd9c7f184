"""What a plan leaves of each block, as plain data that a terminal or a page can draw.

A strip has a block for every block of the dense model, and each block two halves. Plans number
blocks as in the dense model, so several edits can be laid over each other in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from msgspec import Struct

from ..plan import Edit, Mark, Part, block_of

State = Literal["kept", "removed", "joined"]
PARTS: tuple[Part, Part] = ("attn", "mlp")


class Half(Struct, omit_defaults=True):
    """Half of a block: *kept*, *removed*, or *joined* (merged into a block before it).

    *order* is the place at which it was removed, from 1. *width* is how many columns are left,
    where it was cut. *refit* says that its weights were refitted.
    """

    state: State = "kept"
    order: int | None = None
    width: int | None = None
    refit: bool = False


class Block(Struct, omit_defaults=True):
    """A block of the dense model; *into* is the block that it was merged into."""

    number: int
    attn: Half
    mlp: Half
    into: int | None = None

    def half(self, part: Part) -> Half:
        """The half of that name."""
        return self.attn if part == "attn" else self.mlp


class Strip(Struct, omit_defaults=True):
    """A whole model, block by block.

    *whole* is false where the number of blocks is unknown: it then ends with the last block that
    the plan names. *width* is the one to which everything that was cut was cut. *foreign* is true
    where somebody else pruned the model, so that what they did is unknown.
    """

    blocks: tuple[Block, ...]
    whole: bool = True
    width: int | None = None
    foreign: bool = False

    @property
    def removed(self) -> tuple[str, ...]:
        """The units that were removed or merged, in order of removal: ``5`` or ``3.attn``."""
        found: dict[int, list[str]] = {}
        for block in self.blocks:
            orders = [block.half(part).order for part in PARTS]
            if orders[0] is not None and orders[0] == orders[1]:
                found.setdefault(orders[0], []).append(str(block.number))
                continue
            for part, order in zip(PARTS, orders, strict=True):
                if order is not None:
                    found.setdefault(order, []).append(f"{block.number}.{part}")
        return tuple(name for order in sorted(found) for name in found[order])


def strip(edits: Iterable[Edit], blocks: int | None = None) -> Strip:
    """What *edits* leave of a model of that many *blocks*; None where that is not known."""
    edits = tuple(edits)
    count = max(blocks or 0, 1 + max((edit.last_block() for edit in edits), default=-1))
    drawn = [Block(number, Half(), Half()) for number in range(count)]
    removed = 0
    for edit in edits:
        left = [b.number for b in drawn if "kept" in (b.attn.state, b.mlp.state)]
        for mark in edit.marks(count, left):
            removed += mark.state in ("removed", "joined")
            _draw(drawn, mark, removed)
    widths = {block.half(part).width for block in drawn for part in PARTS} - {None}
    width = widths.pop() if len(widths) == 1 else None
    return Strip(tuple(drawn), blocks is not None, width, any(edit.foreign for edit in edits))


def merged(strip: Strip) -> dict[int, int]:
    """The last block merged into each block that others were merged into."""
    ends: dict[int, int] = {}
    for block in strip.blocks:
        if block.into is not None:
            ends[block.into] = max(block.number, ends.get(block.into, block.number))
    return ends


def _draw(drawn: Sequence[Block], mark: Mark, order: int) -> None:
    """Put *mark* on the halves that it is about; *order* counts the removals up to it."""
    block = drawn[block_of(mark.unit)]
    if mark.into is not None:
        block.into = mark.into
    for half in map(block.half, PARTS if isinstance(mark.unit, int) else mark.unit[1:]):
        if mark.state == "cut":
            half.width = mark.width
        elif mark.state == "refit":
            half.refit = True
        elif half.state != "removed":
            half.order = order if half.order is None else half.order
            half.state = mark.state

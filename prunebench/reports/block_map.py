"""What a plan leaves of each block, as plain data that a terminal or a page can draw.

A strip has a block for every block of the dense model, and each block two halves. Plans number
blocks as in the dense model, so several edits can be laid over each other in any order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from ..plan import (
    AnyEdit,
    DropBlocks,
    DropSublayers,
    LoadCheckpoint,
    MergeBlocks,
    Part,
    RefitWeights,
    SliceHidden,
    units,
)

State = Literal["kept", "gone", "joined"]
PARTS: tuple[Part, Part] = ("attn", "mlp")


class Half(Struct, omit_defaults=True):
    """Half of a block: *kept*, *gone*, or *joined* with a block before it.

    *order* is the place at which it was removed, from 1. *width* is what is left of the stream
    before its norm, where that was cut. *refit* says that its weights were fitted anew.
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

    *whole* is false where nobody said how many blocks there are: then it ends with the last block
    that the plan speaks of. *width* is that of a stream cut alike everywhere. *foreign* is true
    where somebody else pruned the model, and what they did is not known.
    """

    blocks: tuple[Block, ...]
    whole: bool = True
    width: int | None = None
    foreign: bool = False

    @property
    def removed(self) -> tuple[str, ...]:
        """The units that are gone or joined, in order of removal: ``5`` or ``3.attn``."""
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


def strip(edits: Iterable[AnyEdit], blocks: int | None = None) -> Strip:
    """What *edits* leave of a model of that many *blocks*; None where that is not known."""
    edits = tuple(edits)
    count = max(blocks or 0, 1 + max(_spoken_of(edits), default=-1))
    drawn = [Block(number, Half(), Half()) for number in range(count)]
    removed = 0
    width = None
    for edit in edits:
        if isinstance(edit, SliceHidden):
            width = _cut(drawn, edit) or width
        elif isinstance(edit, RefitWeights):
            for number, part in map(_place, edit.modules):
                if number is not None:
                    drawn[number].half(part).refit = True
        else:
            for unit in units(edit):
                removed += 1
                _remove(drawn, unit, removed, joined=isinstance(edit, MergeBlocks))
            if isinstance(edit, MergeBlocks):
                for low, high in edit.ranges:
                    for number in range(low + 1, high + 1):
                        drawn[number].into = low
    foreign = any(isinstance(edit, LoadCheckpoint) for edit in edits)
    return Strip(tuple(drawn), blocks is not None, width, foreign)


def merged(strip: Strip) -> dict[int, int]:
    """Where a merged block ends: its own number, and the last that it took in."""
    ends: dict[int, int] = {}
    for block in strip.blocks:
        if block.into is not None:
            ends[block.into] = max(block.number, ends.get(block.into, block.number))
    return ends


def _spoken_of(edits: Iterable[AnyEdit]) -> Iterable[int]:
    for edit in edits:
        if isinstance(edit, DropBlocks):
            yield from edit.blocks
        elif isinstance(edit, DropSublayers):
            yield from (number for number, _ in edit.sublayers)
        elif isinstance(edit, MergeBlocks):
            yield from (end for ends in edit.ranges for end in ends)
        elif isinstance(edit, SliceHidden) and edit.scope == "block":
            yield len(edit.widths) // 2 - 1
        elif isinstance(edit, RefitWeights):
            yield from (n for n, _ in map(_place, edit.modules) if n is not None)


def _remove(drawn: list[Block], unit: int | tuple[int, Part], order: int, *, joined: bool) -> None:
    number, parts = (unit, PARTS) if isinstance(unit, int) else (unit[0], (unit[1],))
    for part in parts:
        half = drawn[number].half(part)
        if half.state != "gone":
            half.order = order if half.order is None else half.order
            half.state = "joined" if joined else "gone"


def _cut(drawn: list[Block], edit: SliceHidden) -> int | None:
    """Set the widths of all halves; returns the one width of a stream that is cut alike."""
    if edit.scope == "global":
        wide = edit.widths[0] if edit.widths else None
        for block in drawn:
            block.attn.width = block.mlp.width = wide
        return wide
    # Two for each block that was there when it was cut: of all blocks, or of those that were left.
    left = [b for b in drawn if b.attn.state == "kept" or b.mlp.state == "kept"]
    cut = drawn if len(edit.widths) >= 2 * len(drawn) else left
    for i, block in enumerate(cut):
        for half, at in ((block.attn, 2 * i), (block.mlp, 2 * i + 1)):
            half.width = edit.widths[at] if at < len(edit.widths) else None
    return edit.widths[0] if len(set(edit.widths)) == 1 else None


def _place(module: str) -> tuple[int | None, Part]:
    """Which half a module's name is in: ``model.layers.4.mlp.down_proj`` is (4, mlp)."""
    found = re.search(r"(?:^|\.)(\d{1,5})(?:\.|$)(.*)", module)
    if found is None:
        return None, "mlp"
    attention = "attn" in found[2] or "attention" in found[2]
    return int(found[1]), "attn" if attention else "mlp"

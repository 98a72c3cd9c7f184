"""``drop_blocks``: whole decoder blocks are removed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from msgspec.structs import replace

from ..plan import Edit, name


class DropBlocks(Edit, frozen=True, tag="drop_blocks"):
    """Whole decoder blocks are removed. *blocks* are in order of removal."""

    verb: ClassVar[str] = "drops"

    blocks: tuple[int, ...]

    def units(self) -> tuple[int, ...]:
        """The blocks."""
        return self.blocks

    def with_units(self, kept: Sequence[Any]) -> DropBlocks:
        """The removal of fewer blocks."""
        return replace(self, blocks=tuple(kept))

    def words(self) -> str:
        """Which blocks, in order."""
        listed = ", ".join(map(name, self.blocks))
        return f"{len(self.blocks)} decoder blocks dropped, in this order, counted from 0: {listed}"

"""What a method did to a model, as plain data.

Block numbers are always those of the dense model, so a plan reads the same whatever went before.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct

Sublayer = tuple[int, Literal["attn", "mlp"]]


class Edit(Struct, frozen=True, forbid_unknown_fields=True, tag_field="edit"):
    """One structural change."""


class DropBlocks(Edit, frozen=True, tag="drop_blocks"):
    """Whole decoder layers are gone. *blocks* are in order of removal."""

    blocks: tuple[int, ...]


class DropSublayers(Edit, frozen=True, tag="drop_sublayers"):
    """Attention or MLP halves of blocks are gone. *sublayers* are in order of removal."""

    sublayers: tuple[Sublayer, ...]


AnyEdit = DropBlocks | DropSublayers


class Step(Struct, frozen=True):
    """How one choice was made.

    *scores* are per candidate in the method's own unit, keyed ``"3"`` or ``"3.attn"``; None is a
    score that is not finite. *margin* is
    the distance to the runner-up and *noise* the reproducibility of such a score on this machine,
    both in that unit: the choice is determined only where the margin exceeds the noise.
    *block_forwards* counts one block on one window.
    """

    step: int
    scores: dict[str, float | None]
    chosen: str
    margin: float | None = None
    noise: float = 0.0
    block_forwards: int = 0

    @property
    def determined(self) -> bool:
        """Whether another machine must have chosen the same."""
        return self.margin is None or self.margin > self.noise


class Plan(Struct, frozen=True):
    """The edits of a model and the trace of how they were chosen."""

    edits: tuple[AnyEdit, ...] = ()
    trace: tuple[Step, ...] = ()

    def __iter__(self) -> Iterator[AnyEdit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    @property
    def size(self) -> int:
        """How many units the plan removes."""
        return sum(len(units(edit)) for edit in self.edits)

    def prefix(self, size: int) -> Plan:
        """The plan of a nested method for a smaller amount: its first *size* removals."""
        edits: list[AnyEdit] = []
        left = size
        for edit in self.edits:
            kept = units(edit)[:left]
            left -= len(kept)
            if kept:
                edits.append(with_units(edit, kept))
        return Plan(tuple(edits), self.trace[:size])


def units(edit: AnyEdit) -> tuple[int, ...] | tuple[Sublayer, ...]:
    """What an edit removes, in order of removal."""
    return edit.blocks if isinstance(edit, DropBlocks) else edit.sublayers


def with_units(edit: AnyEdit, kept: tuple[int, ...] | tuple[Sublayer, ...]) -> AnyEdit:
    """The same kind of edit with other units."""
    field = "blocks" if isinstance(edit, DropBlocks) else "sublayers"
    return type(edit)(**{field: kept})  # type: ignore[arg-type]


def describe(edits: tuple[AnyEdit, ...]) -> str:
    """A plan in a few words: ``drop_blocks 5 3``."""
    words = []
    for edit in edits:
        names = [str(u) if isinstance(u, int) else f"{u[0]}.{u[1]}" for u in units(edit)]
        words.append(f"{edit.__struct_config__.tag} {' '.join(names)}")
    return "; ".join(words) or "nothing removed"

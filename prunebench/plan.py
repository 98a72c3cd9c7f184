"""What a method did to a model, as plain data.

Block numbers are always those of the dense model, so a plan reads the same whatever went before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import replace

#: More blocks than any model has.
MAX_BLOCKS = 100_000

Part = Literal["attn", "mlp"]
Sublayer = tuple[int, Part]
Formula = Literal["as_released", "as_published"]
Variant = Literal["exact", "as_released"]


class Edit(Struct, frozen=True, forbid_unknown_fields=True, tag_field="edit"):
    """One structural change."""


class DropBlocks(Edit, frozen=True, tag="drop_blocks"):
    """Whole decoder layers are gone. *blocks* are in order of removal."""

    blocks: tuple[int, ...]


class DropSublayers(Edit, frozen=True, tag="drop_sublayers"):
    """Attention or MLP halves of blocks are gone. *sublayers* are in order of removal.

    The latencies (milliseconds a block) are kept where they were measured for this choice.
    """

    sublayers: tuple[Sublayer, ...]
    attn_latency: float | UnsetType = UNSET
    mlp_latency: float | UnsetType = UNSET


class MergeBlocks(Edit, frozen=True, tag="merge_blocks"):
    """Each range of blocks, first and last, became one block in the place of the first.

    *as_released*: the projections of the last block with everything else of the first;
    *as_published*: the first block's projections plus every other's difference to them.
    """

    ranges: tuple[tuple[int, int], ...]
    formula: Formula = "as_released"


class SliceHidden(Edit, frozen=True, tag="slice_hidden"):
    """The residual stream was rotated and cut.

    *widths* are those of the stream before each norm: two a block, attention first, with scope
    *block*; a single one for the whole model with scope *global*. *tensors* names the rotations.
    """

    widths: tuple[int, ...]
    variant: Variant = "exact"
    scope: Literal["block", "global"] = "block"
    tensors: str = ""


class RefitWeights(Edit, frozen=True, tag="refit_weights"):
    """Weights of *modules* (names in the dense model) were fitted anew; *tensors* names them."""

    modules: tuple[str, ...]
    tensors: str = ""


class LoadCheckpoint(Edit, frozen=True, tag="load_checkpoint"):
    """The model is one that somebody else pruned; *sha256* is of its files."""

    checkpoint: str
    sha256: str


AnyEdit = DropBlocks | DropSublayers | MergeBlocks | SliceHidden | RefitWeights | LoadCheckpoint


class Step(Struct, frozen=True):
    """How one choice was made.

    *scores* are per candidate in the method's own unit, keyed ``"3"`` or ``"3.attn"``; None is a
    score that is not finite. Where something else than the score alone decides, *ranking* has what
    did. *margin* is the distance to the *runner_up* and *noise* the reproducibility of what decides
    on this machine: the choice is determined only where the margin exceeds the noise.
    *first_stage* are the scores that named the candidates, for methods in two stages.
    *block_forwards* counts one block on one window.
    """

    step: int
    scores: dict[str, float | None]
    chosen: str
    margin: float | None = None
    noise: float = 0.0
    block_forwards: int = 0
    runner_up: str | None = None
    ranking: dict[str, float] | UnsetType = UNSET
    first_stage: dict[str, float | None] | UnsetType = UNSET

    @property
    def determined(self) -> bool:
        """Whether another machine must have chosen the same."""
        return self.margin is None or self.margin > self.noise

    def decided_by(self, candidate: str) -> float | None:
        """What *candidate* was judged by, if it was a candidate."""
        return (self.ranking or self.scores).get(candidate)


class Plan(Struct, frozen=True):
    """The edits of a model and the trace of how they were chosen.

    *tensors* holds the tensors that edits name by hash (``tensors.Tensors``), None where no edit
    does. *shorten* makes the plan of a smaller amount where it is more than a cut list.
    """

    edits: tuple[AnyEdit, ...] = ()
    trace: tuple[Step, ...] = ()
    tensors: Any = None
    shorten: Callable[[int], Plan] | None = None

    def __iter__(self) -> Iterator[AnyEdit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    @property
    def size(self) -> int:
        """How many units the plan removes."""
        return sum(len(units(edit)) for edit in self.edits)

    def prefix(self, size: int) -> Plan:
        """The plan of a nested method for a smaller amount: its first *size* removals.

        Raises:
            ValueError: if it does more than remove, and does not know how it came to be.
        """
        if size >= self.size:
            return self
        if self.shorten is not None:
            return self.shorten(size)
        if not all(isinstance(edit, DropBlocks | DropSublayers) for edit in self.edits):
            raise ValueError(f"only a list of removals can be cut short: {describe(self.edits)}")
        edits: list[AnyEdit] = []
        left = size
        for edit in self.edits:
            kept = units(edit)[:left]
            left -= len(kept)
            if kept:
                edits.append(with_units(edit, kept))
        return Plan(tuple(edits), self.trace[:size])


def implausible(edits: Iterable[AnyEdit]) -> str:
    """What no plan of any model can have, or an empty text: such numbers take all memory."""
    for edit in edits:
        numbers: Iterable[int] = ()
        if isinstance(edit, DropBlocks):
            numbers = edit.blocks
        elif isinstance(edit, DropSublayers):
            numbers = (block for block, _ in edit.sublayers)
        elif isinstance(edit, MergeBlocks):
            numbers = (block for ends in edit.ranges for block in ends)
        for number in numbers:
            if not 0 <= number < MAX_BLOCKS:
                return f"a plan has no block {number}"
        widths = edit.widths if isinstance(edit, SliceHidden) else ()
        if any(width < 1 for width in widths):
            return f"a plan has no width {min(widths)}"
    return ""


def units(edit: AnyEdit) -> tuple[int, ...] | tuple[Sublayer, ...]:
    """The blocks or sublayers that an edit removes, in order of removal."""
    if isinstance(edit, DropBlocks):
        return edit.blocks
    if isinstance(edit, DropSublayers):
        return edit.sublayers
    if isinstance(edit, MergeBlocks):
        return tuple(block for low, high in edit.ranges for block in range(low + 1, high + 1))
    return ()


def with_units(edit: AnyEdit, kept: tuple[int, ...] | tuple[Sublayer, ...]) -> AnyEdit:
    """The same kind of edit with other units."""
    field = "blocks" if isinstance(edit, DropBlocks) else "sublayers"
    return replace(edit, **{field: kept})


def name(unit: int | Sublayer) -> str:
    """A unit as traces and tables call it: ``3`` or ``3.attn``."""
    return str(unit) if isinstance(unit, int) else f"{unit[0]}.{unit[1]}"


def bare(edit: AnyEdit) -> AnyEdit:
    """The edit without what differs between machines though the same was decided.

    Latencies are measured, and the last bit of a tensor is the processor's; what the tensors do to
    a model, its scores show.
    """
    if isinstance(edit, DropSublayers):
        return replace(edit, attn_latency=UNSET, mlp_latency=UNSET)
    if isinstance(edit, SliceHidden | RefitWeights):
        return replace(edit, tensors="")
    if isinstance(edit, LoadCheckpoint):
        return replace(edit, checkpoint="")
    return edit


def describe(edits: tuple[AnyEdit, ...]) -> str:
    """A plan in a few words: ``drop_blocks 5 3``."""
    words = [f"{edit.__struct_config__.tag} {_detail(edit)}" for edit in edits]
    return "; ".join(words) or "nothing removed"


def _detail(edit: AnyEdit) -> str:
    if isinstance(edit, DropBlocks | DropSublayers):
        return " ".join(map(name, units(edit)))
    if isinstance(edit, MergeBlocks):
        return " ".join(f"{low}-{high}" for low, high in edit.ranges)
    if isinstance(edit, SliceHidden):
        widths = sorted(set(edit.widths))
        return f"to {', '.join(map(str, widths))}"
    if isinstance(edit, RefitWeights):
        return f"{len(edit.modules)} module{'s' * (len(edit.modules) != 1)}"
    return edit.checkpoint

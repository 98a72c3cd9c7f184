"""What a method did to a model, as plain data: a list of edits, and how they were chosen.

Block numbers are always those of the dense model, so a plan reads the same whatever was removed
before. The kinds of edits are files of ``edits/``, found by their tag (``discovery``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType
from msgspec.structs import force_setattr, replace

from . import discovery
from .errors import PrunebenchError, did_you_mean

#: More blocks than any model has.
MAX_BLOCKS = 100_000

Part = Literal["attn", "mlp"]
Sublayer = tuple[int, Part]
#: What a plan removes: a whole block, or half of one.
Unit = int | Sublayer


class Mark(NamedTuple):
    """What an edit did to a block or to half of one, as a block map draws it.

    *state*: ``gone`` is removed; ``joined`` is merged into the block *into*; ``cut`` is left with
    *width* columns; ``refit`` has new weights.
    """

    unit: Unit
    state: Literal["removed", "joined", "cut", "refit"]
    width: int | None = None
    into: int | None = None


class Edit(Struct, frozen=True, forbid_unknown_fields=True, tag_field="edit"):
    """One structural change to a model. Its fields are its data; its tag is its name.

    A file ``edits/<tag>.py`` of this package, an entry point in the group ``prunebench.edits`` or
    a class imported by a ``conftest.py`` makes it known. Such a file imports no torch at its top:
    plans are read, compared and drawn without it.

    An edit with tensors has a field ``tensors: str = ""``, the sha256 of a bundle that is saved
    with the plan (``models.tensors``).
    """

    #: What the edit does to a block, as errors say it: "the plan removes block 7 twice".
    verb: ClassVar[str] = "removes"
    #: The whole model is replaced by another one; what that one lacks is unknown.
    foreign: ClassVar[bool] = False

    # ------------------------------------------------------------- what it removes

    def units(self) -> Sequence[Unit]:
        """The blocks or sublayers that are removed, in order of removal."""
        return ()

    def touched(self) -> Iterable[Unit]:
        """The blocks or sublayers that the model must have and no other edit may touch."""
        return self.units()

    def last_block(self) -> int:
        """The highest block number that the edit names, -1 if it names none."""
        return max(map(block_of, self.touched()), default=-1)

    def with_units(self, kept: Sequence[Unit]) -> Edit:  # noqa: ARG002
        """The same edit for fewer *units*, for an edit that is a list of removals.

        Raises:
            ValueError: if it is not: a smaller amount is then no prefix of a larger one.
        """
        raise ValueError(f"only a list of removals can be cut short: {describe((self,))}")

    # ------------------------------------------------------------- its data

    @property
    def bundle(self) -> str | None:
        """The sha256 of the tensors that it names; None for an edit without tensors."""
        return getattr(self, "tensors", None)

    def problem(self) -> str:
        """What no plan of any model can have, such as huge numbers, or an empty text."""
        return no_block(map(block_of, self.units()))

    def bare(self) -> Edit:
        """The edit without what differs between machines although the same was decided.

        By default without the hash of its tensors, whose last bits depend on the processor; what
        they do to a model shows in its scores.
        """
        return self if self.bundle is None else replace(self, tensors="")

    # ------------------------------------------------------------- the model

    def check(self, lm: Any, tensors: Mapping[str, Any]) -> None:
        """Refuse a model that the edit does not fit; that *touched* exists is checked before.

        Args:
            lm: the dense ``CausalLM``; it is not changed.
            tensors: the bundle that the edit names, empty if it is not with the plan.

        Raises:
            PrunebenchError: saying what does not fit.
        """

    def apply(self, lm: Any, tensors: Mapping[str, Any]) -> None:
        """Change *lm* in place, in the block numbers of the dense model.

        Tensors are replaced, never written to: other models share them. What *units* lists is
        removed afterwards, once, for all edits of the plan.
        """

    def rebases(self) -> bool:
        """Whether every norm then reads a stream rotated otherwise, so that nothing can go."""
        return False

    # ------------------------------------------------------------- how it is shown

    def detail(self) -> str:
        """What follows the tag in a plan of a few words."""
        return " ".join(map(name, self.units()))

    def words(self) -> str:
        """What was done, for a reader of a model card; blocks count from 0."""
        return f"{discovery.tag(self)} {self.detail()}"

    def marks(self, blocks: int, left: Sequence[int]) -> Iterator[Mark]:  # noqa: ARG002
        """What a block map draws.

        Args:
            blocks: how many blocks the dense model has, as far as is known.
            left: those of which the edits before left at least a half.
        """
        return (Mark(unit, "removed") for unit in self.units())


if TYPE_CHECKING:
    AnyEdit = Edit
else:
    # Kinds of edits are found by tag, so the decoder cannot list them: *decode_edits* reads them.
    AnyEdit = Any


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

    edits: tuple[Edit, ...] = ()
    trace: tuple[Step, ...] = ()
    tensors: Any = None
    shorten: Callable[[int], Plan] | None = None

    def __iter__(self) -> Iterator[Edit]:
        return iter(self.edits)

    def __len__(self) -> int:
        return len(self.edits)

    @property
    def size(self) -> int:
        """How many units the plan removes."""
        return sum(len(edit.units()) for edit in self.edits)

    def prefix(self, size: int) -> Plan:
        """The plan of a nested method for a smaller amount: its first *size* removals.

        Raises:
            ValueError: if it does more than remove, and does not know how it came to be.
        """
        if size >= self.size:
            return self
        if self.shorten is not None:
            return self.shorten(size)
        edits: list[Edit] = []
        left = size
        for edit in self.edits:
            kept = edit.units()[:left]
            left -= len(kept)
            shorter = edit.with_units(kept)
            edits += [shorter] * bool(kept)
        return Plan(tuple(edits), self.trace[:size])


def block_of(unit: Unit) -> int:
    """The number of the block that a unit is or belongs to."""
    return unit if isinstance(unit, int) else unit[0]


def name(unit: Unit) -> str:
    """A unit as traces and tables call it: ``3`` or ``3.attn``."""
    return str(unit) if isinstance(unit, int) else f"{unit[0]}.{unit[1]}"


def no_block(numbers: Iterable[int]) -> str:
    """The first of *numbers* that no model has as a block, in words; or an empty text."""
    wrong = (number for number in numbers if not 0 <= number < MAX_BLOCKS)
    return next((f"a plan has no block {number}" for number in wrong), "")


def implausible(edits: Iterable[Edit]) -> str:
    """What no plan of any model can have, or an empty text: such numbers take all memory."""
    return next(filter(None, (edit.problem() for edit in edits)), "")


def describe(edits: Iterable[Edit]) -> str:
    """A plan in a few words: ``drop_blocks 5 3``."""
    return "; ".join(f"{discovery.tag(e)} {e.detail()}" for e in edits) or "nothing removed"


def edit_kinds() -> list[type[Edit]]:
    """The kinds of edits that come with the package, by tag."""
    return [discovery.find(Edit, "edits", tag) for tag in discovery.files("edits")]


def read_edits(items: Iterable[object], place: str = "") -> tuple[Edit, ...]:
    """Edits from JSON data; what is an edit already stays as it is.

    Args:
        items: mappings with the tag under ``edit``.
        place: where they were found, for the error: ``.plan``.

    Raises:
        ValueError: saying which item is wrong, and how.
    """
    edits = []
    for index, item in enumerate(items):
        try:
            edits.append(item if isinstance(item, Edit) else _read_edit(item))
        except (msgspec.ValidationError, PrunebenchError) as error:
            path = f"`${place}[{index}]"
            message = str(error)
            located = message.replace("`$", path) if "`$" in message else f"{message} - at {path}`"
            raise ValueError(located) from None
    return tuple(edits)


def decode_edits(owner: Struct, field: str) -> None:
    """Read the edits in a field of a decoded struct; for its ``__post_init__``.

    Raises:
        ValueError: as *read_edits* does.
    """
    if any(not isinstance(edit, Edit) for edit in getattr(owner, field)):
        force_setattr(owner, field, read_edits(getattr(owner, field), f".{field}"))


def _read_edit(item: object) -> Edit:
    tag = msgspec.convert(item, _Tag).edit
    known = discovery.names(Edit, "edits")
    if tag not in known:
        hint = did_you_mean(tag, known)
        raise PrunebenchError(f"Invalid value {tag!r} - at `$.edit`: {hint}")
    return msgspec.convert(item, discovery.find(Edit, "edits", tag))


class _Tag(Struct, frozen=True):
    edit: str

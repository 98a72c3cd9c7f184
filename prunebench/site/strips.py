"""Plans as strips: what became of the two halves of every block."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from ..plan import (
    AnyEdit,
    DropBlocks,
    DropSublayers,
    LoadCheckpoint,
    MergeBlocks,
    RefitWeights,
    SliceHidden,
    describe,
)

#: More blocks than this are not drawn.
MOST = 200
#: A half is so wide and high; a block begins every so many.
WIDE, HIGH, STEP = 15, 13, 18
PATHS = ("whole", "kept", "gone", "merged", "dots")


class Half(Struct, frozen=True):
    """The attention or MLP half of a block.

    *state* is kept, dropped, merged or sliced; *order* counts removals from 1; *height* is what is
    left of the stream, against the widest that is drawn; *refit* says that weights were fitted.
    """

    state: str = "kept"
    order: int = 0
    height: float = 1.0
    refit: bool = False


class Strip(Struct, frozen=True):
    """The blocks of a model after a plan, attention and MLP of each; *text* says it in words.

    The others are what is drawn, as paths: what is *whole*, or in part *kept*, what is *gone*, what
    others were *merged* into, and *dots* on what was fitted anew; *labels* are x, y and text.
    """

    blocks: tuple[tuple[Half, Half], ...]
    text: str
    drawn: bool
    whole: str = ""
    kept: str = ""
    gone: str = ""
    merged: str = ""
    dots: str = ""
    labels: tuple[tuple[float, float, str], ...] = ()

    @property
    def width(self) -> int:
        """In the units of its paths, which are CSS pixels."""
        return STEP * len(self.blocks)


def strip(plan: Sequence[AnyEdit], blocks: int, widest: int) -> Strip:
    """Draw *plan* on a model of so many *blocks*.

    Args:
        plan: the edits.
        blocks: how many the dense model has.
        widest: the widest stream of all plans that are drawn beside this one.
    """
    text = describe(tuple(plan))
    unknown = any(isinstance(edit, LoadCheckpoint) for edit in plan)
    if unknown or not 0 < blocks <= MOST:
        return Strip((), text, drawn=False)
    halves = [[Half(), Half()] for _ in range(blocks)]
    for edit in plan:
        _draw(edit, halves, widest)
    return _drawn(tuple((a, m) for a, m in halves), text)


def _drawn(blocks: tuple[tuple[Half, Half], ...], text: str) -> Strip:
    paths: dict[str, list[str]] = {name: [] for name in PATHS}
    labels = []
    for block, pair in enumerate(blocks):
        for part, half in enumerate(pair):
            x, y = block * STEP + 1.5, part * (HIGH + 1.5) + 0.5
            if half.state in ("dropped", "sliced"):
                paths["gone"].append(_box(x, y, HIGH))
            if half.state == "dropped" and half.order:
                labels.append((x + WIDE / 2, y + 9.8, str(half.order)))
            if half.state == "sliced":
                left = HIGH * half.height
                paths["kept"].append(_box(x, y + HIGH - left, left))
            if half.state == "kept":  # a line as thick as a half is high
                paths["whole"].append(f"M{x:g} {y + HIGH / 2:g}h{WIDE}")
            if half.state == "merged":
                paths["merged"].append(_box(x, y, HIGH))
            if half.refit:  # a line of no length with round ends
                paths["dots"].append(f"M{x + WIDE / 2:g} {y + HIGH / 2:g}h0")
    joined = {name: "".join(path) for name, path in paths.items()}
    return Strip(blocks, text, drawn=True, labels=tuple(labels), **joined)


def _box(x: float, y: float, height: float) -> str:
    return f"M{x:g} {y:.4g}h{WIDE}v{height:.4g}h-{WIDE}z"


def widest(plans: Sequence[Sequence[AnyEdit]]) -> int:
    """The widest stream that any of *plans* leaves; 0 if none says."""
    found = (w for plan in plans for e in plan if isinstance(e, SliceHidden) for w in e.widths)
    return max(found, default=0)


def _draw(edit: AnyEdit, halves: list[list[Half]], widest: int) -> None:
    if isinstance(edit, DropBlocks):
        for order, block in enumerate(edit.blocks, start=1):
            for part in (0, 1):
                _set(halves, block, part, state="dropped", order=order)
    elif isinstance(edit, DropSublayers):
        for order, (block, name) in enumerate(edit.sublayers, start=1):
            _set(halves, block, int(name == "mlp"), state="dropped", order=order)
    elif isinstance(edit, MergeBlocks):
        for order, (low, high) in enumerate(edit.ranges, start=1):
            for block in range(low, min(high, len(halves) - 1) + 1):
                for part in (0, 1):
                    state = "merged" if block == low else "dropped"
                    _set(halves, block, part, state=state, order=order)
    elif isinstance(edit, SliceHidden):
        for block in range(len(halves)):
            for part in (0, 1):
                at = 2 * block + part if edit.scope == "block" else 0
                width = edit.widths[at] if at < len(edit.widths) else edit.widths[-1]
                _set(halves, block, part, state="sliced", height=width / max(widest, 1))
    elif isinstance(edit, RefitWeights):
        for module in edit.modules:
            numbers = [int(word) for word in module.split(".") if word.isdecimal()]
            if numbers:
                _set(halves, numbers[0], int("attn" not in module), refit=True)


def _set(halves: list[list[Half]], block: int, part: int, **changes: object) -> None:
    if block < len(halves):
        halves[block][part] = replace(halves[block][part], **changes)

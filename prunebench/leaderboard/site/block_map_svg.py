"""Block maps as the SVG paths of small pictures: what is left of both halves of every block."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from ...plan import Edit, describe
from ...reports import block_map

#: More blocks than this are not drawn.
MOST = 200
#: A half is so wide and high; a block begins every so many.
WIDE, HIGH, STEP = 15, 13, 18
PATHS = ("whole", "kept", "removed", "merged", "dots")


class Drawing(Struct, frozen=True):
    """A model after a plan, attention above and MLP below; *text* says it in words.

    The others are SVG paths: halves that are *whole*, in part *kept*, or *removed*, blocks
    that others were *merged* into, and *dots* on refitted halves; *labels* are x, y and text.
    *width* is in the units of the paths, which are CSS pixels.
    """

    text: str
    drawn: bool
    width: int = 0
    whole: str = ""
    kept: str = ""
    removed: str = ""
    merged: str = ""
    dots: str = ""
    labels: tuple[tuple[float, float, str], ...] = ()


def draw(plan: Sequence[Edit], blocks: int, widest: int) -> Drawing:
    """Draw *plan* on a model of so many *blocks*.

    Args:
        plan: the edits.
        blocks: how many the dense model has.
        widest: the largest width of all plans that are drawn next to this one.
    """
    strip = block_map.strip(plan, blocks)
    text = describe(tuple(plan))
    if strip.foreign or not 0 < len(strip.blocks) <= MOST:
        return Drawing(text, drawn=False)
    paths: dict[str, list[str]] = {name: [] for name in PATHS}
    labels = []
    ends = block_map.merged(strip)
    for block in strip.blocks:
        for part, half in enumerate((block.attn, block.mlp)):
            x, y = block.number * STEP + 1.5, part * (HIGH + 1.5) + 0.5
            if half.state != "kept":
                paths["removed"].append(_box(x, y, HIGH))
                if half.order:
                    labels.append((x + WIDE / 2, y + 9.8, str(half.order)))
            elif block.number in ends:
                paths["merged"].append(_box(x, y, HIGH))
            elif half.width is not None:
                left = HIGH * half.width / max(widest, 1)
                paths["removed"].append(_box(x, y, HIGH))
                paths["kept"].append(_box(x, y + HIGH - left, left))
            else:  # a line as thick as a half is high
                paths["whole"].append(f"M{x:g} {y + HIGH / 2:g}h{WIDE}")
            if half.refit:  # a line of no length with round ends
                paths["dots"].append(f"M{x + WIDE / 2:g} {y + HIGH / 2:g}h0")
    joined = {name: "".join(path) for name, path in paths.items()}
    width = STEP * len(strip.blocks)
    return Drawing(text, drawn=True, width=width, labels=tuple(labels), **joined)


def widest(plans: Sequence[Sequence[Edit]]) -> int:
    """The largest width that any of *plans* cuts something to; 0 if none cuts."""
    blocks = (block for plan in plans for block in block_map.strip(plan, 1).blocks)
    return max((half.width or 0 for b in blocks for half in (b.attn, b.mlp)), default=0)


def _box(x: float, y: float, height: float) -> str:
    return f"M{x:g} {y:.4g}h{WIDE}v{height:.4g}h-{WIDE}z"

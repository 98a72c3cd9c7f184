"""Prints a block map: what is left of each block, wrapped at the terminal's width."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby

from rich.text import Text

from ..plan import Part
from ..system.console import Signs
from .block_map import PARTS, Block, Half, Strip, merged

#: Columns before the first block.
MARGIN = 7

STYLES = {"kept": "", "removed": "bold red", "joined": "magenta", "cut": "yellow", "refit": "cyan"}


def drawing(strip: Strip, width: int, signs: Signs) -> list[Text]:
    """Lines of at most *width* columns: block numbers, attention halves, MLP halves; the legend."""
    if not strip.blocks:
        return []
    count = len(strip.blocks)
    cell = 3 if MARGIN + 3 * count <= width else 2
    fitting = max(1, (width - MARGIN) // cell)
    # Rows of tens are easier to count than rows as wide as the window.
    band = fitting if fitting >= count or fitting < 10 else fitting // 10 * 10
    lines: list[Text] = []
    for start in range(0, count, band):
        blocks = strip.blocks[start : start + band]
        lines.append(_numbers(blocks, cell))
        lines += [_row(part, strip, blocks, cell, signs) for part in PARTS]
    return [*lines, *_legend(strip, width, signs)]


def state(half: Half) -> str:
    """The state to draw; the first that applies of gone, joined, refit, cut and kept."""
    if half.state != "kept":
        return half.state
    if half.refit:
        return "refit"
    return "cut" if half.width is not None else "kept"


def _numbers(blocks: Sequence[Block], cell: int) -> Text:
    every = 1 if cell > 2 else 5
    text = "block".ljust(MARGIN)
    for place, block in enumerate(blocks):
        room = MARGIN + place * cell
        if block.number % every == 0 and len(text.rstrip()) < room:
            text = text[:room].ljust(room) + str(block.number)
        text = text.ljust(room + cell)
    return Text(text.rstrip(), style="dim")


def _row(part: Part, strip: Strip, blocks: Sequence[Block], cell: int, signs: Signs) -> Text:
    row, ends = Text(part.ljust(MARGIN)), merged(strip)
    for block in blocks:
        kind = state(block.half(part))
        row.append(getattr(signs, kind), style=STYLES[kind])
        into = block.number if block.into is None else block.into
        inside = block.number < ends.get(into, -1)
        row.append((signs.line if inside else " ") * (cell - 1), style=STYLES["joined"])
    row.rstrip()
    if not strip.whole and blocks[-1] is strip.blocks[-1]:
        row.append(f" {signs.ellipsis}", style="dim")
    return row


def _legend(strip: Strip, width: int, signs: Signs) -> list[Text]:
    shown = {state(block.half(part)) for block in strip.blocks for part in PARTS}
    words = {
        "kept": "kept",
        "removed": "removed",
        "joined": "merged into a block before it",
        "cut": "cut",
        "refit": "refit",
    }
    if strip.width is not None:
        words["cut"] = f"cut to width {strip.width}"
    legend = Text(" " * MARGIN)
    lines = [legend]
    for kind, word in words.items():
        if kind not in shown:
            continue
        if len(lines[-1]) > MARGIN and len(lines[-1]) + len(word) + 4 > width:
            lines.append(Text(" " * MARGIN))
        lines[-1].append(getattr(signs, kind), style=STYLES[kind]).append(f" {word}  ", "dim")
    for line in lines:
        line.rstrip()
    if strip.width is None and "cut" in shown:
        lines += _widths(strip)
    if strip.width is not None and "cut" not in shown:
        lines.append(Text(f"{' ' * MARGIN}cut to width {strip.width}", style="dim"))
    if not strip.whole:
        unknown = "how many blocks there are is not known here"
        lines.append(Text(f"{' ' * MARGIN}{signs.ellipsis} {unknown}", style="dim"))
    return lines


def _widths(strip: Strip) -> Iterable[Text]:
    """Lines for widths that differ: one for each run of blocks with the same widths."""
    pairs = [(b.number, (b.attn.width, b.mlp.width)) for b in strip.blocks]
    for (attn, mlp), run in groupby(pairs, key=lambda pair: pair[1]):
        cut = [f"{part} to {w}" for part, w in (("attn", attn), ("mlp", mlp)) if w is not None]
        if not cut:
            continue
        numbers = [number for number, _ in run]
        ends = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]}-{numbers[-1]}"
        words = ", ".join(cut).replace(" to ", " cut to ", 1)
        yield Text(f"{' ' * MARGIN}blocks {ends}: {words}", style="dim")

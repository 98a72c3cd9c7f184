"""What a plan leaves of each block, against drawings made by hand."""

from __future__ import annotations

import pytest

from prunebench import DropBlocks, DropSublayers, MergeBlocks, RefitWeights, SliceHidden
from prunebench.edits.load_checkpoint import LoadCheckpoint
from prunebench.plan import Edit
from prunebench.reports.block_map import Half, merged, strip
from prunebench.reports.block_map_text import drawing
from prunebench.system import console


def drawn(edits: tuple[Edit, ...], blocks: int | None, width: int = 80) -> list[str]:
    """The rows as plain text, with the signs that every terminal has."""
    return [line.plain for line in drawing(strip(edits, blocks), width, console.ASCII)]


@pytest.mark.parametrize(
    ("edits", "attn", "mlp"),
    [
        ((DropBlocks((4, 1)),), "#.##.#", "#.##.#"),
        ((DropSublayers(((2, "mlp"), (0, "attn"))),), ".#####", "##.###"),
        ((MergeBlocks(((1, 3), (4, 5))),), "##<<#<", "##<<#<"),
        ((SliceHidden((8,) * 12),), "======", "======"),
        ((SliceHidden((8,), scope="global"),), "======", "======"),
        ((RefitWeights(("model.layers.3.mlp.down_proj",)),), "######", "###*##"),
        ((RefitWeights(("model.decoder.layers.0.self_attn.out_proj",)),), "*#####", "######"),
        # SPRINT: halves go, and what follows them is refitted.
        (
            (
                DropSublayers(((1, "attn"), (2, "mlp"))),
                RefitWeights(("model.layers.1.mlp.down_proj", "model.layers.3.mlp.down_proj")),
            ),
            "#.####",
            "#*.*##",
        ),
        # Cut after two blocks were gone: widths of the four that are left, gone stay gone.
        ((DropBlocks((0, 5)), SliceHidden((8,) * 8)), ".====.", ".====."),
        # A merged block that is dropped later is gone; what it had taken in was in it.
        ((MergeBlocks(((1, 2),)), DropBlocks((1,))), "#.<###", "#.<###"),
        # One half first, the whole block later.
        ((DropSublayers(((3, "mlp"),)), DropBlocks((3,))), "###.##", "###.##"),
    ],
)
def test_strips_are_as_drawn_by_hand(edits: tuple[Edit, ...], attn: str, mlp: str) -> None:
    """Each of the edits alone, and those that come together."""
    _, first, second, *_ = drawn(edits, 6)

    assert first.removeprefix("attn").replace(" ", "").replace("-", "") == attn
    assert second.removeprefix("mlp").replace(" ", "").replace("-", "") == mlp


def test_a_whole_drawing() -> None:
    """Numbers above, a line from a block to what it took in, the legend below."""
    assert drawn((MergeBlocks(((1, 2),)), DropBlocks((4,))), 6) == [
        "block  0  1  2  3  4  5",
        "attn   #  #--<  #  .  #",
        "mlp    #  #--<  #  .  #",
        "       # kept  . removed  < merged into a block before it",
    ]


def test_the_order_of_removal_counts_over_all_edits() -> None:
    """As the plan has it; the halves of a whole block are one removal."""
    edits = (DropBlocks((5, 3)), DropSublayers(((2, "mlp"),)), MergeBlocks(((0, 1),)))

    assert strip(edits, 6).removed == ("5", "3", "2.mlp", "1")
    again = strip((DropSublayers(((3, "mlp"),)), DropBlocks((3,))), 6)
    assert again.removed == ("3.mlp", "3.attn")


def test_widths_are_told_where_they_differ() -> None:
    """Two a block, attention first; runs of the same are one line."""
    found = strip((SliceHidden((8, 6, 8, 6, 7, 7)),), 3)

    assert [(b.attn.width, b.mlp.width) for b in found.blocks] == [(8, 6), (8, 6), (7, 7)]
    assert found.width is None
    assert drawn((SliceHidden((8, 6, 8, 6, 7, 7)),), 3)[-2:] == [
        "       blocks 0-1: attn cut to 8, mlp to 6",
        "       blocks 2: attn cut to 7, mlp to 7",
    ]
    assert strip((SliceHidden((8,) * 6),), 3).width == 8


def test_a_merged_block_knows_its_end() -> None:
    """And what it took in knows where it went."""
    found = strip((MergeBlocks(((6, 9), (2, 3))),), 12)

    assert merged(found) == {6: 9, 2: 3}
    assert [b.into for b in found.blocks if b.into is not None] == [2, 6, 6, 6]


def test_a_model_of_unknown_depth_ends_with_what_is_known() -> None:
    """And says so; a checkpoint of somebody else's says nothing of blocks."""
    rows = drawn((DropBlocks((3,)),), None)

    assert rows[1] == "attn   #  #  #  . ..."
    assert "not known" in rows[-1]
    foreign = strip((LoadCheckpoint("x", "y"),), 4)
    assert (foreign.foreign, len(foreign.blocks)) == (True, 4)
    assert drawn((), None) == []


@pytest.mark.parametrize("width", [40, 80, 160])
def test_eighty_blocks_wrap(width: int) -> None:
    """Llama-2-70B: no line is too long, and no block is lost or drawn twice."""
    gone = (7, 40, 79)
    rows = drawn((DropBlocks(gone),), 80, width)
    halves = [r.removeprefix("attn").replace(" ", "") for r in rows if r.startswith("attn")]

    assert max(map(len, rows)) <= width
    assert "".join(halves) == "".join("." if i in gone else "#" for i in range(80))
    numbers = " ".join(r.removeprefix("block") for r in rows if r.startswith("block")).split()
    assert numbers == [str(i) for i in range(0, 80, 5)]


def test_numbers_of_three_digits_do_not_run_together() -> None:
    """A model of 130 blocks."""
    rows = drawn((DropBlocks((129,)),), 130, 160)
    numbers = " ".join(r.removeprefix("block") for r in rows if r.startswith("block")).split()

    assert numbers == [str(i) for i in range(0, 130, 5)]


def test_what_is_not_a_module_of_a_block_is_left_alone() -> None:
    """The final norm has no place in a strip."""
    found = strip((RefitWeights(("lm_head", "model.norm")),), 2)

    assert all(block.half(part) == Half() for block in found.blocks for part in ("attn", "mlp"))

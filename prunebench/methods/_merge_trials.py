"""Trial merges of Sliding Layer Merging: the similarity of a model with one window merged."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..edits.merge_blocks import Formula, merged
from ..errors import SearchError
from ..models.causal_lm import CausalLM
from ..models.stream import Stream
from ..progress import say
from ..resume import part

#: The first and the last block.
Window = tuple[int, int]


class Trial(NamedTuple):
    """A window, first and last block, and the similarity of the model with it merged."""

    window: Window
    similarity: float
    block_forwards: int


class Trials:
    """Trial merges of one model on its calibration windows; none is made twice.

    Args:
        lm: the dense model; it is not changed.
        windows: token ids, (windows, length).
        formula: how a window is merged.
        batch_size: windows per forward.
    """

    def __init__(
        self, lm: CausalLM, windows: Tensor, formula: Formula, batch_size: int | None = None
    ) -> None:
        self.lm = lm
        self.formula: Formula = formula
        self.stream = Stream(lm, windows, batch_size)
        self._tried: dict[tuple[tuple[Window, ...], Window], Trial] = {}
        with torch.no_grad():
            batches = self.stream.batches
            #: The state that enters each block of the dense model, per batch. A window is always
            #: below those merged before it, so it is the same in the merged model.
            self._entering = [[batch.entering] for batch in batches]
            self._reference = []
            for batch, states in zip(batches, self._entering, strict=True):
                hidden = batch.entering
                for block in range(len(lm.blocks)):
                    hidden = self.stream.run(batch, hidden, [block])
                    # All of them may not fit on a GPU; main memory is larger.
                    states.append(hidden.cpu())
                self._reference.append(batch.final(lm, hidden).double().flatten(1))

    def merged(self, merges: tuple[Window, ...], window: Window) -> Trial:
        """Merge *window* in the model in which *merges* above it are merged, and measure it.

        Raises:
            SearchError: if the similarity is not finite.
        """
        if (merges, window) not in self._tried:
            say(f"trial {len(self._tried) + 1}, blocks {window[0]} to {window[1]}")
            after = " ".join(f"{low}-{high}" for low, high in merges)
            similarity, spent = part(
                f"trial {window[0]}-{window[1]} after {after}",
                lambda: self._measured(merges, window),
            )
            self._tried[merges, window] = Trial(window, similarity, spent)
        return self._tried[merges, window]

    def _measured(self, merges: tuple[Window, ...], window: Window) -> tuple[float, int]:
        """The similarity of a trial, and the block-forwards spent on it."""
        before = self.stream.forwards
        similarity = self._similarity(merges, window)
        return similarity, self.stream.forwards - before

    def _similarity(self, merges: tuple[Window, ...], window: Window) -> float:
        """Mean cosine to the dense model's final state; float64 sums of the model's own states.

        Raises:
            SearchError: if it is not finite.
        """
        low, high = window
        upper = [*self._upper(merges, high)]
        found = []
        with torch.no_grad():
            first = self._block((low, high))
            for batch, states, wanted in zip(
                self.stream.batches, self._entering, self._reference, strict=True
            ):
                hidden = batch.call(first, low, states[low].to(self.lm.device))
                for block, place in upper:
                    hidden = batch.call(block, place, hidden)
                self.stream.halves += 2 * (1 + len(upper)) * len(hidden)
                state = batch.final(self.lm, hidden).double().flatten(1)
                found.append(torch.cosine_similarity(state, wanted, dim=1))
        similarity = float(torch.cat(found).mean())
        if not math.isfinite(similarity):
            raise SearchError(
                f"the similarity with blocks {low} to {high} merged is not finite; "
                f"is the model sound in this dtype?"
            )
        return similarity

    def _upper(self, merges: tuple[Window, ...], high: int) -> Iterator[tuple[nn.Module, int]]:
        """The blocks above a window, and their places in the dense model."""
        at = high + 1
        ends = dict(merges)
        while at < len(self.lm.blocks):
            end = ends.get(at, at)
            yield self._block((at, end)), at
            at = end + 1

    def _block(self, window: Window) -> nn.Module:
        low, high = window
        blocks = list(self.lm.blocks[low : high + 1])
        return blocks[0] if low == high else merged(blocks, self.formula)

    def noise(self) -> float:
        """How far a similarity moves when only the batching changes; at least a rounding."""
        return float(part("noise", self._noise))

    def _noise(self) -> float:
        last = len(self.lm.blocks) - 2
        if last < 1:
            return 2.0**-23
        other = Trials(self.lm, self.stream.windows.flip(0), self.formula, batch_size=1)
        moved = other._similarity((), (last - 1, last)) - self._similarity((), (last - 1, last))
        return max(2.0**-23, abs(moved))

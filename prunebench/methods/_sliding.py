"""The sliding window: trial merges, their similarity, and the thresholds that make a difference."""

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
from ..plan import Step
from ..progress import say
from ..resume import part

Window = tuple[int, int]


class Trial(NamedTuple):
    """A window, first and last block, and the similarity of the model with it merged."""

    window: Window
    similarity: float
    block_forwards: int


class Run(NamedTuple):
    """The outcome of one threshold: merged windows, every trial, the final similarity."""

    threshold: float
    windows: tuple[Window, ...]
    trials: tuple[Trial, ...]
    similarity: float

    @property
    def removed(self) -> int:
        """How many blocks are removed."""
        return sum(high - low for low, high in self.windows)

    @property
    def interval(self) -> tuple[float, float]:
        """The thresholds with the same outcome: at least the first, below the second."""
        passes = [t.similarity for t in self.trials if t.similarity > self.threshold]
        fails = [t.similarity for t in self.trials if not t.similarity > self.threshold]
        return max(fails, default=-1.0), min(passes, default=1.0)


class Sliding:
    """The sliding window over one model and its calibration windows; no merge is tried twice.

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

    def run(self, threshold: float) -> Run:
        """Slide the window from top to bottom."""
        merges: tuple[Window, ...] = ()
        trials: list[Trial] = []
        similarity = 1.0
        high, low = len(self.lm.blocks) - 2, len(self.lm.blocks) - 3
        passed = 1.0
        while low >= 0:
            trial = self._try(merges, (low, high))
            trials.append(trial)
            if trial.similarity > threshold:
                passed = trial.similarity
                low -= 1
            elif low + 1 < high:
                merges, similarity = (*merges, (low + 1, high)), passed
                high = low
            else:
                high, low = high - 1, low - 1
        return Run(threshold, merges, tuple(trials), similarity)

    def runs(self) -> Iterator[Run]:
        """Every different outcome, from the highest threshold down."""
        threshold = math.inf
        while threshold > -1:
            run = self.run(threshold)
            low, high = run.interval
            yield run._replace(threshold=(low + high) / 2)
            threshold = math.nextafter(low, -math.inf)

    def run_removing(self, wanted: int) -> Run:
        """The outcome that removes *wanted* blocks at the highest final similarity.

        Raises:
            SearchError: if none does.
        """
        reached: dict[int, Run] = {}
        for run in self.runs():
            best = reached.get(run.removed)
            if best is None or run.similarity > best.similarity:
                reached[run.removed] = run
        if wanted not in reached:
            below = max((n for n in reached if n < wanted), default=None)
            above = min((n for n in reached if n > wanted), default=None)
            near = " and ".join(str(n) for n in (below, above) if n is not None)
            raise SearchError(
                f"no threshold removes exactly {wanted} blocks of this model; the nearest counts "
                f"that one removes are {near}"
            )
        return reached[wanted]

    def trace(self, run: Run) -> Iterator[Step]:
        """Every trial as a choice between its window and the threshold."""
        noise = float(part("noise", self._noise))
        for number, trial in enumerate(run.trials):
            window = f"{trial.window[0]}-{trial.window[1]}"
            passes = trial.similarity > run.threshold
            yield Step(
                step=number,
                scores={window: trial.similarity, "threshold": run.threshold},
                chosen=window if passes else "threshold",
                margin=abs(trial.similarity - run.threshold),
                noise=noise,
                block_forwards=trial.block_forwards,
                runner_up="threshold" if passes else window,
            )

    def _try(self, merges: tuple[Window, ...], window: Window) -> Trial:
        if (merges, window) not in self._tried:
            say(f"trial {len(self._tried) + 1}, blocks {window[0]} to {window[1]}")

            def make() -> tuple[float, int]:
                before = self.stream.forwards
                similarity = self._similarity(merges, window)
                return similarity, self.stream.forwards - before

            after = " ".join(f"{low}-{high}" for low, high in merges)
            similarity, spent = part(f"trial {window[0]}-{window[1]} after {after}", make)
            self._tried[merges, window] = Trial(window, similarity, spent)
        return self._tried[merges, window]

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

    def _noise(self) -> float:
        """How far a similarity moves when only the batching changes; at least a rounding."""
        last = len(self.lm.blocks) - 2
        if last < 1:
            return 2.0**-23
        other = Sliding(self.lm, self.stream.windows.flip(0), self.formula, batch_size=1)
        moved = other._similarity((), (last - 1, last)) - self._similarity((), (last - 1, last))
        return max(2.0**-23, abs(moved))

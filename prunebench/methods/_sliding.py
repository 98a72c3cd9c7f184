"""The sliding window of Sliding Layer Merging, and the thresholds that make a difference."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

from ..errors import SearchError
from ..plan import Step
from ._merge_trials import Trial, Trials, Window


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
    """The sliding window over one model.

    Args:
        trials: merges windows of the model and measures the similarity.
        depth: the number of its blocks.
    """

    def __init__(self, trials: Trials, depth: int) -> None:
        self.trials = trials
        self.depth = depth

    def run(self, threshold: float) -> Run:
        """Slide the window from top to bottom."""
        merges: tuple[Window, ...] = ()
        trials: list[Trial] = []
        similarity = 1.0
        high, low = self.depth - 2, self.depth - 3
        passed = 1.0
        while low >= 0:
            trial = self.trials.merged(merges, (low, high))
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
        noise = self.trials.noise()
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

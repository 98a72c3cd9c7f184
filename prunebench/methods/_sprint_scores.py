"""SPRINT's scores: without a fit, with a fit, and which of them still hold after a removal."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from msgspec import UNSET
from torch import Tensor

from ..errors import SearchError
from ..models.causal_lm import CausalLM
from ..models.modeling import replace
from ..plan import Step, name
from ..progress import say
from ..search import NO_SCORE, finite, lowest
from ._least_squares import fitted
from ._sublayers import Sublayers, Walk, sublayer


class Settings(NamedTuple):
    """How candidates are scored and fitted; ``Sprint`` explains each."""

    candidates: int
    refit: bool
    refit_dtype: Literal["float64", "float32"]
    latency_aware: bool
    norm: Literal["l1", "l2"]
    reference: Literal["as_released", "current"]
    damping: float
    ratio: float
    checkpoints: int


class Fit(NamedTuple):
    """A candidate's fitted weight, of the MLP numbered *at*, and the score it gives."""

    at: int
    weight: Tensor
    score: float


class Removal(NamedTuple):
    """A removed sublayer, and the weight that was written into *module* for it, if any."""

    sublayer: int
    module: str
    weight: Tensor | None


class Search(Sublayers):
    """A shrinking model with every score that still holds.

    Args:
        settings: how candidates are scored and fitted.
        lm: the dense model; it is not changed.
        windows: token ids, (windows, length).
        costs: milliseconds of an attention and of an MLP.
        batch_size: windows per forward.
    """

    def __init__(
        self,
        settings: Settings,
        lm: CausalLM,
        windows: Tensor,
        costs: tuple[float, float],
        batch_size: int | None = None,
    ) -> None:
        super().__init__(lm, windows, settings.checkpoints, batch_size)
        self.settings = settings
        self.costs = costs
        self.ends = [0] * self.count
        self.pseudo = [math.inf] * self.count
        #: Whether a sublayer's score is what a new computation would give.
        self.holds = [False] * self.count
        self.fits: dict[int, Fit] = {}
        self.removed: list[Removal] = []
        #: How each removal was chosen, and the noise of a score, relative to it.
        self.trace: list[Step] = []
        self.noise = 0.0
        self._round_began = 0
        names = [f"{lm.family.blocks}.{b}.{lm.family.mlp_out}" for b in range(len(lm.blocks))]
        self.position = {module: 2 * b + 1 for b, module in enumerate(names)}
        self.modules = {at: module for module, at in self.position.items()}

    # ------------------------------------------------------------------ scores

    def first_stage(self) -> None:
        """Score the sublayers from the restart point on, without any fit.

        Where nothing changed up to its end a sublayer would get the same score again. As released,
        one below the restart point keeps its score even where something did.
        """
        self._round_began = self.stream.forwards
        later = range(self.start, self.count)
        wanted = [s for s in later if self.alive[s] and not self.holds[s]]
        for s in wanted:
            self.ends[s] = self.end_of(s)
            self.pseudo[s] = 0.0
            self.holds[s] = True
        for s, y, y_hat in self.outputs(wanted, {}):
            self.pseudo[s] += self.distance(y, y_hat)

    def second_stage(self) -> None:
        """Fit the candidates that have no fit yet, and score them with it."""
        say(f"removal {len(self.removed) + 1}, fitting candidates")
        ranked = sorted((self.rank(s, self.pseudo[s]), s) for s in self.removable())
        names = [s for rank, s in ranked if math.isfinite(rank)][: self.settings.candidates]
        wanted = sorted(s for s in names if s not in self.fits and self.tunable(s))
        if wanted:
            self.fits |= self.fit(wanted)

    def fit(self, wanted: list[int]) -> dict[int, Fit]:
        """Fits of the sublayers *wanted*, each scored."""
        weights = self._solve(wanted)
        scores = dict.fromkeys(wanted, 0.0)
        for s, y, y_hat in self.outputs(wanted, weights):
            scores[s] += self.distance(y, y_hat)
        return {s: Fit(self.ends[s], weights[s], scores[s]) for s in wanted}

    def tunable(self, s: int) -> bool:
        """Whether an MLP after *s* can make up for it."""
        end = self.ends[s]
        return end > s and end % 2 == 1 and self.alive[end]

    def scores(self) -> dict[int, float]:
        """What decides, before latencies: of fits where there are any, else without."""
        if self.settings.refit:
            return {s: fit.score for s, fit in sorted(self.fits.items())}
        return {s: self.pseudo[s] for s in self.removable()}

    def remove_lowest(self) -> None:
        """Remove the sublayer of the lowest score per millisecond, and add the step to the trace.

        Raises:
            SearchError: if none has a finite score.
        """
        spent = self.stream.forwards - self._round_began
        if not self.trace:
            self.noise = relative_noise(self)
        self.trace.append(self.remove(self.noise, spent))

    def remove(self, noise: float, spent: int) -> Step:
        """Remove the sublayer of the lowest score per millisecond, and write its fit in place.

        Args:
            noise: of a score, relative.
            spent: block-forwards of this round.

        Raises:
            SearchError: if none has a finite score.
        """
        scores = self.scores()
        ranks = {s: self.rank(s, score) for s, score in scores.items()}
        if not ranks and not any(math.isfinite(self.pseudo[s]) for s in self.removable()):
            raise SearchError(NO_SCORE)
        if not ranks:
            raise SearchError(
                f"after {len(self.removed)} removals no sublayer is left that may go: "
                f"the last MLP stays, for nothing after it could make up for it"
            )
        chosen, margin, second = lowest(ranks)
        step = Step(
            step=len(self.removed),
            scores={self._name(s): finite(score) for s, score in scores.items()},
            chosen=self._name(chosen),
            margin=margin,
            noise=noise * ranks[chosen],
            block_forwards=spent,
            runner_up=None if second is None else self._name(second),
            ranking={self._name(s): r for s, r in ranks.items() if math.isfinite(r)}
            if self.settings.latency_aware
            else UNSET,
            first_stage={self._name(s): finite(self.pseudo[s]) for s in self.removable()}
            if self.settings.refit
            else UNSET,
        )
        self._take_out(chosen)
        return step

    @property
    def speedup(self) -> float:
        """The paper's estimate, all latencies over the surviving ones; all else counts nothing."""
        total = sum(self.costs) * self.count / 2
        left = sum(self.costs[s % 2] for s in self.removable())
        return total / left if left else math.inf

    # ---------------------------------------------------------------- removing

    def _take_out(self, chosen: int) -> None:
        fit = self.fits.pop(chosen, None)
        for s in self.removable():
            self.holds[s] &= self.end_of(s) < chosen
        self.lose(chosen)
        self.pseudo[chosen] = math.inf
        module = self.modules[fit.at] if fit else ""
        if fit:
            replace(self.lm.hf.get_submodule(module), "weight", fit.weight)
        self.removed.append(Removal(chosen, module, fit.weight if fit else None))
        self.fits = {s: f for s, f in self.fits.items() if f.at < chosen}
        # As released, also where the end that a removed sublayer last had is out of date.
        unchanged = max((s for s, end in enumerate(self.ends) if end < chosen), default=0)
        self.start = max(p for p in self.places if p <= unchanged)

    def rank(self, s: int, score: float) -> float:
        """The value that decides: the score, per millisecond if latencies count."""
        return score / self.costs[s % 2] if self.settings.latency_aware else score

    def _name(self, s: int) -> str:
        return name(sublayer(s))

    # ---------------------------------------------------------------- forwards

    def outputs(
        self, wanted: list[int], weights: dict[int, Tensor]
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """For each batch and sublayer: the output to preserve, and the output without the sublayer.

        Args:
            wanted: sublayers, ascending.
            weights: fitted weights that the MLP at a sublayer's end uses in the output without it.
        """
        for batch, saved in zip(self.stream.batches, self.saved, strict=True):
            walk = Walk(self, batch, saved, wanted)
            for s in wanted:
                with torch.no_grad():
                    y = self._reference(walk, s)
                    entering, end = self._shortened(walk, s), self.ends[s]
                    if end > s and self.alive[end]:
                        with self._swapped(end, weights.get(s)):
                            y_hat = self.half(batch, end, entering)
                    else:
                        y_hat = entering
                yield s, y, y_hat
                walk.forget(s)

    def _reference(self, walk: Walk, s: int) -> Tensor:
        """The output at the end of *s* with it; as released, removed sublayers run again there.

        Where none was removed, that is the running stream, and costs nothing more; else it is that
        up to the first removed one, and the same for all sublayers before it.
        """
        end = self.ends[s]
        first = next((k for k in range(s, end + 1) if not self.alive[k]), None)
        if first is None or self.settings.reference == "current":
            return walk.at(end + 1)
        if (first, end) not in walk.again:
            hidden = walk.at(first)
            for k in range(first, end + 1):
                hidden = self.half(walk.batch, k, hidden)
            walk.again = {(first, end): hidden}
        return walk.again[first, end]

    def _shortened(self, walk: Walk, s: int) -> Tensor:
        """What enters the end of *s* without it."""
        hidden = walk.at(s)
        for k in range(s + 1, self.ends[s]):
            if self.alive[k]:
                hidden = self.half(walk.batch, k, hidden)
        return hidden

    def distance(self, y: Tensor, y_hat: Tensor) -> float:
        """Summed over windows: the distance of the outputs relative to the size of the first."""
        far, size = (y.float() - y_hat.float()), y.float()
        if self.settings.norm == "l1":
            far, size = far.abs(), size.abs()
        else:
            far, size = far.square(), size.square()
        ratio = far.sum((1, 2), dtype=torch.float64) / size.sum((1, 2), dtype=torch.float64)
        return float((ratio if self.settings.norm == "l1" else ratio.sqrt()).sum())

    # -------------------------------------------------------------------- fits

    def _solve(self, wanted: list[int]) -> dict[int, Tensor]:
        """For each sublayer the weight of its end that best restores the output with it."""
        dtype = getattr(torch, self.settings.refit_dtype)
        grams: dict[int, Tensor | float] = dict.fromkeys(wanted, 0.0)
        targets: dict[int, Tensor | float] = dict.fromkeys(wanted, 0.0)
        for batch, saved in zip(self.stream.batches, self.saved, strict=True):
            walk = Walk(self, batch, saved, wanted)
            for s in wanted:
                linear = self._linear(self.ends[s])
                with torch.no_grad():
                    y = self._reference(walk, s)
                    entering = self._shortened(walk, s)
                    with _inputs_of(linear) as seen:
                        self.half(batch, self.ends[s], entering)
                    x = seen[0].reshape(-1, seen[0].shape[-1]).to(dtype)
                    missing = y.to(dtype) - entering.to(dtype)
                    if linear.bias is not None:
                        missing -= linear.bias.to(dtype)
                    grams[s] = grams[s] + x.T @ x
                    targets[s] = targets[s] + x.T @ missing.flatten(0, -2)
                walk.forget(s)
        damping, ratio = self.settings.damping, self.settings.ratio
        weights = {s: self._linear(self.ends[s]).weight for s in wanted}
        return {s: fitted(grams[s], targets[s], weights[s], damping, ratio) for s in wanted}  # type: ignore[arg-type]

    def _linear(self, s: int) -> Any:
        return self.lm.hf.get_submodule(self.modules[s])

    @contextmanager
    def _swapped(self, s: int, weight: Tensor | None) -> Iterator[None]:
        if weight is None:
            yield
            return
        linear = self._linear(s)
        before = linear.weight
        try:
            replace(linear, "weight", weight)
            yield
        finally:
            linear.weight = before


def relative_noise(search: Search) -> float:
    """How far the best first score moves when only the batching changes, relative to it."""
    scores = search.scores()
    finite_scores = {s: score for s, score in scores.items() if math.isfinite(score)}
    rounding = torch.finfo(torch.float32).eps
    if not finite_scores:
        return rounding
    best = min(finite_scores, key=lambda s: search.rank(s, finite_scores[s]))
    windows = search.stream.windows.flip(0)
    again = Search(search.settings, search.lm, windows, search.costs, batch_size=1)
    again.ends[best] = again.end_of(best)
    if search.settings.refit:
        other = again.fit([best])[best].score
    else:
        other = sum(again.distance(y, y_hat) for _, y, y_hat in again.outputs([best], {}))
    return max(rounding, abs(other - scores[best]) / max(scores[best], 1e-300))


@contextmanager
def _inputs_of(linear: Any) -> Iterator[list[Tensor]]:
    seen: list[Tensor] = []
    hook = linear.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        yield seen
    finally:
        hook.remove()

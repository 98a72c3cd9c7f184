"""Shortened LLaMA (Kim et al., 2024, arXiv:2402.02834): rank all blocks once, drop the lowest.

Criteria: *taylor*, the sum over a block's weights of |weight x gradient| of the calibration loss;
*ppl*, the calibration perplexity without the block; *magnitude*, the sum of |weight|. The paper's
"+" keeps the first four and the last two blocks, for every criterion. Weights are those whose name
contains "weight" (norm scales too, biases not). Asking for more blocks than "+" leaves is refused;
the released code then silently cuts off the last blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from ..api import Method, Target
from ..plan import Plan
from ..search import noise_of, one_shot, removable, scored_twice

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class ShortenedLlama(Method, frozen=True, tag="shortened_llama"):
    """One-shot ranking; *norm* is the power of |weight| or |weight x gradient|."""

    nested: ClassVar[bool] = True

    criterion: Literal["taylor", "ppl", "magnitude"] = "taylor"
    keep_first: Annotated[int, Meta(ge=0)] = 4
    keep_last: Annotated[int, Meta(ge=0)] = 2
    norm: Literal[1, 2] = 1

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Score every block of the dense model, then remove the lowest that may be removed."""
        count = target.block_count(lm)
        candidates = removable(len(lm.blocks), count, self.keep_first, self.keep_last)
        if not count:
            return Plan()
        if self.criterion != "ppl" and any(p.is_meta for p in lm.hf.parameters()):
            lm.require_one_device(f"the criterion {self.criterion}")
        scores, noise, forwards = self.scores(lm, calibration)
        return one_shot(scores, candidates, count, noise, forwards)

    def scores(self, lm: CausalLM, calibration: Calibration) -> tuple[dict[int, float], float, int]:
        """Importance of every block, the noise of such a score, and the block-forwards spent."""
        if self.criterion == "ppl":
            from ..models.causal_lm import perplexity_of
            from ..models.stream import Stream, Thinning

            stream = Stream(lm, calibration.windows())
            losses = Thinning(stream, budget=0).losses(range(len(lm.blocks)), keep=True)
            scores = {block: perplexity_of(loss) for block, loss in losses.items()}
            return scores, noise_of(stream) * perplexity_of(stream.dense_nll), stream.forwards
        if self.criterion == "magnitude":
            scores = {i: self._sum(weights) for i, weights in enumerate(_weights(lm))}
            return scores, _rounding(scores), 0
        # The sums behind a score are as large as the model, so only whole rounds are saved.
        windows = calibration.windows()
        scores, moved = scored_twice(partial(self._taylor, lm), windows)
        return scores, max(moved, _rounding(scores)), 2 * len(lm.blocks) * len(windows)

    def _taylor(self, lm: CausalLM, windows: Tensor, batch_size: int | None) -> list[float]:
        with _gradients(lm, windows, batch_size) as groups:
            return [
                self._sum([w * w.grad for w in weights])  # type: ignore[operator]
                for weights in groups
            ]

    def _sum(self, terms: list[Tensor]) -> float:
        # float64 sums: thousands of terms per block, and rankings that differ in the fifth digit.
        return sum(t.detach().double().abs().pow(self.norm).sum().item() for t in terms)


def _weights(lm: CausalLM) -> list[list[Tensor]]:
    """The scored tensors of each block."""
    return [[p for n, p in b.named_parameters() if "weight" in n] for b in lm.blocks]


@contextmanager
def _gradients(
    lm: CausalLM, windows: Tensor, batch_size: int | None = None
) -> Iterator[list[list[Tensor]]]:
    """The scored tensors with ``grad`` of the mean loss over all windows, summed before any abs.

    No other tensor gets a gradient, and afterwards none has one.
    """
    import torch

    from ..models.causal_lm import BATCH_TOKENS, batches, nll_of

    groups = _weights(lm)
    flags = {parameter: parameter.requires_grad for parameter in lm.hf.parameters()}
    try:
        lm.hf.requires_grad_(False)
        for weight in (w for group in groups for w in group):
            weight.requires_grad_(True)
        with torch.enable_grad():
            # A backward pass keeps every activation, so it takes smaller batches than a forward.
            for batch in batches(windows, batch_size, BATCH_TOKENS // 4):
                ids = batch.to(lm.device)
                loss = nll_of(lm.hf(ids, use_cache=False).logits, ids).sum() / len(windows)
                torch.autograd.backward(loss)
        yield groups
    finally:
        for parameter, flag in flags.items():
            parameter.grad = None
            parameter.requires_grad_(flag)


def _rounding(scores: dict[int, float]) -> float:
    """One float32 rounding of the largest score."""
    return 2.0**-23 * max(map(abs, scores.values()))

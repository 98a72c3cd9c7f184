"""Divergence of the pruned model's predictions from the dense model's, token by token."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from ..api import Metric
from ..progress import say
from ..record import Direction, Measurement, Tolerance
from ..resume import once
from ..specs import Count

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.causal_lm import CausalLM


class Divergence(Metric, frozen=True, tag="divergence"):
    """Kullback-Leibler divergence KL(dense || pruned) of next-token predictions, mean per token.

    Zero exactly for identical weights. It changes before accuracy does, needs no labels, and
    also shows errors that cancel in accuracy (arXiv:2407.09141). Computed in float32 over the
    windows that perplexity is measured on; samples are nats per token of each window.
    """

    unit: ClassVar[str] = "nats"
    better: ClassVar[Direction] = "lower"
    tolerance: ClassVar[Tolerance] = Tolerance(rel=0.02, abs=1e-4)

    dataset: str
    seqlen: Annotated[int, Meta(ge=2)] = 2048
    nsamples: Count | None = 32
    bos: Literal["tokenizer", "stream", "window", "none"] = "tokenizer"
    join: str | None = None
    batch_size: Count | None = None

    def names(self) -> tuple[object, ...]:
        """The text."""
        return (self.dataset,)

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:
        """``divergence/<text>``; none for the dense model itself."""
        if lm is dense:
            return
        from ..data.datasets import label
        from ..models.calibration import evaluation_windows
        from ..models.causal_lm import batches, halving

        windows = evaluation_windows(
            self.dataset, lm, self.seqlen, self.nsamples, bos=self.bos, join=self.join
        )
        values: list[float] = []
        parts = batches(windows, self.batch_size)
        measured = partial(_divergences, dense, lm)
        for part in parts:
            say(f"window {len(values)} of {len(windows)}")
            values += once([lm, dense], part.tolist, partial(halving, measured, part), len(parts))
        yield self.measured(label(self.dataset), sum(values) / len(values), values)


def _divergences(dense: CausalLM, lm: CausalLM, windows: Tensor) -> list[float]:
    """KL per window, mean over its predicted positions: (windows, length) -> windows numbers."""
    import torch
    from torch.nn.functional import kl_div, log_softmax

    with torch.no_grad():
        theirs, ours = (
            model.hf(windows.to(model.device), use_cache=False).logits for model in (dense, lm)
        )
        # A window at a time: in float32 the logits of a batch can be gigabytes.
        return [
            kl_div(
                log_softmax(own[:-1], -1, dtype=torch.float32),
                log_softmax(other[:-1].to(own.device), -1, dtype=torch.float32),
                reduction="sum",
                log_target=True,
            ).item()
            / (len(own) - 1)
            for own, other in zip(ours, theirs, strict=True)
        ]

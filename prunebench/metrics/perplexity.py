"""Perplexity: exp of the mean loss over windows without overlap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from ..api import Metric
from ..record import Direction, Measurement, Tolerance
from ..specs import Count

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class Perplexity(Metric, frozen=True, tag="perplexity"):
    """Of the text joined, tokenised once and cut into *seqlen* tokens, tail dropped (as in GPTQ).

    All windows are equally long and weigh the same, so their mean is that over all tokens. Losses
    are computed in float32 from any dtype; samples are nats per token of each window.

    *bos*: ``tokenizer`` leaves it to the tokenizer, once at the start of the text (SparseGPT, SLEB,
    SliceGPT, SPRINT); ``stream`` always puts one there, ``window`` before every window, which is
    then one token longer (both in Shortened LLaMA); ``none`` puts none. *join* separates documents,
    instead of the text's usual separator. *whole_batches* is a batch size; windows that do not fill
    a batch are dropped (Sliding Layer Merging).
    """

    unit: ClassVar[str] = "ppl"
    better: ClassVar[Direction] = "lower"
    tolerance: ClassVar[Tolerance] = Tolerance(rel=0.005)

    dataset: str
    seqlen: Annotated[int, Meta(ge=2)] = 2048
    bos: Literal["tokenizer", "stream", "window", "none"] = "tokenizer"
    join: str | None = None
    nsamples: Count | None = None
    whole_batches: Count = 1
    batch_size: Count | None = None

    def names(self) -> tuple[object, ...]:
        """Text, and whether every window has a BOS."""
        return (self.dataset, self.bos == "window")

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:  # noqa: ARG002
        """One measurement, ``perplexity/<text>``."""
        from ..data.datasets import label
        from ..models.calibration import evaluation_windows

        windows = evaluation_windows(
            self.dataset,
            lm,
            self.seqlen,
            self.nsamples,
            bos=self.bos,
            join=self.join,
            whole_batches=self.whole_batches,
        )
        losses = lm.window_nll(windows, self.batch_size)
        name = label(self.dataset) + ("-bos" if self.bos == "window" else "")
        yield self.measured(name, losses.mean().exp().item(), losses.tolist())

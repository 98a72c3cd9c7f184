"""Perplexity: exp of the mean loss over windows without overlap."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from ..api import Count, Metric
from ..record import Direction, Measurement, Tolerance

if TYPE_CHECKING:
    from ..models import CausalLM


class Perplexity(Metric, frozen=True, tag="perplexity"):
    """The text joined, tokenised once and cut into *seqlen* tokens, tail dropped (GPTQ's way).

    Samples are nats per token of each window; losses are computed in float32 from any dtype.
    """

    unit: ClassVar[str] = "ppl"
    better: ClassVar[Direction] = "lower"
    tolerance: ClassVar[Tolerance] = Tolerance(rel=0.005)

    dataset: str
    seqlen: Annotated[int, Meta(ge=2)] = 2048
    nsamples: Count | None = None
    batch_size: Count | None = None

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:  # noqa: ARG002
        """One measurement, ``perplexity/<text>``."""
        from ..calibration import evaluation_windows
        from ..texts import label

        windows = evaluation_windows(self.dataset, lm, self.seqlen, self.nsamples)
        losses = lm.window_nll(windows, self.batch_size)
        yield self.measured(label(self.dataset), losses.mean().exp().item(), losses.tolist())

"""Prefill and decode time, dense and pruned interleaved in one process on the same inputs."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from msgspec import Meta

from ..api import Count, Metric
from ..record import Direction, Measurement, Tolerance
from ..watching import say

if TYPE_CHECKING:
    from torch import Tensor

    from ..models import CausalLM

Round = dict[str, float]


class Latency(Metric, frozen=True, tag="latency"):
    """Milliseconds to read a prompt, and per generated token afterwards; medians over *rounds*.

    Every round times dense and pruned one after the other and the next round turns the order
    round, so a drift of the machine meets both alike; ``speedup`` is the ratio of the medians.
    Backend ``hf-eager`` is the model class as transformers runs it. Prompts are random token ids.
    """

    unit: ClassVar[str] = "ms"
    better: ClassVar[Direction] = "lower"
    tolerance: ClassVar[Tolerance] = Tolerance(rel=0.05)

    backend: Literal["hf-eager"] = "hf-eager"
    batch_size: Count = 1
    prompt_tokens: Annotated[int, Meta(ge=1)] = 64
    new_tokens: Annotated[int, Meta(ge=1)] = 128
    rounds: Annotated[int, Meta(ge=3)] = 10
    warmup: Annotated[int, Meta(ge=0)] = 2

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:
        """``latency/prefill``, ``latency/decode``, and each as ``latency/speedup-...``."""
        import torch

        from ..calibration import check_ids

        vocabulary = dense.hf.get_input_embeddings().num_embeddings
        generator = torch.Generator().manual_seed(0)
        shape = (self.batch_size, self.prompt_tokens)
        prompt = torch.randint(vocabulary, shape, generator=generator)
        check_ids(prompt.new_zeros((1, self.prompt_tokens + self.new_tokens)), dense)
        models = [lm] if lm is dense else [dense, lm]
        times: list[list[Round]] = [[] for _ in models]
        for round_number in range(self.warmup + self.rounds):
            say(f"round {round_number + 1} of {self.warmup + self.rounds}")
            order = range(len(models)) if round_number % 2 else reversed(range(len(models)))
            for i in order:
                taken = _time(models[i], prompt, self.new_tokens)
                if round_number >= self.warmup:
                    times[i].append(taken)
        yield from self._report(times)

    def _report(self, times: list[list[Round]]) -> Iterator[Measurement]:
        for phase in ("prefill", "decode"):
            own = [taken[phase] for taken in times[-1]]
            yield self.measured(phase, statistics.median(own) * 1e3, own, paired=False)
        if len(times) == 1:
            return
        for phase in ("prefill", "decode"):
            dense, own = ([taken[phase] for taken in rounds] for rounds in times)
            yield Measurement(
                metric=f"latency/speedup-{phase}",
                value=statistics.median(dense) / statistics.median(own),
                unit="x",
                better="higher",
                samples=tuple(d / o for d, o in zip(dense, own, strict=True)),
            )


def _time(lm: CausalLM, prompt: Tensor, new_tokens: int) -> Round:
    """Seconds for one prompt, and seconds per token of the greedy continuation."""
    import torch

    ids = prompt.to(lm.device)
    with torch.inference_mode():
        start = _clock(lm)
        out: Any = lm.hf(ids, use_cache=True, logits_to_keep=1)
        prefilled = _clock(lm)
        for _ in range(new_tokens):
            token = out.logits[:, -1:].argmax(-1)
            out = lm.hf(token, past_key_values=out.past_key_values, use_cache=True)
        end = _clock(lm)
    return {"prefill": prefilled - start, "decode": (end - prefilled) / new_tokens}


def _clock(lm: CausalLM) -> float:
    """Seconds, once everything that was asked of the device is done."""
    if lm.device.type == "cuda":
        import torch

        torch.cuda.synchronize(lm.device)
    return time.perf_counter()

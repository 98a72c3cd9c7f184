"""Prefill and decode time, dense and pruned interleaved in one process on the same inputs."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from ..api import Count, Metric
from ..record import Direction, Measurement, Tolerance
from ..watching import say

if TYPE_CHECKING:
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
        from ..calibration import check_ids
        from ..timing import random_prompt, time_once

        prompt = random_prompt(dense, self.batch_size, self.prompt_tokens)
        check_ids(prompt.new_zeros((1, self.prompt_tokens + self.new_tokens)), dense)
        models = [lm] if lm is dense else [dense, lm]
        times: list[list[Round]] = [[] for _ in models]
        for round_number in range(self.warmup + self.rounds):
            say(f"round {round_number + 1} of {self.warmup + self.rounds}")
            order = range(len(models)) if round_number % 2 else reversed(range(len(models)))
            for i in order:
                taken = time_once(models[i], prompt, self.new_tokens)
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

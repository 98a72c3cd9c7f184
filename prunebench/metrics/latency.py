"""Prefill and decode time, dense and pruned interleaved in one process on the same inputs."""

from __future__ import annotations

import math
import statistics
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta
from msgspec.structs import replace

from ..api import Metric
from ..errors import PrunebenchWarning
from ..progress import say
from ..record import Direction, Measurement, Tolerance
from ..specs import Count

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM
    from ..models.timing import Round, Timer
    from ..system.nvml import Gpu

#: The phase of a time whose speedup is judged; all other times belong to the whole.
_PHASE = {"ttft": "prefill", "tpot": "decode"}

UNWATCHED = (
    "nvidia-ml-py is not installed or does not know this GPU: other processes on it and throttling "
    "of its clock were not checked (pip install 'prunebench[gpu]')"
)


class Latency(Metric, frozen=True, tag="latency"):
    """Time to the first token, time per token after it, throughput, and speedup over dense.

    Every round times dense and pruned one after the other, in alternating order, so a drift of the
    machine affects both equally. Prompts are random token ids, decoding is greedy and always to the
    full length. Values are medians, ``speedup`` that of the ratios dense over pruned of each round;
    the samples are all rounds. With *new_tokens* 0 only prefill is timed, without a cache (SLEB's
    prompt processing).

    *rounds* are measured after *warmup* rounds that are not; with *precision*, more until the 95 %
    interval of the median is that narrow (half its width over the median), or *max_rounds* or
    *max_seconds* are reached. On a GPU a round with a throttled clock is measured again, and times
    of a GPU that other processes use get a note and are not compared.

    Backend ``hf-eager`` is the model class as transformers runs it; ``hf-compiled`` replays
    compiled steps over a static cache, without the cost of launching kernels.
    """

    unit: ClassVar[str] = "ms"
    better: ClassVar[Direction] = "lower"
    tolerance: ClassVar[Tolerance] = Tolerance(rel=0.05)
    times: ClassVar[bool] = True

    backend: Literal["hf-eager", "hf-compiled"] = "hf-eager"
    batch_size: Count = 1
    prompt_tokens: Annotated[int, Meta(ge=1)] = 64
    new_tokens: Annotated[int, Meta(ge=0)] = 128
    rounds: Annotated[int, Meta(ge=3)] = 10
    warmup: Annotated[int, Meta(ge=0)] = 2
    precision: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    max_rounds: Count = 200
    max_seconds: Annotated[float, Meta(gt=0)] = 120.0

    def names(self) -> tuple[object, ...]:
        """Backend and shape."""
        return (self.backend, self.batch_size, self.prompt_tokens, self.new_tokens)

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:
        """``latency/<backend>-<batch>x<prompt>+<new>/<what>``, *what* as in docs/latency.md."""
        import torch

        from ..models.calibration import check_ids
        from ..system.nvml import Gpu

        ids = torch.zeros((1, self.prompt_tokens + self.new_tokens), dtype=torch.long)
        check_ids(ids, dense)
        gpu = Gpu.of(lm.device)
        if gpu is None and lm.device.type == "cuda":
            warnings.warn(UNWATCHED, PrunebenchWarning, stacklevel=2)
        busy = gpu.busy() if gpu else ""
        full = f"out of memory at {self._shape_in_words}"
        # The modules of a copy have other addresses than those of a loaded model, which alone can
        # make it 1 % slower. Pruned models are such copies, so the dense one is too.
        pair = [lm] if lm is dense else [dense.share(), lm.share()]
        times, note = self._rounds(pair, gpu)
        if lm is dense:
            yield from self._own(times[0], note or busy if times[0] else full)
            return
        if not times[1]:  # a smaller model may fit where the dense one does not
            ((own,), note) = self._rounds(pair[1:], gpu)
            times = [[], own]
        yield from self._own(times[1], note or busy if times[1] else full, against_dense=True)
        which = "" if times[1] else " and pruned"
        yield from self._speedups(times, note or busy if times[0] else f"dense{which}: {full}")

    def _rounds(self, models: Sequence[CausalLM], gpu: Gpu | None) -> tuple[list[list[Round]], str]:
        """The rounds of each model, none if memory ran out, and a note on what was wrong."""
        import gc

        import torch

        from ..models.timing import out_of_memory

        result: tuple[list[list[Round]], str] = [[] for _ in models], ""
        try:
            result = self._all_rounds(models, gpu)
        except Exception as error:
            if not out_of_memory(error):
                raise
        finally:
            if self.backend == "hf-compiled":
                torch._dynamo.reset()
        # After the handler, where the error and the tensors of its frames are released.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return result

    def _all_rounds(
        self, models: Sequence[CausalLM], gpu: Gpu | None
    ) -> tuple[list[list[Round]], str]:
        import time

        from ..models.timing import Shape, Timer

        shape = Shape(self.batch_size, self.prompt_tokens, self.new_tokens)
        timers = [Timer(model, shape, self.backend) for model in models]
        # A graph is compiled in the first run, captured in the second and replayed from the third.
        warmup = max(self.warmup, 3) if self.backend == "hf-compiled" else self.warmup
        for number in range(warmup):
            say(f"warm-up {number + 1} of {warmup}")
            _once(timers, number)
        times: list[list[Round]] = [[] for _ in timers]
        repeated, number, note = 0, 0, ""
        start = time.perf_counter()
        while True:
            say(f"round {number + 1}")
            number += 1
            taken = _once(timers, number)
            # At most *rounds* are repeated because of a hot GPU; after that all count.
            if reason := gpu.throttled() if gpu else "":
                if repeated < self.rounds:
                    repeated += 1
                    continue
                note = f"the clock was throttled throughout: {reason}"
            for own, one in zip(times, taken, strict=True):
                own.append(one)
            seconds = time.perf_counter() - start
            if len(times[0]) >= self.rounds and self._enough(times, seconds):
                return times, note

    def _enough(self, times: list[list[Round]], seconds: float) -> bool:
        if not self.precision:
            return True
        if len(times[0]) >= self.max_rounds or seconds >= self.max_seconds:
            return True
        totals = [[taken.total for taken in rounds] for rounds in times]
        values = totals[0] if len(totals) == 1 else [d / o for d, o in zip(*totals, strict=True)]
        return spread(values) <= self.precision

    def _own(
        self, rounds: list[Round], note: str, *, against_dense: bool = False
    ) -> Iterator[Measurement]:
        for what, (unit, better, value) in self._views().items():
            samples = [value(taken) for taken in rounds]
            middle = statistics.median(samples) if samples else None
            own = self._one(what, middle, unit, better, samples, note)
            # The speedup is judged instead, which does not depend on the state of the machine.
            phase = _PHASE.get(what, "end-to-end" if self.new_tokens else "prefill")
            yield replace(own, instead=self._named(f"speedup-{phase}")) if against_dense else own

    def _speedups(self, times: list[list[Round]], note: str) -> Iterator[Measurement]:
        for what, phase in self._phases().items():
            dense, own = ([phase(taken) for taken in rounds] for rounds in times)
            ratios = [d / o for d, o in zip(dense, own, strict=False)]
            # Not the ratio of the medians: if the speed of the machine changes half-way, one median
            # may be of the slow half and the other of the fast one.
            middle = statistics.median(ratios) if ratios else None
            yield self._one(f"speedup-{what}", middle, "x", "higher", ratios, note)

    def _one(
        self,
        what: str,
        value: float | None,
        unit: str,
        better: Direction,
        samples: list[float],
        note: str,
    ) -> Measurement:
        return Measurement(self._named(what), value, unit, better, tuple(samples), note=note)

    def _named(self, what: str) -> str:
        shape = f"{self.batch_size}x{self.prompt_tokens}+{self.new_tokens}"
        return f"latency/{self.backend}-{shape}/{what}"

    def _phases(self) -> dict[str, Callable[[Round], float]]:
        phases: dict[str, Callable[[Round], float]] = {"prefill": lambda r: r.first}
        if self.new_tokens > 1:
            phases["decode"] = lambda r: r.total - r.first
        if self.new_tokens:
            phases["end-to-end"] = lambda r: r.total
        return phases

    def _views(self) -> dict[str, tuple[str, Direction, Callable[[Round], float]]]:
        """What is reported of one model: name to unit, direction, and value of a round."""
        if not self.new_tokens:
            return {
                "prefill": ("ms", "lower", lambda r: r.first * 1e3),
                "throughput": ("tok/s", "higher", lambda r: self._rate(self.prompt_tokens, r)),
            }
        views: dict[str, tuple[str, Direction, Callable[[Round], float]]] = {
            "ttft": ("ms", "lower", lambda r: r.first * 1e3),
            "throughput": ("tok/s", "higher", lambda r: self._rate(self.new_tokens, r)),
            "total-time": ("ms", "lower", lambda r: r.total * 1e3),
        }
        if (steps := self.new_tokens - 1) > 0:
            views["tpot"] = ("ms", "lower", lambda r: (r.total - r.first) / steps * 1e3)
        return views

    def _rate(self, tokens: int, taken: Round) -> float:
        return self.batch_size * tokens / taken.total

    @property
    def _shape_in_words(self) -> str:
        return f"batch {self.batch_size}, {self.prompt_tokens} + {self.new_tokens} tokens"


def _once(timers: Sequence[Timer], number: int) -> list[Round]:
    """A round of every model, in reversed order every other time."""
    order = range(len(timers))
    taken = {i: timers[i].time() for i in (order if number % 2 else reversed(order))}
    return [taken[i] for i in order]


def spread(values: Sequence[float]) -> float:
    """Half the width of the 95 % interval of the median, over the median; distribution-free.

    The interval is between two of the sorted values: of n values, the number below the true median
    is binomial(n, 1/2). Fewer than six values give no bound.
    """
    n = len(values)
    low, tail = 0, 0.5**n
    if tail > 0.025:
        return math.inf
    while tail + math.comb(n, low + 1) * 0.5**n <= 0.025:
        low += 1
        tail += math.comb(n, low) * 0.5**n
    ordered = sorted(values)
    return (ordered[n - 1 - low] - ordered[low]) / 2 / statistics.median(ordered)

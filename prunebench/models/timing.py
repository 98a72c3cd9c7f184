"""Times a model: reading a prompt, and each token generated after it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FunctionType
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import PrunebenchError
from .causal_lm import CausalLM


class Shape(NamedTuple):
    """What is timed: *new* tokens after prompts of *prompt* tokens; without any, prefill alone."""

    batch: int
    prompt: int
    new: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.prompt}+{self.new}"


class Round(NamedTuple):
    """Seconds of one run: to the first new token and to the last; equal if there are none."""

    first: float
    total: float


class Clock(Protocol):
    """Records marks in the order in which the device reaches them."""

    def mark(self) -> None:
        """Record the current time."""

    def spans(self) -> list[float]:
        """Seconds from each mark to the next, after waiting for the device."""


class CpuClock:
    """Wall-clock time: on a CPU work is done when the call returns."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        """Record the current time."""
        self._marks.append(time.perf_counter())

    def spans(self) -> list[float]:
        """Seconds from each mark to the next."""
        return [b - a for a, b in zip(self._marks, self._marks[1:], strict=False)]


class CudaClock:
    """CUDA events in the stream: only the end of a round waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []
        torch.cuda.synchronize(device)

    def mark(self) -> None:
        """Record an event in the stream."""
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)

    def spans(self) -> list[float]:
        """Seconds between events, which torch measures in milliseconds."""
        self._marks[-1].synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [a.elapsed_time(b) / 1e3 for a, b in pairs]


class Backend(Protocol):
    """A way of running a model."""

    def read(self, ids: Tensor) -> None:
        """Read prompts without generating: (batch, prompt)."""

    def first(self, ids: Tensor) -> Tensor:
        """The first token after each prompt: (batch, prompt) to (batch, 1)."""

    def step(self, token: Tensor) -> Tensor:
        """The token after *token*: (batch, 1) to (batch, 1)."""

    def reset(self) -> None:
        """Drop the state of the round; not timed."""


class Eager:
    """The model class as transformers runs it, with its dynamic cache."""

    def __init__(self, lm: CausalLM, shape: Shape) -> None:
        del shape
        self.hf = lm.hf
        self._cache: Any = None

    def read(self, ids: Tensor) -> None:
        """One forward without a cache, with all logits: prompt processing as SLEB times it."""
        self.hf(ids, use_cache=False)

    def first(self, ids: Tensor) -> Tensor:
        """The first token after each prompt: (batch, prompt) to (batch, 1)."""
        return self._next(ids, None)

    def step(self, token: Tensor) -> Tensor:
        """The token after *token*, which is (batch, 1)."""
        return self._next(token, self._cache)

    def reset(self) -> None:
        """Free the cache, so that the next round and the other model have room for theirs."""
        self._cache = None

    def _next(self, ids: Tensor, cache: Any) -> Tensor:
        out = self.hf(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        token: Tensor = out.logits[:, -1:].argmax(-1)
        return token


class Compiled:
    """``torch.compile`` with a static cache; on a GPU every step is one replayed CUDA graph.

    Eager decoding of a small batch is bound by kernel launches, of which a model with fewer blocks
    has fewer: that overstates the speedup of depth pruning, and this backend shows by how much. The
    decode step is compiled, or for a shape without new tokens the prefill; the prefill before new
    tokens runs eagerly, as in ``generate``.

    Every block's static cache holds the whole length, also under a sliding window, which the mask
    then enforces: transformers' own static cache of a window counts its tokens in Python, so that
    every step would be compiled and captured again. Blocks without attention allocate none.

    Raises:
        PrunebenchError: if the model cannot be compiled; one line saying why.
    """

    #: The compiler of ``torch.compile``; tests take a faster one.
    compiler = "inductor"

    def __init__(self, lm: CausalLM, shape: Shape) -> None:
        from transformers.cache_utils import Cache, StaticLayer

        self.hf = lm.hf
        blocks = range(lm.hf.config.num_hidden_layers)
        size = shape.prompt + shape.new
        self._cache = Cache(layers=[StaticLayer(max_cache_len=size) for _ in blocks])
        self._length = shape.prompt
        # Passed to the step, because some classes derive the position or the mask's length from the
        # cache, which copies a number from the device at every step. The causal mask hides the
        # unfilled part of the cache.
        self._position = torch.full((1, 1), shape.prompt, dtype=torch.long, device=lm.device)
        seen = torch.ones((shape.batch, size), dtype=torch.bool, device=lm.device)
        no_cache = no_op_cache(len(blocks))
        self._read = self._compiled(
            lambda ids: self.hf(ids, past_key_values=no_cache, use_cache=False).logits
        )
        self._step = self._compiled(
            lambda token, at: self._next(token, position_ids=at, attention_mask=seen)
        )

    def read(self, ids: Tensor) -> None:
        """One forward without a cache, with all logits."""
        self._run(self._read, ids)

    def first(self, ids: Tensor) -> Tensor:
        """The first token after each prompt: (batch, prompt) to (batch, 1)."""
        return self._next(ids)

    def step(self, token: Tensor) -> Tensor:
        """The token after *token*, which is (batch, 1)."""
        token = self._run(self._step, token, self._position)
        self._position.add_(1)
        return token

    def reset(self) -> None:
        """Empty the cache in place, so that a graph captured over its tensors can be replayed."""
        self._cache.reset()
        self._position.fill_(self._length)

    def _next(self, ids: Tensor, **options: Tensor) -> Tensor:
        out = self.hf(ids, past_key_values=self._cache, use_cache=True, logits_to_keep=1, **options)
        token: Tensor = out.logits[:, -1:].argmax(-1)
        return token

    def _compiled(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        graphs = self.hf.device.type == "cuda" and self.compiler == "inductor"
        return torch.compile(
            _with_own_code(function),
            backend=self.compiler,
            fullgraph=True,
            dynamic=False,
            mode="reduce-overhead" if graphs else None,
        )

    def _run(self, function: Callable[..., Tensor], *given: Tensor) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        try:
            # A copy, because the next replay overwrites the result.
            return function(*given).clone()
        except Exception as error:
            if out_of_memory(error) or not type(error).__module__.startswith(
                ("torch._dynamo", "torch._inductor")
            ):
                raise
            kind = type(self.hf).__name__
            raise PrunebenchError(f"{kind} cannot be compiled: {_reason(error)}") from error


def _with_own_code(function: Any) -> Any:
    """*function* over a copy of its code.

    torch.compile stores its results at the code object and checks all of them at every call: if two
    models share one, the first also checks the guards of the second (0 to 4 % of a step of the
    shipped model on a CPU), and both count against one limit of compilations.
    """
    return FunctionType(
        function.__code__.replace(), function.__globals__, closure=function.__closure__
    )


def _reason(error: Exception) -> str:
    """The line of a compiler's error with the reason; the first line only names the compiler."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reasons = [line for line in lines if not line.endswith("raised:")]
    return (reasons or lines or [type(error).__name__])[0]


def no_op_cache(blocks: int) -> Any:
    """A no-op KV cache: forces transformers onto the causal kernel.

    Without a cache, transformers checks the positions for several texts packed into one row. It
    cannot while it is traced, so it builds a full mask, and attention does not use the causal
    kernel of the eager model.
    """
    from transformers.cache_utils import Cache, DynamicLayer

    class NoOpLayer(DynamicLayer):  # type: ignore[misc]
        def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return keys, values

    return Cache(layers=[NoOpLayer() for _ in range(blocks)])


BACKENDS: dict[str, Callable[[CausalLM, Shape], Backend]] = {
    "hf-eager": Eager,
    "hf-compiled": Compiled,
}


def random_prompt(lm: CausalLM, batch_size: int, tokens: int) -> Tensor:
    """Token ids, (batch_size, tokens), with a fixed seed: timings do not depend on the text."""
    vocabulary = lm.hf.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (batch_size, tokens), generator=generator)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether *error* (or its cause) is an out-of-memory error, on GPU or CPU."""
    while error is not None:
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        # The CPU allocator has no error class, and a compiler keeps only the message.
        words = ("can't allocate memory", "CUDA out of memory")
        if full or (isinstance(error, RuntimeError) and any(w in str(error) for w in words)):
            return True
        error = error.__cause__
    return False


class Timer:
    """Times one model at one shape.

    Args:
        lm: the model.
        shape: batch and lengths.
        backend: ``hf-eager`` or ``hf-compiled``.
    """

    def __init__(self, lm: CausalLM, shape: Shape, backend: str = "hf-eager") -> None:
        self.lm = lm
        self.shape = shape
        self._prompt = random_prompt(lm, shape.batch, shape.prompt).to(lm.device)
        self._runs = BACKENDS[backend](lm, shape)

    def time(self) -> Round:
        """One round: prefill, then greedy decoding token by token to the full length."""
        clock = self._clock()
        with self._round():
            clock.mark()
            if not self.shape.new:
                self._runs.read(self._prompt)
                clock.mark()
                (taken,) = clock.spans()
                return Round(taken, taken)
            token = self._runs.first(self._prompt)
            clock.mark()
            for _ in range(self.shape.new - 1):
                token = self._runs.step(token)
            clock.mark()
            first, rest = clock.spans()
        return Round(first, first + rest)

    def tokens(self) -> list[list[int]]:
        """The generated tokens, a list per row, to compare backends."""
        with self._round():
            written = [self._runs.first(self._prompt)]
            for _ in range(self.shape.new - 1):
                written.append(self._runs.step(written[-1]))
        return torch.cat(written, 1).tolist()

    @contextmanager
    def _round(self) -> Iterator[None]:
        """Run a round without gradients, and reset the backend when it ends or fails."""
        try:
            # Not inference_mode, whose tensors compiled graphs do not accept.
            with torch.no_grad():
                yield
        finally:
            self._runs.reset()

    def _clock(self) -> Clock:
        device = self.lm.device
        return CudaClock(device) if device.type == "cuda" else CpuClock()

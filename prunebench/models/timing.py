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
    """What is timed: *new* tokens after prompts of *prompt* tokens; with none, reading alone."""

    batch: int
    prompt: int
    new: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.prompt}+{self.new}"


class Round(NamedTuple):
    """Seconds of one run: to the first token on hand, and to the last; equal if nothing is new."""

    first: float
    total: float


class Clock(Protocol):
    """Marks moments in the order in which the device reaches them."""

    def mark(self) -> None:
        """This moment."""

    def spans(self) -> list[float]:
        """Seconds from each mark to the next, once everything asked of the device is done."""


class CpuClock:
    """A CPU is done when the call returns."""

    def __init__(self) -> None:
        self._marks: list[float] = []

    def mark(self) -> None:
        """This moment."""
        self._marks.append(time.perf_counter())

    def spans(self) -> list[float]:
        """Seconds from each mark to the next."""
        return [b - a for a, b in zip(self._marks, self._marks[1:], strict=False)]


class CudaClock:
    """Events in the stream: nothing waits while the round runs, one wait ends it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[Any] = []
        torch.cuda.synchronize(device)

    def mark(self) -> None:
        """Where the stream is."""
        event: Any = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(self._device))
        self._marks.append(event)

    def spans(self) -> list[float]:
        """Seconds between events, which are told in milliseconds."""
        self._marks[-1].synchronize()
        pairs = zip(self._marks, self._marks[1:], strict=False)
        return [a.elapsed_time(b) / 1e3 for a, b in pairs]


class Backend(Protocol):
    """A way of running a model."""

    def read(self, ids: Tensor) -> None:
        """Read prompts and nothing more: (batch, prompt)."""

    def first(self, ids: Tensor) -> Tensor:
        """The first token after each prompt: (batch, prompt) to (batch, 1)."""

    def step(self, token: Tensor) -> Tensor:
        """The token after *token*: (batch, 1) to (batch, 1)."""

    def reset(self) -> None:
        """Forget the round, outside of what is timed."""


class Eager:
    """The model class as transformers runs it, with its usual growing cache."""

    def __init__(self, lm: CausalLM, shape: Shape) -> None:
        del shape
        self.hf = lm.hf
        self._cache: Any = None

    def read(self, ids: Tensor) -> None:
        """One forward without a cache, all logits made: prompt processing as SLEB times it."""
        self.hf(ids, use_cache=False)

    def first(self, ids: Tensor) -> Tensor:
        """The first token after each prompt: (batch, prompt) to (batch, 1)."""
        return self._next(ids, None)

    def step(self, token: Tensor) -> Tensor:
        """The token after *token*, which is (batch, 1)."""
        return self._next(token, self._cache)

    def reset(self) -> None:
        """Let go of the cache: the next round, and the other model's, has room for its own."""
        self._cache = None

    def _next(self, ids: Tensor, cache: Any) -> Tensor:
        out = self.hf(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        token: Tensor = out.logits[:, -1:].argmax(-1)
        return token


class Compiled:
    """``torch.compile`` with a static cache; on a GPU every step is one replayed CUDA graph.

    Eager decoding of a small batch waits for the launching of kernels, of which a model with fewer
    blocks has fewer: that flatters depth pruning, and this shows by how much. Compiled is what runs
    most often, the decode step, or for a shape without new tokens the reading of the prompt; a
    prompt before new tokens is read eagerly, as ``generate`` does.

    Every block's static cache holds the whole length, also under a sliding window, which the mask
    then enforces: transformers' own static cache of a window counts its tokens in Python, so that
    each step would be compiled, and captured, anew. Blocks without attention allocate none.

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
        # Given to the step, for some classes read the position off the cache, or make a mask as
        # long as the cache is full, which takes a number from the device at every step. What is not
        # filled yet is hidden by the causal mask.
        self._position = torch.full((1, 1), shape.prompt, dtype=torch.long, device=lm.device)
        seen = torch.ones((shape.batch, size), dtype=torch.bool, device=lm.device)
        nothing = keeps_nothing(len(blocks))
        self._read = self._compiled(
            lambda ids: self.hf(ids, past_key_values=nothing, use_cache=False).logits
        )
        self._step = self._compiled(
            lambda token, at: self._next(token, position_ids=at, attention_mask=seen)
        )

    def read(self, ids: Tensor) -> None:
        """One forward without a cache, all logits made."""
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
        """Empty the cache in place: a graph that was captured over its tensors can be replayed."""
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
            # A copy, for the next replay writes over what this one gave.
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

    torch.compile keeps its results at the code object, and goes through them at every call: of two
    models that share one, the first pays for the guards of the second (0 to 4 % of a step of the
    shipped model on a CPU), and both count against one limit of compilations.
    """
    return FunctionType(
        function.__code__.replace(), function.__globals__, closure=function.__closure__
    )


def _reason(error: Exception) -> str:
    """The line of a compiler's error that says what is wrong; the first only names the compiler."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    telling = [line for line in lines if not line.endswith("raised:")]
    return (telling or lines or [type(error).__name__])[0]


def keeps_nothing(blocks: int) -> Any:
    """A cache that gives back what it is given: a forward with it is one without a cache.

    Without any, transformers looks at the positions to see whether several texts are packed into
    one row. It cannot while it is traced, so it makes a whole mask, and attention loses the causal
    kernel that the eager model has.
    """
    from transformers.cache_utils import Cache, DynamicLayer

    class Nothing(DynamicLayer):  # type: ignore[misc]
        def update(self, keys: Tensor, values: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
            return keys, values

    return Cache(layers=[Nothing() for _ in range(blocks)])


BACKENDS: dict[str, Callable[[CausalLM, Shape], Backend]] = {
    "hf-eager": Eager,
    "hf-compiled": Compiled,
}


def random_prompt(lm: CausalLM, batch_size: int, tokens: int) -> Tensor:
    """Token ids, (batch_size, tokens), the same every time: their meaning costs no time."""
    vocabulary = lm.hf.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (batch_size, tokens), generator=generator)


def out_of_memory(error: BaseException | None) -> bool:
    """Whether *error*, or what it came from, is that memory ran out, on a GPU or beside it."""
    while error is not None:
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        # The processor's allocator has no class of its own, a compiler tells only the words.
        words = ("can't allocate memory", "CUDA out of memory")
        if full or (isinstance(error, RuntimeError) and any(w in str(error) for w in words)):
            return True
        error = error.__cause__
    return False


class Timer:
    """Times one model at one shape, as often as asked.

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
        """One round: the prompt, then token by token, greedily and to the full length."""
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
        """What it writes, a list per row: to see that every backend writes the same."""
        with self._round():
            written = [self._runs.first(self._prompt)]
            for _ in range(self.shape.new - 1):
                written.append(self._runs.step(written[-1]))
        return torch.cat(written, 1).tolist()

    @contextmanager
    def _round(self) -> Iterator[None]:
        """What a round runs in, and what it leaves behind when it ends, or fails."""
        try:
            # Compiled graphs and inference tensors do not go together: this is no inference_mode.
            with torch.no_grad():
                yield
        finally:
            self._runs.reset()

    def _clock(self) -> Clock:
        device = self.lm.device
        return CudaClock(device) if device.type == "cuda" else CpuClock()

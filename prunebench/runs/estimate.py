"""How long a case takes and what device memory: rough guesses from its model's sizes.

Time is operations over stated speeds; only the order of magnitude holds. Device memory is a
formula: weights, again those that an edit replaces, and the largest working set of its steps, which
are

- scoring: logits of a batch in the model's dtype and twice in float32;
- timing: the key/value cache, and what a prompt's widest layer holds;
- a search: the hidden states it may keep (see ``stream``), gradients and activations for *taylor*,
  the states twice and float64 squares of the width for the slicing methods.

It counts no memory of Python, torch or the driver (about half a GiB).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from msgspec import Struct

from .. import reference
from ..api import Metric, tag
from ..case import Case
from ..data import hub
from ..data.model_config import Shape
from ..errors import PrunebenchError
from ..system.machine import GIB, gpu_memory

#: Tokens per forward and bytes a search may keep on a CPU: as in models and stream, below torch.
BATCH_TOKENS = 8192
CPU_BUDGET = 2 * GIB

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}

#: Tokens of texts whose size is not on this machine, from published window counts.
TEXT_TOKENS = {"wikitext2": 341_000}

#: Documents, requests per document and tokens per request of common tasks; and of any other.
TASKS = {
    "arc_challenge": (1172, 4, 45),
    "arc_easy": (2376, 4, 40),
    "boolq": (3270, 2, 150),
    "hellaswag": (10042, 4, 100),
    "openbookqa": (500, 4, 25),
    "piqa": (1838, 2, 40),
    "winogrande": (1267, 2, 25),
}
OTHER_TASK = (1000, 4, 60)
REFERENCE_TASK = (600, 4, 20)


class Speed(NamedTuple):
    """Operations a second, bytes a second from memory, seconds to start one block's forward."""

    rate: float
    bandwidth: float
    call: float


#: A few cores, and a data-centre GPU in 16 bit and in 32 bit: orders of magnitude.
CPU = Speed(6e10, 1e10, 4e-4)
GPU = Speed(1.5e14, 1.5e12, 2e-4)
GPU_WIDE = Speed(3e13, 1.5e12, 2e-4)

#: Seconds: compiling a model; a fresh process.
COMPILING, PROCESS = 60.0, 12.0
#: Bytes a second from disk.
DISK = 1e9


class Parts(Struct, frozen=True):
    """Seconds of a case: what cases of a model share, what those of a search share, its own."""

    load: float
    search: float
    own: float

    @property
    def total(self) -> float:
        """Seconds of the case when run alone."""
        return self.load + self.search + self.own

    def times(self, factor: float) -> Parts:
        """The same, scaled."""
        return Parts(self.load * factor, self.search * factor, self.own * factor)


# ------------------------------------------------------------------------------------------- time


def rough(case: Case, shape: Shape, device: str) -> Parts:
    """Seconds of a case from operations and stated speeds; only the order of magnitude holds."""
    speed = _speed(case, device)
    size = shape.parameters() * _bytes(case)
    own = sum(_METRICS.get(tag(m), _nothing)(m, case, shape, speed) for m in case.metrics)
    return Parts(size / DISK + 0.5, _search_seconds(case, shape, speed), own)


def _speed(case: Case, device: str) -> Speed:
    if not device.startswith("cuda"):
        cores = os.cpu_count() or 1
        return CPU._replace(rate=CPU.rate * max(1, cores / 4))
    return GPU if _bytes(case) == 2 else GPU_WIDE


def _forward(shape: Shape, speed: Speed, tokens: int, length: int) -> float:
    """Seconds to score *tokens* tokens in sequences of *length*."""
    windows = max(1, tokens // length)
    batches = -(-tokens // BATCH_TOKENS)
    return shape.flops(windows, length) / speed.rate + batches * shape.blocks * speed.call


def _search_seconds(case: Case, shape: Shape, speed: Speed) -> float:
    spec = case.calibration
    if not case.method.calibrated:
        return 0.0
    tokens = spec.nsamples * spec.seqlen
    seconds = _passes(case, shape) * _forward(shape, speed, tokens, spec.seqlen)
    if case.method.unit == "width":
        stages = 1 if tag(case.method) == "slice_global" else 2 * shape.blocks
        # Gram matrix and eigenvectors in float64, which runs at half the speed or less.
        seconds += stages * (2 * tokens * shape.hidden**2 + 9 * shape.hidden**3) / (speed.rate / 2)
    return seconds


def _passes(case: Case, shape: Shape) -> float:
    """Forwards of the whole model over the calibration windows that a search comes to."""
    name, blocks = tag(case.method), shape.blocks
    if name == "shortened_llama":
        criterion = getattr(case.method, "criterion", "taylor")
        return {"taylor": 6.0, "magnitude": 0.0}.get(criterion, blocks / 2 + 2)
    if case.method.unit == "width":
        return 2.0
    if name == "block_influence":
        return 4.0
    if name == "sliding_layer_merging":  # without a threshold it tries all of them
        return blocks / 2 + 3 if case.method.sized else blocks**2 / 2
    # One pass per removal over half of the blocks on average, a third of it kept from the last.
    return 0.35 * removals(case, shape) * blocks + 2


def removals(case: Case, shape: Shape) -> int:
    """Blocks or sublayers that would go; a quarter of them where only the search can tell."""
    target, halves = case.target, case.method.unit == "sublayers"
    if target.blocks is not None or target.sublayers is not None:
        return int(target.blocks or target.sublayers or 0)
    units = shape.blocks * (2 if halves else 1)
    if target.sparsity is None:
        return units // 4
    each = (shape.attn + shape.mlp) / (2 if halves else 1)
    return min(units, round(target.sparsity * shape.parameters() / each))


def _nothing(*_: object) -> float:
    return 0.0


def _perplexity_seconds(metric: Any, case: Case, shape: Shape, speed: Speed) -> float:  # noqa: ARG001
    tokens = _text_tokens(metric.dataset)
    if metric.nsamples is not None:
        tokens = min(tokens, metric.nsamples * metric.seqlen)
    return _forward(shape, speed, tokens, metric.seqlen)


def _text_tokens(dataset: str) -> int:
    """Tokens of a text: as published, its words, or a quarter of its bytes."""
    if dataset in TEXT_TOKENS:
        return TEXT_TOKENS[dataset]
    if dataset == "tinyworld":
        return sum(len(text.split()) + 1 for text in reference.documents("test"))
    path = Path(dataset)
    return path.stat().st_size // 4 if path.is_file() else 300_000


def _accuracy_seconds(metric: Any, case: Case, shape: Shape, speed: Speed) -> float:  # noqa: ARG001
    seconds = 0.0
    for task in metric.tasks:
        documents, requests, length = _task(task, metric.limit)
        batches = -(-documents * requests // metric.batch_size)
        seconds += _forward(shape, speed, documents * requests * length, length)
        seconds += batches * shape.blocks * speed.call
    return seconds


def _generation_seconds(metric: Any, case: Case, shape: Shape, speed: Speed) -> float:
    documents = sum(_task(task, metric.limit)[0] for task in metric.tasks)
    batch: int = min(metric.batch_size, documents)
    return -(-documents // batch) * 32 * _step(case, shape, speed, batch)


def _task(name: str, limit: int | None) -> tuple[int, int, int]:
    usual = REFERENCE_TASK if name in reference.TASK_NAMES else OTHER_TASK
    documents, requests, length = TASKS.get(name, usual)
    return min(documents, limit or documents), requests, length


def _divergence_seconds(metric: Any, case: Case, shape: Shape, speed: Speed) -> float:
    return 0.0 if case.dense else 2 * _perplexity_seconds(metric, case, shape, speed)


def _repetition_seconds(metric: Any, case: Case, shape: Shape, speed: Speed) -> float:
    batch: int = min(metric.batch_size, metric.nsamples)
    steps = -(-metric.nsamples // batch) * metric.new_tokens
    return float(steps * _step(case, shape, speed, batch))


def _latency_seconds(metric: Any, case: Case, shape: Shape, speed: Speed) -> float:
    compiled = metric.backend != "hf-eager"
    if compiled:
        speed = speed._replace(call=speed.call / 5)
    prompt = shape.flops(metric.batch_size, metric.prompt_tokens) / speed.rate
    prompt += shape.blocks * speed.call
    steps = metric.new_tokens * _step(case, shape, speed, metric.batch_size)
    rounds: int = metric.warmup + metric.rounds
    seconds = rounds * (prompt + steps) + (COMPILING if compiled else 0.0)
    return float(seconds if case.dense else 2 * seconds)


def _step(case: Case, shape: Shape, speed: Speed, batch: int) -> float:
    """Seconds for one more token of *batch* sequences: all weights are read once."""
    work = shape.flops(batch, 1) / speed.rate
    return max(work, shape.parameters() * _bytes(case) / speed.bandwidth) + (
        shape.blocks * speed.call
    )


def _memory_seconds(metric: Any, case: Case, shape: Shape, speed: Speed) -> float:  # noqa: ARG001
    return PROCESS + 2 * shape.parameters() * _bytes(case) / DISK if metric.peak else 0.1


_METRICS: dict[str, Callable[[Any, Case, Shape, Speed], float]] = {
    "perplexity": _perplexity_seconds,
    "accuracy": _accuracy_seconds,
    "divergence": _divergence_seconds,
    "generation": _generation_seconds,
    "repetition": _repetition_seconds,
    "latency": _latency_seconds,
    "memory": _memory_seconds,
}


# ----------------------------------------------------------------------------------------- memory


def memory(case: Case, shape: Shape, device: str) -> int:
    """Bytes of device memory that a case takes at its peak, by the formula at the top."""
    each = _bytes(case)
    weights = shape.parameters() * each
    edited = _edited(case, shape) * each
    search = _search_bytes(case, shape, each, device)
    measuring = max((b for m in case.metrics for b in _metric_bytes(m, shape, each)), default=0)
    return weights + max(search, edited + measuring)


def _bytes(case: Case) -> int:
    """Bytes of one weight."""
    if case.model.dtype != "auto":
        return BYTES[case.model.dtype]
    config = _config(case)
    return BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4)


def _config(case: Case) -> dict[str, Any]:
    try:
        return hub.config(case.model.id, case.model.revision) or {}
    except PrunebenchError:
        return {}


def _edited(case: Case, shape: Shape) -> int:
    """Parameters that the pruned model does not share with the dense one."""
    if case.method.unit == "width":
        kept = 1 - (case.target.slicing or case.target.sparsity or 0.0)
        shortcuts = 0
        if tag(case.method) != "slice_global":
            shortcuts = 2 * shape.blocks * int(kept * shape.hidden) ** 2
        return int(kept * shape.parameters()) + shape.head + shortcuts
    if case.method.unit == "given":
        return shape.parameters()
    if tag(case.method) == "sprint" and getattr(case.method, "refit", False):
        return removals(case, shape) * shape.mlp // 2
    return 0


def _search_bytes(case: Case, shape: Shape, each: int, device: str) -> int:
    if not case.method.calibrated:
        return 0
    spec = case.calibration
    states = spec.nsamples * spec.seqlen * shape.hidden * each
    scoring = _logits(shape, min(BATCH_TOKENS, spec.nsamples * spec.seqlen), each)
    name = tag(case.method)
    if case.method.unit == "width":
        square = 8 * shape.hidden**2
        return 2 * states + 4 * square + 2 * 8 * max(shape.attn, shape.mlp) + scoring
    if name == "shortened_llama" and getattr(case.method, "criterion", "") == "taylor":
        tokens = min(BATCH_TOKENS // 4, spec.nsamples * spec.seqlen)
        blocks = shape.blocks * (shape.attn + shape.mlp) * each
        kept = tokens * shape.blocks * _activations(shape, spec.seqlen) * each
        return blocks + kept + _logits(shape, tokens, each)
    if name == "shortened_llama":
        return states + scoring
    paths = shape.blocks * (shape.blocks + 1) // 2
    budget = gpu_memory(device) // 4 if device.startswith("cuda") else CPU_BUDGET
    return states + min(paths * states, budget) + scoring


def _metric_bytes(metric: Metric, shape: Shape, each: int) -> Iterator[int]:
    name: str = tag(metric)
    get: Callable[[str, int], int] = lambda key, usual: getattr(metric, key, None) or usual  # noqa: E731
    if name in ("perplexity", "divergence"):
        length = get("seqlen", 2048)
        yield _logits(shape, get("batch_size", max(1, BATCH_TOKENS // length)) * length, each)
    elif name in ("accuracy", "generation", "repetition"):
        yield _logits(shape, get("batch_size", 64) * 128, each)
    elif name == "latency":
        batch, prompt = get("batch_size", 1), get("prompt_tokens", 64)
        cache_bytes = shape.cache_values() * batch * (prompt + get("new_tokens", 0)) * each
        yield cache_bytes + batch * prompt * _widest(shape) * each
    elif name == "memory" and getattr(metric, "peak", False):
        yield shape.parameters() * each  # the fresh process loads it beside this one


def _logits(shape: Shape, tokens: int, each: int) -> int:
    return tokens * (shape.vocabulary * (each + 8) + _widest(shape) * each)


def _widest(shape: Shape) -> int:
    """Numbers per token that a block holds at once: about its MLP's inner states and the stream."""
    return 2 * shape.mlp_mul // shape.hidden + 4 * shape.hidden


def _activations(shape: Shape, length: int) -> int:
    """Numbers per token and block that a backward pass keeps."""
    return 8 * shape.hidden + shape.mlp_mul // shape.hidden + shape.heads * length

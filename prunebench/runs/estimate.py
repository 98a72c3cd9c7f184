"""Peak device memory of a case, by a formula over the sizes in its model's config.

Weights, the weights that an edit replaces, and the largest working set of the case's steps:

- scoring: the logits of a batch in the model's dtype and twice in float32;
- timing: the key/value cache, and the widest layer's activations for the prompt;
- a search: the cached hidden states (see ``models.stream``), gradients and activations for
  *taylor*, the states twice and float64 matrices of width x width for the slicing methods.

Not counted: Python, torch and the driver (about half a GiB).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..api import Metric, tag
from ..case import Case
from ..data import hub
from ..data.model_config import Shape
from ..errors import PrunebenchError
from ..system.machine import GIB, gpu_memory

#: Tokens per forward, and bytes of hidden states that a search caches on a CPU. Copies of what
#: ``models.causal_lm`` and ``models.stream`` say, which cannot be imported without torch.
BATCH_TOKENS = 8192
CPU_BUDGET = 2 * GIB

BYTES = {"float32": 4, "float16": 2, "bfloat16": 2, "float64": 8}


def memory(case: Case, shape: Shape, device: str) -> int:
    """Bytes of device memory that *case* takes at its peak, by the formula above."""
    size = _bytes_per_weight(case)
    weights = shape.parameters() * size
    edited = _edited_parameters(case, shape) * size
    search = _search_bytes(case, shape, size, device)
    measuring = max((b for m in case.metrics for b in _metric_bytes(m, shape, size)), default=0)
    return weights + max(search, edited + measuring)


def removals(case: Case, shape: Shape) -> int:
    """How many blocks or sublayers are removed; a quarter of all where only the search decides."""
    target, sublayers = case.target, case.method.unit == "sublayers"
    if target.blocks is not None or target.sublayers is not None:
        return int(target.blocks or target.sublayers or 0)
    units = shape.blocks * (2 if sublayers else 1)
    if target.sparsity is None:
        return units // 4
    per_unit = (shape.attn + shape.mlp) / (2 if sublayers else 1)
    return min(units, round(target.sparsity * shape.parameters() / per_unit))


def _bytes_per_weight(case: Case) -> int:
    if case.model.dtype != "auto":
        return BYTES[case.model.dtype]
    try:
        config = hub.config(case.model.id, case.model.revision) or {}
    except PrunebenchError:
        config = {}
    return BYTES.get(str(config.get("dtype") or config.get("torch_dtype")), 4)


def _edited_parameters(case: Case, shape: Shape) -> int:
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


def _search_bytes(case: Case, shape: Shape, size: int, device: str) -> int:
    if not case.method.calibrated:
        return 0
    tokens = case.calibration.nsamples * case.calibration.seqlen
    states = tokens * shape.hidden * size
    scoring = _logits(shape, min(BATCH_TOKENS, tokens), size)
    if case.method.unit == "width":
        square = 8 * shape.hidden**2
        return 2 * states + 4 * square + 2 * 8 * max(shape.attn, shape.mlp) + scoring
    if tag(case.method) == "shortened_llama":
        if getattr(case.method, "criterion", "") != "taylor":
            return states + scoring
        tokens = min(BATCH_TOKENS // 4, tokens)
        gradients = shape.blocks * (shape.attn + shape.mlp) * size
        activations = tokens * shape.blocks * _activations(shape, case.calibration.seqlen) * size
        return gradients + activations + _logits(shape, tokens, size)
    paths = shape.blocks * (shape.blocks + 1) // 2
    budget = gpu_memory(device) // 4 if device.startswith("cuda") else CPU_BUDGET
    return states + min(paths * states, budget) + scoring


def _metric_bytes(metric: Metric, shape: Shape, size: int) -> Iterator[int]:
    name: str = tag(metric)
    get: Callable[[str, int], int] = lambda key, usual: getattr(metric, key, None) or usual  # noqa: E731
    if name in ("perplexity", "divergence"):
        length = get("seqlen", 2048)
        yield _logits(shape, get("batch_size", max(1, BATCH_TOKENS // length)) * length, size)
    elif name in ("accuracy", "generation", "repetition"):
        yield _logits(shape, get("batch_size", 64) * 128, size)
    elif name == "latency":
        batch, prompt = get("batch_size", 1), get("prompt_tokens", 64)
        cache_bytes = shape.cache_values() * batch * (prompt + get("new_tokens", 0)) * size
        yield cache_bytes + batch * prompt * _widest(shape) * size
    elif name == "memory" and getattr(metric, "peak", False):
        yield shape.parameters() * size  # the fresh process loads it next to this one


def _logits(shape: Shape, tokens: int, size: int) -> int:
    return tokens * (shape.vocabulary * (size + 8) + _widest(shape) * size)


def _widest(shape: Shape) -> int:
    """Numbers per token that a block holds at once: its MLP's inner states and the stream."""
    return 2 * shape.mlp_mul // shape.hidden + 4 * shape.hidden


def _activations(shape: Shape, length: int) -> int:
    """Numbers per token and block that a backward pass stores."""
    return 8 * shape.hidden + shape.mlp_mul // shape.hidden + shape.heads * length

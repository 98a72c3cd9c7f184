"""Memory of a model: its weights, its key/value cache, and the peak of a fresh process."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from ..api import Metric
from ..errors import PrunebenchError
from ..record import Direction, Measurement, Tolerance
from ..specs import Count

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM

MIB = 2**20


class Memory(Metric, frozen=True, tag="memory"):
    """MiB of weights and of a key/value cache, KiB of cache per token, and optionally the *peak*.

    The cache is that of *batch_size* sequences of *tokens* and *new_tokens* more; a sliding window
    limits it. The peak is the memory that loading the model, reading these tokens and generating
    the new ones add to a fresh process: resident memory on a CPU, allocated memory on a GPU.
    Weights and cache are measured on the model's own tensors.
    """

    unit: ClassVar[str] = "MiB"
    better: ClassVar[Direction] = "lower"
    tolerance: ClassVar[Tolerance] = Tolerance(rel=0.01)

    peak: bool = False
    batch_size: Count = 1
    tokens: Annotated[int, Meta(ge=1)] = 128
    new_tokens: Annotated[int, Meta(ge=0)] = 0

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:  # noqa: ARG002
        """``memory/weights``, ``kv-per-token``, ``kv-cache`` and optionally ``peak``."""
        weights = sum(p.numel() * p.element_size() for p in lm.hf.parameters())
        yield self.measured("weights", weights / MIB)
        blocks = _cache_of(lm)
        per_token = sum(size for size, _ in blocks)
        yield Measurement("memory/kv-per-token", per_token / 1024, "KiB", "lower")
        length = self.tokens + self.new_tokens
        cached = sum(size * min(length, limit) for size, limit in blocks)
        yield self.measured("kv-cache", self.batch_size * cached / MIB)
        if self.peak:
            added = peak(lm, self.batch_size, self.tokens, self.new_tokens)
            shape = f"batch {self.batch_size}, {self.tokens} + {self.new_tokens} tokens"
            note = f"out of memory at {shape}" if added is None else ""
            value = None if added is None else added / MIB
            yield Measurement("memory/peak", value, self.unit, self.better, note=note)


def _finished(program: list[str]) -> subprocess.CompletedProcess[str]:
    """Run *program* with a pipe as its input, which is closed when this process ends."""
    theirs, ours = os.pipe()
    try:
        return subprocess.run(program, stdin=theirs, capture_output=True, text=True, check=False)  # noqa: S603
    finally:
        os.close(theirs)
        os.close(ours)


def _cache_of(lm: CausalLM) -> list[tuple[int, float]]:
    """Per block with attention: bytes per token of a sequence, and the most tokens in the cache.

    For a sliding window of n tokens that is n - 1: the current token is the last of the window.
    """
    import torch

    ids = torch.zeros((1, 1), dtype=torch.long, device=lm.device)
    with torch.no_grad():
        cache = lm.hf(ids, use_cache=True).past_key_values
    return [
        (
            sum(int(t.numel() * t.element_size()) for t in (layer.keys, layer.values)),
            layer.sliding_window - 1 if layer.is_sliding else math.inf,
        )
        for layer in cache.layers
        if layer.keys is not None
    ]


def peak(lm: CausalLM, batch: int, tokens: int, new_tokens: int) -> int | None:
    """Bytes that loading *lm* and one round add to a fresh process; None if memory ran out.

    Raises:
        PrunebenchError: if that process fails.
    """
    with TemporaryDirectory() as folder:
        from ..models import export

        export.write(lm, Path(folder))
        program = [sys.executable, "-m", "prunebench.metrics._peak", folder]
        program += [str(lm.device), str(lm.hf.dtype).removeprefix("torch.")]
        program += map(str, (batch, tokens, new_tokens))
        done = _finished(program)
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise PrunebenchError(f"the memory process ended with {done.returncode}: {reason}")
        added: int | None = json.loads(Path(folder, "peak.json").read_text())["bytes"]
        return added

"""What a model occupies: its weights, its cache per token, and the peak of a fresh process."""

from __future__ import annotations

import json
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

if TYPE_CHECKING:
    from ..models import CausalLM

MIB = 2**20


class Memory(Metric, frozen=True, tag="memory"):
    """MiB of weights, KiB of key/value cache per token, and with *peak* the peak of a new process.

    The peak is what one forward over *tokens* tokens adds in a process that has only just loaded
    the model: resident memory on a CPU, allocated memory on a GPU. Weights and cache are read off
    the tensors and the cache that the model really makes.
    """

    unit: ClassVar[str] = "MiB"
    better: ClassVar[Direction] = "lower"
    tolerance: ClassVar[Tolerance] = Tolerance(rel=0.01)

    peak: bool = False
    tokens: Annotated[int, Meta(ge=1)] = 128

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:  # noqa: ARG002
        """``memory/weights``, ``memory/kv-per-token`` and, if asked for, ``memory/peak``."""
        weights = sum(p.numel() * p.element_size() for p in lm.hf.parameters())
        yield self.measured("weights", weights / MIB)
        yield Measurement("memory/kv-per-token", _cache_bytes(lm) / 1024, "KiB", "lower")
        if self.peak:
            yield self.measured("peak", peak(lm, self.tokens) / MIB)


def _cache_bytes(lm: CausalLM) -> int:
    """Bytes of key/value cache that one token of one sequence takes."""
    import torch

    ids = torch.zeros((1, 4), dtype=torch.long, device=lm.device)
    with torch.no_grad():
        cache = lm.hf(ids, use_cache=True).past_key_values
    tensors = [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None]
    return sum(int(t.numel() * t.element_size()) for t in tensors) // ids.shape[1]


def peak(lm: CausalLM, tokens: int) -> int:
    """Bytes that loading *lm* and one forward add to a fresh process.

    Raises:
        PrunebenchError: if that process fails.
    """
    with TemporaryDirectory() as folder:
        from .. import export

        export.write(lm, Path(folder))
        program = [sys.executable, "-m", "prunebench.metrics._peak", folder, str(tokens)]
        program += [str(lm.device), str(lm.hf.dtype).removeprefix("torch.")]
        done = subprocess.run(program, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise PrunebenchError(f"the memory process ended with {done.returncode}: {reason}")
        return int(json.loads(Path(folder, "peak.json").read_text())["bytes"])

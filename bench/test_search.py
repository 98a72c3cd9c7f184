"""One SLEB step with shared prefixes beside the published loop, side by side in one run."""

from __future__ import annotations

import pytest
import torch

import prunebench
from prunebench.stream import Stream

WINDOWS, LENGTH = 16, 128


@pytest.fixture(scope="module")
def lm() -> prunebench.CausalLM:
    return prunebench.load_model("prunebench/reference", dtype="float32")


@pytest.fixture(scope="module")
def ids(lm) -> torch.Tensor:
    from prunebench.calibration import evaluation_windows

    return evaluation_windows("tinyworld", lm, LENGTH, WINDOWS)


def published(lm, ids: torch.Tensor, batch_size: int) -> dict[int, float]:
    """Every candidate a whole forward over all windows, as the released code does at batch 1."""
    losses = {}
    for block in range(1, len(lm.blocks) - 1):
        with lm.skipping([block]):
            losses[block] = lm.window_nll(ids, batch_size).mean().item()
    return losses


def ours(lm, ids: torch.Tensor) -> dict[int, float]:
    n = len(lm.blocks)
    return Stream(lm, ids).without_each(range(n), range(1, n - 1))


@pytest.mark.benchmark(group="sleb-step")
def test_shared_prefixes(benchmark, lm, ids) -> None:
    """Ours, recording pass included."""
    losses = benchmark.pedantic(ours, args=(lm, ids), rounds=5, warmup_rounds=1)

    assert losses == pytest.approx(published(lm, ids, WINDOWS), abs=1e-5)


@pytest.mark.benchmark(group="sleb-step")
@pytest.mark.parametrize("batch_size", [1, WINDOWS], ids=["as-released", "equal-batch"])
def test_published_loop(benchmark, lm, ids, batch_size: int) -> None:
    """The published loop at batch 1 and at our batch."""
    benchmark.pedantic(published, args=(lm, ids, batch_size), rounds=5, warmup_rounds=1)

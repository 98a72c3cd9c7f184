"""Scoring: our use of lm-eval against lm-eval's own entry point, perplexity against a forward."""

from __future__ import annotations

import pytest
import torch

import prunebench
from prunebench import reference
from prunebench.metrics.accuracy import Accuracy
from prunebench.models.calibration import evaluation_windows

LIMIT = 50


@pytest.fixture(scope="module")
def lm() -> prunebench.CausalLM:
    return prunebench.load_model("prunebench/reference", dtype="float32")


def through_us(lm) -> float:
    (measured,) = Accuracy(tasks=("tinyworld_recall",), limit=LIMIT).measure(lm, lm)
    return measured.value


def through_lm_eval(lm) -> float:
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    results = lm_eval.simple_evaluate(
        model=HFLM(pretrained=lm.hf, tokenizer=lm.tokenizer, batch_size=64),
        tasks=["tinyworld_recall"],
        task_manager=TaskManager(include_path=str(reference.TASKS), include_defaults=False),
        limit=LIMIT,
        bootstrap_iters=0,
    )
    return results["results"]["tinyworld_recall"]["acc,none"]


@pytest.mark.benchmark(group="lm-eval")
@pytest.mark.parametrize("way", [through_us, through_lm_eval], ids=["prunebench", "lm-eval"])
def test_a_task(benchmark, lm, way) -> None:
    """The same questions and answers both ways."""
    score = benchmark.pedantic(way, args=(lm,), rounds=5, warmup_rounds=1)

    assert score == through_lm_eval(lm)


@pytest.mark.benchmark(group="perplexity")
@pytest.mark.parametrize("loss", [True, False], ids=["window-nll", "bare-forward"])
def test_perplexity(benchmark, lm, loss: bool) -> None:
    """What the loss adds to a batched forward."""
    ids = evaluation_windows("tinyworld", lm, 128, 64)

    def bare() -> None:
        with torch.no_grad():
            lm.hf(ids, use_cache=False)

    benchmark.pedantic(lm.window_nll if loss else bare, args=(ids,) if loss else (), rounds=5)

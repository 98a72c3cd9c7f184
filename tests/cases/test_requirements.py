"""What the papers' cases ask of a machine holds what they do."""

from __future__ import annotations

from typing import Any

import pytest
from factories import ROOT
from msgspec.structs import replace

from prunebench.cases import loader
from prunebench.data.model_config import shape_of
from prunebench.record import Environment, Measurement, Record
from prunebench.results.baselines import published
from prunebench.runs import estimate
from prunebench.system.machine import GIB, gibibytes


def llama(vocabulary: int, hidden: int, ffn: int, blocks: int, heads: int, kv: int) -> Any:
    return shape_of({"model_type": "llama", "vocab_size": vocabulary, "hidden_size": hidden,
                     "intermediate_size": ffn, "num_hidden_layers": blocks,
                     "num_attention_heads": heads, "num_key_value_heads": kv})  # fmt: skip


def opt(hidden: int, blocks: int, heads: int) -> Any:
    return shape_of({"model_type": "opt", "hidden_size": hidden, "ffn_dim": 4 * hidden,
                     "num_hidden_layers": blocks, "num_attention_heads": heads})  # fmt: skip


SHAPES = {
    "Llama-2-7b-hf": llama(32000, 4096, 11008, 32, 32, 32),
    "decapoda-research-llama-7B-hf": llama(32000, 4096, 11008, 32, 32, 32),
    "vicuna-7b-v1.3": llama(32000, 4096, 11008, 32, 32, 32),
    "Llama-2-13b-hf": llama(32000, 5120, 13824, 40, 40, 40),
    "vicuna-13b-v1.3": llama(32000, 5120, 13824, 40, 40, 40),
    "Llama-2-70b-hf": llama(32000, 8192, 28672, 80, 64, 8),
    "Meta-Llama-3-8B": llama(128256, 4096, 14336, 32, 32, 8),
    "Llama-3.1-8B": llama(128256, 4096, 14336, 32, 32, 8),
    "opt-125m": opt(768, 12, 12),
    "opt-1.3b": opt(2048, 24, 32),
    "opt-2.7b": opt(2560, 32, 32),
    "opt-6.7b": opt(4096, 32, 32),
    "opt-13b": opt(5120, 40, 40),
    "opt-30b": opt(7168, 48, 56),
    "opt-66b": opt(9216, 64, 72),
    "Qwen3-8B": shape_of(
        {
            "model_type": "qwen3",
            "intermediate_size": 12288,
            "num_hidden_layers": 36,
            "num_key_value_heads": 8,
        }
    ),
}


@pytest.mark.parametrize("folder", ["paper", "matched", "reproduce"])
def test_the_memory_that_is_asked_for_is_enough(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the formula of dry runs, on a card of just that size, of which 95 % are enough to run."""
    cases = loader.load([ROOT / "cases" / folder])
    asked = [(case, size) for case in cases if (size := case.needs.gpu_memory) is not None]
    assert asked
    for case, size in asked:
        card = 0.95 * gibibytes(size)
        # A search keeps states in a part of the card at hand.
        monkeypatch.setattr(estimate, "gpu_memory", lambda *_, card=card: int(card * GIB))
        if getattr(case.method, "calibration_unit", "") == "lines":
            # 128 lines of WikiText-2 are some 10,000 tokens, not 128 windows.
            case = replace(case, calibration=replace(case.calibration, nsamples=6))
        wanted = estimate.memory(case, SHAPES[case.model.id.split("/")[-1]], "cuda:0") / GIB

        assert wanted < card * (case.needs.gpus or 1), case.id


def test_who_asks_to_be_judged_has_a_paper_to_be_judged_by() -> None:
    """In cases/reproduce every case; nowhere is a number judged by two rows."""
    rows = published.rows(ROOT / "baselines" / "published")
    measured = tuple(
        Measurement(metric, 1.0, "", "lower") for metric in sorted({row.metric for row in rows})
    )
    environment = Environment("cpu", "3.11", "Linux", 1, {})
    for folder in ("paper", "reproduce"):
        for case in loader.load([ROOT / "cases" / folder]):
            record = Record(
                case.id, case.asked, (), (), 1, 1, measured, {}, environment, "", "2026-11-24"
            )
            rows_by = published.judged(record, published.matching(record, rows))
            metrics = [row.metric for row in rows_by]

            assert len(metrics) == len(set(metrics)), case.id
            assert metrics or folder == "paper", case.id

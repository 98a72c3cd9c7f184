"""Each protocol point by point against what the dossiers read in the authors' code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from prunebench.api import tag
from prunebench.case import Case
from prunebench.cases import loader
from prunebench.errors import CaseError

PROTOCOLS = sorted(p.stem for p in loader.PROTOCOLS.glob("*.yaml"))
NORM = {"piqa", "hellaswag", "arc_easy", "arc_challenge"}

#: windows of perplexity: (text, length, BOS, at most, whole batches); tasks with acc_norm ones;
#: timed shapes (backend, batch, prompt, new, rounds, warm-up); calibration.
EXPECTED: dict[str, dict[str, Any]] = {
    "sleb@1": {
        "perplexity": {
            ("wikitext2", 2048, "tokenizer", None, 1),
            ("c4", 2048, "tokenizer", 256, 1),
        },
        "tasks": {"piqa", "winogrande", "hellaswag", "arc_challenge", "arc_easy"},
        "norm": NORM,
        "timed": {("hf-eager", 64, 64, 128, 10, 1), ("hf-eager", 1, 2048, 0, 50, 1)},
        "calibration": ("wikitext2", 128, 2048, 0, None),
    },
    "shortened-llama@1": {
        "perplexity": {
            (t, 128, bos, None, 1) for t in ("wikitext2", "ptb") for bos in ("stream", "window")
        },
        "tasks": {"boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge",
                  "openbookqa"},
        "norm": {"hellaswag", "arc_challenge", "openbookqa"},
        "timed": {("hf-eager", m, 12, 128, 20, 10) for m in (1, 8, 16, 32, 64, 128, 256)}
        | {("hf-eager", 1, 12, 512, 20, 10)},
        "calibration": ("bookcorpus", 10, 128, 1234, None),
    },
    "sliding-layer-merging@1": {
        "perplexity": {
            (t, 128, bos, None, 4) for t in ("wikitext2", "ptb") for bos in ("stream", "window")
        },
        "tasks": {"boolq", "piqa", "hellaswag", "winogrande", "arc_easy", "arc_challenge",
                  "openbookqa"},
        "norm": {"hellaswag", "arc_challenge", "openbookqa"},
        "timed": {("hf-eager", 1, 12, 128, 20, 10)},
        "calibration": ("bookcorpus", 10, 128, 1234, None),
    },
    "slicegpt@1": {
        "perplexity": {("wikitext2", 2048, "tokenizer", None, 1)},
        "tasks": {"piqa", "winogrande", "hellaswag", "arc_challenge", "arc_easy"},
        "norm": NORM,
        "timed": {("hf-eager", 1, 1, 128, 5, 0)},
        "calibration": ("wikitext2", 128, 2048, 42, None),
    },
    "sprint@1": {
        "perplexity": {("wikitext2", 2048, "tokenizer", None, 1)},
        "tasks": {"piqa", "hellaswag", "arc_challenge", "arc_easy", "boolq"},
        "norm": NORM,
        "timed": {("hf-eager", 1, 1024, 512, 10, 1)},
        "calibration": ("wikitext2", 128, 2048, 0, " "),
    },
}  # fmt: skip


def case_of(protocol: str, folder: Path) -> Case:
    file = folder / "case.yaml"
    file.write_text(f"protocol: {protocol}\nmodel: {{id: some/model}}\nmethod: {{name: dense}}\n")
    (case,) = loader.load([file])
    return case


@pytest.mark.parametrize("protocol", sorted(EXPECTED))
def test_a_papers_protocol_is_what_its_code_does(protocol: str, tmp_path: Path) -> None:
    """Windows, BOS, tasks and their variants, zero shots, timed shapes, calibration, dtype."""
    case, expected = case_of(protocol, tmp_path), EXPECTED[protocol]
    by_kind: dict[str, list[Any]] = {}
    for metric in case.metrics:
        by_kind.setdefault(tag(metric), []).append(metric)
    (accuracy,) = by_kind.pop("accuracy")
    spec = case.calibration

    assert {
        (m.dataset, m.seqlen, m.bos, m.nsamples, m.whole_batches) for m in by_kind.pop("perplexity")
    } == expected["perplexity"]
    assert (set(accuracy.tasks), set(accuracy.acc_norm)) == (expected["tasks"], expected["norm"])
    assert accuracy.num_fewshot == 0
    assert {
        (m.backend, m.batch_size, m.prompt_tokens, m.new_tokens, m.rounds, m.warmup)
        for m in by_kind.pop("latency")
    } == expected["timed"]
    found = (spec.dataset, spec.nsamples, spec.seqlen, spec.seed, spec.join)
    assert found == expected["calibration"]
    assert case.model.dtype == "float16"
    assert not by_kind


def test_our_own_measures_what_the_papers_leave_out(tmp_path: Path) -> None:
    """Generation, loops, divergence, memory, both backends; every acc_norm that lm-eval has."""
    metrics = case_of("prunebench@1", tmp_path).metrics
    kinds = {tag(m) for m in metrics}
    accuracy = next(m for m in metrics if tag(m) == "accuracy")

    assert kinds == {
        "perplexity", "accuracy", "generation", "repetition", "divergence", "memory", "compute",
        "latency",
    }  # fmt: skip
    assert {m.backend for m in metrics if tag(m) == "latency"} == {"hf-eager", "hf-compiled"}
    assert {t for m in metrics if tag(m) == "generation" for t in m.tasks} == {"gsm8k", "ifeval"}
    assert set(accuracy.tasks) - set(accuracy.acc_norm) == {"boolq", "winogrande"}


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_protocol_names_its_source(protocol: str) -> None:
    """In the comment at its top; and it is no case of any one model."""
    text = (loader.PROTOCOLS / f"{protocol}.yaml").read_text()
    comment = text[: text.index("\n", text.rindex("#"))]

    assert text.startswith("# ")
    assert "arXiv:" in comment or "ource: this project" in comment
    assert protocol == "tinyworld@1" or "id" not in yaml.safe_load(text)["model"]


@pytest.mark.slow
def test_lm_eval_has_every_task_that_is_named() -> None:
    """By the names of the installed version."""
    from lm_eval.tasks import TaskManager

    known = set(TaskManager().all_tasks)
    for protocol in PROTOCOLS:
        metrics = yaml.safe_load((loader.PROTOCOLS / f"{protocol}.yaml").read_text())["metrics"]
        named = {task for metric in metrics for task in metric.get("tasks", ())}
        assert protocol == "tinyworld@1" or named <= known


def test_a_case_of_a_protocol_still_needs_a_model(tmp_path: Path) -> None:
    """The protocol's dtype alone is none."""
    (tmp_path / "case.yaml").write_text("protocol: sleb@1\nmethod: {name: dense}\n")
    with pytest.raises(CaseError, match=r"case.yaml:2:1: missing key 'model'"):
        loader.load([tmp_path / "case.yaml"])


@pytest.mark.parametrize(
    "twice",
    [
        "{name: perplexity, dataset: c4, seqlen: 128}, {name: perplexity, dataset: c4}",
        "{name: latency}, {name: latency, rounds: 5}",
        "{name: accuracy, tasks: [piqa]}, {name: accuracy, tasks: [boolq]}",
    ],
)
def test_metrics_that_would_write_over_each_other_are_refused(twice: str, tmp_path: Path) -> None:
    """One name cannot stand for two numbers; another text, BOS or shape makes another name."""
    text = "model: {{id: some/model}}\nmethod: {{name: dense}}\nmetrics: [{}]\n"
    file = tmp_path / "case.yaml"
    file.write_text(text.format(twice))
    with pytest.raises(CaseError, match=r"metrics\[1\]: another '\w+' has measurements"):
        loader.load([file])
    file.write_text(
        text.format(
            "{name: perplexity, dataset: c4}, {name: perplexity, dataset: c4, bos: window},"
            "{name: latency}, {name: latency, backend: hf-compiled}"
        )
    )
    assert len(loader.load([file])[0].metrics) == 4

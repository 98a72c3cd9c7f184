"""Real text and the papers' real questions on small trained models, where they lie beside us."""

from __future__ import annotations

import gzip
import itertools
import json
import math
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import prunebench
from prunebench import apply, load_model
from prunebench.metrics.accuracy import Accuracy
from prunebench.metrics.perplexity import Perplexity

#: The seven tasks of the pruning papers, the file of each, and the metrics it is reported by.
SEVEN = {
    "boolq": "boolq_validation.jsonl",
    "piqa": "piqa_validation.jsonl",
    "hellaswag": "hellaswag_validation.jsonl.gz",
    "winogrande": "winogrande_xl_validation.jsonl",
    "arc_easy": "arc_easy_test.jsonl",
    "arc_challenge": "arc_challenge_test.jsonl",
    "openbookqa": "openbookqa_test.jsonl",
}
NORMALISED = ("piqa", "hellaswag", "arc_easy", "arc_challenge", "openbookqa")

CHOICES = """\
task: real_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
output_type: multiple_choice
doc_to_text: context
doc_to_choice: choices
doc_to_target: label
"""
CONTEXTS = """\
task: real_{name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
metric_list: [{{metric: acc}}]
output_type: multiple_choice
doc_to_text: label
doc_to_choice: context_options
doc_to_target: continuation
"""


@pytest.fixture(scope="session")
def data(shared: Path) -> Path:
    folder = shared / "data"
    if not folder.is_dir():
        pytest.skip("the real texts are not beside this checkout")
    return folder


@pytest.fixture(scope="session", params=["stories260K", "babyllama_tok105_0.94M"])
def lm(data: Path, request) -> prunebench.CausalLM:
    return load_model(data / "models" / request.param, dtype="float32")


@pytest.fixture(scope="session")
def folder(data: Path, tmp_path_factory) -> Path:
    """The seven tasks as local lm-eval tasks, twelve short questions of each."""
    made = tmp_path_factory.mktemp("tasks")
    for name, file in SEVEN.items():
        opened = gzip.open if file.endswith(".gz") else open
        with opened(data / "tasks" / file, "rt", encoding="utf-8") as lines:
            short = itertools.islice((line for line in lines if len(line) < 700), 12)
            (made / f"{name}.jsonl").write_text("".join(short), encoding="utf-8")
        form = CONTEXTS if name == "winogrande" else CHOICES
        text = form.format(name=name, file=made / f"{name}.jsonl", cache=made / "cache")
        (made / f"{name}.yaml").write_text(text)
    return made


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*are cut from the left")  # a token a letter is many tokens
def test_the_seven_tasks_score_as_through_hflm(lm, folder: Path) -> None:
    """Every log-likelihood within 1e-4, every answer the same, lm-eval's own means."""
    tasks = [f"real_{name}" for name in SEVEN]
    ours, theirs = (
        lm_eval.simple_evaluate(
            model=model,
            tasks=tasks,
            task_manager=TaskManager(include_path=str(folder), include_defaults=False),
            bootstrap_iters=0,
        )
        for model in (
            prunebench.lm_eval_model(lm),
            HFLM(pretrained=lm.hf, tokenizer=lm.tokenizer, batch_size=8),
        )
    )
    assert ours["results"] == theirs["results"]
    for task in tasks:
        for mine, other in zip(ours["samples"][task], theirs["samples"][task], strict=True):
            assert mine["arguments"] == other["arguments"]
            for (a, greedy), (b, expected) in zip(
                mine["filtered_resps"], other["filtered_resps"], strict=True
            ):
                assert a == pytest.approx(b, abs=1e-4)
                assert greedy == expected
    metric = Accuracy(
        tasks=tuple(tasks),
        acc_norm=tuple(f"real_{name}" for name in NORMALISED),
        tasks_folder=str(folder),
    )
    found = list(metric.measure(lm, lm))
    measured = {m.metric: m.value for m in found}
    for task in found[:-1]:
        # A lead of the right choice is what lm-eval calls right; equal scores go to the first.
        assert len(task.margins) == len(task.samples)
        for margin, right in zip(task.margins, task.samples, strict=True):
            assert (margin > 0) == bool(right) or margin == 0
        assert 0.2 <= task.chance <= 0.5
    for name in SEVEN:
        variant = "acc_norm,none" if name in NORMALISED else "acc,none"
        expected = theirs["results"][f"real_{name}"][variant]
        assert measured[f"accuracy/real_{name}"] == pytest.approx(expected)
    assert measured["accuracy/mean"] == pytest.approx(
        sum(measured[f"accuracy/real_{name}"] for name in SEVEN) / 7
    )


@pytest.mark.slow
def test_wikitext2_by_the_papers_windows(lm, data: Path) -> None:
    """The exact joined string, windows of the text in order, against a plain float64 loop."""
    file = data / "lm" / "wikitext2_raw_test_joined.txt"
    metric = Perplexity(dataset=str(file), join="\n", seqlen=128, nsamples=6)
    (measured,) = metric.measure(lm, lm)
    ids = lm.tokenizer(file.read_text(encoding="utf-8"), verbose=False)["input_ids"]
    losses = []
    for start in range(0, 6 * 128, 128):
        window = ids[start : start + 128]
        with torch.no_grad():
            logs = lm.hf(torch.tensor([window])).logits[0].double().log_softmax(-1)
        losses.append(-sum(logs[t, window[t + 1]].item() for t in range(127)) / 127)

    assert measured.value == pytest.approx(math.exp(sum(losses) / 6), rel=1e-6)
    assert measured.samples == pytest.approx(losses, rel=1e-6)


def test_the_small_models_know_their_stories(lm, data: Path) -> None:
    """In domain they are about as good as on whole stories: 1.530 and 0.781 nats a token."""
    lines = (data / "lm" / "tinystories_val_sample.jsonl").read_text().splitlines()[:25]
    total, count = 0.0, 0
    for line in lines:
        ids = torch.tensor([lm.tokenizer(json.loads(line)["text"])["input_ids"][:256]])
        total += lm.window_nll(ids).item() * (ids.shape[1] - 1)
        count += ids.shape[1] - 1

    expected = 1.53 if lm.hf.config.vocab_size == 512 else 0.781
    assert total / count == pytest.approx(expected, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "amount", "options"),
    [
        ("sleb", {"blocks": 1}, {}),
        ("shortened_llama", {"blocks": 1}, {"keep_first": 1, "keep_last": 1}),
        ("sprint", {"sublayers": 2}, {"attn_latency": 5, "mlp_latency": 4}),
        ("sliding_layer_merging", {"blocks": 1}, {}),
        ("slicegpt", {"slicing": 0.2}, {}),
    ],
)
def test_every_method_hurts_less_than_the_worst_block(
    method: str, amount: dict[str, Any], options: dict[str, Any], lm, data: Path
) -> None:
    """On real text, with calibration in domain: a method beats removing the first block."""
    lines = (data / "lm" / "tinystories_val_sample.jsonl").read_text().splitlines()
    text = "\n".join(json.loads(line)["text"] for line in lines[:120])
    ids = lm.tokenizer(text, verbose=False)["input_ids"]
    windows = torch.tensor(ids[: 24 * 96]).view(24, 96)
    plan = prunebench.choose(lm, method, calibration=windows[:12], **amount, **options)
    first = prunebench.choose(lm, "first", blocks=1)
    held_out = windows[12:]
    losses = [apply(lm.share(), p).nll(held_out) for p in (plan, first)]

    assert lm.nll(held_out) < losses[0] < losses[1]

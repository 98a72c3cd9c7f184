"""Each metric against another way of getting the same number, on the shipped model."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from factories import FAMILIES
from msgspec.structs import replace

import prunebench
from prunebench import (
    DropBlocks,
    DropSublayers,
    Plan,
    PrunebenchError,
    apply,
    load_model,
    reference,
)
from prunebench.metrics.accuracy import Accuracy, _choice, _scores
from prunebench.metrics.divergence import Divergence
from prunebench.metrics.generation import Generation
from prunebench.metrics.memory import Memory
from prunebench.metrics.perplexity import Perplexity
from prunebench.metrics.repetition import Repetition, repeated
from prunebench.models.calibration import evaluation_windows


@pytest.fixture(scope="module")
def lm() -> prunebench.CausalLM:
    return load_model(reference.MODEL_ID, dtype="float32")


def questions(task: str, count: int) -> list[dict[str, Any]]:
    lines = (reference.TASKS / f"tinyworld_{task}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines[:count]]


def one(measurements: Any) -> Any:
    (measurement,) = measurements
    return measurement


def test_perplexity_equals_a_plain_float64_loop(lm) -> None:
    """Windows without overlap over the joined text, each loss in float64, to 1e-6 relative."""
    ids = lm.tokenizer("\n".join(reference.documents("test")), verbose=False)["input_ids"]
    losses = []
    for start in range(0, 5 * 64, 64):
        window = torch.tensor([ids[start : start + 64]])
        with torch.no_grad():
            logs = lm.hf(window).logits[0].double().log_softmax(-1)
        losses.append(-sum(logs[t, window[0, t + 1]].item() for t in range(63)) / 63)
    measured = one(Perplexity(dataset="tinyworld", seqlen=64, nsamples=5).measure(lm, lm))

    assert measured.metric == "perplexity/tinyworld"
    assert measured.value == pytest.approx(math.exp(sum(losses) / 5), rel=1e-6)
    assert measured.samples == pytest.approx(losses, rel=1e-6)
    assert measured.paired


def test_perplexity_of_a_broken_model_is_null_not_a_crash(lm) -> None:
    """A loss that is not finite gives a measurement without a value."""
    broken = lm.share()
    with torch.no_grad():
        weight = broken.blocks[0].mlp.down_proj.weight
        broken.blocks[0].mlp.down_proj.weight = torch.nn.Parameter(weight * float("nan"))

    measured = one(Perplexity(dataset="tinyworld", seqlen=64, nsamples=2).measure(broken, lm))
    assert measured.value is None


def test_accuracy_equals_choosing_by_logits(lm) -> None:
    """lm-eval's answers are those of an argmax over the choices' log-likelihoods by hand."""
    asked = questions("recall", 30)
    right, margins = [], []
    for question in asked:
        context = lm.tokenizer(question["prompt"])["input_ids"]
        with torch.no_grad():
            logs = lm.hf(torch.tensor([context])).logits[0, -1]
        tokens = [lm.tokenizer(choice)["input_ids"][0] for choice in question["choices"]]
        best = max(range(len(tokens)), key=lambda i: logs[tokens[i]].item())
        right.append(float(best == question["gold"]))
        gold = logs[tokens.pop(question["gold"])]
        margins.append((gold - max(logs[token] for token in tokens)).item())
    measured = one(Accuracy(tasks=("tinyworld_recall",), limit=30).measure(lm, lm))

    assert measured.samples == tuple(right)
    assert measured.value == sum(right) / 30
    assert measured.margins == pytest.approx(margins, abs=1e-4)
    assert measured.chance == 1 / 4
    assert measured.instead == ""


def test_questions_that_belong_together_are_numbered(lm) -> None:
    """By a key of the question, in order of first sight; an unknown key names the known ones."""
    keyed = Accuracy(tasks=("tinyworld_recall",), limit=6, clusters={"tinyworld_recall": "gold"})
    golds = [question["gold"] for question in questions("recall", 6)]
    numbers = {gold: i for i, gold in enumerate(dict.fromkeys(golds))}

    assert one(keyed.measure(lm, lm)).clusters == tuple(numbers[gold] for gold in golds)
    wrong = Accuracy(tasks=keyed.tasks, limit=6, clusters={"tinyworld_recall": "passage"})
    with pytest.raises(PrunebenchError, match=r"have no key 'passage'; .*gold"):
        list(wrong.measure(lm, lm))


def test_the_mean_is_over_tasks(lm) -> None:
    """With several tasks their plain mean comes last."""
    tasks = ("tinyworld_facts", "tinyworld_recall")
    *parts, mean = Accuracy(tasks=tasks, limit=10).measure(lm, lm)

    assert [m.metric for m in parts] == ["accuracy/tinyworld_facts", "accuracy/tinyworld_recall"]
    assert mean.metric == "accuracy/mean"
    assert mean.value == pytest.approx(sum(m.value for m in parts) / 2)
    assert mean.chance == sum(m.chance for m in parts) / 2
    assert {m.instead for m in parts} == {"accuracy/mean"}


def test_flips_and_recovery_against_the_dense_model(lm) -> None:
    """Flips are the questions on which the argmax over log-likelihoods differs, by hand."""
    pruned = apply(lm.share(), Plan((DropBlocks((3, 4, 5)),)))
    metric = Accuracy(tasks=("tinyworld_facts", "tinyworld_recall"), limit=15)
    measured = {m.metric: m for m in metric.measure(pruned, lm)}
    dense = {m.metric: m for m in metric.measure(lm, lm)}
    flips = []
    for task in ("facts", "recall"):
        for question in questions(task, 15):
            context = lm.tokenizer(question["prompt"])["input_ids"]
            ids = [lm.tokenizer(choice)["input_ids"] for choice in question["choices"]]
            assert all(len(choice) == 1 for choice in ids)
            taken = []
            for model in (pruned, lm):
                with torch.no_grad():
                    logs = model.hf(torch.tensor([context])).logits[0, -1]
                taken.append(max(range(len(ids)), key=lambda i: logs[ids[i][0]].item()))
            flips.append(float(taken[0] != taken[1]))

    assert measured["accuracy/flips"].samples == tuple(flips)
    assert 0 < measured["accuracy/flips"].value == sum(flips) / 30
    means = [m["accuracy/mean"].value for m in (measured, dense)]
    assert measured["accuracy/recovery"].value == pytest.approx(means[0] / means[1])
    assert "accuracy/flips" not in dense


def test_flips_and_divergence_are_zero_for_the_same_weights(lm) -> None:
    """Exactly: a second model of the same tensors predicts the same bits."""
    accuracy = Accuracy(tasks=("tinyworld_order",), limit=20)
    by_name = {m.metric: m.value for m in accuracy.measure(lm.share(), lm)}
    same = one(Divergence(dataset="tinyworld", seqlen=32, nsamples=4).measure(lm.share(), lm))

    assert by_name["accuracy/flips"] == 0
    assert by_name["accuracy/recovery"] == 1
    assert same.value == 0


def test_a_normalised_choice_is_taken_per_character() -> None:
    """lm-eval's acc_norm: the longer choice wins on its mean, its delimiter not counted."""
    sample = {
        "resps": [[(-4.0, False)], [(-6.0, False)]],
        "arguments": [("context", " ab"), ("context", " abcdefgh")],
        "delimiter": " ",
    }

    assert _choice(sample, _scores(sample, normalised=False)) == 0
    assert _choice(sample, _scores(sample, normalised=True)) == 1
    alone = {"resps": [[(-1.0, True)]]}
    assert _choice(alone, _scores(alone, normalised=False)) == 1


def test_divergence_equals_the_definition_in_float64(lm) -> None:
    """Sum over the vocabulary of p log(p / q), mean over predicted positions of each window."""
    pruned = apply(lm.share(), Plan((DropBlocks((5,)),)))
    measured = one(Divergence(dataset="tinyworld", seqlen=48, nsamples=3).measure(pruned, lm))
    windows = evaluation_windows("tinyworld", lm, 48, 3)
    with torch.no_grad():
        p, q = (m.hf(windows).logits[:, :-1].double().log_softmax(-1) for m in (lm, pruned))
    expected = (p.exp() * (p - q)).sum(-1).mean(1)

    assert measured.metric == "divergence/tinyworld"
    assert measured.samples == pytest.approx(expected.tolist(), rel=1e-4)
    assert measured.value == pytest.approx(expected.mean().item(), rel=1e-4)
    assert not list(Divergence(dataset="tinyworld", seqlen=48).measure(lm, lm))


def test_repetition_by_counting() -> None:
    """Of the 4-grams of 1 2 1 2 1 2 1 two are distinct; a short answer repeats nothing."""
    assert repeated([1, 2, 1, 2, 1, 2, 1], 4) == 1 - 2 / 4
    assert repeated([1, 1, 1, 1, 1], 1) == 1 - 1 / 5
    assert repeated([1, 2, 3], 4) == 0


def test_a_model_that_loops_and_one_that_stops_at_once_show(lm) -> None:
    """A head that always says the same word, and one that always ends the text."""
    metric = Repetition(dataset="tinyworld", prompt_tokens=8, new_tokens=12, nsamples=3)
    results = []
    for token in (lm.tokenizer("goes")["input_ids"][0], lm.tokenizer.eos_token_id):
        broken = lm.share()
        bias = torch.zeros(broken.hf.config.vocab_size)
        bias[token] = 1e4
        head = broken.hf.get_output_embeddings()
        head.register_forward_hook(lambda _, __, out, bias=bias: out + bias)
        results.append([m.value for m in metric.measure(broken, lm)])

    # Twelve times one word: nine 4-grams, all of them the same.
    assert results == [[1 - 1 / 9, 0], [0, 1]]


def test_generation_equals_greedy_decoding_by_hand(lm) -> None:
    """Token by token without any cache, up to the stop: the same matches."""
    stop = {lm.tokenizer.convert_tokens_to_ids(word) for word in (".", "\n")}
    right = []
    for question in questions("complete", 12):
        ids = lm.tokenizer(question["prompt"])["input_ids"]
        start = len(ids)
        while len(ids) < start + 12:
            with torch.no_grad():
                ids = [*ids, int(lm.hf(torch.tensor([ids])).logits[0, -1].argmax())]
            if ids[-1] in stop:
                break
        words = [i for i in ids[start:] if i not in stop]
        right.append(float(lm.tokenizer.decode(words).strip() == question["answer"]))
    measured = one(Generation(tasks=("tinyworld_complete",), limit=12).measure(lm, lm))

    assert measured.samples == tuple(right)


FILTERED = """\
task: filtered
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}, cache_dir: {cache}}}
test_split: test
output_type: generate_until
doc_to_text: prompt
doc_to_target: answer
generation_kwargs: {{until: ["."], max_gen_toks: 8, do_sample: false}}
metric_list: [{{metric: exact_match}}]
filter_list:
  - {{name: stripped, filter: [{{function: remove_whitespace}}, {{function: take_first}}]}}
  - name: no-word
    filter: [{{function: regex, regex_pattern: "(zzz)"}}, {{function: take_first}}]
"""


def test_each_filter_of_a_task_is_a_way_to_read_its_answers(lm, tmp_path) -> None:
    """The first unless another is named; never both in one mean, as lm-eval logs them."""
    asked = questions("complete", 8)
    (tmp_path / "asked.jsonl").write_text("\n".join(map(json.dumps, asked)))
    text = FILTERED.format(file=tmp_path / "asked.jsonl", cache=tmp_path / "cache")
    (tmp_path / "filtered.yaml").write_text(text)
    metric = Generation(tasks=("filtered",), tasks_folder=str(tmp_path))
    shipped = one(Generation(tasks=("tinyworld_complete",), limit=8).measure(lm, lm))

    assert one(metric.measure(lm, lm)).samples == shipped.samples
    assert sum(shipped.samples) > 0
    assert one(replace(metric, filter="no-word").measure(lm, lm)).samples == (0.0,) * 8
    with pytest.raises(PrunebenchError, match="no filter 'no_word'; did you mean 'no-word'"):
        list(replace(metric, filter="no_word").measure(lm, lm))


def test_unknown_tasks_and_metrics_are_named(lm) -> None:
    """One line, with the nearest known task where the folder is small."""
    misspelt = Accuracy(tasks=("tinyworld_recal",), tasks_folder=str(reference.TASKS))
    with pytest.raises(PrunebenchError, match="did you mean 'tinyworld_recall'"):
        list(misspelt.measure(lm, lm))
    other = Generation(tasks=("tinyworld_complete",), metric="f1", limit=1)
    with pytest.raises(PrunebenchError, match="no metric 'f1'"):
        list(other.measure(lm, lm))


def test_few_shot_examples_go_before_the_question(lm) -> None:
    """A local task takes num_fewshot through to lm-eval, or says that it cannot."""
    plain = one(Accuracy(tasks=("tinyworld_facts",), limit=20).measure(lm, lm))
    zero = Accuracy(tasks=("tinyworld_facts",), limit=20, num_fewshot=0)

    assert one(zero.measure(lm, lm)).samples == plain.samples


@pytest.mark.parametrize("family", FAMILIES)
def test_memory_equals_arithmetic_on_the_config(family: str, tiny) -> None:
    """Weights are 4 bytes a parameter; the cache is 2 x blocks x kv heads x head size x 4 bytes."""
    pruned = apply(tiny(family), Plan((DropBlocks((1, 2)),)))
    weights, cache, _ = Memory().measure(pruned, pruned)
    config = pruned.hf.config
    heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

    assert weights.value == pytest.approx(pruned.num_parameters * 4 / 2**20)
    assert cache.value == pytest.approx(2 * 4 * heads * size * 4 / 1024)


def test_memory_of_missing_halves_and_of_a_sliced_stream(tiny, ids) -> None:
    """Blocks without attention keep nothing; slicing leaves the cache and changes the weights."""
    lm = tiny("llama")
    per_block = 2 * 2 * 8 * 4  # keys and values, two heads of eight numbers, four bytes
    lost = ((0, "attn"), (2, "attn"), (3, "mlp"))
    halved = apply(lm.share(), Plan((DropSublayers(lost),)))
    gone = sum(
        p.numel() * 4
        for block, part in lost
        for name in lm.family.halves[part == "mlp"]
        for p in lm.blocks[block].get_submodule(name).parameters()
    )
    sliced = apply(tiny("llama"), prunebench.choose(lm, "slicegpt", slicing=0.5, calibration=ids))
    (dense, cache, _), (half, half_cache, _), (narrow, narrow_cache, _) = (
        [m.value for m in Memory().measure(model, lm)] for model in (lm, halved, sliced)
    )

    assert (cache * 1024, half_cache * 1024) == (6 * per_block, 4 * per_block)
    assert (dense - half) * 2**20 == pytest.approx(gone)
    assert narrow_cache == cache
    # The stream is 16 of 32 wide: every matrix that touches it has half its numbers, and each block
    # two shortcuts of 16 x 16 more; norms lose their weights, the head is no longer tied. What the
    # last MLP writes and the head reads stays whole.
    blocks = 6 * (16 * (2 * 4 * 8 + 2 * 2 * 8 + 3 * 48) + 2 * 16 * 16)
    whole = 16 * 48 + 16 * 16  # the last down projection and shortcut, twice as wide
    assert narrow * 2**20 / 4 == pytest.approx(64 * 16 + blocks + whole + 64 * 32)


@pytest.mark.slow
def test_peak_memory_is_at_least_the_weights(lm) -> None:
    """A fresh process that loads and runs the model holds no less than its weights."""
    weights, _, _, peak = Memory(peak=True, tokens=16).measure(lm, lm)

    assert weights.value < peak.value < weights.value + 1000


@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_cache_is_what_generating_leaves(family: str, tiny) -> None:
    """Of three sequences of 5 + 7 tokens, past sliding windows of 8, less blocks without attention.

    Counted on the cache of a real generation, whose last token is read too.
    """
    lm = apply(tiny(family), Plan((DropSublayers(((1, "attn"), (4, "attn"))),)))
    ids = torch.full((3, 5), 7)
    with torch.no_grad():
        cache = lm.hf(ids, use_cache=True).past_key_values
        for _ in range(7):
            lm.hf(ids[:, :1], past_key_values=cache, use_cache=True)
    held = [t for layer in cache.layers for t in (layer.keys, layer.values) if t is not None]
    measured = {m.metric: m for m in Memory(batch_size=3, tokens=5, new_tokens=7).measure(lm, lm)}

    assert len(held) == 2 * 4
    whole = sum(t.numel() * t.element_size() for t in held)
    assert measured["memory/kv-cache"].value * 2**20 == pytest.approx(whole)


@pytest.mark.slow
def test_the_peak_of_generating_holds_the_cache(lm) -> None:
    """1,024 sequences take at least their cache more than one does."""
    metrics = [Memory(peak=True, batch_size=n, tokens=8, new_tokens=2) for n in (1, 1024)]
    (_, _, one_cache, one_peak), (_, _, cache, peak) = (list(m.measure(lm, lm)) for m in metrics)

    assert cache.value == pytest.approx(1024 * one_cache.value)
    assert peak.value - one_peak.value > cache.value > 50


@pytest.mark.slow
def test_a_peak_that_does_not_fit_is_said(lm) -> None:
    """The fresh process cannot have petabytes; the others are told all the same."""
    weights, _, _, peak = Memory(peak=True, batch_size=10**12, tokens=128).measure(lm, lm)

    assert weights.value > 0
    assert (peak.value, peak.note) == (None, "out of memory at batch 1000000000000, 128 + 0 tokens")

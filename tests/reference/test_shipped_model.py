"""Checks the shipped model folder: tokenizer, size, scores and the lm-eval task files."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.tasks import TaskManager
from safetensors import safe_open
from transformers import AutoTokenizer, LlamaForCausalLM

from bench.reference import build, card, scores, world
from prunebench import reference


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Loads the shipped tokenizer as anybody would."""
    return AutoTokenizer.from_pretrained(reference.MODEL)


@pytest.fixture(scope="module")
def model() -> LlamaForCausalLM:
    """Loads the shipped model in float32."""
    return LlamaForCausalLM.from_pretrained(reference.MODEL, dtype=torch.float32).eval()


def test_the_tokenizer_gives_all_shipped_text_back(tokenizer: Any) -> None:
    """Every shipped document survives encoding and decoding, without an unknown word."""
    for split in reference.SPLITS:
        documents = reference.documents(split)
        for text, ids in zip(documents, tokenizer(documents).input_ids, strict=True):
            assert tokenizer.unk_token_id not in ids
            assert len(ids) == len(text.split(" "))
            assert tokenizer.decode(ids) == text


def test_the_tokenizer_knows_every_question(tokenizer: Any) -> None:
    """No prompt, answer or choice holds an unknown word, and each choice is one token."""
    for task in world.TASK_KINDS:
        for question in card.shipped_questions(task):
            text = " ".join((question.prompt, question.answer, *question.choices))
            assert tokenizer.unk_token_id not in tokenizer(text).input_ids
            assert all(len(tokenizer(choice).input_ids) == 1 for choice in question.choices)


def test_a_line_break_ends_a_document(tokenizer: Any) -> None:
    """The line break is one token of its own, the end-of-text one, and nothing is added."""
    assert tokenizer.convert_tokens_to_ids("\n") == tokenizer.eos_token_id
    assert tokenizer("the dog\nthe cat").input_ids == [
        *tokenizer("the dog").input_ids,
        tokenizer.eos_token_id,
        *tokenizer("the cat").input_ids,
    ]
    assert len(tokenizer("dog").input_ids) == 1
    assert tokenizer.model_max_length == build.POSITIONS


def test_the_ids_in_training_are_those_of_the_tokenizer(tokenizer: Any) -> None:
    """The word numbers that the training uses equal the shipped tokenizer's."""
    assert scores.word_ids() == tokenizer.get_vocab()


def test_the_weights_are_float16_and_small() -> None:
    """The weights are stored in float16 in one file of at most 8 MB, all finite."""
    path = reference.MODEL / "model.safetensors"
    assert path.stat().st_size <= 8_000_000
    with safe_open(path, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            tensor = tensors.get_tensor(name)
            assert tensor.dtype == torch.float16
            assert torch.isfinite(tensor).all()


def test_the_model_has_twelve_blocks_and_fits_the_vocabulary(
    model: LlamaForCausalLM, tokenizer: Any
) -> None:
    """The architecture is what the package promises."""
    assert model.config.model_type == "llama"
    assert model.config.num_hidden_layers == 12
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    assert model.config.vocab_size == len(tokenizer) == len(world.VOCABULARY) + len(build.SPECIAL)
    assert model.config.max_position_embeddings == build.POSITIONS


@pytest.mark.slow
@pytest.mark.parametrize("task", world.TASK_KINDS)
def test_the_model_is_good_at_its_tasks(model: LlamaForCausalLM, task: str) -> None:
    """On the first 60 questions of each task the shipped weights are right most of the time."""
    questions = card.shipped_questions(task)[:60]
    right = 0
    for question in questions:
        ids = scores.word_ids()
        prompt = torch.tensor([scores.encode(question.prompt, ids)])
        if question.choices:
            with torch.no_grad():
                last = model(prompt).logits[0, -1]
            best = max(question.choices, key=lambda word: float(last[ids[word]]))
            right += best == question.answer
        else:
            wanted = scores.encode(f"{question.answer} .", ids)
            out = model.generate(prompt, max_new_tokens=len(wanted), do_sample=False)
            right += out[0, prompt.shape[1] :].tolist() == wanted
    assert right / len(questions) >= 0.7


@pytest.mark.slow
def test_the_card_tells_the_loss_of_the_shipped_weights(
    model: LlamaForCausalLM, tokenizer: Any
) -> None:
    """The card's test loss equals one taken through transformers on the same windows."""
    told = json.loads((reference.MODEL / "card.json").read_text(encoding="utf-8"))
    ids = tokenizer("\n".join(reference.documents("test")), verbose=False).input_ids
    rows = torch.tensor(ids[: len(ids) // 128 * 128]).view(-1, 128)
    assert list(rows.shape) == told["test_windows"]
    with torch.no_grad():
        parts = [rows[start : start + 64] for start in range(0, len(rows), 64)]
        losses = [float(model(part, labels=part).loss) * len(part) for part in parts]
    assert sum(losses) / len(rows) == pytest.approx(told["test_nll"], abs=1e-4)
    assert told["test_perplexity"] == pytest.approx(math.exp(told["test_nll"]))
    assert len(told["removals"]) == 12
    assert f"{told['test_perplexity']:.4f}" in (reference.MODEL / "README.md").read_text("utf-8")


def test_lm_eval_loads_the_tasks_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval finds all tasks by their names alone and takes prompts and answers as written."""
    monkeypatch.chdir(tmp_path)
    manager = TaskManager(include_path=str(reference.TASKS), include_defaults=False)
    tasks = manager.load(list(reference.TASK_NAMES))["tasks"]
    assert set(tasks) == set(reference.TASK_NAMES)
    for name, task in tasks.items():
        documents = list(task.test_docs())
        questions = card.shipped_questions(name.removeprefix("tinyworld_"))
        assert [task.doc_to_text(document) for document in documents] == [
            question.prompt for question in questions
        ]
        if questions[0].choices:
            assert [task.doc_to_target(d) for d in documents] == [q.gold for q in questions]
            assert task.doc_to_choice(documents[0]) == list(questions[0].choices)
        else:
            assert [task.doc_to_target(d) for d in documents] == [q.answer for q in questions]
    assert not list(tmp_path.iterdir())

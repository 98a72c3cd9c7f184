"""The fast scorer against lm-eval's own HFLM: the same log-likelihoods and the same answers."""

from __future__ import annotations

import random
import warnings
from typing import Any

import lm_eval
import pytest
import torch
from factories import FAMILIES
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

import prunebench
from prunebench import DropSublayers, Plan, PrunebenchError, apply, lm_eval_model, reference
from prunebench.errors import PrunebenchWarning
from prunebench.models.scoring import Scorer, tree_mask

WORDS = ("the cat sat", "on a mat", "with hats", "in may", "as it was", "no", "a", "eels eat ants")


def instances(kind: str, arguments: Any) -> list[Instance]:
    return [Instance(kind, {}, given, i) for i, given in enumerate(arguments)]


def questions(count: int = 6, seed: int = 0, most: int = 4) -> list[tuple[str, str]]:
    """Contexts of a few words, each with several choices of different length."""
    rng = random.Random(seed)
    pairs = []
    for _ in range(count):
        context = " ".join(rng.choice(WORDS) for _ in range(rng.randint(1, most)))
        pairs += [(context, f" {choice}") for choice in rng.sample(WORDS, 4)]
    return pairs


@pytest.fixture
def both(tiny, letters):
    """Our scorer and HFLM over one tiny model."""

    def build(lm: Any, **options: Any) -> tuple[Scorer, HFLM]:
        lm.tokenizer = letters
        plain = HFLM(pretrained=lm.hf, tokenizer=letters, batch_size=5, **options)
        return lm_eval_model(lm, **options), plain

    return build


def assert_equal(ours: Any, theirs: Any, pairs: Any) -> None:
    asked = instances("loglikelihood", pairs)
    mine, reference_answers = (
        model.loglikelihood(asked, disable_tqdm=True) for model in (ours, theirs)
    )
    for (score, greedy), (expected, expected_greedy) in zip(mine, reference_answers, strict=True):
        assert score == pytest.approx(expected, abs=1e-4)
        assert greedy == expected_greedy


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_to_hflm(family: str, tiny, both) -> None:
    """Every family, sliding windows included: Mistral's and Qwen2's are 8 tokens here."""
    assert_equal(*both(tiny(family)), questions())


@pytest.mark.parametrize("family", ["mistral", "qwen2"])
def test_equal_where_everything_fits_a_sliding_window(family: str, tiny, both) -> None:
    """Up to the window the tree is used, and the layers that slide see the same."""
    ours, theirs = both(tiny(family))
    pairs = [("a cat", f" {c}") for c in "abcd"]

    assert_equal(ours, theirs, pairs)
    assert ours.packs


@pytest.mark.parametrize("family", ["llama", "opt", "qwen2"])
def test_equal_for_a_model_with_missing_halves(family: str, tiny, both) -> None:
    """Attention-less blocks among others."""
    lm = apply(tiny(family), Plan((DropSublayers(((0, "attn"), (2, "mlp"), (3, "attn"))),)))

    assert_equal(*both(lm), questions())


def test_equal_for_a_sliced_model(tiny, both, ids) -> None:
    """Shortcut matrices at every norm."""
    lm = tiny("llama")
    lm = apply(lm, prunebench.choose(lm, "slicegpt", slicing=0.25, calibration=ids))

    assert_equal(*both(lm), questions())


@pytest.mark.parametrize(
    "pairs",
    [
        pytest.param([("", " the cat"), ("", "no")], id="empty context"),
        pytest.param([("the cat  ", "sat"), ("the cat ", " sat")], id="trailing spaces"),
        pytest.param([("<s>the cat", " sat"), ("<s>the cat", " no")], id="own BOS"),
        pytest.param([("the cat sat", " on"), ("the dog sat", " on")], id="several inputs"),
        pytest.param([("the cat", " sat"), ("the cat", " sat")], id="twice the same"),
        pytest.param([("the cat", " sat"), ("the cat", " sat on a mat")], id="one in the other"),
    ],
)
@pytest.mark.parametrize("bos", [None, True, False])
def test_lm_evals_own_encoding(pairs, bos, tiny, both) -> None:
    """Whatever lm-eval does to a text before it is scored, with and without a BOS."""
    assert_equal(*both(tiny("llama"), add_bos_token=bos), pairs)


def test_a_question_longer_than_the_context_is_cut_from_the_left(tiny, both) -> None:
    """As lm-eval cuts it, and said once with how many."""
    ours, theirs = both(tiny("llama"))
    long = "the cat sat " * 9
    pairs = [(long, "on a mat"), (long, "no"), ("a", " no")]

    # A BOS goes in, and the last letter of the choice does not.
    said = f"2 of 3 requests, of up to {len(long) + 8} tokens, are cut from the left to the 64"
    with pytest.warns(PrunebenchWarning, match=said):
        assert_equal(ours, theirs, pairs)


def test_a_choice_longer_than_the_context_is_refused(tiny, both) -> None:
    """Nothing of the question would be left."""
    ours, _ = both(tiny("llama"))
    asked = instances("loglikelihood", [("a", " cat" * 20)])

    with pytest.raises(PrunebenchError, match=r"continuation of 80 tokens, .* holds 64"):
        ours.loglikelihood(asked, disable_tqdm=True)


def test_a_choice_without_tokens_is_refused(tiny, both) -> None:
    """There is nothing to score."""
    ours, _ = both(tiny("llama"))

    with pytest.raises(PrunebenchError, match="the choice '' adds no token"):
        ours.loglikelihood(instances("loglikelihood", [("a", "")]), disable_tqdm=True)


def test_rolling_and_generation_equal_hflm(tiny, both, capsys) -> None:
    """Texts longer than the context, and greedy answers up to a stop."""
    ours, theirs = both(tiny("llama"))
    texts = instances("loglikelihood_rolling", [("the cat sat on " * 12,), ("no",)])
    until = {"until": [" "], "max_gen_toks": 12, "do_sample": False}
    asked = instances("generate_until", [(text, until) for text in WORDS])

    rolled, expected = (m.loglikelihood_rolling(texts, disable_tqdm=True) for m in (ours, theirs))
    assert rolled == pytest.approx(expected, abs=1e-3)
    written, expected = (m.generate_until(asked, disable_tqdm=True) for m in (ours, theirs))
    assert written == expected


def test_the_same_at_any_batch_size(tiny, letters) -> None:
    """One row at a time, seven, or all: equal but for rounding."""
    lm = tiny("qwen3")
    lm.tokenizer = letters
    asked = instances("loglikelihood", questions())
    scores = [
        lm_eval_model(lm, batch_size=size).loglikelihood(asked, disable_tqdm=True)
        for size in (1, 7, 64)
    ]

    for other in scores[1:]:
        assert [s for s, _ in other] == pytest.approx([s for s, _ in scores[0]], abs=1e-4)
        assert [g for _, g in other] == [g for _, g in scores[0]]


def test_running_out_of_memory_changes_no_score(tiny, letters, monkeypatch) -> None:
    """A device that holds two rows: batches are halved until they fit."""
    lm = tiny("llama")
    lm.tokenizer = letters
    scorer = lm_eval_model(lm)
    asked = instances("loglikelihood", questions())
    before = scorer.loglikelihood(asked, disable_tqdm=True)
    forward, sizes = lm.hf.forward, []

    def small(ids: torch.Tensor, **options: Any) -> Any:
        sizes.append(len(ids))
        if len(ids) > 2:
            raise torch.OutOfMemoryError("no room")
        return forward(ids, **options)

    monkeypatch.setattr(lm.hf, "forward", small)
    after = scorer.loglikelihood(asked, disable_tqdm=True)

    assert max(sizes) > 2
    assert [s for s, _ in after] == pytest.approx([s for s, _ in before], abs=1e-4)
    assert [g for _, g in after] == [g for _, g in before]


def test_running_out_of_memory_changes_no_text(tiny, letters, monkeypatch) -> None:
    """Generation halves its batches too, and answers in the same order."""
    lm = tiny("llama")
    lm.tokenizer = letters
    scorer = lm_eval_model(lm)
    until = {"until": [" "], "max_gen_toks": 8, "do_sample": False}
    asked = instances("generate_until", [(text, until) for text in WORDS])
    before = scorer.generate_until(asked, disable_tqdm=True)
    generate = lm.hf.generate

    def small(**options: Any) -> Any:
        if len(options["input_ids"]) > 3:
            raise torch.OutOfMemoryError("no room")
        return generate(**options)

    monkeypatch.setattr(lm.hf, "generate", small)

    assert scorer.generate_until(asked, disable_tqdm=True) == before


def test_a_model_that_ignores_the_mask_is_found_out(tiny, both, monkeypatch) -> None:
    """It is told so, gets plain rows, and scores as HFLM does."""
    lm = tiny("llama")
    forward = lm.hf.forward

    def deaf(ids: torch.Tensor, attention_mask: Any = None, **options: Any) -> Any:
        return forward(ids, **options)

    ours, theirs = both(lm)
    monkeypatch.setattr(lm.hf, "forward", deaf)

    with pytest.warns(PrunebenchWarning, match="does not support a tree mask"):
        assert_equal(ours, theirs, questions())
    assert not ours.packs


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_both_attentions_take_the_mask(attention: str, tiny, both) -> None:
    """No fallback, and equal to HFLM."""
    lm = tiny("llama")
    lm.hf.set_attn_implementation(attention)
    ours, theirs = both(lm)

    with warnings.catch_warnings():
        warnings.simplefilter("error", PrunebenchWarning)
        assert_equal(ours, theirs, questions())


def test_a_context_is_run_once_and_only_scored_tokens_reach_the_head(tiny, letters) -> None:
    """Counted at the embedding and at the head: this is where the time goes."""
    lm = tiny("llama")
    lm.tokenizer = letters
    scorer = lm_eval_model(lm, batch_size=1)
    assert scorer.packs
    seen: dict[str, list[int]] = {"in": [], "out": []}
    lm.hf.get_input_embeddings().register_forward_hook(
        lambda _, args, __: seen["in"].append(args[0].numel())
    )
    lm.hf.get_output_embeddings().register_forward_hook(
        lambda _, args, __: seen["out"].append(args[0].shape[:-1].numel())
    )
    context = "the cat sat on a mat"
    choices = [" ab", " cd", " ef"]
    scorer.loglikelihood(
        instances("loglikelihood", [(context, c) for c in choices]), disable_tqdm=True
    )

    # BOS, context and the space before every choice; of its two letters the last is predicted only.
    assert seen["in"] == [1 + len(context) + 1 + 3]
    assert seen["out"] == [1 + 1 + 3]


def test_the_mask_by_hand() -> None:
    """A root with two branches: 0 - 1 - 2 and 0 - 3."""
    mask = tree_mask(torch.tensor([[4, 3, 3, 4]]), torch.float32)[0, 0]

    assert (mask == 0).int().tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 0, 0, 1]]


def test_half_precision_is_scored_in_float32(tiny, letters) -> None:
    """The log-softmax of bfloat16 logits, with no second rounding."""
    lm = tiny("llama")
    lm.hf.to(torch.bfloat16)
    lm.tokenizer = letters
    ((score, _),) = lm_eval_model(lm).loglikelihood(
        instances("loglikelihood", [("the cat", " s")]), disable_tqdm=True
    )
    text = letters("the cat s")["input_ids"]
    with torch.no_grad():
        logits = lm.hf(torch.tensor([text[:-1]])).logits[0, -2:].double()
    expected = logits.log_softmax(-1)[[0, 1], text[-2:]].sum().item()

    assert score == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_an_ordinary_lm_eval_model() -> None:
    """Anybody's own simple_evaluate takes it, chat template and few-shot examples included."""
    lm = prunebench.load_model(reference.MODEL_ID, dtype="float32")
    lm.tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }} . {% endfor %}"
        "{% if add_generation_prompt %}hana goes to {% endif %}"
    )
    manager = TaskManager(include_path=str(reference.TASKS), include_defaults=False)
    found = [
        lm_eval.simple_evaluate(
            model=model,
            tasks=["tinyworld_facts", "tinyworld_recall", "tinyworld_complete"],
            task_manager=manager,
            limit=12,
            bootstrap_iters=0,
            apply_chat_template=True,
        )
        for model in (
            lm_eval_model(lm),
            HFLM(pretrained=lm.hf, tokenizer=lm.tokenizer, batch_size=8),
        )
    ]

    assert found[0]["results"] == found[1]["results"]
    for task, samples in found[0]["samples"].items():
        for mine, theirs in zip(samples, found[1]["samples"][task], strict=True):
            assert mine["arguments"] == theirs["arguments"]

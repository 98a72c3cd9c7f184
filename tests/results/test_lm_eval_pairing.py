"""Two runs of lm-eval side by side, from answers written down by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from prunebench.results.lm_eval_files import Answer, Results, Score, Task
from prunebench.results.lm_eval_pairing import align

CAUSES = "other few-shot examples, template or wording"
SET_UP = {"system instruction": None, "chat template": "a", "few-shot as turns": None}


def answers(right: str, margins: list[float | None] | None = None, first: int = 0) -> list[Answer]:
    """A letter per question, ``1`` where right; questions are numbered from *first* on."""
    own = margins or [None] * len(right)
    return [
        Answer(f"doc{first + i}", f"prompt{first + i}", float(letter), margin)
        for i, (letter, margin) in enumerate(zip(right, own, strict=True))
    ]


def task(scores: dict[str, Score], found: dict[str, list[Answer]] | None = None) -> Task:
    return Task(1, 0, scores, found or {})


def sampled(**given: list[Answer]) -> Task:
    """A task with its answers, by measurement; ``__`` stands for the slash and ``_`` for a dash."""
    found = {k.replace("__", "/").replace("_", "-"): v for k, v in given.items()}
    means = {k: sum(a.right for a in v) / len(v) for k, v in found.items()}
    return task({k: Score(m, None, len(found[k])) for k, m in means.items()}, found)


def run(tasks: dict[str, Task], **set_up: Any) -> Results:
    named = {key.replace("_", " "): value for key, value in set_up.items()}
    return Results(Path("r.json"), "m", "cpu", "", {**SET_UP, **named}, tasks, ())


def test_the_mean_is_of_accuracies_the_normalised_where_there_is_one() -> None:
    """What is generated is no accuracy; the other variant and the tasks help to understand."""
    both = run(
        {
            "a": sampled(accuracy__a=answers("10"), accuracy__a_norm=answers("11")),
            "b": sampled(accuracy__b=answers("0001")),
            "g": sampled(generation__g=answers("000")),
        }
    )
    found = {m.metric: m for m in align(both, both, "x").now.measurements}
    mean = found["accuracy/mean"]

    assert mean.value == (1.0 + 0.25) / 2
    assert mean.samples == (1, 1, 0, 0, 0, 1)
    assert {name: m.instead for name, m in found.items()} == {
        "accuracy/a": "accuracy/a-norm",
        "accuracy/a-norm": "accuracy/mean",
        "accuracy/b": "accuracy/mean",
        "generation/g": "",
        "accuracy/mean": "",
    }
    assert (found["generation/g"].unit, mean.unit) == ("match", "acc")


def test_one_task_is_its_own_mean() -> None:
    """Then the normalised accuracy decides, and nothing stands in its place."""
    one = run({"a": sampled(accuracy__a=answers("10"), accuracy__a_norm=answers("11"))})
    found = {m.metric: m.instead for m in align(one, one, "x").now.measurements}

    assert found == {"accuracy/a": "accuracy/a-norm", "accuracy/a-norm": ""}


def test_questions_that_one_side_lacks_are_left_out_and_told() -> None:
    """Three of four and five are the same ones, whatever their order."""
    now = run({"b": sampled(accuracy__b=answers("1101")[::-1])})
    was = run({"b": sampled(accuracy__b=answers("01010", first=1))})
    found = align(now, was, "x")

    assert found.now.measurements[0].samples == (1, 0, 1)  # the questions 3, 2 and 1
    assert found.was.measurements[0].samples == (0, 1, 0)
    assert found.notes == ["accuracy/b: 3 questions on both sides, 2 only in A, 1 only in B"]
    assert align(now, now, "x").notes == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"chat_template": "b"}, "another chat template"),
        (
            {"chat_template": "b", "system_instruction": "c"},
            "another system instruction and chat template",
        ),
        ({}, None),
    ],
)
def test_without_samples_the_set_up_tells_other_prompts(
    changed: dict[str, str], why: str | None
) -> None:
    """With samples the prompts themselves do."""
    bare = {"b": task({"accuracy/b": Score(0.5, 0.1, 4)})}
    found = align(run(bare), run(bare, **changed), "x")
    assert found.apart == ({"b": why} if why else {})
    assert len(found.unpaired) == (0 if why else 1)

    full = {"b": sampled(accuracy__b=answers("1101"))}
    assert align(run(full), run(full, **changed), "x").apart == {}


def test_other_versions_examples_and_questions_are_apart() -> None:
    """The first reason is told; what is alike in name alone is not compared."""
    one = sampled(accuracy__b=answers("1101"))
    others = {
        "the task's version is 1, was 2": Task(2, 5, one.scores, one.answers),
        "few-shot examples are 0, were 5": Task(1, 5, one.scores, one.answers),
        "no question in common": sampled(accuracy__b=answers("1101", first=9)),
        "the prompts of 3 of 4 questions differ: " + CAUSES: task(
            one.scores,
            {"accuracy/b": [one.answers["accuracy/b"][0],
                            *(a._replace(prompt="?") for a in one.answers["accuracy/b"][1:])]},
        ),
    }  # fmt: skip
    for why, other in others.items():
        found = align(run({"b": one}), run({"b": other}), "x")
        assert found.apart == {"b": why}
        assert found.now.measurements == found.was.measurements == ()


def test_scores_without_samples_have_a_mean_with_its_error() -> None:
    """Errors of independent tasks in quadrature; none where one has none."""
    scores = {"a": Score(0.5, 0.03, 100), "b": Score(0.7, 0.04, None)}
    now = run({name: task({f"accuracy/{name}": score}) for name, score in scores.items()})
    *tasks, mean = align(now, now, "x").unpaired

    assert mean.now == (0.6, pytest.approx(math.hypot(0.03, 0.04) / 2), 100)
    assert [one.diagnostic for one in (*tasks, mean)] == [True, True, False]
    silent = run({**now.tasks, "c": task({"accuracy/c": Score(0.9, None, None)})})
    assert align(silent, silent, "x").unpaired[-1].now[:2] == (pytest.approx(0.7), None)
    lone = run({"a": task({"accuracy/a": scores["a"], "accuracy/a-norm": scores["b"]})})
    assert [(o.metric, o.diagnostic) for o in align(lone, lone, "x").unpaired] == [
        ("accuracy/a", True),
        ("accuracy/a-norm", False),
    ]


def test_scores_of_other_numbers_of_questions_are_told() -> None:
    """Also where one side does not say."""
    was = run({"b": task({"accuracy/b": Score(0.5, 0.1, None)})})
    for count, notes in ((4, ["accuracy/b: of 4 questions, was of ?"]), (None, [])):
        now = run({"b": task({"accuracy/b": Score(0.5, 0.1, count)})})
        assert align(now, was, "x").notes == notes


def test_what_one_side_alone_measured_is_in_its_record_only() -> None:
    """A task, and a metric of a task; not of a task that is another by now."""
    shared = sampled(accuracy__b=answers("11"))
    more = task({**shared.scores, "accuracy/b-norm": Score(0.25, None, 2)}, shared.answers)
    moved, was_moved = (Task(v, 0, {f"accuracy/m{v}": Score(0.5, None, 2)}, {}) for v in (1, 2))
    now = run({"b": more, "c": sampled(generation__c=answers("10")), "m": moved})
    found = align(now, run({"b": shared, "m": was_moved}), "x")

    assert {m.metric: m.value for m in found.now.measurements} == {
        "accuracy/b": 1.0, "accuracy/b-norm": 0.25, "generation/c": 0.5
    }  # fmt: skip
    assert [m.metric for m in found.was.measurements] == ["accuracy/b"]
    assert list(found.apart) == ["m"]


def test_margins_are_kept_where_every_one_decided() -> None:
    """One that is missing, or that says wrong of a right answer, makes all of them useless."""
    for margins, kept in (
        ([0.5, -0.25, 0.125], (0.5, -0.25, 0.125)),
        ([0.5, 0.0, 0.0], (0.5, 0.0, 0.0)),  # a tie says nothing against
        ([0.5, None, 0.125], ()),
        ([0.5, 0.25, 0.125], ()),
        ([-0.5, -0.25, 0.125], ()),
    ):
        one = run({"b": sampled(accuracy__b=answers("101", margins))})
        assert align(one, one, "x").now.measurements[0].margins == kept


def test_whole_has_the_scores_without_samples_too() -> None:
    """As measurements without samples, each side its own."""
    now, was = (run({"b": task({"accuracy/b": Score(v, 0.1, 4)})}) for v in (0.25, 0.5))
    found = align(now, was, "x")

    assert found.now.measurements == ()
    assert [side.measurements[0].value for side in found.whole()] == [0.25, 0.5]

"""Checks the generated language against a reader that knows nothing of the generator."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path

import pytest

from bench.reference import build, world
from prunebench import reference

NUMBERS = {word: value for value, word in enumerate(world.NUMBERS)}
CLOSERS = {"(": ")", "[": "]", "{": "}"}


def shipped(task: str) -> list[dict[str, object]]:
    """Reads the shipped questions of a task."""
    text = (reference.TASKS / f"tinyworld_{task}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def all_prompts(task: str) -> list[tuple[str, str]]:
    """Gives every shipped prompt of a task with its answer."""
    return [(str(q["prompt"]), str(q["answer"])) for q in shipped(task)]


class Reader:
    """Follows a story sentence by sentence, from its wording alone."""

    def __init__(self) -> None:
        self.place: dict[str, str] = {}
        self.holder: dict[str, str] = {}

    def read(self, sentence: str) -> None:
        """Takes in an event; other sentences change nothing."""
        if m := re.fullmatch(r"(\w+) goes to the (\w+)", sentence):
            self.place[m[1]] = m[2]
        elif m := re.fullmatch(r"(\w+) joins (\w+)", sentence):
            self.place[m[1]] = self.place[m[2]]
        elif m := re.fullmatch(r"(\w+) takes the (\w+)", sentence):
            assert m[2] not in self.holder
            self.holder[m[2]] = m[1]
        elif m := re.fullmatch(r"(\w+) gives the (\w+) to (\w+)", sentence):
            assert self.holder[m[2]] == m[1]
            self.holder[m[2]] = m[3]
        elif m := re.fullmatch(r"(\w+) gets the (\w+) from (\w+)", sentence):
            assert self.holder[m[2]] == m[3]
            self.holder[m[2]] = m[1]

    def recall(self, lead: str) -> str | None:
        """Answers an unfinished recall sentence, or gives None for another kind of sentence."""
        if m := re.fullmatch(r"the (\w+) is with", lead):
            return self.holder[m[1]]
        if (m := re.fullmatch(r"the (\w+) is in the", lead)) and m[1] in world.OBJECTS:
            return self.place[self.holder[m[1]]]
        if m := re.fullmatch(r"(\w+) is in the", lead):
            return self.place[m[1]]
        return None


def read_through(text: str) -> Reader:
    """Reads all whole sentences of a text."""
    reader = Reader()
    for sentence in text.split(" . "):
        reader.read(sentence.removesuffix(" ."))
    return reader


def order_answer(prompt: str) -> str:
    """Answers an order question by looking at the last list of the prompt."""
    items = prompt.rpartition("the list is ")[2].partition(" .")[0].split(" , ")
    lead = prompt.rpartition(" . ")[2]
    if m := re.fullmatch(r"just after (\w+) comes", lead):
        return items[items.index(m[1]) + 1]
    if m := re.fullmatch(r"just before (\w+) comes", lead):
        return items[items.index(m[1]) - 1]
    word = lead.removesuffix(" comes")
    return items[{"first": 0, "second": 1, "third": 2, "last": -1}[word]]


def sum_answer(lead: str) -> str:
    """Works out a sum in words."""
    total, sign = 0, 1
    for word in lead.removesuffix(" is").split():
        if word in NUMBERS:
            total += sign * NUMBERS[word]
        else:
            sign = {"plus": 1, "minus": -1}[word]
    return world.NUMBERS[total]


def nest_answer(lead: str) -> str:
    """Closes what is open in a bracket sentence."""
    open_brackets: list[str] = []
    for word in lead.removeprefix("nest : ").removesuffix(" close").split():
        if word in CLOSERS:
            open_brackets.append(word)
        else:
            assert CLOSERS[open_brackets.pop()] == word
    return " ".join(CLOSERS[bracket] for bracket in reversed(open_brackets))


def sentences(split: str, count: int) -> list[tuple[str, str]]:
    """Gives the sentences of some documents, each with the text before it."""
    found = []
    for text in reference.documents(split)[:count]:
        before = ""
        for sentence in text.removesuffix(" .").split(" . "):
            found.append((before, sentence))
            before += f"{sentence} . "
    return found


def test_the_same_seed_gives_the_same_text() -> None:
    """A document is a function of the random generator's seed, and seeds differ."""
    first = [world.document(random.Random(7)) for _ in range(2)]
    assert first[0] == first[1] != world.document(random.Random(8))


@pytest.mark.slow
@pytest.mark.parametrize("split", reference.SPLITS)
def test_the_shipped_text_is_what_the_generator_writes(split: str) -> None:
    """Each shipped split equals its regenerated text, byte for byte."""
    path = reference.MODEL.parent / "data" / f"{split}.txt"
    assert path.read_bytes() == build.split_text(split).encode()


@pytest.mark.parametrize("task", world.TASK_KINDS)
def test_the_shipped_questions_are_what_the_generator_writes(task: str) -> None:
    """The first shipped questions of each task equal regenerated ones."""
    path = reference.TASKS / f"tinyworld_{task}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert lines[:12] == build.task_lines(task, 12)
    assert len(lines) == build.QUESTIONS[task] >= 500


def test_documents_of_different_splits_never_meet() -> None:
    """The checksum buckets of the splits are disjoint and complete, and documents obey them."""
    buckets = [bucket for values in world.SPLITS.values() for bucket in values]
    assert sorted(buckets) == list(range(100))
    for split in world.SPLITS:
        for text in world.documents(split, 20, 3):
            assert world.split_of(text) == split
    texts = [set(reference.documents(split)) for split in reference.SPLITS]
    assert sum(map(len, texts)) == len(set().union(*texts))


def test_documents_are_short_stories_of_known_words() -> None:
    """Documents have 30 to 125 words, all from a vocabulary of 150 to 220 words."""
    assert 150 <= len(world.VOCABULARY) <= 220
    used: set[str] = set()
    for split in reference.SPLITS:
        for text in reference.documents(split):
            words = text.split(" ")
            assert 30 <= len(words) <= 125
            used.update(words)
    assert used == set(world.VOCABULARY)


def test_every_recall_sentence_follows_from_the_events() -> None:
    """A reader that follows the events agrees with each recall sentence of the test split."""
    kinds: Counter[str] = Counter()
    for before, sentence in sentences("test", 400):
        lead, _, answer = sentence.rpartition(" ")
        if re.search(r" is (with|in the)$", lead):
            assert read_through(before).recall(lead) == answer, (before, sentence)
            kinds[lead.split()[-1]] += 1
    assert min(kinds["with"], kinds["the"]) > 100


def test_recall_questions_have_the_answer_that_a_reader_gives() -> None:
    """Recall answers are re-derived from the prompt, and three of the choices are in it."""
    for question in shipped("recall"):
        prompt, choices = str(question["prompt"]), question["choices"]
        assert isinstance(choices, list)
        lead = prompt.rpartition(" . ")[2]
        assert read_through(prompt.removesuffix(lead)).recall(lead) == question["answer"]
        assert sum(choice in prompt.split() for choice in choices) >= 3


def test_recall_questions_are_not_answered_by_the_latest_name() -> None:
    """Neither the latest nor the most frequent of the choices is right too often."""
    latest = frequent = 0
    questions = shipped("recall")
    for question in questions:
        words, choices = str(question["prompt"]).split(), question["choices"]
        assert isinstance(choices, list)
        last = [word for word in words if word in choices][-1]
        latest += last == question["answer"]
        frequent += max(choices, key=words.count) == question["answer"]
    assert latest / len(questions) < 0.6
    assert frequent / len(questions) < 0.6


def test_order_questions_have_the_answer_that_the_list_gives() -> None:
    """Order answers are re-derived from the last list of the prompt."""
    for prompt, answer in all_prompts("order"):
        assert order_answer(prompt) == answer


def test_sums_and_brackets_are_right() -> None:
    """Every answer to complete is re-derived, and sums and brackets take turns."""
    starts = Counter[bool]()
    for index, (prompt, answer) in enumerate(all_prompts("complete")):
        lead = prompt.rpartition(" . ")[2]
        nest = lead.startswith("nest : ")
        assert (nest_answer(lead) if nest else sum_answer(lead)) == answer
        starts[nest] += 1
        assert abs(starts[True] - starts[False]) <= 1 or index < 1
    assert starts[True] == starts[False]


def test_sentences_of_sums_brackets_and_order_are_right() -> None:
    """The same holds for every such sentence of the test split, not only for questions."""
    seen: Counter[str] = Counter()
    for before, sentence in sentences("test", 400):
        lead, _, answer = sentence.rpartition(" ")
        if sentence.startswith("nest : "):
            opening, _, closing = sentence.partition(" close ")
            assert nest_answer(f"{opening} close") == closing
            seen["nest"] += 1
        elif sentence.split()[0] in NUMBERS:
            assert sum_answer(lead) == answer
            seen["sum"] += 1
        elif lead.endswith(" comes"):
            assert order_answer(f"{before}{lead}") == answer
            seen["order"] += 1
    assert min(seen["nest"], seen["sum"], seen["order"]) > 50


def test_facts_are_the_same_everywhere() -> None:
    """Each fact question has one answer wherever it is asked, in at least 40 entities' facts."""
    answers: dict[str, str] = {}
    entities: set[str] = set()
    for prompt, answer in all_prompts("facts"):
        lead = prompt.rpartition(" . ")[2]
        assert answers.setdefault(lead, answer) == answer
        entities.update({*world.THINGS, *world.CAPITALS, *world.NAMES} & set(lead.split()))
    assert len({*world.THINGS, *world.CAPITALS, *world.NAMES}) >= 40 <= len(entities) + 8


def subject_number(lead: str) -> int:
    """Finds the number of the verb that a subject phrase needs: that of its first noun."""
    noun = lead.split()[1]
    return next(number for pair in world.NOUNS for number in (0, 1) if pair[number] == noun)


def test_agreement_questions_have_attractors() -> None:
    """The verb agrees with the first noun, and the nearest noun is of the other number."""
    for question in shipped("agreement"):
        lead = str(question["prompt"]).rpartition(" . ")[2]
        number = subject_number(lead)
        nouns = [word for word in lead.split() if any(word in pair for pair in world.NOUNS)]
        last = next(n for pair in world.NOUNS for n in (0, 1) if pair[n] == nouns[-1])
        pair = next(verbs for verbs in world.VERBS if question["answer"] in verbs)
        assert pair[number] == question["answer"]
        assert last != number
        assert sorted(pair) == sorted(map(str, question["choices"]))  # type: ignore[call-overload]


@pytest.mark.parametrize("task", ["agreement", "recall", "facts", "order"])
def test_choices_hold_the_answer_once_and_its_place_tells_nothing(task: str) -> None:
    """Choices are different single words, and each place holds the answer equally often."""
    places: Counter[int] = Counter()
    for question in shipped(task):
        choices, gold = question["choices"], question["gold"]
        assert isinstance(choices, list)
        assert isinstance(gold, int)
        assert len(set(choices)) == len(choices) == (2 if task == "agreement" else 4)
        assert choices.count(question["answer"]) == 1
        assert choices[gold] == question["answer"]
        assert all(choice in world.VOCABULARY for choice in choices)
        places[gold] += 1
    assert max(places.values()) - min(places.values()) <= 8


@pytest.mark.parametrize("task", world.TASK_KINDS)
def test_every_beginning_of_a_task_is_mixed(task: str) -> None:
    """The kinds of question keep their shares in the first 100 questions, and none repeats."""
    questions = shipped(task)
    kinds = Counter(question["kind"] for question in questions[:100])
    assert set(kinds) == set(world.TASK_KINDS[task])
    rounds = [number / world.SHARES.get(str(kind), 1) for kind, number in kinds.items()]
    assert max(rounds) - min(rounds) <= 1
    assert len({question["prompt"] for question in questions}) == len(questions)


@pytest.mark.parametrize("task", world.TASK_KINDS)
def test_prompts_are_short_text_that_stops_before_the_answer(task: str) -> None:
    """Prompts have 16 to 64 known words with single spaces and no space at the end."""
    for prompt, answer in all_prompts(task):
        words = prompt.split(" ")
        assert 16 <= len(words) <= 64
        assert set(words) | set(answer.split(" ")) <= set(world.VOCABULARY)


def test_an_unknown_split_is_named() -> None:
    """Asking for a split that is not shipped says which ones are."""
    with pytest.raises(ValueError, match=r"no shipped split 'train'.*calibration"):
        reference.documents("train")


@pytest.mark.slow
def test_the_package_is_quick_to_import(tmp_path: Path) -> None:
    """Importing the reference package and reading its text loads neither torch nor numpy."""
    import subprocess
    import sys

    program = (
        "import sys; from prunebench import reference; reference.documents('test'); "
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'transformers')))"
    )
    root = Path(reference.__file__).resolve().parents[2]
    done = subprocess.run([sys.executable, "-c", program], cwd=root, check=False)
    assert done.returncode == 0

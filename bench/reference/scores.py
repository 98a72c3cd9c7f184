"""Scores a model on TinyWorld during training, without lm-eval.

The choice tasks are scored as lm-eval scores them, since every choice is one word. A text to
complete counts when the likeliest word is right at every step, which is what greedy generation
gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from . import world

#: Gives the logits of every position for a batch of ids.
Forward = Callable[[Tensor], Tensor]


def word_ids() -> dict[str, int]:
    """Maps every word, the special ones too, to its id, as the tokenizer does."""
    from .build import SPECIAL

    return {word: index for index, word in enumerate((*SPECIAL, *world.VOCABULARY))}


def encode(text: str, ids: dict[str, int]) -> list[int]:
    """Encodes words that spaces separate."""
    return [ids[word] for word in text.split(" ")]


def encode_documents(documents: Sequence[str], ids: dict[str, int]) -> list[int]:
    """Encodes documents with the end-of-document word after each."""
    stream: list[int] = []
    for text in documents:
        stream.extend(encode(text, ids))
        stream.append(ids["\n"])
    return stream


def windows(stream: Sequence[int], length: int) -> Tensor:
    """Cuts a stream into windows that do not overlap, and drops the rest."""
    count = len(stream) // length
    return torch.tensor(stream[: count * length]).view(count, length)


@torch.no_grad()
def mean_nll(forward: Forward, text: Tensor, batch: int = 64) -> float:
    """Gives the mean loss over the predicted words of all windows."""
    total = 0.0
    for start in range(0, len(text), batch):
        rows = text[start : start + batch]
        logits, targets = forward(rows[:, :-1]).float(), rows[:, 1:].flatten()
        total += float(functional.cross_entropy(logits.flatten(0, 1), targets, reduction="sum"))
    return total / (text.shape[0] * (text.shape[1] - 1))


def _right(question: world.Question, logits: Tensor, ids: dict[str, int]) -> bool:
    """Whether the logits from the prompt's last word on give the answer."""
    if question.choices:
        best = logits[0, [ids[choice] for choice in question.choices]].argmax()
        return question.choices[int(best)] == question.answer
    wanted = encode(f"{question.answer} .", ids)
    return logits[: len(wanted)].argmax(-1).tolist() == wanted


@torch.no_grad()
def accuracies(
    forward: Forward, questions: Sequence[world.Question], batch: int = 100
) -> dict[str, float]:
    """Gives the share of right answers for each kind of question and, as "all", for all."""
    ids = word_ids()
    right: dict[str, list[bool]] = {"all": []}
    # Equally long rows, padded behind, keep a compiled forward pass from compiling again.
    for start in range(0, len(questions), batch):
        part = questions[start : start + batch]
        rows = torch.full((batch, 96), ids["<pad>"])
        for row, question in zip(rows, part, strict=False):
            text = encode(f"{question.prompt} {question.answer} .", ids)
            row[: len(text)] = torch.tensor(text)
        logits = forward(rows)
        for row, question in zip(logits, part, strict=False):
            first = len(question.prompt.split(" ")) - 1
            hit = _right(question, row[first:], ids)
            right["all"].append(hit)
            right.setdefault(question.kind, []).append(hit)
    return {kind: sum(hits) / len(hits) for kind, hits in right.items()}


def report(
    forward: Forward, questions: dict[str, list[world.Question]]
) -> dict[str, dict[str, float]]:
    """Scores all tasks."""
    scores: dict[str, dict[str, float]] = {}
    for task, items in questions.items():
        scores[task] = accuracies(forward, items)
    return scores

"""Zero-shot (or few-shot) accuracy on multiple-choice tasks, through lm-eval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from msgspec.structs import replace

from ..api import Metric
from ..errors import PrunebenchError, did_you_mean
from ..record import Direction, Measurement, Tolerance
from ._tasks import TaskOptions

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class Answers(NamedTuple):
    """Of one task's questions, in order: 1 where right, and which choice was taken.

    *margins* are the right choice's score minus the best wrong one's, in nats (per character if
    normalised); empty where the task does not say which is right. *clusters* are the cluster
    numbers of the questions, if there are any, and *chance* is the accuracy of guessing.
    """

    right: list[float]
    chosen: list[int]
    margins: list[float]
    clusters: list[int]
    chance: float | None


class Accuracy(TaskOptions, Metric, frozen=True, tag="accuracy"):
    """Fraction of questions answered right, per task and as the plain mean of the tasks.

    *acc_norm* names the tasks scored by lm-eval's length-normalised variant. *tasks_folder* holds
    task YAML files; without it, *tasks* are lm-eval's own. Samples are 1 for right, 0 else; the
    mean's are those of all tasks. Only the mean is judged: one test over all questions, in which no
    task outweighs the others; the single tasks show where a loss comes from.

    *clusters* maps a task to the key of its questions that says which belong together, such as
    ``{race: article}``: questions of one cluster are not independent evidence.

    Against the dense model: *recovery* is the mean over the dense model's, and *flips* the fraction
    of questions on which the two choose differently, which accuracy hides where losses and gains
    cancel (arXiv:2407.09141). With *chat_template* questions go through the tokenizer's template.
    """

    unit: ClassVar[str] = "acc"
    better: ClassVar[Direction] = "higher"
    tolerance: ClassVar[Tolerance] = Tolerance(abs=0.01)

    acc_norm: tuple[str, ...] = ()
    clusters: dict[str, str] = {}  # noqa: RUF012  # msgspec copies it

    def __hash__(self) -> int:
        # Without clusters, a mapping and so not hashable.
        return hash((self.tasks, self.acc_norm, self.tasks_folder, self.limit, self.num_fewshot))

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:
        """``accuracy/<task>`` for each task, ``accuracy/mean``, and recovery and flips."""
        answers = self._answers(lm)
        (only, *more) = answers
        judged = "accuracy/mean" if more else f"accuracy/{only}"
        for task, own in answers.items():
            yield replace(
                self.measured(task, _mean(own.right), own.right),
                margins=tuple(own.margins),
                clusters=tuple(own.clusters),
                chance=own.chance,
                instead=judged if more else "",
            )
        right = [x for own in answers.values() for x in own.right]
        if more:
            guessed = [own.chance for own in answers.values() if own.chance is not None]
            chance = _mean(guessed) if len(guessed) == len(answers) else None
            yield replace(self.measured("mean", _macro(answers), right), chance=chance)
        if lm is dense:
            return
        theirs = self._answers(dense)
        if best := _macro(theirs):
            samples = tuple(x / best for x in right)
            value = _macro(answers) / best
            recovery = Measurement("accuracy/recovery", value, "of dense", "higher", samples, True)
            yield replace(recovery, instead=judged)
        pairs = ((answers[task].chosen, theirs[task].chosen) for task in answers)
        flips = [float(a != b) for ours, other in pairs for a, b in zip(ours, other, strict=True)]
        samples = tuple(flips)
        flipped = Measurement("accuracy/flips", _mean(flips), "of answers", "lower", samples, True)
        yield replace(flipped, instead=judged)

    def _answers(self, lm: CausalLM) -> dict[str, Answers]:
        if self not in lm.memo:
            results = self.samples(lm)
            lm.memo[self] = {task: self._read(task, found) for task, found in results.items()}
        return lm.memo[self]  # type: ignore[no-any-return]

    def _read(self, task: str, samples: list[dict[str, Any]]) -> Answers:
        key = "acc_norm" if task in self.acc_norm else "acc"
        if key not in samples[0]:
            raise PrunebenchError(f"task {task!r} has no metric {key!r}")
        right = [float(sample[key]) for sample in samples]
        scores = [_scores(sample, normalised=key == "acc_norm") for sample in samples]
        golds = [sample["gold"] for sample in samples]
        chances = [len(gold) / len(own) for gold, own in zip(golds, scores, strict=True)]
        return Answers(
            right,
            [_choice(sample, own) for sample, own in zip(samples, scores, strict=True)],
            _margins(right, scores, golds),
            _clusters(samples, task, self.clusters.get(task)),
            _mean(chances) if all(golds) else None,
        )


def _scores(sample: dict[str, Any], *, normalised: bool) -> list[float]:
    """The log-likelihood of each choice, per character of it if normalised, as lm-eval does."""
    scores = [float(score) for (score, _), *_ in sample["resps"]]
    if not normalised:
        return scores
    # The model reads a choice after a delimiter, which does not count in its length.
    texts = [text.removeprefix(sample["delimiter"]) for _, text in sample["arguments"]]
    return [s / max(1, len(text)) for s, text in zip(scores, texts, strict=True)]


def _choice(sample: dict[str, Any], scores: list[float]) -> int:
    """The choice with the highest score, which lm-eval does not log.

    Where there is one text to score, whether it is the model's greedy continuation.
    """
    if len(scores) == 1:
        return int(sample["resps"][0][0][1])
    return max(range(len(scores)), key=scores.__getitem__)


def _margins(right: list[float], scores: list[list[float]], golds: list[list[int]]) -> list[float]:
    """The best right choice's score minus the best wrong one's; empty where that is unknown."""
    margins = []
    for mark, own, gold in zip(right, scores, golds, strict=True):
        wrong = [s for i, s in enumerate(own) if i not in gold]
        if not gold or not wrong:
            return []
        margin = max(own[i] for i in gold) - max(wrong)
        if margin and (margin > 0) != bool(mark):
            return []  # the task decides by another rule what is right
        margins.append(margin)
    return margins


def _clusters(samples: list[dict[str, Any]], task: str, key: str | None) -> list[int]:
    if key is None:
        return []
    numbers: dict[str, int] = {}
    for sample in samples:
        if key not in sample["doc"]:
            known = did_you_mean(key, sample["doc"])
            raise PrunebenchError(f"clusters: questions of {task!r} have no key {key!r}; {known}")
        numbers.setdefault(str(sample["doc"][key]), len(numbers))
    return [numbers[str(sample["doc"][key])] for sample in samples]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _macro(answers: dict[str, Answers]) -> float:
    return _mean([_mean(own.right) for own in answers.values()])

"""Zero-shot (or few-shot) accuracy on multiple-choice tasks, through lm-eval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from msgspec import Meta
from msgspec.structs import replace

from ..api import Metric
from ..errors import PrunebenchError, did_you_mean
from ..record import Direction, Measurement, Tolerance
from ..specs import Count

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class Answers(NamedTuple):
    """Of one task's questions, in order: 1 where right, and which choice was taken.

    *margins* are by how much the right choice's score led the best wrong one's, in nats (per
    character if normalised); none where the task does not say which is right. *clusters* number
    what belongs together, if anything does, and *chance* is what guessing gives.
    """

    right: list[float]
    chosen: list[int]
    margins: list[float]
    clusters: list[int]
    chance: float | None


class Accuracy(Metric, frozen=True, tag="accuracy"):
    """Fraction of questions answered right, per task and as the plain mean of the tasks.

    *acc_norm* names the tasks scored by lm-eval's length-normalised variant. *tasks_folder* holds
    task YAML files; without it, lm-eval's own tasks are meant. Samples are 1 for right, 0 else; the
    mean's are those of all tasks. It alone is judged: one test over all questions, in which no task
    drowns the others; those of single tasks tell where a loss comes from.

    *clusters* maps a task to the key of its questions that says which belong together, such as
    ``{race: article}``: they are no independent evidence.

    Against the dense model: *recovery* is the mean over the dense model's, and *flips* the fraction
    of questions on which the two choose differently, which accuracy hides where losses and gains
    cancel (arXiv:2407.09141). With *chat_template* questions go through the tokenizer's template.
    """

    unit: ClassVar[str] = "acc"
    better: ClassVar[Direction] = "higher"
    tolerance: ClassVar[Tolerance] = Tolerance(abs=0.01)

    tasks: Annotated[tuple[str, ...], Meta(min_length=1)]
    acc_norm: tuple[str, ...] = ()
    tasks_folder: str | None = None
    limit: Count | None = None
    num_fewshot: Annotated[int, Meta(ge=0)] | None = None
    chat_template: bool = False
    clusters: dict[str, str] = {}  # noqa: RUF012  # msgspec copies it
    batch_size: Count = 64

    def __hash__(self) -> int:
        # Equal metrics hash alike; a mapping has no hash itself.
        return hash((self.tasks, self.acc_norm, self.tasks_folder, self.limit, self.num_fewshot))

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:
        """``accuracy/<task>`` for each task, ``accuracy/mean``, and what is against *dense*."""
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
            from ._tasks import answers

            results = answers(lm, self)
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
    # A choice goes to the model behind a delimiter, and without it into its length.
    texts = [text.removeprefix(sample["delimiter"]) for _, text in sample["arguments"]]
    return [s / max(1, len(text)) for s, text in zip(scores, texts, strict=True)]


def _choice(sample: dict[str, Any], scores: list[float]) -> int:
    """The choice taken, which lm-eval does not log: of the highest score.

    Where there is one text to score, it is whether the model would have written it.
    """
    if len(scores) == 1:
        return int(sample["resps"][0][0][1])
    return max(range(len(scores)), key=scores.__getitem__)


def _margins(right: list[float], scores: list[list[float]], golds: list[list[int]]) -> list[float]:
    """By how much the best right choice leads the best wrong one; none where that is not known."""
    margins = []
    for mark, own, gold in zip(right, scores, golds, strict=True):
        wrong = [s for i, s in enumerate(own) if i not in gold]
        if not gold or not wrong:
            return []
        margin = max(own[i] for i in gold) - max(wrong)
        if margin and (margin > 0) != bool(mark):
            return []  # the task has a rule of its own for what is right
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

"""Zero-shot (or few-shot) accuracy on multiple-choice tasks, through lm-eval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, NamedTuple

from msgspec import Meta

from ..api import Count, Metric
from ..errors import PrunebenchError
from ..record import Direction, Measurement, Tolerance

if TYPE_CHECKING:
    from ..models import CausalLM


class Answers(NamedTuple):
    """Of one task's questions, in order: 1 where right, and which choice was taken."""

    right: list[float]
    chosen: list[int]


class Accuracy(Metric, frozen=True, tag="accuracy"):
    """Fraction of questions answered right, per task and as the plain mean of the tasks.

    *acc_norm* names the tasks scored by lm-eval's length-normalised variant. *tasks_folder* holds
    task YAML files; without it, lm-eval's own tasks are meant. Samples are 1 for right, 0 else; the
    mean's are those of all tasks, so that it too is judged on the questions that changed.

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
    batch_size: Count = 64

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:
        """``accuracy/<task>`` for each task, ``accuracy/mean``, and what is against *dense*."""
        answers = self._answers(lm)
        for task, own in answers.items():
            yield self.measured(task, _mean(own.right), own.right)
        right = [x for own in answers.values() for x in own.right]
        if len(answers) > 1:
            yield self.measured("mean", _macro(answers), right)
        if lm is dense:
            return
        theirs = self._answers(dense)
        if best := _macro(theirs):
            samples = tuple(x / best for x in right)
            value = _macro(answers) / best
            yield Measurement("accuracy/recovery", value, "of dense", "higher", samples, True)
        pairs = ((answers[task].chosen, theirs[task].chosen) for task in answers)
        flips = [float(a != b) for ours, other in pairs for a, b in zip(ours, other, strict=True)]
        samples = tuple(flips)
        yield Measurement("accuracy/flips", _mean(flips), "of answers", "lower", samples, True)

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
        return Answers(
            [float(sample[key]) for sample in samples],
            [_choice(sample, normalised=key == "acc_norm") for sample in samples],
        )


def _choice(sample: dict[str, Any], *, normalised: bool) -> int:
    """The choice taken: of the highest log-likelihood, per character of the choice if normalised.

    lm-eval's own rule; it logs the scores but not the choice. Where there is one text to score, the
    choice is whether the model would have written it.
    """
    scores = [float(score) for (score, _), *_ in sample["resps"]]
    if len(scores) == 1:
        return int(sample["resps"][0][0][1])
    if normalised:
        # A choice goes to the model behind a delimiter, and without it into its length.
        texts = [text.removeprefix(sample["delimiter"]) for _, text in sample["arguments"]]
        scores = [s / max(1, len(text)) for s, text in zip(scores, texts, strict=True)]
    return max(range(len(scores)), key=scores.__getitem__)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _macro(answers: dict[str, Answers]) -> float:
    return _mean([_mean(own.right) for own in answers.values()])

"""Zero-shot (or few-shot) accuracy on multiple-choice tasks, through lm-eval."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from ..api import Count, Metric
from ..record import Direction, Measurement, Tolerance

if TYPE_CHECKING:
    from ..models import CausalLM


class Accuracy(Metric, frozen=True, tag="accuracy"):
    """Fraction of questions answered right, per task and as the plain mean of the tasks.

    *acc_norm* names the tasks scored by lm-eval's length-normalised variant. *tasks_folder* holds
    task YAML files; without it, lm-eval's own tasks are meant. Samples are 1 for right, 0 else; the
    mean's are those of all tasks, so that it too is judged on the questions that changed.
    """

    unit: ClassVar[str] = "acc"
    better: ClassVar[Direction] = "higher"
    tolerance: ClassVar[Tolerance] = Tolerance(abs=0.01)

    tasks: Annotated[tuple[str, ...], Meta(min_length=1)]
    acc_norm: tuple[str, ...] = ()
    tasks_folder: str | None = None
    limit: Count | None = None
    num_fewshot: Annotated[int, Meta(ge=0)] | None = None
    batch_size: Count = 64

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:  # noqa: ARG002
        """``accuracy/<task>`` for each task, then ``accuracy/mean``."""
        from ._tasks import answers

        results = answers(
            lm, self.tasks, self.tasks_folder, self.limit, self.num_fewshot, self.batch_size
        )
        means: list[float] = []
        everything: list[float] = []
        for task, samples in results.items():
            key = "acc_norm" if task in self.acc_norm else "acc"
            right = [float(sample[key]) for sample in samples]
            means.append(sum(right) / len(right))
            everything += right
            yield self.measured(task, means[-1], right)
        if len(means) > 1:
            yield self.measured("mean", sum(means) / len(means), everything)

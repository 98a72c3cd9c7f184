"""Exact match of generated text, through lm-eval: layer pruning keeps choices and loses this."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, ClassVar

from msgspec import Meta

from ..api import Metric
from ..record import Direction, Measurement, Tolerance
from ..specs import Count

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class Generation(Metric, frozen=True, tag="generation"):
    """Fraction of answers that match exactly, decoded greedily as the task says.

    *metric* is the task's own name for its exact match, and *filter* which of its ways to find the
    answer in the text is meant, by default its first (``strict-match`` for gsm8k). With
    *chat_template* questions go through the tokenizer's template. Samples are 1 for a match or 0.
    """

    unit: ClassVar[str] = "match"
    better: ClassVar[Direction] = "higher"
    tolerance: ClassVar[Tolerance] = Tolerance(abs=0.02)

    tasks: Annotated[tuple[str, ...], Meta(min_length=1)]
    metric: str = "exact_match"
    filter: str | None = None
    tasks_folder: str | None = None
    limit: Count | None = None
    num_fewshot: Annotated[int, Meta(ge=0)] | None = None
    chat_template: bool = False
    batch_size: Count = 64

    def names(self) -> tuple[object, ...]:
        """The tasks."""
        return self.tasks

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:  # noqa: ARG002
        """``generation/<task>`` for each task."""
        from ..errors import PrunebenchError
        from ._tasks import answers

        for task, samples in answers(lm, self, self.filter).items():
            if self.metric not in samples[0]:
                raise PrunebenchError(f"task {task!r} has no metric {self.metric!r}")
            right = [float(sample[self.metric]) for sample in samples]
            yield self.measured(task, sum(right) / len(right), right)

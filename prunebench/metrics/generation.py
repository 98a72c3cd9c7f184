"""Exact match of generated text, through lm-eval: it can fall where multiple choice does not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from ..api import Metric
from ..errors import PrunebenchError
from ..record import Direction, Measurement, Tolerance
from ._tasks import TaskOptions

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class Generation(TaskOptions, Metric, frozen=True, tag="generation"):
    """Fraction of answers that match exactly, decoded greedily as the task says.

    *metric* is the name of the task's exact match, and *filter* the task's filter that extracts the
    answer from the text, by default its first (``strict-match`` for gsm8k). With *chat_template*
    questions go through the tokenizer's template. Samples are 1 for a match or 0.
    """

    unit: ClassVar[str] = "match"
    better: ClassVar[Direction] = "higher"
    tolerance: ClassVar[Tolerance] = Tolerance(abs=0.02)

    metric: str = "exact_match"
    filter: str | None = None

    def names(self) -> tuple[object, ...]:
        """The tasks."""
        return self.tasks

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:  # noqa: ARG002
        """``generation/<task>`` for each task."""
        for task, samples in self.samples(lm, self.filter).items():
            if self.metric not in samples[0]:
                raise PrunebenchError(f"task {task!r} has no metric {self.metric!r}")
            right = [float(sample[self.metric]) for sample in samples]
            yield self.measured(task, sum(right) / len(right), right)

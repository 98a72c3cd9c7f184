"""Verdicts with their records, of a run or from stored records, as reports need them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from msgspec import Struct

from ...formatting import counted
from ...record import Record
from ...runs.result import Result
from ...verdicts.verdict import Finding, Outcome, Verdict


class Item(Struct, frozen=True):
    """A judged case.

    *file* and *line* are where it is defined, *reproduce* the command that runs it alone. *seconds*
    is its time, as if it had run alone; 0 if a stored record was reused.
    """

    verdict: Verdict
    record: Record | None = None
    file: str = ""
    line: int = 0
    reproduce: str = ""
    seconds: float = 0.0

    @property
    def case_id(self) -> str:
        """The case's id."""
        return self.verdict.case_id

    @property
    def decisive(self) -> list[Finding]:
        """The findings that decide, without diagnostic ones."""
        return [f for f in self.verdict.findings if not f.diagnostic]

    def unit(self, metric: str) -> str:
        """The unit of a measurement, also of a published one; empty if there is none."""
        name = metric.removeprefix("published/")
        measured = self.record.find(name) if self.record else None
        return measured.unit if measured else ""


class Judged(Struct, frozen=True):
    """A whole run: its *items*, the cases *left* when it was stopped, and ``--strict``."""

    items: tuple[Item, ...]
    left: int = 0
    strict: bool = False

    def failed(self, item: Item) -> bool:
        """Whether a case fails the run."""
        doubtful = (Outcome.UNSURE, Outcome.NEW, Outcome.NOT_COMPARABLE)
        return not item.verdict.ok or (self.strict and item.verdict.has(*doubtful))

    @property
    def file(self) -> str:
        """The case file that all cases share; else empty."""
        files = {item.case_id.rpartition("/")[0] for item in self.items}
        return files.pop() if len(files) == 1 else ""

    def name(self, item: Item) -> str:
        """The case's id without the shared case file."""
        return item.case_id.removeprefix(f"{self.file}/") if self.file else item.case_id

    @property
    def summary(self) -> str:
        """``12 cases: 1 worse, 11 same``, the worst first."""
        counts = Counter(item.verdict.outcome for item in self.items)
        order = sorted(counts, key=lambda word: (_ORDER.index(word), word))
        words = ", ".join(f"{counts[word]} {word.replace('_', ' ')}" for word in order)
        text = f"{counted(len(self.items), 'case')}: {words or 'none'}"
        return f"{text}; stopped with {self.left} more to go" if self.left else text


_ORDER = (
    *("crashed", "worse", "gone", "changed_plan", "not_comparable", "unsure", "new"),
    *("better", "same", "interval", "skipped"),
)


def judged(results: Iterable[Result], left: int = 0, *, strict: bool = False) -> Judged:
    """The results of a run."""
    items = (
        Item(
            r.verdict,
            r.record,
            str(r.case.file),
            r.case.line,
            r.reproduce,
            0.0 if r.cached or r.record is None else r.record.cost.get("case_time", 0.0),
        )
        for r in results
    )
    return Judged(tuple(items), left, strict)

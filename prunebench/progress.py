"""What a person watches while cases run: a live bar on a terminal, a line per case elsewhere."""

from __future__ import annotations

import os
import sys
from types import TracebackType

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from .case import Case
from .report import InertConsole
from .session import Result


class Display:
    """Shows how far a run is, on standard error so that output can be piped.

    Args:
        total: how many cases there are.
        quiet: show nothing.
    """

    def __init__(self, total: int, *, quiet: bool = False) -> None:
        # Bound now: while lm-eval runs, sys.stderr is a sink for its own bars.
        self.console = InertConsole(file=sys.stderr)
        live = self.console.is_terminal and not os.environ.get("CI")
        self._lines = not live and not quiet
        self._at: dict[int, str] = {}
        self._waits: set[str] = set()
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self.console,
            transient=True,
            redirect_stderr=False,
            disable=quiet or not live,
        )
        self._task = self._progress.add_task("starting", total=total)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def step(self, case: Case, what: str) -> None:
        """A case has come to the next step."""
        self._tell_wait(case, what)
        self._progress.update(self._task, description=f"{case.label}: {what}")

    def worker_step(self, worker: int, case: Case, what: str) -> None:
        """The same of one of several workers, which each have a line."""
        self._tell_wait(case, what)
        self._at[worker] = f"{worker + 1} {case.label}: {what}"
        text = "\n".join(self._at[number] for number in sorted(self._at))
        self._progress.update(self._task, description=text)

    def note(self, text: str) -> None:
        """What the run is waiting for."""
        self._progress.update(self._task, description=text)

    def _tell_wait(self, case: Case, what: str) -> None:
        """Where no bar is seen, a run that waits for another would look dead; once is enough."""
        text = f"{case.label}: {what}"
        if self._lines and what.startswith("waiting") and text not in self._waits:
            self._waits.add(text)
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def advance(self) -> None:
        """Something is finished that has no result."""
        self._progress.advance(self._task)

    def done(self, result: Result) -> None:
        """A case is finished."""
        self._progress.advance(self._task)
        if self._lines:
            reused = " (reused)" if result.cached else ""
            text = f"{result.case.id}: {result.verdict.outcome}{reused}"
            self.console.print(text, highlight=False, markup=False, soft_wrap=True)

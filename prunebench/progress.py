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
        self._progress.update(self._task, description=f"{case.label}: {what}")

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

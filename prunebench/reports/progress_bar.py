"""Progress of a run: a live bar on a terminal, a line per case elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from ..case import Case
from ..formatting import duration
from ..runs.result import Result
from ..system import console
from ..system.console import InertConsole

#: Seconds without a line after which a run that only writes lines prints its current step.
SILENCE = 60.0

#: Seconds over which the mean time of a case is taken: a whole run. Rich's own default is 30 s.
WHOLE_RUN = 30 * 24 * 3600.0


class Display:
    """Shows the progress of a run on standard error, so that output can be piped.

    *total* is how many cases there are, *clock* counts monotonic seconds.
    """

    def __init__(
        self, total: int, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Bound now: while lm-eval runs, sys.stderr is a sink for its own bars.
        self.console = InertConsole(file=sys.stderr)
        terminal = console.watched(self.console.file) and not self.console.is_dumb_terminal
        live = terminal and not os.environ.get("CI")
        self._lines = not live and not quiet
        self._total = total
        self._done = 0
        self._began: dict[str, float] = {}
        self._waits: set[str] = set()
        self._workers: dict[int, tuple[str, str]] = {}
        self._clock = clock
        self._last_line = clock()
        self._bar = _Bar(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            redirect_stderr=False,
            disable=quiet or not live,
            expand=True,
            speed_estimate_period=WHOLE_RUN,
            get_time=clock,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def step(self, case: Case, what: str) -> None:
        """Show the current step of a case."""
        self._begin(case, what)
        self._bar.steps = [(f"{self._count(self._done + 1)} {case.label}", what)]

    def worker_step(self, worker: int, case: Case, what: str) -> None:
        """Show the current step of one of several workers, which have a line each."""
        self._begin(case, what)
        self._workers[worker] = (f"{worker + 1} {case.label}", what)
        self._bar.steps = [self._workers[number] for number in sorted(self._workers)]

    def note(self, text: str) -> None:
        """Show what the run is waiting for."""
        self._bar.steps = [("", text)]

    def advance(self) -> None:
        """Count something as finished that has no result."""
        self._done += 1
        self._bar.advance(self._task)

    def done(self, result: Result) -> None:
        """Count a case as finished."""
        began = self._began.pop(result.case.id, None)
        self.advance()
        if self._lines:
            reused = " (reused)" if result.cached else ""
            took = "" if began is None or reused else f" in {duration(self._clock() - began)}"
            word = result.verdict.outcome
            self._print(f"{self._count(self._done)} {result.case.id}: {word}{reused}{took}")

    def _begin(self, case: Case, what: str) -> None:
        if what.startswith("waiting"):
            # Without a bar, a run that waits for another would look dead; print it once.
            text = f"{case.label}: {what}"
            if self._lines and text not in self._waits:
                self._waits.add(text)
                self._print(text)
            return
        # Steps before loading, such as hashing a model, may have been for another case too.
        if what == "loading" or case.id not in self._began:
            self._began[case.id] = self._clock()
        if self._lines and self._clock() - self._last_line >= SILENCE:
            self._print(f"{self._count(self._done + 1)} {case.id}: {what}")

    def _count(self, number: int) -> str:
        """``[ 3/17]``."""
        return f"[{min(number, self._total):>{len(str(self._total))}}/{self._total}]"

    def _print(self, text: str) -> None:
        self._last_line = self._clock()
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Bar(Progress):
    """A line for each current step, and below them a bar over all cases."""

    #: The label and the current step of each case that runs.
    steps: Sequence[tuple[str, str]] = ()

    def get_renderables(self) -> Iterable[RenderableType]:
        """What rich draws, asked for several times a second."""
        for label, what in self.steps:
            yield Text(fitted(label, what, self.console.width), no_wrap=True)
        yield from super().get_renderables()


def fitted(label: str, what: str, width: int) -> str:
    """``sleb-0.3: removal 2 of 7`` in at most *width* columns; a long label is cut first."""
    text = f"{label}: {what}" if label else what
    room = width - cell_len(what) - 2
    if cell_len(text) > width and label and room >= 8:
        head = room // 2 - 1
        text = f"{label[:head]}..{label[-(room - head - 2) :]}: {what}"
    return text if cell_len(text) <= width else set_cell_size(text, width).rstrip()

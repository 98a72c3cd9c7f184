"""What a person watches while cases run: a live bar on a terminal, a line per case elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType

from rich.cells import cell_len, set_cell_size
from rich.console import RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TimeElapsedColumn,
)
from rich.text import Text

from ..case import Case
from ..errors import PrunebenchError
from ..formatting import duration
from ..runs.dry_run import Outlook
from ..runs.session import Result
from ..system import console
from ..system.console import InertConsole
from .eta import TimeLeft, expected

#: Seconds after which a run that only writes lines says again what it is at.
SILENCE = 60.0


class Display:
    """Shows how far a run is, on standard error so that output can be piped.

    Args:
        total: how many cases there are.
        quiet: show nothing.
        clock: seconds that only grow.
    """

    def __init__(
        self, total: int, *, quiet: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        # Bound now: while lm-eval runs, sys.stderr is a sink for its own bars.
        self.console = InertConsole(file=sys.stderr)
        seen = console.watched(self.console.file) and not self.console.is_dumb_terminal
        live = seen and not os.environ.get("CI")
        self._lines = not live and not quiet
        self._total = total
        self._done = 0
        self._at: dict[int, str] = {}
        self._waits: set[str] = set()
        self._clock = clock
        self._spoke = clock()
        self._left = TimeLeft(clock)
        self._look: Callable[[], tuple[Sequence[Case], Sequence[Outlook]]] | None = None
        self._bar = _Bar(
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            _Left(self.time_left),
            console=self.console,
            transient=True,
            redirect_stderr=False,
            disable=quiet or not live,
            expand=True,
        )
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def expect(self, look: Callable[[], tuple[Sequence[Case], Sequence[Outlook]]]) -> None:
        """How to find what is known of the cases; asked when the first of them has to be run."""
        self._look = look

    def time_left(self) -> str:
        """``about 3 min left``, or an empty text while that is not known."""
        left = self._left.left(len(self._at) or 1)
        return "" if left is None else f"about {duration(max(1.0, left))} left"

    def step(self, case: Case, what: str) -> None:
        """A case has come to the next step."""
        self._begin(case, what)
        self._bar.at = [(f"{self._count(self._done + 1)} {case.label}", what)]

    def worker_step(self, worker: int, case: Case, what: str) -> None:
        """The same of one of several workers, which each have a line."""
        self._at.setdefault(worker, "")
        self._begin(case, what)
        self._at[worker] = case.id
        self._bar.workers[worker] = (f"{worker + 1} {case.label}", what)
        self._bar.at = [self._bar.workers[number] for number in sorted(self._bar.workers)]

    def note(self, text: str) -> None:
        """What the run is waiting for."""
        self._bar.at = [("", text)]

    def _begin(self, case: Case, what: str) -> None:
        if what.startswith("waiting"):
            self._tell_wait(case, what)
            return
        if self._look is not None:
            look, self._look = self._look, None
            with contextlib.suppress(
                PrunebenchError
            ):  # then it is not known, and no more than that
                cases, outlooks = look()
                self._left.expect([c.id for c in cases], expected(cases, outlooks))
        # What came before, such as hashing a model, may have been for another case too.
        self._left.begin(case.id, anew=what == "loading")
        if self._lines and self._clock() - self._spoke >= SILENCE:
            self._say(f"{self._count(self._done + 1)} {case.id}: {what}", self.time_left())

    def _tell_wait(self, case: Case, what: str) -> None:
        """Where no bar is seen, a run that waits for another would look dead; once is enough."""
        text = f"{case.label}: {what}"
        if self._lines and text not in self._waits:
            self._waits.add(text)
            self._say(text)

    def advance(self) -> None:
        """Something is finished that has no result."""
        self._done += 1
        self._bar.advance(self._task)

    def done(self, result: Result) -> None:
        """A case is finished."""
        took = self._left.finish(result.case.id, reused=result.cached)
        self.advance()
        if self._lines:
            reused = " (reused)" if result.cached else ""
            seconds = "" if took is None else f" in {duration(took)}"
            word = result.verdict.outcome
            text = f"{self._count(self._done)} {result.case.id}: {word}{reused}{seconds}"
            self._say(text, "" if took is None else self.time_left())

    def _count(self, number: int) -> str:
        """``[ 3/17]``."""
        return f"[{min(number, self._total):>{len(str(self._total))}}/{self._total}]"

    def _say(self, *parts: str) -> None:
        self._spoke = self._clock()
        text = ", ".join(filter(None, parts))
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)


class _Bar(Progress):
    """A line for each thing that is being done, and below them how far all of it is."""

    def __init__(self, *columns: str | ProgressColumn, **options: object) -> None:
        self.at: list[tuple[str, str]] = []
        self.workers: dict[int, tuple[str, str]] = {}
        super().__init__(*columns, **options)  # type: ignore[arg-type]

    def get_renderables(self) -> Iterable[RenderableType]:
        """As rich asks for what it draws, several times a second."""
        for label, what in self.at:
            yield Text(fitted(label, what, self.console.width), no_wrap=True)
        yield from super().get_renderables()


class _Left(ProgressColumn):
    """What is left, in words."""

    max_refresh = 0.5

    def __init__(self, told: Callable[[], str]) -> None:
        self._told = told
        super().__init__()

    def render(self, task: Task) -> Text:
        """As rich draws a column."""
        del task
        return Text(self._told(), style="cyan")


def fitted(label: str, what: str, width: int) -> str:
    """``sleb-0.3: removal 2 of 7`` in at most *width* columns: a long name gives way first."""
    text = f"{label}: {what}" if label else what
    room = width - cell_len(what) - 2
    if cell_len(text) > width and label and room >= 8:
        head = room // 2 - 1
        text = f"{label[:head]}..{label[-(room - head - 2) :]}: {what}"
    return text if cell_len(text) <= width else set_cell_size(text, width).rstrip()

"""The result of a case in a run, and what a run's results come to: exit code, failures."""

from __future__ import annotations

import os
import shlex
import sys
import traceback
from collections.abc import Iterable, Mapping
from pathlib import Path

from msgspec import Struct

from ..case import Case
from ..record import Record
from ..results.baselines.published import Row
from ..system.console import print_note
from ..verdicts.verdict import Outcome, Verdict

OK, REGRESSION, USAGE, CRASHED, UNSURE, NOTHING, NOT_COMPARABLE = range(7)
INTERRUPTED = 130


class Result(Struct, frozen=True):
    """The result of a case.

    *cached* records were made by an earlier run; *published* are the papers' numbers for it.
    *options* are the other options of the command (``command_options``).
    """

    case: Case
    verdict: Verdict
    record: Record | None = None
    cached: bool = False
    published: tuple[Row, ...] = ()
    options: str = ""

    @property
    def reproduce(self) -> str:
        """The command that measures and judges this case alone, with the same outcome."""
        return f"{self.case.reproduce}{self.options}"


def command_options(given: Mapping[str, object]) -> str:
    """Options as a shell takes them, a blank before each; those without a value are left out.

    *given* are values by option name; True for a switch.
    """
    words = []
    for name, value in given.items():
        if value is True:
            words.append(name)
        elif value not in (None, False, ""):
            words.append(f"{name} {shlex.quote(str(value))}")
    return "".join(f" {word}" for word in words)


def exit_code(verdicts: Iterable[Verdict], *, strict: bool = False) -> int:
    """The exit code of a run: a regression comes before a crash, a crash before doubt."""
    verdicts = list(verdicts)
    if any(not v.ok and not v.error for v in verdicts):
        return REGRESSION
    if any(v.error for v in verdicts):
        return CRASHED
    if strict and any(v.has(Outcome.NOT_COMPARABLE, Outcome.NEW) for v in verdicts):
        return NOT_COMPARABLE
    if strict and any(v.has(Outcome.UNSURE) for v in verdicts):
        return UNSURE
    return OK


def failures(results: Iterable[Result]) -> dict[str, str]:
    """Why cases of a run have no record, by case id."""
    return {
        r.case.id: f"crashed: {v.error}" if v.error else f"skipped: {v.skipped}"
        for r in results
        if (v := r.verdict) and r.record is None
    }


def crash_line(error: Exception, case: Case) -> str:
    """An unforeseen error as one line; with PRUNEBENCH_DEBUG=1 the traceback is printed, too.

    The place is the last one in the method's or the metric's own file, if there is one: a place
    deep in a library does not tell whose call it was.
    """
    if os.environ.get("PRUNEBENCH_DEBUG"):
        print_note("".join(traceback.format_exception(error)).rstrip())
    modules = [sys.modules.get(type(p).__module__) for p in (case.method, *case.metrics)]
    own = {getattr(module, "__file__", None) for module in modules}
    frames = traceback.extract_tb(error.__traceback__)
    last = next((f for f in reversed(frames) if f.filename in own), frames[-1])
    text = (str(error).splitlines() or [""])[0]
    place = f"{Path(last.filename).name}:{last.lineno}"
    return f"{type(error).__name__}: {text} (at {place}; PRUNEBENCH_DEBUG=1 shows all)"

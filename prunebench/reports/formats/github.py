"""Workflow commands of GitHub Actions: annotations at the lines of the case files."""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import inert
from ..sentences import lines
from .items import Item, Judged

#: GitHub shows at most so many annotations of a step.
MOST = 10
#: Outcomes that are a warning where they do not fail the case.
DOUBTFUL = ("worse", "gone", "unsure", "not_comparable", "changed_plan")


def commands(run: Judged, workspace: Path | None = None) -> list[str]:
    """At most ten workflow commands, a summary first; none for a run without problems.

    Regressions and crashes are errors, unsure and changed cases warnings. Each is at the line of
    its case file, relative to *workspace* (the checkout) if the file is below it.
    """
    bad = [item for item in run.items if run.failed(item)]
    unsure = [i for i in run.items if i not in bad and i.verdict.outcome in DOUBTFUL]
    if not bad and not unsure and not run.left:
        return []
    shown = [("error", item) for item in bad] + [("warning", item) for item in unsure]
    summary = run.summary
    if len(shown) > MOST - 1:
        left = len(shown) - (MOST - 1)
        summary += f"; {left} more {'has' if left == 1 else 'have'} no annotation, see the log"
    first = command("error" if bad else "warning", summary, title="prunebench")
    return [first, *(_annotation(kind, item, workspace) for kind, item in shown[: MOST - 1])]


def command(kind: str, message: str, **properties: str) -> str:
    """A workflow command: ``::error file=...,line=...,title=...::message``."""
    named = ",".join(f"{k}={_escaped(v, ':,')}" for k, v in properties.items() if v)
    return f"::{kind} {named}::{_escaped(message)}" if named else f"::{kind}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for letter in ("%", "\r", "\n", *more):  # per cent first: the other escapes contain it
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


def _annotation(kind: str, item: Item, workspace: Path | None) -> str:
    found = [inert(line.removeprefix(f"{item.case_id}: ")) for line in lines(item.verdict)]
    if kind == "error" and item.reproduce:
        found.append(f"reproduce: {inert(item.reproduce)}")
    message = "\n".join(found)
    word = item.verdict.outcome.replace("_", " ")
    return command(
        kind,
        message or word,
        file=inert(_relative(item.file, workspace)),
        line=str(item.line) if item.file and item.line else "",
        title=f"{word}: {inert(item.case_id, 200)}",
    )


def _relative(file: str, workspace: Path | None) -> str:
    if not file or workspace is None:
        return file
    whole = Path(os.path.abspath(file))  # noqa: PTH100  # as named: links are the checkout's matter
    return whole.relative_to(workspace).as_posix() if whole.is_relative_to(workspace) else file

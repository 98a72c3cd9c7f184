"""Annotations of GitHub Actions: lines that its runner shows at the case in the pull request."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import inert
from ..sentences import lines
from .items import Item, Judged

#: GitHub shows no more of a step.
MOST = 10
#: Letters of an annotation; GitHub cuts what is much longer.
MOST_LETTERS = 4000


def commands(run: Judged, workspace: Path | None = None) -> list[str]:
    """At most ten workflow commands, a summary first; none where there is nothing to say.

    Regressions and crashes are errors, doubt is a warning. Each stands at the line of the case
    file, relative to *workspace* (the checkout) where the file is below it.
    """
    bad = [item for item in run.items if run.failed(item)]
    doubtful = [item for item in run.items if item not in bad and _doubtful(item)]
    if not bad and not doubtful and not run.left:
        return []
    told = [("error", item) for item in bad] + [("warning", item) for item in doubtful]
    summary = run.summary
    if len(told) > MOST - 1:
        left = len(told) - (MOST - 1)
        summary += f"; {left} more {'has' if left == 1 else 'have'} no annotation, see the log"
    first = command("error" if bad else "warning", summary, title="prunebench")
    return [first, *(_annotation(kind, item, workspace) for kind, item in told[: MOST - 1])]


def command(kind: str, message: str, **properties: str) -> str:
    """A workflow command: ``::error file=...,line=...,title=...::message``."""
    named = ",".join(f"{k}={_escaped(v, ':,')}" for k, v in properties.items() if v)
    return f"::{kind} {named}::{_escaped(message)}" if named else f"::{kind}::{_escaped(message)}"


def _escaped(text: str, more: str = "") -> str:
    for letter in ("%", "\r", "\n", *more):  # per cent first: the others bring their own
        text = text.replace(letter, f"%{ord(letter):02X}")
    return text


def _doubtful(item: Item) -> bool:
    verdict = item.verdict
    return not verdict.skipped and verdict.outcome in (
        *("worse", "gone", "unsure", "not_comparable", "changed_plan"),
    )


def _annotation(kind: str, item: Item, workspace: Path | None) -> str:
    said = [inert(line.removeprefix(f"{item.case_id}: ")) for line in lines(item.verdict)]
    if kind == "error" and item.reproduce:
        said.append(f"reproduce: {inert(item.reproduce)}")
    message = "\n".join(_within(said, MOST_LETTERS))
    word = item.verdict.outcome.replace("_", " ")
    return command(
        kind,
        message or word,
        file=inert(_relative(item.file, workspace)),
        line=str(item.line) if item.file and item.line else "",
        title=f"{word}: {inert(item.case_id, 200)}",
    )


def _within(said: list[str], most: int) -> Iterator[str]:
    """As many whole lines as have room, and how many had none."""
    for number, line in enumerate(said):
        most -= len(line) + 1
        if most < 0:
            yield f"... {len(said) - number} more"
            return
        yield line


def _relative(file: str, workspace: Path | None) -> str:
    if not file or workspace is None:
        return file
    whole = Path(os.path.abspath(file))  # noqa: PTH100  # as named: links are the checkout's matter
    return whole.relative_to(workspace).as_posix() if whole.is_relative_to(workspace) else file

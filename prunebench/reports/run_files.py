"""The files and the annotations of a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from ..errors import PrunebenchError, inert
from ..runs.session import OK, USAGE, Result
from ..system import files
from . import sentences
from .formats import (
    github,
    items,
    junit,
    markdown,
)


class Outputs:
    """What a run leaves beside its records.

    Args:
        json_file: for scripts.
        junit_file: for CI servers.
        markdown_file: for a pull request.
        on_github: whether to annotate there; by default in a job of GitHub Actions.
        strict: whether doubt fails.
    """

    def __init__(
        self,
        json_file: Path | None = None,
        junit_file: Path | None = None,
        markdown_file: Path | None = None,
        on_github: bool | None = None,
        *,
        strict: bool = False,
    ) -> None:
        self.json_file = json_file
        self.junit_file = junit_file
        self.markdown_file = markdown_file
        in_job = os.environ.get("GITHUB_ACTIONS") == "true"
        self.on_github = in_job if on_github is None else on_github
        self.strict = strict
        self.failures: list[str] = []

    def write(self, results: Sequence[Result], left: int = 0) -> None:
        """Write the files; what cannot be written is a line in *failures*, and the others are.

        Args:
            results: those there are.
            left: how many cases have none, of a run that was stopped.
        """
        run = items.judged(results, left, strict=self.strict)
        self.failures = []
        self._write(self.json_file, lambda: files.as_json(sentences.to_json(results)))
        self._write(self.junit_file, lambda: junit.text(run).encode())
        self._write(self.markdown_file, lambda: markdown.comment(run).encode())

    def tell(self, results: Sequence[Result], left: int = 0) -> None:
        """Annotate a run on GitHub, and say what could not be written."""
        if self.on_github:
            run = items.judged(results, left, strict=self.strict)
            workspace = os.environ.get("GITHUB_WORKSPACE")
            for line in github.commands(run, Path(workspace) if workspace else None):
                print(line)  # noqa: T201
            if name := os.environ.get("GITHUB_STEP_SUMMARY"):
                self._summarise(run, Path(name))
        for line in self.failures:
            print(line, file=sys.stderr)  # noqa: T201

    def code(self, code: int) -> int:
        """The exit code of a run that would end with *code*: a file that is missing fails it."""
        return USAGE if code == OK and self.failures else code

    def _write(self, path: Path | None, content: Callable[[], bytes]) -> None:
        if path is None:
            return
        try:
            files.write(path, content())
        except PrunebenchError as error:
            self.failures.append(str(error))

    def _summarise(self, run: items.Judged, path: Path) -> None:
        """Add to the step's summary, as far as there is room in it."""
        try:
            there = path.stat().st_size if path.exists() else 0
            room = markdown.SUMMARY - there - 1
            text = markdown.comment(run, room)
            if len(text.encode()) <= room:
                with path.open("a", encoding="utf-8") as stream:
                    stream.write(f"{text}\n")
        except OSError as error:
            why = error.strerror or error
            self.failures.append(f"{inert(str(path))}: cannot be written: {why}")

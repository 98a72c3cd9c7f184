"""The files of a run, and its annotations on GitHub."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import PrunebenchError
from ..runs.result import OK, USAGE, Result
from ..system import files
from ..system.console import print_note
from . import sentences
from .formats import github, items, junit, markdown


@dataclass
class RunFiles:
    """The files that a run writes next to its records.

    *on_github*: annotate a pull request; by default in a job of GitHub Actions. *strict*: unsure,
    new and not comparable fail. *failures* has a line for each file that could not be written.
    """

    json_file: Path | None = None
    junit_file: Path | None = None
    markdown_file: Path | None = None
    on_github: bool | None = None
    strict: bool = False
    failures: list[str] = field(default_factory=list)

    def write(self, results: Sequence[Result], left: int = 0) -> None:
        """Write the files for the *results* so far; *left* cases of a stopped run have none."""
        run = items.judged(results, left, strict=self.strict)
        self.failures = []
        self._write(self.json_file, lambda: files.as_json(sentences.to_json(results)))
        self._write(self.junit_file, lambda: junit.text(run).encode())
        self._write(self.markdown_file, lambda: markdown.comment(run).encode())

    def annotate(self, results: Sequence[Result], left: int = 0) -> None:
        """Annotate a run on GitHub, and print what could not be written."""
        in_job = os.environ.get("GITHUB_ACTIONS") == "true"
        if in_job if self.on_github is None else self.on_github:
            run = items.judged(results, left, strict=self.strict)
            workspace = os.environ.get("GITHUB_WORKSPACE")
            for line in github.commands(run, Path(workspace) if workspace else None):
                print(line)  # noqa: T201  # a workflow command, which escapes what is from outside
            if name := os.environ.get("GITHUB_STEP_SUMMARY"):
                self._add_summary(run, Path(name))
        for line in self.failures:
            print_note(line)

    def code(self, code: int) -> int:
        """*code*, or USAGE if a file of a run that would end well could not be written."""
        return USAGE if code == OK and self.failures else code

    def _write(self, path: Path | None, content: Callable[[], bytes]) -> None:
        if path is None:
            return
        try:
            files.write(path, content())
        except PrunebenchError as error:
            self.failures.append(str(error))

    def _add_summary(self, run: items.Judged, path: Path) -> None:
        """Add to the summary of the job's step, as much as fits."""
        try:
            used = path.stat().st_size if path.exists() else 0
            room = markdown.SUMMARY - used - 1
            text = markdown.comment(run, room)
            if len(text.encode()) <= room:
                with path.open("a", encoding="utf-8") as stream:
                    stream.write(f"{text}\n")
        except OSError as error:
            why = error.strerror or error
            self.failures.append(f"{path}: cannot be written: {why}")

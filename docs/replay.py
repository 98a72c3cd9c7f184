"""Runs the commands of a page and puts what they print in the place of what the page shows.

`python docs/replay.py docs/tutorial.md ...` works in a fresh copy of the repository, one per page:
files (blocks with a title) are written, lines that begin with a dollar sign are run, in order, by
one shell. So what a page shows is what was printed, in 80 columns and without colour.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MARK = "== end of a command =="
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def main() -> None:
    """Argument: pages."""
    for page in map(Path, sys.argv[1:]):
        with tempfile.TemporaryDirectory() as folder:
            text = BLOCK.sub(partial(replayed, Shell(Path(folder))), page.read_text())
        page.write_text(text)


def replayed(shell: Shell, block: re.Match[str]) -> str:
    """The block as it should be on the page."""
    language, title, body = block.groups()
    if title:
        shell.write(title, body)
    if language != "console" or not re.search(r"^\$ ", body, re.MULTILINE):
        return block[0]
    lines: list[str] = []
    for command in re.findall(r"^\$ ((?:.*\\\n)*.*)$", body, re.MULTILINE):
        sys.stderr.write(f"{command}\n")
        lines += [f"$ {command}", *shell.run(command)]
    return "```console\n" + "\n".join(lines) + "\n```"


class Shell:
    """A shell in a copy of the repository, with the copy's `prunebench` and `python`."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "prunebench"
        listed = git(ROOT, "ls-files", "-co", "--exclude-standard").splitlines()
        for name in filter(lambda name: (ROOT / name).is_file(), listed):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.root / name)
        git(self.root, "init", "--quiet", "--initial-branch=main")
        git(self.root, "add", "--all")
        who = ("-c", "user.name=you", "-c", "user.email=you@example.org")
        git(self.root, *who, "commit", "--quiet", "--message=a copy")
        programs = folder / "bin"
        programs.mkdir()
        starts = {"prunebench": "-m prunebench", "pytest": "-m pytest", "python": ""}
        for name, start in starts.items():
            (programs / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {start} "$@"\n')
            (programs / name).chmod(0o755)
        own = {"PYTHONPATH": str(self.root), "PATH": f"{programs}:{os.environ['PATH']}"}
        own |= {
            "COLUMNS": "80",
            "NO_COLOR": "1",
            "USER": "you",
            "LOGNAME": "you",
            "HOME": str(folder),
        }
        own |= {"GIT_AUTHOR_NAME": "you", "GIT_COMMITTER_NAME": "you", "EMAIL": "you@example.org"}
        self.shell = subprocess.Popen(
            ["bash", "--norc"],  # noqa: S607
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.root,
            env={**os.environ, **own},
        )

    def write(self, name: str, text: str) -> None:
        """Write a file where the shell is now."""
        where = Path(self.run("pwd")[0]) / name
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(text)

    def run(self, command: str) -> list[str]:
        """Run a line; what it printed."""
        assert self.shell.stdin
        assert self.shell.stdout
        self.shell.stdin.write(f"{command}\nkept=$?; echo; echo '{MARK}'; (exit $kept)\n")
        self.shell.stdin.flush()
        lines = []
        for line in self.shell.stdout:
            if line.rstrip() == MARK:
                break
            lines.append(line.rstrip())
        while lines and not lines[-1]:
            lines.pop()
        return lines


def git(folder: Path, *arguments: str) -> str:
    """What git printed."""
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout  # noqa: S603


if __name__ == "__main__":
    main()

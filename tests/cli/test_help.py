"""``--help``: plain headed sections in which every command and option has its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from prunebench.cli import app

#: The words that call a command, and the command.
Command = tuple[tuple[str, ...], Any]


def sections(text: str) -> dict[str, str]:
    """The text below each heading, which is a line that ends with a colon and is not indented."""
    parts = re.split(r"^(\S[^\n]*):\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def commands(group: Any = None, path: tuple[str, ...] = ()) -> Iterator[Command]:
    """Every command with the words that call it, from the app itself."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if getattr(command, "commands", None):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


def test_commands_are_listed_in_groups_with_whole_sentences(cli, monkeypatch) -> None:
    """Five groups, each command once, and no sentence cut in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = cli("--help")
    found = sections(out)
    panels = [text for heading, text in found.items() if heading != "Options"]
    listed = [row.split()[0] for text in panels for row in text.splitlines() if row]

    assert code == 0
    assert list(found) == ["Options", "Measure", "Baselines", "Results", "Publish", "Project"]
    assert sorted(listed) == sorted({words[0] for words in COMMANDS})
    assert not any("..." in text for text in panels)


def test_options_of_run_are_grouped(cli) -> None:
    """By what they are about; those of one group stand together."""
    found = sections(cli("run", "--help")[1])
    for heading, options in {
        "Cases": ("-k", "--set", "--limit"),
        "Measurement": ("--device", "--fresh", "--dry-run", "--store"),
        "Verdicts": ("--strict", "--fail-on", "--alpha"),
        "Baselines": ("--accept", "--because", "--force", "--baselines"),
        "Reports": ("--json", "--junit", "--markdown", "--github"),
        "Processes and jobs": ("-n", "--per-gpu", "--executor", "--slurm", "--detach"),
        "Options": ("-q", "--help"),
    }.items():
        named = re.findall(r"^  (--?[a-z-]+)", found[heading], re.MULTILINE)
        assert sorted(named) == sorted(options)


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_help_has_every_option_once_and_no_box(words: tuple[str, ...], cli) -> None:
    """What the parser takes is what the help lists; all of it is ASCII."""
    code, out, _ = cli(*words, "--help")
    options = [
        min(o.opts, key=len) for o in COMMANDS[words].params if o.param_type_name == "option"
    ]
    listed = re.findall(r"^  (--?[a-z-]+)", out, re.MULTILINE)

    assert code == 0
    assert out.isascii()
    assert sorted(listed) == sorted([*options, "--help"])

"""What README tells readers to do is what works."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest
from factories import ROOT

import prunebench
from prunebench.cases import loader

README = ROOT / "README.md"


def blocks(language: str) -> list[str]:
    if not README.is_file():
        pytest.skip("the tests run without the repository around them")
    pattern = rf"^```{language}\n(.*?)^```"
    return re.findall(pattern, README.read_text(), re.DOTALL | re.MULTILINE)


def test_the_example_method_runs(tiny, ids, tmp_path: Path, monkeypatch) -> None:
    """The method of "Add a method", taken from the page, prunes a model."""
    (source,) = blocks("python")
    (tmp_path / "odd.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("odd")
    plan = prunebench.choose(tiny("llama"), "odd", blocks=2, calibration=ids)

    assert len(source.splitlines()) <= 40
    assert plan.size == 2
    assert set(plan.edits[0].blocks) <= {1, 3}


def test_the_example_case_file_loads(tmp_path: Path) -> None:
    """The case file on the page gives the five cases it describes."""
    (text,) = blocks("yaml")
    path = tmp_path / "example.yaml"
    path.write_text(text)

    assert len(loader.load([path])) == 5


def test_the_python_session_prints_what_it_says() -> None:
    """The interactive session on the page is run as a doctest."""
    (session,) = blocks("pycon")
    test = doctest.DocTestParser().get_doctest(session, {}, "README", "README.md", 0)

    assert doctest.DocTestRunner().run(test).failed == 0


@pytest.mark.slow
def test_every_command_line_on_the_page_is_understood(cli, monkeypatch) -> None:
    """Each `prunebench ...` of the tour parses: with --help appended it exits 0."""
    commands = re.findall(r"^\$ prunebench (.*)$", "\n".join(blocks("console")), re.MULTILINE)

    assert len(commands) >= 6
    for command in commands:
        assert cli(*command.split()[:1], "--help")[0] == 0
        for option in re.findall(r"(?<!\S)(--?[a-z-]+)", command):
            assert option in cli(command.split()[0], "--help")[1], command

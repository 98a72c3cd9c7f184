"""The documentation site: it builds, it is complete, it loads nothing, and its examples work."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest
import typer
from factories import ROOT

from prunebench import registry
from prunebench.cases import loader
from prunebench.cli import app

FENCE = re.compile(r"^( *)```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def written() -> list[Path]:
    """README and the pages in docs/."""
    if not (ROOT / "mkdocs.yml").is_file():
        pytest.skip("the tests run without the repository around them")
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> Iterator[tuple[Path, str, str]]:
    """(page, title, text) of every block in that language."""
    for page in written():
        for _, kind, title, text in FENCE.findall(page.read_text()):
            if kind == language:
                yield page, title, text


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as CI builds it: any warning is an error."""
    pytest.importorskip("mkdocs", reason="mkdocs is not installed (the extra docs)")
    pytest.importorskip("material", reason="mkdocs-material is not installed (the extra docs)")
    pytest.importorskip("mkdocstrings", reason="mkdocstrings is not installed (the extra docs)")
    written()
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Page(HTMLParser):
    """What a built page says, and what a browser loads for it."""

    #: Attributes that make a browser fetch something by itself.
    FETCHING = ("src", "srcset", "data", "poster", "action")

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.text: list[str] = []
        self.feed(file.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self.loads += [str(given[name]) for name in self.FETCHING if given.get(name)]
        if tag == "link":
            self.loads.append(str(given.get("href")))
        self.loads += re.findall(r"url\(([^)]*)\)", given.get("style") or "")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def said(site: Path, page: str) -> str:
    """The text of a built page, blanks made one."""
    return " ".join(" ".join(Page(site / "reference" / page).text).split())


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    """Scripts, styles, fonts and pictures of every page lie in the folder, and are there."""
    pages = list(site.rglob("*.html"))
    assert len(pages) > 25
    for page in pages:
        for target in Page(page).loads:
            assert not re.match(r"(https?:)?//", target), f"{page}: {target}"
            if page.name != "404.html" and not target.startswith(("data:", "#")):
                assert (page.parent / target.partition("#")[0]).exists(), f"{page}: {target}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


def commands() -> Iterator[tuple[str, Any]]:
    """Every command as the command line knows it, with its parameters."""

    def walk(group, prefix):
        for name, command in group.commands.items():
            if getattr(command, "commands", None):
                yield from walk(command, f"{prefix}{name} ")
            else:
                yield f"{prefix}{name}", command

    yield from walk(typer.main.get_command(app), "")


@pytest.mark.slow
def test_every_option_of_every_command_is_in_the_reference(site: Path) -> None:
    """Below the heading of its command."""
    text = said(site, "commands.html")
    parts = re.split(r"prunebench ((?:[a-z-]+ )+)¶", text)
    sections = {name.strip(): body for name, body in zip(parts[1::2], parts[2::2], strict=True)}
    found = dict(commands())
    assert set(sections) == set(found)
    for name, command in found.items():
        for parameter in command.params:
            for option in parameter.opts if parameter.param_type_name == "option" else ():
                assert re.search(rf"(?<![\w-]){option}(?![\w-])", sections[name]), (name, option)


@pytest.mark.slow
def test_every_option_of_pytest_is_in_the_reference(site: Path) -> None:
    """As pytest's own help has them."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--help"], capture_output=True, text=True, check=False
    )
    options = set(re.findall(r"--prunebench-[a-z-]+", done.stdout))
    text = said(site, "commands.html")

    assert len(options) >= 10
    assert [o for o in options if o not in text] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["methods", "metrics"])
def test_every_option_of_every_plugin_is_in_the_reference(site: Path, kind: str) -> None:
    """With its default, and with the docstring of its module."""
    parts = re.split(r" (\w+) ¶", said(site, f"{kind}.html"))
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    sections.pop(kind.capitalize())  # the page itself
    assert sorted(sections) == sorted(registry.files(kind))
    for name, section in sections.items():
        cls = registry.method(name) if kind == "methods" else registry.metric(name)
        prose, _, rest = section.partition("option takes default")
        rows = rest.partition(f"prunebench/{kind}/{name}.py")[0]
        summary = re.sub(r"[*`\s]", "", (cls.__doc__ or "").strip().splitlines()[0])
        assert summary in re.sub(r"\s", "", prose), name
        options = msgspec.structs.fields(cls)
        found = [re.search(rf"(?<!\S){option.encode_name} ", rows) for option in options]
        assert all(found), (name, rows)
        starts = [row.start() for row in found if row]
        for option, start, end in zip(options, starts, [*starts[1:], None], strict=False):
            if isinstance(option.default, bool | int | float | str):
                assert f" {json.dumps(option.default)}" in rows[start:end], option


@pytest.mark.slow
def test_every_key_of_a_case_file_is_in_the_reference(site: Path) -> None:
    """Keys of the whole and of its parts, as the published schema has them."""
    schema = json.loads((site / "reference" / "case.schema.json").read_text())
    text = said(site, "keys.html")
    for part in ("CaseFile", "ModelSpec", "CalibrationKeys", "Tolerance", "Needs"):
        for key in schema["$defs"][part]["properties"]:
            assert re.search(rf"(?<![\w.]){key}(?![\w.])", text), (part, key)


@pytest.mark.slow
def test_every_measurement_of_every_protocol_is_in_the_reference(site: Path) -> None:
    """Each number in a protocol's file stands in its table."""
    text = said(site, "protocols.html")
    for file in loader.PROTOCOLS.glob("*.yaml"):
        section = text.partition(f"{file.stem} ¶")[2]
        for value in re.findall(
            r"\b(?:seqlen|nsamples|new_tokens|rounds): (\d+)", file.read_text()
        ):
            assert value in section, (file.name, value)


def example(title: str, tmp_path: Path, monkeypatch) -> ModuleType:
    """The module of that title, from the page it stands on; its class is known from then on."""
    (source,) = [text for _, found, text in blocks("python") if found.endswith(f"/{title}.py")]
    (tmp_path / f"{title}.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    return importlib.import_module(title)


def test_case_files_in_the_documentation_check(tmp_path: Path, monkeypatch, cli) -> None:
    """Every block that is a whole case file is one, with the files that stand beside it."""
    for title in ("quiet", "confidence"):
        example(title, tmp_path, monkeypatch)
    made = '{"plan": [{"edit": "drop_blocks", "blocks": [1]}]}'
    whole = 0
    for page in written():
        project = tmp_path / "-".join(page.parts[-2:])
        found = [(kind, title, text) for _, kind, title, text in FENCE.findall(page.read_text())]
        for number, (kind, title, text) in enumerate(found):
            file = project / (title or f"cases/page/block{number}.yaml")
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
            # What a command on the page makes.
            (file.parent / "theirs.json").write_text(made)
            model = file.parent / "their-model"
            model.mkdir(exist_ok=True)
            (model / "config.json").write_text("{}")
            if kind == "yaml" and re.search(r"^(protocol|model): ", text, re.MULTILINE):
                code, _, err = cli("check", file)
                assert code == 0, f"{page}: {err}"
                whole += 1
    assert whole >= 6


def test_python_in_the_documentation_compiles() -> None:
    """Also where it is a session with prompts."""
    count = 0
    for page, _, text in blocks("python"):
        if text.startswith(">>> "):
            lines = re.findall(r"^(?:>>> |\.\.\. )(.*)$", text, re.MULTILINE)
            text = "\n".join(lines)
        compile(text, str(page), "exec")
        count += 1
    assert count >= 4


def test_the_metric_of_the_how_to_measures(tmp_path: Path, monkeypatch) -> None:
    """Taken from its page, on the shipped model; by hand it is the mean of the largest softmax."""
    import torch

    import prunebench
    from prunebench.models.calibration import evaluation_windows

    confidence = example("confidence", tmp_path, monkeypatch)
    lm = prunebench.load_model("prunebench/reference", dtype="float32")
    (found,) = confidence.Confidence(dataset="tinyworld", nsamples=2).measure(lm, lm)
    with torch.no_grad():
        logits = lm.hf(evaluation_windows("tinyworld", lm, 128, 2)).logits
    by_hand = logits.double().softmax(-1).max(-1).values.mean().item()

    assert found.metric == "confidence/tinyworld"
    assert found.value == pytest.approx(by_hand, rel=1e-5)


def test_the_method_of_the_tutorial_chooses(tiny, ids, tmp_path: Path, monkeypatch) -> None:
    """Taken from its page, it drops the block whose output is as long as its input."""
    import torch

    import prunebench

    example("quiet", tmp_path, monkeypatch)
    lm = tiny("llama")
    with torch.no_grad():  # a block that adds nothing leaves every length as it is
        lm.blocks[3].self_attn.o_proj.weight.zero_()
        lm.blocks[3].mlp.down_proj.weight.zero_()

    assert prunebench.choose(lm, "quiet", blocks=1, calibration=ids).edits[0].blocks == (3,)


def test_every_page_is_where_links_say() -> None:
    """README's links into docs/ are files; the site's own links are checked by mkdocs."""
    for page in written()[:1]:
        for target in re.findall(
            r"\]\(((?:docs|cases|baselines|prunebench)/?[^)#]*)", page.read_text()
        ):
            assert (ROOT / target).exists(), target

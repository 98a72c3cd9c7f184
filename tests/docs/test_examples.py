"""What the pages show is so: names that exist, commands that load, output that is printed today."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import re
import shlex
import shutil
import subprocess
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_benchmark.plugin
import typer
import yaml
from factories import ROOT

from prunebench.cases import loader
from prunebench.cases.keyword import matcher
from prunebench.cli import app
from prunebench.results.baselines import published
from prunebench.verdicts import fail_on

FENCE = re.compile(r"^( *)```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)
#: Long options that pages mention and that are other programs'.
OTHERS = {
    "--data", "--index-url", "--junitxml", "--local-dir", "--log_samples", "--output_path",
    "--requeue", "--signal", "--write",
}  # fmt: skip
#: Commands that read or write a few small files and print the same on every machine.
CHEAP = ("check", "list", "power", "export", "import-plan", "init")

Cli = Callable[..., tuple[int, str, str]]


def pages() -> list[Path]:
    """README, CONTRIBUTING and the pages in docs/."""
    if not (ROOT / "mkdocs.yml").is_file():
        pytest.skip("the tests run without the repository around them")
    own = [ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
    return [*own, *sorted((ROOT / "docs").rglob("*.md"))]


def options() -> dict[str, set[str]]:
    """The options of every command, by its name."""

    def walk(group, prefix: str) -> Iterator[tuple[str, set[str]]]:
        for name, command in group.commands.items():
            if getattr(command, "commands", None):
                yield from walk(command, f"{prefix}{name} ")
            else:
                names = {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
                yield f"{prefix}{name}", {*names, "--help"}

    return dict(walk(typer.main.get_command(app), ""))


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every `prunebench ...` on the page, in a block or within a sentence."""
    text = page.read_text().replace("\\\n", " ")
    fenced = "\n".join(body for _, _, _, body in FENCE.findall(text))
    shown = re.findall(r"^ *(?:\$ )?(?:\w+=\S+ )*prunebench ([a-z-].*)", fenced, re.MULTILINE)
    within = re.findall(r"`prunebench ([a-z-][^`]*)`", FENCE.sub("", text))
    for line in (*shown, *within):
        words = shlex.split(re.sub(r"\[(--.*?)\]", r"\1", line), comments=True)
        end = [i for i, word in enumerate(words) if word in ("|", ">", "&", "&&")]
        yield words[: min(end, default=None)]


def test_every_command_has_the_options_that_it_is_shown_with() -> None:
    """Of the commands in blocks, and of those within sentences."""
    known = options()
    seen = 0
    for page in pages():
        for words in commands(page):
            name = " ".join(words[:2]) if " ".join(words[:2]) in known else words[0]
            if name.startswith("--") or name == "baseline":  # the program's own; several at once
                continue
            assert name in known, f"{page.name}: {words}"
            given = {word.partition("=")[0] for word in words if re.match(r"--?[a-z]", word)}
            assert given <= known[name], f"{page.name}: {words}"
            seen += 1
    assert seen >= 100


def test_every_option_that_is_named_exists() -> None:
    """As one of ours, of our pytest plugin, or in the short list of other programs'."""
    plugin = (ROOT / "prunebench/plugin.py").read_text()
    known = set().union(*options().values(), OTHERS, re.findall(r"--prunebench-[a-z-]+", plugin))
    known |= {"--install-completion"}
    theirs = Path(pytest_benchmark.plugin.__file__).read_text()
    known |= set(re.findall(r"--benchmark-[a-z-]+", theirs))
    for page in pages():
        for code in re.findall(r"`([^`\n]+)`", FENCE.sub("", page.read_text())):
            named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]+", code))
            assert named <= known, f"{page.name}: {code}"


def test_every_file_that_is_named_is_there() -> None:
    """Modules, tests, benchmarks, case files; not those that the pages themselves make."""
    made = re.compile(r"cases/mine|cases/smoke/first|quality/(mine|smoke/first)|cases/llama$")
    for page in pages():
        text = page.read_text()
        titled = {title for _, _, title, _ in FENCE.findall(text)} | {"prunebench/methods/odd.py"}
        pattern = r"(?<![\w/.<-])(?:docs|tests|bench|cases|prunebench)/[\w./@-]*\w"
        for name in set(re.findall(pattern, text)) - titled:
            if "NAME" not in name and not made.search(name) and name != "prunebench/reference":
                there = (ROOT / name).exists() or any(ROOT.glob(f"{name}*"))
                assert there, f"{page.name}: {name}"


def test_every_variable_session_and_extra_that_is_named_exists() -> None:
    """PRUNEBENCH_... in the code, `nox -s` in the noxfile, prunebench[...] in pyproject.toml."""
    files = [*(ROOT / "prunebench").rglob("*"), ROOT / "tests/conftest.py"]
    code = "".join(p.read_text() for p in files if p.suffix in (".py", ".sh", ".yml"))
    sessions = re.findall(r"^def (\w+)\(session", (ROOT / "noxfile.py").read_text(), re.MULTILINE)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for page in pages():
        text = page.read_text()
        for variable in re.findall(r"PRUNEBENCH_[A-Z]+(?:_[A-Z]+)*", text):
            assert variable in code, f"{page.name}: {variable}"
        for session in re.findall(r"nox -s (\w+)", text):
            assert session in sessions, f"{page.name}: {session}"
        for extra in re.findall(r"(?:prunebench|\.)\[(\w+)\]'", text):
            assert extra in project["optional-dependencies"], f"{page.name}: {extra}"


@pytest.mark.slow
def test_every_run_that_is_shown_has_cases(monkeypatch) -> None:
    """With its --set, -k and --fail-on; of paths that this repository has."""
    monkeypatch.chdir(ROOT)
    takes = {"-k", "--set", "--fail-on", "--json", "--device", "--because", "--limit", "-n",
             "--junit", "--markdown", "--per-gpu", "--executor", "--slurm"}  # fmt: skip
    seen = 0
    for page in pages():
        for command, *words in commands(page):
            if command != "run" or "..." in words:
                continue
            given: dict[str, list[str]] = {}
            paths = []
            rest = iter(words)
            for word in rest:
                if word in takes:
                    given.setdefault(word, []).append(next(rest))
                elif not word.startswith("-"):
                    paths.append(Path(word))
            if not all(path.exists() for path in paths) or "TEXT" in given.get("--because", ()):
                continue
            if any("=" not in text or text == "KEY=VALUE" for text in given.get("--set", ())):
                continue
            select = matcher(given.get("-k", [""])[0])
            found = loader.load(paths or [Path("cases/smoke")], given.get("--set", ()), 1, select)
            assert found, f"{page.name}: {words}"
            for text in given.get("--fail-on", ()):
                assert fail_on.given(text, "--fail-on", [f for c in found for f in c.families])
            seen += 1
    assert seen >= 20


def test_parts_of_case_files_are_read(tmp_path: Path, cli: Cli) -> None:
    """Blocks that hold some keys of a case, laid over a whole one; and published tables."""
    whole = {"protocol": "tinyworld@1", "method": {"name": "sleb"}, "blocks": 2}
    keys = {"fail_on", "tolerance", "calibration", "metrics", "model", "needs", "matrix", "alpha"}
    seen, tables = 0, 0
    for page in pages():
        for _, kind, _, text in FENCE.findall(page.read_text()):
            data = yaml.safe_load(text) if kind == "yaml" else None
            if not isinstance(data, dict):
                continue
            if "tables" in data:
                (tmp_path / "published").mkdir()
                (tmp_path / "published/one.yaml").write_text(text)
                tables += len(published.rows(tmp_path / "published"))
            if set(data) <= keys:
                for file in re.findall(r"\./([\w.]+)", text):
                    (tmp_path / file).write_text('{"text": "the cat"}\n')
                case = tmp_path / f"part{seen}.yaml"
                case.write_text(yaml.safe_dump({**whole, **data}))
                code, _, err = cli("check", case)
                assert code == 0, f"{page.name}: {err}"
                seen += 1
    assert (seen >= 3, tables) == (True, 4)


class Reader:
    """Goes through a page as somebody at a shell does, in a folder with cases and baselines.

    Only cheap commands of ours are run, and what moves small files about.
    """

    def __init__(self, folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.cli = cli
        self.monkeypatch = monkeypatch
        here = folder / "copy"
        here.mkdir(parents=True)
        for name in ("cases/smoke", "baselines/quality/smoke"):
            shutil.copytree(ROOT / name, here / name)
        monkeypatch.chdir(here)

    def write(self, title: str, text: str) -> None:
        """A block with a title; a module of a method or metric is known from then on."""
        Path(title).parent.mkdir(parents=True, exist_ok=True)
        Path(title).write_text(text)
        if title.endswith(".py"):
            self.monkeypatch.syspath_prepend(str(Path(title).parent.absolute()))
            importlib.import_module(Path(title).stem)

    def shown(self, command: str) -> str | None:
        """What a command prints, or None where it is not run here."""
        if (move := re.fullmatch(r"mkdir (\S+) && cd \1", command)) is not None:
            Path(move[1]).mkdir()
            self.monkeypatch.chdir(Path(move[1]).absolute())
            return None
        if re.match(r"(sed|rm) ", command) and "prunebench/" not in command:
            subprocess.run(["bash", "-c", command], check=True)
            return None
        name, *words = shlex.split(command.replace("\\\n", " "))
        if name != "prunebench" or words[0] not in CHEAP or "|" in words:
            return None
        if words[0] == "init" and Path("cases").exists():
            (self.folder / "new").mkdir()
            self.monkeypatch.chdir(self.folder / "new")
        _, out, err = self.cli(*words)
        return (out + err).replace(str(Path.cwd()), "/path/to/project")


#: Pages with such commands, and how many of them have output.
COUNTED = {
    "howto/external.md": 1,
    "howto/github.md": 2,
    "howto/tasks.md": 2,
    "nightly.md": 1,
    "reports.md": 1,
    "tutorial.md": 4,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", COUNTED)
def test_cheap_commands_print_what_is_shown(
    name: str, tmp_path: Path, cli: Cli, monkeypatch
) -> None:
    """Those whose output stands below them, in 80 columns; `docs/replay.py` has the costly ones."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    page = ROOT / "docs" / name
    assert page in pages()
    reader = Reader(tmp_path, cli, monkeypatch)
    seen = 0
    for _, kind, title, text in FENCE.findall(page.read_text()):
        if title:
            reader.write(title, text)
        parts = re.split(r"^\$ ((?:.*\\\n)*.*)\n", text, flags=re.MULTILINE)
        for command, output in zip(parts[1::2], parts[2::2], strict=True):
            printed = reader.shown(command) if kind == "console" else None
            if printed is not None and output.strip():
                lines = [line.rstrip() for line in printed.splitlines()]
                assert output.splitlines() == lines, command
                seen += 1
    assert seen == COUNTED[name]


class Told:
    """A shell that notes what it is told, and prints it in capitals."""

    def __init__(self) -> None:
        self.commands: list[str] = []

    def run(self, command: str) -> list[str]:
        self.commands.append(command)
        return [command.upper()]


def test_a_page_is_replayed_command_by_command() -> None:
    """One that goes over two lines is one, and what was printed before goes."""
    pages()
    spec = importlib.util.spec_from_file_location("replay", ROOT / "docs/replay.py")
    assert spec
    assert spec.loader
    replay = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(replay)
    page = "```console\n$ one \\\n    --two\nold\n$ three\nold\n```"
    found = replay.BLOCK.search(page)
    shell = Told()

    assert replay.replayed(shell, found) == (
        "```console\n$ one \\\n    --two\nONE \\\n    --TWO\n$ three\nTHREE\n```"
    )
    assert shell.commands == ["one \\\n    --two", "three"]


def test_sessions_print_what_is_shown(monkeypatch) -> None:
    """Python at a prompt; README's is in test_readme.py."""
    pytest.importorskip("pandas", reason="pandas is not installed (it comes with datasets)")
    monkeypatch.chdir(ROOT)
    seen = 0
    for page in pages():
        for _, kind, _, text in FENCE.findall(page.read_text()):
            if kind == "python" and text.startswith(">>> "):
                test = doctest.DocTestParser().get_doctest(text, {}, page.name, str(page), 0)
                assert doctest.DocTestRunner().run(test).failed == 0
                seen += 1
    assert seen >= 1

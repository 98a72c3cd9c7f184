"""The files of a real run, and `prunebench export`, through the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from factories import SMALL_CASE, read
from msgspec.structs import replace

from prunebench import Record
from prunebench.reports.formats import schema
from prunebench.results import lm_eval_files
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.store import Store
from prunebench.runs import execution
from prunebench.runs.session import Session

CASE = "small/sleb-windows-2blocks"
Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose one case was run and accepted."""
    from prunebench.cli import main

    folder = tmp_path_factory.mktemp("measured")
    (folder / "cases").mkdir()
    (folder / "cases/small.yaml").write_text(SMALL_CASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        command = ["run", "cases", "--accept", "--because", "first", "-q", "--json", "first.json"]
        patch.setattr("sys.argv", ["prunebench", *command, "--device", "cpu"])
        with pytest.raises(SystemExit) as stop:
            main()
    assert stop.value.code == 0
    return folder


@pytest.fixture
def here(measured: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder, outside of GitHub."""
    folder = tmp_path / "project"
    shutil.copytree(measured, folder)
    monkeypatch.chdir(folder)
    for name in [name for name in os.environ if name.startswith("GITHUB_")]:
        monkeypatch.delenv(name)
    return folder


def plant(folder: Path) -> Record:
    """Make the baseline better than the record: 30 more questions right, the text less odd."""
    baselines = Baselines(folder / "baselines")
    was = baselines.load(CASE, "cpu")
    assert was is not None
    better = []
    for m in was.measurements:
        samples = m.samples
        if m.unit == "ppl":
            better.append(replace(m, value=m.value / 2, samples=tuple(s - 0.69 for s in samples)))
            continue
        if m.metric == "accuracy/mean":
            wrong = [i for i, s in enumerate(samples) if not s][:3]
            samples = tuple(1.0 if i in wrong else s for i, s in enumerate(samples))
        better.append(replace(m, samples=samples))
    changed = replace(was, measurements=tuple(better))
    baselines.save(changed, Accepted("somebody", "2026-11-24T00:00:00+00:00", "planted"))
    return changed


# ---------------------------------------------------------------------------------------- the run


def test_the_json_of_a_real_run_is_as_the_schema_says(here: Path, cli: Cli) -> None:
    """Of the first run, and of one that was judged; `export --schema` prints that schema."""
    code, out, _ = cli("export", "--schema")
    assert code == 0
    printed = json.loads(out)
    assert printed == schema.json_schema()
    run = jsonschema.Draft202012Validator({"$ref": "#/$defs/Run", "$defs": printed["$defs"]})
    plant(here)
    cli("run", "cases", "--device", "cpu", "-q", "--json", "second.json")

    for name in ("first.json", "second.json"):
        data = read(here / name)
        assert data["records"]
        assert list(run.iter_errors(data)) == []
    assert any(f.get("evidence") for f in read(here / "second.json")["verdicts"][0]["findings"])
    del data["verdicts"]
    assert list(run.iter_errors(data)) != []


def test_a_regression_in_every_file(here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """JUnit fails, the comment says what was and is, GitHub is told at the case's line."""
    summary = here / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    monkeypatch.setenv("GITHUB_WORKSPACE", str(here))
    was = plant(here).find("perplexity/tinyworld")
    assert was is not None
    options = ["--junit", "out/j.xml", "--markdown", "out/m.md", "--device", "cpu", "-q"]
    code, out, err = cli("run", "cases", *options)

    assert (code, err) == (1, "")
    (case,) = ET.parse(here / "out/j.xml").iter("testcase")  # noqa: S314
    assert (case.get("classname"), case.get("name")) == ("small", "sleb-windows-2blocks")
    assert case.get("time") == "0.000"
    told = {p.get("name"): p.get("value") for p in case.iter("property")}
    assert float(told["perplexity/tinyworld.was"] or 0) == pytest.approx(was.value, rel=1e-6)
    failure = case.find("failure")
    assert failure is not None
    assert "reproduce: prunebench run cases/small.yaml -k 'sleb-windows-2blocks'" in (
        failure.text or ""
    )
    comment = (here / "out/m.md").read_text()
    assert comment.startswith("### prunebench: 1 of 1 case failed\n")
    assert "| `sleb-windows-2blocks` | `perplexity/tinyworld` | **worse** |" in comment
    assert summary.read_text() == f"before\n{comment}\n"
    annotations = [line for line in out.splitlines() if line.startswith("::")]
    assert annotations[0].startswith("::error title=prunebench::1 case: 1 worse")
    assert annotations[1].startswith(
        "::error file=cases/small.yaml,line=7,title=worse%3A small/sleb-windows-2blocks::worse"
    )
    assert len(annotations) == 2


def test_github_can_be_forced_and_switched_off(
    here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """--github outside of a job, --no-github in one; a run without either says nothing."""
    plant(here)
    run = ["run", "cases", "--device", "cpu", "-q"]

    assert "\n::" not in cli(*run)[1]
    assert "\n::error" in cli(*run, "--github")[1]
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    assert "\n::error" in cli(*run)[1]
    assert "\n::" not in cli(*run, "--no-github")[1]


def test_the_step_summary_keeps_githubs_limit(
    here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier command of the step wrote counts; where nothing has room nothing is added."""
    summary = here / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    plant(here)
    for room in (2000, 100):
        summary.write_text("x" * (2**20 - room))
        cli("run", "cases", "--device", "cpu", "-q", "--github")
        text = summary.read_text()
        assert len(text.encode()) <= 2**20
        assert ("### prunebench" in text) == (room == 2000)


@pytest.mark.parametrize("option", ["--junit", "--markdown", "--json"])
def test_a_file_that_cannot_be_written_fails_the_run_and_loses_nothing(
    here: Path, cli: Cli, option: str
) -> None:
    """One plain line and exit 2; the table, the records and the other files are there."""
    (here / "taken").write_text("a file, no folder")
    others = [o for o in ("--junit", "--markdown", "--json") if o != option]
    wanted = [part for o in others for part in (o, f"good{o}")]
    run = ["run", "cases", "--device", "cpu", "-q", *wanted]
    code, out, err = cli(*run, option, "taken/file")

    assert code == 2
    assert err.startswith("taken/file: cannot be written: ")
    assert err.count("\n") == 1
    assert "1 case: 1 same" in out
    assert all((here / f"good{o}").stat().st_size for o in others)
    plant(here)
    assert cli(*run, option, "taken/file")[0] == 1  # a regression stays one


def test_files_are_written_when_a_run_is_interrupted(
    here: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the cases there are, and the number of those there are not."""
    text = SMALL_CASE.replace("blocks: [2]", "blocks: [2, 3]")
    (here / "cases/small.yaml").write_text(text)

    def stopped(session: Session, *_: Any) -> Any:
        yield session.answer(session.cases[0])
        raise KeyboardInterrupt

    monkeypatch.setattr(execution, "answers", stopped)
    options = ["--junit", "j.xml", "--markdown", "m.md", "--github"]
    code, out, _ = cli("run", "cases", "--device", "cpu", "-q", *options)

    assert code == 130
    assert len(list(ET.parse(here / "j.xml").iter("testcase"))) == 1  # noqa: S314
    assert "1 case: 1 same; stopped with 1 more to go" in (here / "m.md").read_text()
    assert "::warning title=prunebench::1 case: 1 same; stopped with 1 more to go" in out


# ------------------------------------------------------------------------------------- the command


def test_export_takes_the_newest_of_baselines_and_store(here: Path, cli: Cli) -> None:
    """By default both are read; a folder, a record or a run's file can be named."""
    (record,) = Store(here / ".prunebench").answers(CASE)
    newer = replace(record, created="2099-01-01T00:00:00+00:00", key="f" * 40)
    path = Store(here / ".prunebench").save(newer)

    def created(*arguments: object) -> set[str]:
        code, out, _ = cli("export", *arguments, "--format", "csv")
        assert code == 0
        return {row["created"] for row in csv.DictReader(io.StringIO(out, newline=""))}

    assert created() == {newer.created}
    assert created(".prunebench") == {newer.created}
    assert created("baselines") == {record.created}
    assert created("first.json") == {record.created}
    assert created(path, "baselines") == {newer.created}


def test_a_damaged_record_is_told_and_the_others_are_exported(here: Path, cli: Cli) -> None:
    """As by the leaderboard; named by itself it is an error."""
    bad = here / "baselines" / "quality" / "small" / "bad.json"
    bad.write_text("{")
    code, out, err = cli("export", "baselines", "--format", "csv")

    assert code == 0
    assert {row["case_id"] for row in csv.DictReader(io.StringIO(out, newline=""))} == {CASE}
    assert err.startswith("left out: ")
    assert "bad.json" in err
    assert cli("export", bad, "--format", "csv")[0] == 2


@pytest.mark.parametrize(
    ("form", "start"),
    [
        ("markdown", "`small`, `prunebench/reference`, `cpu`"),
        ("csv", "case_id,model,protocol,"),
        ("latex", "% \\usepackage"),
        ("json", '{\n  "records": ['),
        ("junit", "<?xml version"),
        ("smaller-is-better", '[\n  {\n    "name": "small/sleb-windows-2blocks perplexity/'),
        ("bigger-is-better", '[\n  {\n    "name": "small/sleb-windows-2blocks accuracy/'),
        ("bencher", '{\n  "small/sleb-windows-2blocks": {'),
    ],
)
def test_every_format_goes_to_the_terminal_a_file_or_a_folder(
    here: Path, cli: Cli, form: str, start: str
) -> None:
    """With the same text."""
    code, out, _ = cli("export", "--format", form)
    assert code == 0
    assert out.startswith(start)

    code, said, _ = cli("export", "--format", form, "--output", "new/file")
    assert (code, said) == (0, "new/file: 1 record\n")
    assert (here / "new/file").read_bytes().decode() == out
    (here / "folder").mkdir()
    cli("export", "--format", form, "-o", "folder")
    (made,) = (here / "folder").iterdir()
    assert made.name.startswith("prunebench.")
    assert made.read_bytes().decode() == out


def test_an_exported_run_can_be_compared(here: Path, cli: Cli) -> None:
    """`--format json` is a file that `compare` reads; its records are the same."""
    cli("export", ".prunebench", "--format", "json", "-o", "out.json")
    code, out, _ = cli("compare", "baselines", "out.json")

    assert code == 0
    assert "1 case, 1 in both: 1 same" in out


def test_exported_junit_is_judged_by_the_baselines(here: Path, cli: Cli) -> None:
    """As `show` does: a stored record that is worse than its baseline fails there."""
    assert 'failures="0"' in cli("export", ".prunebench", "--format", "junit")[1]
    plant(here)
    assert 'failures="1"' in cli("export", ".prunebench", "--format", "junit")[1]


def test_lm_eval_folders_are_read_by_compare(here: Path, cli: Cli) -> None:
    """Two exports are two runs of lm-eval to it."""
    code, out, _ = cli("export", ".prunebench", "--format", "lm-eval", "-o", "a")
    assert (code, out) == (0, "a: 1 results file\n")
    (path,) = (here / "a").rglob("*.json")
    assert path.parent.name == "prunebench__reference-sleb-windows-2blocks"
    shutil.copytree(here / "a", here / "b")
    code, out, _ = cli("compare", "a", "b")

    assert code == 0
    assert "lm-eval  accuracy/mean  0.9500  0.9500           0" in out
    found = lm_eval_files.newest(here / "a")
    assert found is not None
    assert set(lm_eval_files.load(*found).tasks) == {"tinyworld_facts", "tinyworld_recall"}


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--format", "lm-eval"], 2, "--format lm-eval needs --output DIR"),
        (["--checkpoint", "x"], 2, "--checkpoint goes with one CASE"),
        (["--wide"], 2, "--wide goes with --format csv"),
        (["nowhere"], 2, "nowhere: no such file or folder"),
        (["-k", "nothing"], 5, "no records in"),
        (["cases"], 2, "cases: neither a file of `run --json`"),
        (["--format", "html"], 2, "'html' is not one of"),
    ],
)
def test_what_cannot_be_exported_is_one_line(
    here: Path, cli: Cli, arguments: list[str], code: int, said: str
) -> None:
    """And writes nothing."""
    found, out, err = cli("export", *arguments)

    assert (found, out) == (code, "")
    assert said in err
    assert "Traceback" not in err


def test_columns_can_be_chosen(here: Path, cli: Cli) -> None:
    """By pattern, in tables and in wide CSV."""
    _, out, _ = cli("export", "--metric", "accuracy/tinyworld_*")
    assert "| method | sparsity | `accuracy/tinyworld_facts` ↑ (%) |" in out
    assert "perplexity" not in out

    _, out, _ = cli("export", "--format", "csv", "--wide", "--metric", "perplexity/*")
    head = next(csv.reader(io.StringIO(out, newline="")))
    assert head[-2:] == ["perplexity/tinyworld", "perplexity/tinyworld se"]
    assert not any(name.startswith("accuracy") for name in head)

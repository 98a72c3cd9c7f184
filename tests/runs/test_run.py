"""The whole loop through the command line, on the shipped model."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from factories import accuracy, read, record

from prunebench import reference
from prunebench.reports.formats import schema
from prunebench.reports.run_files import RunFiles
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.resume import folders
from prunebench.system import signals

BECAUSE = Accepted(by="someone", when="2026-11-22T00:00:00+00:00", because="first")
ACCEPT = ("--accept", "--because", "first run")


def findings(result: Path) -> dict[str, str]:
    (verdict,) = read(result)["verdicts"]
    return {f["what"]: f["outcome"] for f in verdict["findings"]}


@pytest.mark.slow
def test_new_then_accepted_then_same(project: Path, cli) -> None:
    """The first run is new, accepting writes files, the second run is the same and exits 0."""
    code, out, _ = cli("run", "cases", "--json", "a.json", "-q")
    assert code == 0
    assert "1 case: 1 new" in out
    assert set(findings(project / "a.json").values()) == {"new"}
    assert cli("run", "cases", "--strict", "-q")[0] == 6

    code, out, _ = cli("run", "cases", *ACCEPT, "-q")
    assert code == 0
    assert "accepted baselines/quality/small/sleb-windows-2blocks.json" in out
    code, out, _ = cli("run", "cases", "--fresh", "--strict", "--json", "b.json", "-q")

    assert code == 0
    assert set(findings(project / "b.json").values()) == {"same"}
    baseline = read(project / "baselines/quality/small/sleb-windows-2blocks.json")
    assert baseline["accepted"]["because"] == "first run"


@pytest.mark.slow
def test_repeating_gives_the_same_numbers_bit_for_bit(project: Path, cli) -> None:
    """Everything but the varying metrics is equal in two fresh runs."""
    runs = []
    for name in ("a.json", "b.json"):
        cli("run", "cases", "--fresh", "--json", name, "-q")
        (record,) = read(project / name)["records"]
        runs.append((record["plan"], record["trace"], record["measurements"]))

    assert runs[0] == runs[1]


@pytest.mark.slow
def test_a_stored_answer_is_reused_until_something_changes(project: Path, cli) -> None:
    """The second run reuses; --fresh, a changed case and --limit do not."""
    cli("run", "cases", "-q")

    assert "1 reused" in cli("run", "cases", "-q")[1]
    assert "reused" not in cli("run", "cases", "--fresh", "-q")[1]
    assert "reused" not in cli("run", "cases", "--limit", "5", "-q")[1]
    assert "reused" not in cli("run", "cases", "--set", "blocks=1", "-q")[1]


@pytest.mark.slow
def test_a_broken_method_fails_the_run(project: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worst block instead of the best: exit 1, the plan and the perplexity are named."""
    cli("run", "cases", *ACCEPT, "-q")
    from prunebench import search

    def highest(scores):
        return max(scores, key=scores.__getitem__), 0.1, None

    monkeypatch.setattr(search, "lowest", highest)
    code, out, _ = cli("run", "cases", "--fresh", "--json", "b.json", "-q")
    found = findings(project / "b.json")

    assert code == 1
    assert found["plan"] == "changed_plan"
    assert found["perplexity/tinyworld"] == "worse"
    assert "small/sleb-windows-2blocks: worse perplexity/tinyworld: " in out
    assert "run it again: prunebench run cases/small.yaml -k 'sleb-windows-2blocks'" in out


@pytest.mark.slow
def test_a_broken_model_fails_the_run(project: Path, cli) -> None:
    """Noise in one block of the checkpoint, same name: the store misses, exit 1, scores named."""
    shutil.copytree(reference.MODEL, project / "model")
    case = project / "cases" / "small.yaml"
    text = case.read_text().replace("id: prunebench/reference", "id: ../model")
    case.write_text(
        text.replace("[{name: sleb, calibration_unit: windows}]", "[{name: random, seed: 1}]")
    )
    cli("run", "cases", *ACCEPT, "-q")
    from safetensors.torch import load_file, save_file

    file = project / "model" / "model.safetensors"
    weights = load_file(file)
    noise = torch.Generator().manual_seed(0)
    for name, weight in weights.items():
        if name.startswith("model.layers.1.") and weight.ndim == 2:
            spread = weight.float().std()
            weights[name] = weight + (torch.randn(weight.shape, generator=noise) * spread).half()
    save_file(weights, file, metadata={"format": "pt"})
    code, out, _ = cli("run", "cases", "--json", "b.json", "-q")
    found = findings(project / "b.json")

    assert code == 1
    assert found["plan"] == "same"
    assert found["perplexity/tinyworld"] == "worse"
    assert "reused" not in out


@pytest.mark.slow
def test_the_record_of_a_model_that_gives_no_numbers_can_be_read_again(project: Path, cli) -> None:
    """Null values, no samples, which JSON cannot hold: stored, valid, reused, shown."""
    shutil.copytree(reference.MODEL, project / "model")
    case = project / "cases" / "small.yaml"
    text = case.read_text().replace("id: prunebench/reference", "id: ../model")
    text = text.replace("[{name: sleb, calibration_unit: windows}]", "[{name: first}]")
    case.write_text("".join(x for x in text.splitlines(True) if "accuracy" not in x))
    from safetensors.torch import load_file, save_file

    file = project / "model" / "model.safetensors"
    weights = load_file(file)
    weights["model.norm.weight"] = weights["model.norm.weight"].float() * 1e38
    save_file(weights, file, metadata={"format": "pt"})
    code, *_ = cli("run", "cases", "--json", "a.json", "-q")
    (record,) = read(project / "a.json")["records"]
    values = {m["metric"]: m["value"] for m in record["measurements"]}

    assert code == 1
    assert values["perplexity/tinyworld"] is None
    whole = {**schema.json_schema(), "anyOf": [{"$ref": "#/$defs/Run"}]}
    assert list(jsonschema.Draft202012Validator(whole).iter_errors(read(project / "a.json"))) == []
    code, out, err = cli("run", "cases", "-q")
    assert (code, err) == (1, "")
    assert "1 reused" in out
    assert "first-2blocks" in cli("show", "first-2blocks")[1]


@pytest.mark.slow
def test_a_crash_is_its_own_cases_and_the_rest_goes_on(project: Path, cli) -> None:
    """One case asks too much: exit 3, one line, the other case is run and saved."""
    case = project / "cases" / "small.yaml"
    case.write_text(case.read_text().replace("blocks: [2]", "blocks: [11, 2]"))
    code, out, _ = cli("run", "cases", "--json", "a.json", "-q")
    data = read(project / "a.json")

    assert code == 3
    assert [v["ok"] for v in data["verdicts"]] == [False, True]
    assert "11 of 12 blocks are to go, but at most 10 may" in data["verdicts"][0]["error"]
    assert "Traceback" not in out
    assert len(data["records"]) == 1


def test_a_case_that_needs_more_than_the_machine_has_is_skipped(project: Path, cli) -> None:
    """No GPU here: the reason is told and nothing fails."""
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    case = project / "cases" / "small.yaml"
    case.write_text(case.read_text() + "needs: {gpu_memory: 80GiB}\n")
    code, out, _ = cli("run", "cases", "-q")

    assert code == 0
    assert "skipped: needs 80GiB of GPU memory, this is cpu" in out


@pytest.mark.slow
def test_bugs_in_a_plugin_are_told_in_one_line(
    project: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An exception nobody foresaw names its type and place, without a traceback."""
    from prunebench import search

    monkeypatch.setattr(search, "lowest", lambda _: 1 / 0)
    code, out, err = cli("run", "cases", "-q")

    assert code == 3
    assert "ZeroDivisionError" in out
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["run", "nowhere"], 2, "nowhere: no such case file or folder"),
        (["run", "cases", "-k", "nothing"], 5, "no cases in cases match -k 'nothing'"),
        (["run", "cases", "-k", "a and"], 2, "expected a word"),
        (["run", "cases", "--accept"], 2, "--accept needs --because"),
        (["run", "cases", *ACCEPT, "--limit", "3"], 2, "exclude each other"),
        (["run", "cases", "--because", "no flag"], 2, "--because goes with --accept"),
        (["run", "cases", "--set", "blocks"], 2, "expected KEY=VALUE"),
        (["run", "cases", "--set", "blocks=0"], 2, "--set blocks=0: found 0"),
        (["run", "cases", "--set", "metods.name=x"], 2, "--set metods.name=x: unknown key"),
        (["run", "cases", "--fail-on", "worst"], 2, "unknown outcome 'worst'"),
        (["run", "cases", "--device", "abacus"], 2, "--device abacus"),
        (["run", "cases", "--speed"], 2, "--speed"),
        (["run", "cases", "--store", "conftest.py"], 2, "--store conftest.py: expected a folder"),
        (["show", "x", "--baselines", "conftest.py"], 2, "--baselines conftest.py: expected a"),
        (["show", "nothing"], 2, "no record of 'nothing', nor of any case; prunebench run makes"),
        (["accept", "cases"], 2, "accept needs --because"),
        (["check", "empty"], 5, "no cases in empty"),
        (
            ["export", "shelf", "--metric", "acuracy/t"],
            2,
            "'acuracy/t'; did you mean 'accuracy/t'?",
        ),
        (["export", "shelf", "-k", "zzz"], 5, "no records in shelf match -k 'zzz'"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_bad_arguments_are_plain_lines(
    arguments: list[str], code: int, says: str, project: Path, cli
) -> None:
    """One line on standard error, no box, no traceback, the exit code of the contract."""
    (project / "empty").mkdir()
    (project / "conftest.py").touch()
    Baselines(project / "shelf").save(record(accuracy(9, of=10)), BECAUSE)
    got, out, err = cli(*arguments)

    assert got == code
    assert says in err
    assert "Traceback" not in err
    assert not set("╭│╰") & set(out + err)


@pytest.mark.slow
def test_a_mistyped_baselines_folder_is_told(project: Path, cli) -> None:
    """Nothing would fail, as every case is new; where one is about to be made all is well."""
    told = "--baselines baslines: no such folder, so every case is new\n"
    code, _, err = cli("run", "cases", "-q", "--baselines", "baslines")

    assert (code, told in err) == (0, True)
    assert "no such folder" not in cli("run", "cases", "-q", "--baselines", "b", *ACCEPT)[2]
    assert "no such folder" not in cli("run", "cases", "-q", "--baselines", "b")[2]


def test_list_runs_nothing(project: Path, cli) -> None:
    """Ids are printed, no results folder appears."""
    assert cli("list", "cases")[:2] == (0, "small/sleb-windows-2blocks\n")
    assert not (project / ".prunebench").exists()
    assert '"id": "small/sleb-windows-2blocks"' in cli("list", "cases", "--json")[1]


def test_check_counts_and_complains(project: Path, cli) -> None:
    """Good files are counted; a bad one is a line with its place and exit 2."""
    assert cli("check", "cases") == (0, "1 case in 1 file: ok\n", "")
    (project / "cases" / "bad.yaml").write_text("modle: 1\n")
    code, out, err = cli("check", "cases")

    assert (code, out) == (2, "")
    assert err.startswith("cases/bad.yaml:1:1: unknown key 'modle'; did you mean 'model'?")


@pytest.mark.slow
def test_show_tells_a_record_beside_its_baseline(project: Path, cli) -> None:
    """By the end of its id; every measurement with its baseline and outcome."""
    cli("run", "cases", *ACCEPT, "-q")
    code, out, _ = cli("show", "sleb-windows-2blocks")

    assert code == 0
    assert "drop_blocks" in out
    assert "perplexity/tinyworld" in out
    assert '"record"' in cli("show", "2blocks", "--json")[1]


@pytest.mark.slow
def test_accept_takes_stored_records(project: Path, cli) -> None:
    """A later accept needs no new run; a case that changed since is refused."""
    cli("run", "cases", "-q")
    code, out, _ = cli("accept", "cases", "--because", "looked at it")
    assert (code, "accepted baselines/quality" in out) == (0, True)

    case = project / "cases" / "small.yaml"
    case.write_text(case.read_text().replace("limit: 40", "limit: 30"))
    code, _, err = cli("accept", "cases", "--because", "again")
    assert code == 2
    assert "older version of the case" in err


@pytest.mark.slow
def test_the_line_that_repeats_a_case_fails_as_the_run_did(project: Path, cli) -> None:
    """It has the options that the verdict depends on, quoted for a shell."""
    options = ["--limit", 5, "--store", "s t", "--baselines", "b", "--fail-on", "sparsity < 0.9"]
    code, out, _ = cli("run", "cases", "-q", *options, "--junit", "j.xml")
    (line,) = (x for x in out.splitlines() if "run it again: " in x)
    command = line.partition("run it again: ")[2]

    assert code == 1
    again, out, _ = cli(*shlex.split(command)[1:], "-q")
    assert again == 1
    assert "1 reused from the results folder" in out
    assert f"reproduce: {command}".replace("<", "&lt;") in (project / "j.xml").read_text()


@pytest.mark.slow
def test_fail_on_chooses_what_fails(project: Path, cli) -> None:
    """The same new records pass by default and fail on request."""
    cli("run", "cases", "-q")

    assert cli("run", "cases", "-q")[0] == 0
    assert cli("run", "cases", "-q", "--fail-on", "new")[0] == 1


@pytest.mark.slow
def test_a_damaged_baseline_is_not_comparable(project: Path, cli) -> None:
    """The run goes on and says which file is damaged."""
    cli("run", "cases", *ACCEPT, "-q")
    path = project / "baselines/quality/small/sleb-windows-2blocks.json"
    path.write_bytes(path.read_bytes()[:100])
    code, out, _ = cli("run", "cases", "-q")

    assert code == 0
    assert "not_comparable baseline: " in out
    assert cli("run", "cases", "-q", "--strict")[0] == 6


@pytest.mark.slow
def test_an_interrupt_saves_what_there_is_and_says_how_to_go_on(project: Path) -> None:
    """Ctrl-C after the first case: exit 130, its record kept, the JSON written, then resumed."""
    case = project / "cases" / "small.yaml"
    case.write_text(case.read_text().replace("blocks: [2]", "blocks: [2, 3, 4, 5, 6, 7, 8]"))
    program = [sys.executable, "-m", "prunebench", "run", "cases", "--json", "a.json"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    deadline = time.monotonic() + 120
    while not list(Path(".prunebench").rglob("*.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=60)

    assert run.returncode == 130, err
    assert "run the same command to resume" in err
    done = len(read(project / "a.json")["records"])
    assert 1 <= done < 7
    again = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert again.returncode == 0
    assert f"({done} reused" in again.stdout


@pytest.mark.slow
def test_long_work_says_how_far_it_is(project: Path) -> None:
    """The progress display hears of every removal of a search and of every metric."""
    from prunebench.cases import loader
    from prunebench.runs.worker import Worker

    steps: list[str] = []
    (case,) = loader.load([project / "cases"])
    Worker("cpu", lambda _, step: steps.append(step)).run(case)

    assert "searching, removal 1 of 2" in steps
    assert "searching, removal 2 of 2" in steps
    assert [s for s in steps if "," not in s][-2:] == ["perplexity", "accuracy"]


@pytest.mark.slow
def test_accept_takes_the_whole_answer_and_not_a_newer_limited_one(project: Path, cli) -> None:
    """A quick look with --limit afterwards does not stand in the way."""
    cli("run", "cases", "-q")
    cli("run", "cases", "-q", "--limit", "5")
    code, _, err = cli("accept", "cases", "--because", "looked at it")

    assert code == 0, err
    assert cli("run", "cases", "-q", "--strict")[0] == 0


def test_the_search_has_the_first_of_the_last_words(
    project: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that a report goes to may have a reader who takes his time; hours are at stake."""
    spoken: list[str] = []

    @contextmanager
    def deep(last_words: Callable[[], None], *_: object) -> Iterator[None]:
        monkeypatch.setattr(RunFiles, "write", lambda *_: spoken.append("reports"))
        monkeypatch.setattr(folders, "last_words", lambda: spoken.append("search"))
        last_words()
        yield

    class EndedError(Exception):
        pass

    def ended(*_: object, **__: object) -> None:
        raise EndedError

    monkeypatch.setattr(signals, "handled", deep)
    monkeypatch.setattr("prunebench.cli.run.Display", ended)
    with pytest.raises(EndedError):
        cli("run", "cases", "-q")

    assert spoken == ["search", "reports"]


def test_an_interrupt_anywhere_is_130_and_never_a_regression(
    project: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while cases are still being read exits 130; 1 is for regressions only."""
    from prunebench.cases import loader

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loader, "load", interrupted)

    assert cli("run", "cases")[0] == 130


@pytest.mark.parametrize(
    ("text", "expected"), [("80GiB", 80), ("80 GiB", 80), ("80GB", 74.5058), ("24.5 GiB", 24.5)]
)
def test_memory_needs_are_read_in_their_unit(text: str, expected: float) -> None:
    """GiB are 2**30 bytes, GB 10**9."""
    from prunebench.system.machine import gibibytes

    assert gibibytes(text) == pytest.approx(expected, rel=1e-5)


EVERY_METHOD = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 4, seqlen: 64}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 64, nsamples: 8}
  - {name: memory}
matrix:
  method:
    - {name: sleb, calibration_unit: windows}
    - {name: sprint, attn_latency: 5, mlp_latency: 4}
    - {name: sliding_layer_merging}
    - {name: slicegpt}
    - {name: slice_global}
  sparsity: [0.1, 0.25]
"""


def answers(path: Path) -> dict[str, object]:
    return {r["case_id"]: (r["plan"], r["trace"], r["measurements"]) for r in read(path)["records"]}


@pytest.mark.slow
def test_repeated_and_resumed_runs_are_equal_bit_for_bit(project: Path, cli) -> None:
    """All at once, or one amount after the other in other processes: the same records."""
    case = project / "cases" / "small.yaml"
    case.write_text(EVERY_METHOD)
    code, _, err = cli("run", "cases", "--fresh", "--json", "a.json", "-q")
    assert code == 0, err
    together = answers(project / "a.json")
    apart: dict[str, object] = {}
    for keyword in ("0.25", "0.1"):
        cli("run", "cases", "--fresh", "--json", "b.json", "-q", "-k", keyword)
        apart |= answers(project / "b.json")

    assert len(together) == 10
    assert together == apart
    assert all(plan for plan, _, _ in together.values())


@pytest.mark.slow
def test_a_nested_search_of_sublayers_serves_every_amount(project: Path, cli, monkeypatch) -> None:
    """SPRINT is asked once for the largest sparsity; a smaller one is a prefix of it."""
    from prunebench.methods.sprint import Sprint

    asked: list[object] = []
    real = Sprint.choose

    def choose(self, lm, calibration, target):
        asked.append(target.sparsity)
        return real(self, lm, calibration, target)

    monkeypatch.setattr(Sprint, "choose", choose)
    (project / "cases" / "small.yaml").write_text(EVERY_METHOD)
    cli("run", "cases", "--json", "a.json", "-q", "-k", "sprint")
    plans = [r["plan"][0]["sublayers"] for r in read(project / "a.json")["records"]]

    assert asked == [0.25]
    assert plans[1][: len(plans[0])] == plans[0]
    assert len(plans[0]) < len(plans[1])


@pytest.mark.slow
def test_a_speedup_needs_no_amount_and_an_unreachable_count_is_a_crash(project: Path, cli) -> None:
    """Options that say how much goes; a count that no threshold removes is that case's failure."""
    case = project / "cases" / "small.yaml"
    head, _, _ = EVERY_METHOD.partition("matrix:")
    case.write_text(
        f"{head}include:\n"
        "  - method: {name: sprint, target_speedup: 1.2, attn_latency: 5, mlp_latency: 4}\n"
        "  - method: {name: sliding_layer_merging, threshold: 0.9}\n"
        "  - {method: {name: sliding_layer_merging}, blocks: 10}\n"
        "  - {method: {name: sliding_layer_merging}, blocks: 11}\n"
    )
    code, _, _ = cli("run", "cases", "--json", "a.json", "-q")
    data = read(project / "a.json")
    errors = [v["error"] for v in data["verdicts"]]

    assert code == 3
    assert errors[:2] == ["", ""]
    assert "removes exactly 10 blocks" in errors[2]
    assert "at most 10 may" in errors[3]
    assert [r["case_id"] for r in data["records"]] == [
        "small/sprint-attn_latency5-mlp_latency4-target_speedup1.2",
        "small/sliding_layer_merging-threshold0.9",
    ]


def test_other_latencies_and_last_bits_are_no_changed_plan() -> None:
    """What was measured or rounded on the way is no decision; what was decided still is."""
    from prunebench.edits.drop_sublayers import DropSublayers
    from prunebench.edits.refit_weights import RefitWeights

    old = (DropSublayers(((1, "attn"),), 3.0, 2.0), RefitWeights(("m",), "aa"))
    new = (DropSublayers(((1, "attn"),), 3.1, 1.9), RefitWeights(("m",), "bb"))
    other = (DropSublayers(((1, "mlp"),), 3.0, 2.0), RefitWeights(("m",), "aa"))

    assert [e.bare() for e in old] == [e.bare() for e in new]
    assert [e.bare() for e in old] != [e.bare() for e in other]


HOPELESS = """\
model: {id: prunebench/reference, dtype: float32}
method: {name: first}
include:
  - {blocks: 1, metrics: [{name: perplexity, dataset: wikitext2, seqlen: 64}]}
  - {blocks: 2, metrics: [{name: perplexity, dataset: ./empty.txt, seqlen: 64}]}
  - {blocks: 3, metrics: [{name: perplexity, dataset: tinyworld, seqlen: 4096}]}
  - {blocks: 4, metrics: [{name: accuracy, tasks: [lost], tasks_folder: ./tasks}]}
  - {blocks: 5, metrics: [{name: perplexity, dataset: tinyworld, seqlen: 64, nsamples: 4}]}
"""


def test_data_that_cannot_be_had_costs_its_own_case_only(project: Path, cli, monkeypatch) -> None:
    """No network, an empty file, a window too long, a lost task file: a line each, exit 3."""
    import datasets

    def unreachable(*_: Any, **__: Any) -> Any:
        raise ConnectionError("Couldn't reach 'Salesforce/wikitext' on the Hub")

    real = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda path, *a, **k: (unreachable if path == "Salesforce/wikitext" else real)(
            path, *a, **k
        ),
    )
    cases = project / "cases"
    (cases / "empty.txt").write_text("\n \n")
    (cases / "tasks").mkdir()
    (cases / "tasks" / "lost.yaml.txt").write_text("")
    (cases / "tasks" / "lost.yaml").write_text(
        "task: lost\ndataset_path: json\n"
        f"dataset_kwargs: {{data_files: {{test: {cases}/tasks/lost.jsonl}}}}\n"
        "test_split: test\noutput_type: multiple_choice\n"
        "doc_to_text: a\ndoc_to_choice: b\ndoc_to_target: c\n"
    )
    (cases / "small.yaml").write_text(HOPELESS)
    code, out, err = cli("run", "cases/small.yaml", "--json", "out.json")
    verdicts = read(project / "out.json")["verdicts"]
    errors = [v["error"] for v in verdicts]

    assert code == 3
    assert "Couldn't reach" in errors[0]
    assert "has no text" in errors[1]
    assert "windows of 4096 tokens, but the context holds 512" in errors[2]
    assert "tasks lost cannot be loaded" in errors[3]
    assert "lost.jsonl" in errors[3]
    assert errors[4] == ""
    assert all("\n" not in e and "Traceback" not in e for e in errors)
    assert "Traceback" not in out + err
    assert [r["case_id"] for r in read(project / "out.json")["records"]] == [verdicts[4]["case_id"]]

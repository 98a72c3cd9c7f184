"""What goes wrong while a case runs: killed, stopped, out of disk, out of memory, damaged files."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import SMALL_CASE, read

from prunebench import resume
from prunebench.edits.drop_blocks import DropBlocks
from prunebench.errors import PrunebenchError, PrunebenchWarning
from prunebench.models import causal_lm as models
from prunebench.plan import Plan, Step
from prunebench.record import VARYING, Measurement
from prunebench.reports import run_table
from prunebench.results import answer_key
from prunebench.results.baselines.files import Baselines
from prunebench.results.resume.folders import Partials, measuring, searching
from prunebench.results.store import Store
from prunebench.runs.session import Session
from prunebench.system import signals

CASE = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 4, seqlen: 64}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 64, nsamples: 12, batch_size: 3}
  - {name: accuracy, tasks: [tinyworld_facts, tinyworld_recall], limit: 10, batch_size: 2}
  - {name: generation, tasks: [tinyworld_complete], limit: 6, batch_size: 2}
  - {name: divergence, dataset: tinyworld, seqlen: 64, nsamples: 6, batch_size: 2}
method: {name: sleb, calibration_unit: windows}
blocks: 3
"""

#: Its search holds tensors.
TURNED = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 4, seqlen: 64}
metrics: [{name: perplexity, dataset: tinyworld, seqlen: 64, nsamples: 3}]
method: {name: slicegpt}
slicing: 0.2
"""

#: Runs the CLI in forks, so that the libraries are imported once. Each run is a line of the input:
#: the command's arguments, and what is to happen instead of writing line number *at* of a journal.
DRIVER = """\
import json, os, resource, signal, sys
import torch
torch.set_num_threads(1)
import lm_eval, lm_eval.tasks, datasets
from prunebench.results.resume import checksum_lines as loglines
from prunebench.runs import worker as runner
from prunebench.models import scoring
from prunebench.results.resume import search_state as standing
from prunebench.metrics import accuracy, divergence, generation, perplexity, _tasks
from prunebench.methods import sleb
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast
from prunebench.methods import _slicing, slicegpt
from prunebench.cli import main

write = loglines.write
standing.SHARE = 0  # tensors are written when a search is stopped, and never before
turn = _slicing.principal

def turning(kind, at):
    count = 0
    def faulty(gram):
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), getattr(signal, kind))
        return turn(gram)
    _slicing.principal = faulty

def fault(kind, at, log):
    count = 0
    def faulty(handle, entry):
        nonlocal count
        count += 1
        kinds = ("journal", "step", "state", "part", "search", "done", "batch")
        name = next(k for k in kinds if k in entry)
        log.write(f"{name} {entry.get('metric', '')}\\n".encode())
        if count == at and kind == "kill":  # in the middle of a line, which tears it
            os.write(handle, b"0123456789abcdef {")
            os.kill(os.getpid(), signal.SIGKILL)
        if count == at:
            os.kill(os.getpid(), getattr(signal, kind))
        write(handle, entry)
    loglines.write = faulty

for line in sys.stdin:
    given = json.loads(line)
    pid = os.fork()
    if pid == 0:
        log = open(given["log"], "wb", buffering=0)
        errors = os.open(given["err"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(errors, 1)
        os.dup2(errors, 2)
        if size := given.get("size"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        fault(given.get("kind"), given.get("at", 0), log)
        turning(given.get("kind"), given.get("turn", 0))
        cases = given.get("cases", "cases")
        sys.argv = ["prunebench", "run", cases, "-q", *given["arguments"]]
        try:
            main()
        except SystemExit as stop:
            os._exit(int(stop.code or 0))
        os._exit(99)
    status = os.waitpid(pid, 0)[1]
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Runs:
    """A process that runs the CLI as often as asked, with or without a fault."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "cases").mkdir()
        (folder / "cases" / "small.yaml").write_text(CASE)
        (folder / "turned").mkdir()
        (folder / "turned" / "turned.yaml").write_text(TURNED)
        self._process = subprocess.Popen(
            [sys.executable, "-c", DRIVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def __call__(self, *arguments: object, **fault: Any) -> tuple[int, list[str], str]:
        """Exit code (negative: the signal), the journal lines that were due, standard error."""
        given = {"arguments": [*map(str, arguments)], "log": "log", "err": "err", **fault}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(given) + "\n")
        self._process.stdin.flush()
        code = int(self._process.stdout.readline())
        lines = (self.folder / "log").read_text().splitlines()
        return code, lines, (self.folder / "err").read_text()

    def close(self) -> None:
        self._process.communicate(timeout=60)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    found = Runs(tmp_path_factory.mktemp("faults"))
    yield found
    found.close()


@pytest.fixture(scope="module")
def undisturbed(runs: Runs) -> tuple[list[str], Any]:
    """The journal lines of a run that nothing disturbs, and its numbers."""
    code, lines, err = runs("--store", "whole", "--json", "whole.json")
    assert code == 0, err
    return lines, numbers(runs.folder / "whole.json")


#: What a record has of its moment, or is compared below.
VARIABLE = ("created", "cost", "measurements", "provenance", "environment")


def numbers(file: Path) -> Any:
    """All of the records that must not vary."""
    found = []
    for record in read(file)["records"]:
        rest = {k: v for k, v in record.items() if k not in VARIABLE}
        measured = [m for m in record["measurements"] if not any(w in m["metric"] for w in VARYING)]
        forwards = float(record["cost"]["block_forwards"])
        found.append({**rest, "measurements": measured, "forwards": forwards})
    return found


def place(lines: list[str], name: str, nth: int) -> int:
    """The number, from 1, of the *nth* line of that kind."""
    return [i for i, line in enumerate(lines, 1) if line == name][nth]


@pytest.mark.slow
def test_killed_in_every_part_and_resumed_the_numbers_are_equal(
    runs: Runs, undisturbed: tuple[list[str], Any]
) -> None:
    """Killed in the search and inside of three metrics: each loses the line at hand, no more."""
    lines, expected = undisturbed
    store = ("--store", "killed", "--json", "killed.json")
    due: list[str] = []
    told = []
    for name, nth in [("step ", 1), ("batch 0", 2), ("batch 1", 3), ("batch 2", 1)]:
        # What earlier runs kept is not written again; each has a head of its own.
        done = place(lines, name, nth) - 1 - sum(not x.startswith("journal") for x in due)
        code, more, err = runs(*store, kind="kill", at=done + 1)
        assert code == -signal.SIGKILL
        assert more[-1] == name
        due += more[:-1]  # the last one was torn
        told += [line for line in err.splitlines() if line.startswith("resuming")]
    code, more, err = runs(*store)
    due += more
    told += [line for line in err.splitlines() if line.startswith("resuming")]

    assert code == 0, err
    assert numbers(runs.folder / "killed.json") == expected
    assert [x for x in due if x != "journal "] == [x for x in lines if x != "journal "]
    label = "resuming sleb-windows-3blocks at"
    assert told[0] == f"{label} its search, 1 of 3 steps saved"
    assert told[1] == f"{label} perplexity, 2 of 4 batches saved"
    assert told[2].startswith(f"{label} accuracy, 3 of ")
    assert told[3:] == [f"{label} generation, 1 batch saved"]
    assert not (runs.folder / "killed" / "partial").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1"])
def test_a_scheduler_stops_a_run_with_75(
    runs: Runs, undisturbed: tuple[list[str], Any], name: str
) -> None:
    """The JSON is written, a line says how to go on, and the same command does."""
    lines, expected = undisturbed
    store = ("--store", name, "--json", f"{name}.json")
    code, _, err = runs(*store, kind=name, at=place(lines, "batch 1", 2))

    assert code == 75
    assert read(runs.folder / f"{name}.json")["records"] == []
    assert f"stopped by {name} with 1 of 1 cases left; run the same command to resume" in err
    assert "Traceback" not in err
    if name == "SIGUSR1":
        return  # the same from here on
    code, more, _ = runs(*store)
    assert code == 0
    assert "batch 0" not in more
    assert numbers(runs.folder / f"{name}.json") == expected


@pytest.mark.slow
def test_a_stopped_search_writes_its_tensors_and_goes_on(runs: Runs) -> None:
    """It begins again at the block at hand; its numbers are those of an undisturbed run."""
    for name, turn, expected, kept in [("SIGTERM", 7, 75, 3), ("SIGINT", 6, 130, 5)]:
        code, _, err = runs("--store", "turn", cases="turned", kind=name, turn=turn)
        assert code == expected, err
        assert "1 of 1 cases left; run the same command to resume" in err
        assert "0 cases" not in err
        code, _, told = runs("--store", "turn", "--dry-run", cases="turned")
        assert code == 0
        assert f"resumes at its search, {kept} of 12 steps saved" in told
    code, _, err = runs("--store", "turn", "--json", "turn.json", cases="turned")
    assert code == 0, err
    assert not list((runs.folder / "turn").rglob("*.safetensors"))
    code, _, err = runs("--store", "unturned", "--json", "unturned.json", cases="turned")

    assert code == 0, err
    assert numbers(runs.folder / "turn.json") == numbers(runs.folder / "unturned.json")


@pytest.mark.slow
def test_a_disk_that_takes_no_more_costs_no_number(
    runs: Runs, undisturbed: tuple[list[str], Any]
) -> None:
    """Files end at 4,000 bytes, by the kernel: the journal stops, the record is not saved, exit 3.

    Run again where there is room, what the journal has is used.
    """
    _, expected = undisturbed
    code, _, err = runs("--store", "full", size=4000)

    assert code == 3
    assert "cannot be written: File too large; a killed run would start over" in err
    assert "crashed: not saved: full/records/" in err
    assert "Traceback" not in err
    kept = (runs.folder / "full" / "partial").rglob("*.jsonl")
    assert max(file.stat().st_size for file in kept) == 4000
    code, _, err = runs("--store", "full", "--json", "full.json")
    assert code == 0
    assert "resuming " in err
    assert "damaged" not in err
    assert numbers(runs.folder / "full.json") == expected


# ------------------------------------------------------------------------- journal


def test_a_journal_gives_back_what_was_kept_and_only_to_the_same_content(tmp_path: Path) -> None:
    """Plan, steps, measurements and batches, numbers that are not finite among them."""
    partials = Partials(tmp_path)
    step = Step(0, {"1": 0.1, "2": None}, "1", 0.25, 1e-9, 12, "3")
    plan = Plan((DropBlocks((1,)),), (step,))
    first = Measurement("perplexity/x", 2.5, "ppl", "lower", (0.1, 1 / 3), True)
    journal = partials.journal("a/b", "k" * 64, ["perplexity", "accuracy"])
    with searching(journal):
        resume.save_step(step)
    journal.save_search(plan, 1.5, 64, None)
    journal.save_metric(0, [first], 3.0)
    model, other = object(), object()
    odd = [float("nan"), float("-inf"), -0.0, 5e-324, 0.1 + 0.2]
    with measuring(journal, 1, {"pruned": model}):
        resume.once([model], lambda: [1, 2], lambda: odd, 7)
        resume.once([other], lambda: [1, 2], lambda: [1], 7)  # a stranger's is not kept
    journal.close()
    again = partials.journal("a/b", "k" * 64, ["perplexity", "accuracy"])

    found = again.search()
    assert found is not None
    assert found[0] == plan
    assert found[1].seconds == 1.5
    assert again.steps == [step]
    assert again.finished(0) == (first,)
    assert again.finished(1) is None
    assert str(again.progress) == "at accuracy, 1 of 7 batches saved"
    with measuring(again, 1, {"pruned": model}):
        kept = resume.once([model], lambda: [1, 2], list, 7)
        assert json.dumps(kept) == json.dumps(odd)
        # Asked a second time it was not: the model may have been changed in between.
        assert resume.once([model], lambda: [1, 2], lambda: ["new"], 7) == ["new"]
        assert resume.once([model], lambda: [1, 3], lambda: ["new"], 7) == ["new"]
    assert partials.journal("a/b", "j" * 64).empty
    assert partials.journal("a/b", "k" * 63 + "j").empty  # the same folder, another content
    assert partials.case_ids() == {"a/b"}


def test_two_runs_that_write_one_journal_do_not_harm_each_other(tmp_path: Path) -> None:
    """Each has a file of its own; a third takes what either has."""
    journals = [Partials(tmp_path).journal("a", "k" * 64) for _ in range(2)]
    model = object()
    for given, journal in enumerate(journals):
        with measuring(journal, 0, {"pruned": model}):
            resume.once([model], lambda given=given: given, lambda given=given: [given])
    with measuring(Partials(tmp_path).journal("a", "k" * 64), 0, {"pruned": model}):
        assert resume.once([model], lambda: 0, lambda: ["again"]) == [0]
        assert resume.once([model], lambda: 1, lambda: ["again"]) == [1]


def test_a_clock_that_is_set_back_costs_no_step(tmp_path: Path) -> None:
    """Files are named by time, and the second run's name may come before the first one's."""
    made = [Step(i, {str(i): 0.5}, str(i)) for i in range(4)]
    for part in (made[:2], made[2:]):
        journal = Partials(tmp_path).journal("a", "k" * 64)
        with searching(journal):
            for step in part:
                resume.save_step(step, 5)
        journal.close()
        (file,) = (f for f in tmp_path.rglob("*.jsonl") if len(f.name) > 12)
        file.rename(file.with_name(f"{9 - part[0].step}-x.jsonl"))
    again = Partials(tmp_path).journal("a", "k" * 64)

    assert again.steps == made
    assert str(again.progress) == "at its search, 4 of 5 steps saved"


def test_what_the_dense_model_answers_is_kept_for_all_cases(tmp_path: Path) -> None:
    """Another case's run finds it, until a run ends with no case unfinished."""
    partials = Partials(tmp_path)
    dense, pruned = object(), object()
    models = {"dense": dense, "pruned": pruned}
    for number, key in enumerate("ab"):
        journal = partials.journal(key, key * 64)
        with measuring(journal, number, models, lambda: partials.dense("d" * 64)):
            told = resume.once([dense], lambda: 1, lambda key=key: [key])
            own = resume.once([pruned], lambda: 1, lambda key=key: [key])
        assert (told, own) == (["a"], [key])
        partials.tidy()  # it is left alone as long as there are others
        journal.close()
        partials.forget(key * 64)
    assert (tmp_path / "partial" / "dense").is_dir()
    partials.tidy()
    assert not (tmp_path / "partial").exists()


def test_outside_of_a_run_nothing_is_kept(tmp_path: Path) -> None:
    """A library user's call is just the call; a case of unknown content leaves no file."""
    journal = Partials(tmp_path).journal("a", None)
    model = object()
    with measuring(journal, 0, {"pruned": model}):
        assert resume.once([model], lambda: 0, lambda: [1]) == [1]
    resume.save_step(Step(0, {}, "1"))
    journal.close()

    assert resume.steps() == []
    assert resume.once([model], lambda: 0, lambda: [2]) == [2]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("tail", [b"", b"0123", b'0123456789abcdef {"batch":'])
def test_a_torn_last_line_is_dropped_without_a_word(tmp_path: Path, tail: bytes) -> None:
    """Wherever a kill cut it."""
    journal = Partials(tmp_path).journal("a", "k" * 64)
    journal.save_metric(0, [], 1.0)
    journal.close()
    (file,) = tmp_path.rglob("*.jsonl")
    file.write_bytes(file.read_bytes() + tail)

    assert Partials(tmp_path).journal("a", "k" * 64).finished(0) == ()


@pytest.mark.parametrize("part", [b'"found":[1', b'"batch"', b" "])
def test_a_damaged_line_is_told_and_what_follows_is_computed_again(
    tmp_path: Path, part: bytes
) -> None:
    """A bit that flipped: a warning names file and line; lines before it are used, none after.

    Also where what is left is sound JSON, and only says another number.
    """
    journal = Partials(tmp_path).journal("a", "k" * 64)
    model = object()
    with measuring(journal, 0, {"pruned": model}):
        for given in range(3):
            resume.once([model], lambda given=given: given, lambda given=given: [given])
    journal.close()
    (file,) = tmp_path.rglob("*.jsonl")
    lines = file.read_bytes().split(b"\n")
    assert part in lines[2]
    at = lines[2].index(part) + len(part) - 1
    lines[2] = lines[2][:at] + bytes([lines[2][at] ^ 1]) + lines[2][at + 1 :]
    file.write_bytes(b"\n".join(lines))
    with pytest.warns(PrunebenchWarning, match=f"{file}:3: damaged; its content from there on"):
        again = Partials(tmp_path).journal("a", "k" * 64)
    with measuring(again, 0, {"pruned": model}):
        found = [
            resume.once([model], lambda given=given: given, lambda: ["new"]) for given in range(3)
        ]
    assert found == [[0], ["new"], ["new"]]


def test_tensors_that_are_damaged_have_the_search_made_again(tmp_path: Path) -> None:
    """They are known by their hash, so a wrong one is found out."""
    from prunebench.edits.refit_weights import RefitWeights
    from prunebench.models.tensors import Tensors

    tensors = Tensors()
    edit = RefitWeights(("m",), tensors.add({"m": torch.ones(2)}))
    journal = Partials(tmp_path).journal("a", "k" * 64)
    journal.save_search(Plan((edit,), (), tensors), 1.0, 2, None)
    journal.close()
    again = Partials(tmp_path).journal("a", "k" * 64).search()
    assert again is not None
    assert torch.equal(again[0].tensors[edit.tensors]["m"], torch.ones(2))

    (file,) = tmp_path.rglob("*.safetensors")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(PrunebenchWarning, match="damaged: .*; the search starts over"):
        assert Partials(tmp_path).journal("a", "k" * 64).search() is None


# --------------------------------------------------------------- in this very process


@pytest.fixture
def short(project: Path) -> Path:
    """Two cases that take little."""
    text = SMALL_CASE.replace("nsamples: 24", "nsamples: 4").replace(
        "blocks: [2]", "blocks: [1, 2]"
    )
    text = "".join(line for line in text.splitlines(True) if "accuracy" not in line)
    text = text.replace("{name: sleb, calibration_unit: windows}", "{name: first}, {name: last}")
    (project / "cases" / "small.yaml").write_text(text.replace("[1, 2]", "[1]"))
    return project


def test_a_folder_that_takes_no_file_is_found_out_before_anything_is_measured(
    short: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line per case, exit 3, and no model is loaded."""
    (short / "taken").write_text("a file")
    monkeypatch.setattr("prunebench.runs.worker.load_model", None)
    code, out, err = cli("run", "cases", "-q", "--store", "taken/store")

    assert code == 3
    assert out.count("crashed: taken/store/records/") == 2
    assert "cannot be written: Not a directory" in out
    assert "Traceback" not in out + err


@pytest.mark.slow
def test_a_record_that_cannot_be_saved_is_its_own_cases_failure(
    short: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk is full for the first record only: exit 3, its numbers told, the second is saved.

    Run again, the first takes all from its journal.
    """
    from prunebench.system import files

    write = files.write

    def no_space(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def full(path: Path, data: bytes) -> None:
        with pytest.MonkeyPatch.context() as disk:
            if "small/first" in str(path):
                disk.setattr(os, "fsync", no_space)
            write(path, data)

    with pytest.MonkeyPatch.context() as disk:
        disk.setattr(files, "write", full)
        code, out, _ = cli("run", "cases", "-q", "--json", "a.json")

    assert code == 3
    assert "small/first-1blocks: crashed: not saved: " in out
    assert "No space left on device" in out
    data = read(short / "a.json")
    assert [r["case_id"] for r in data["records"]] == ["small/first-1blocks", "small/last-1blocks"]
    assert [v["ok"] for v in data["verdicts"]] == [False, True]
    monkeypatch.setattr(models.CausalLM, "_losses", None)
    code, out, err = cli("run", "cases", "-q", "--json", "b.json", "--store", ".prunebench")
    assert code == 0, out
    assert "resuming first-1blocks at its end" in err
    assert numbers(short / "b.json") == numbers(short / "a.json")


def test_memory_that_runs_out_in_a_batch_changes_no_kept_score(
    tiny: Callable[..., Any], ids: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Injected for more than one window: halves are run, one batch is kept, both runs agree."""
    lm = tiny("llama")
    plain = lm.window_nll(ids, 3)
    losses = models.CausalLM._losses

    def small(self: Any, windows: torch.Tensor) -> list[float]:
        if len(windows) > 1:
            raise torch.OutOfMemoryError("injected")
        return losses(self, windows)

    monkeypatch.setattr(models.CausalLM, "_losses", small)
    journal = Partials(tmp_path).journal("a", "k" * 64, ["perplexity"])
    with measuring(journal, 0, {"pruned": lm}):
        found = lm.window_nll(ids, 3)
    journal.close()
    monkeypatch.setattr(models.CausalLM, "_losses", None)
    again = Partials(tmp_path).journal("a", "k" * 64, ["perplexity"])
    with measuring(again, 0, {"pruned": lm}):
        kept = lm.window_nll(ids, 3)

    assert torch.allclose(found, plain, atol=1e-5)
    assert torch.equal(kept, found)
    assert str(again.progress) == "at perplexity, 2 of 2 batches saved"


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_damaged_record_is_told_and_the_case_runs_again(
    short: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """A line that names the file; the answer is the same again."""
    cli("run", "cases", "-k", "first", "-q", "--json", "a.json")
    (file,) = (short / ".prunebench" / "records").rglob("*.json")
    file.write_bytes(file.read_bytes()[:300])
    code, out, err = cli("run", "cases", "-k", "first", "-q", "--json", "b.json")

    assert code == 0
    assert "reused" not in out
    shown = file.relative_to(short)
    assert err.count(f"warning: {shown}: damaged: Input data was truncated; the case runs") == 1
    assert numbers(short / "b.json") == numbers(short / "a.json")


@pytest.mark.slow
def test_what_is_kept_is_told_before_a_run_and_thrown_away_when_asked(
    short: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--dry-run`` says how far a case came; ``--fresh`` starts over."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    losses = models.CausalLM._losses
    monkeypatch.setattr(models.CausalLM, "_losses", interrupted)
    assert cli("run", "cases", "-k", "first", "-q")[0] == 130
    monkeypatch.setattr(models.CausalLM, "_losses", losses)
    _, out, _ = cli("run", "cases", "--dry-run")
    assert out.count("  resumes at perplexity\n") == 1
    code, _, err = cli("run", "cases", "-k", "first", "-q", "--fresh")

    assert code == 0
    assert "resuming" not in err
    assert not (short / ".prunebench" / "partial").exists()


@pytest.mark.slow
def test_a_case_whose_files_cannot_be_read_costs_no_other(
    short: Path, cli: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither when a run begins, nor when it is interrupted: that is still 130."""

    def interrupted(*_: object) -> None:
        monkeypatch.setattr(answer_key, "key", unreadable)
        raise KeyboardInterrupt

    key, losses = answer_key.key, models.CausalLM._losses

    def unreadable(case: Any, device: str) -> str | None:
        if "first" in case.id:
            raise PrunebenchError("weights: cannot be read: Permission denied")
        return key(case, device)

    monkeypatch.setattr(models.CausalLM, "_losses", interrupted)
    code, _, err = cli("run", "cases", "-k", "first", "-q")
    assert (code, "cannot be read" in err) == (130, False)
    monkeypatch.setattr(models.CausalLM, "_losses", losses)
    code, out, _ = cli("run", "cases", "-q")

    assert code == 3
    assert out.count("Permission denied") >= 1
    assert Store(short / ".prunebench").case_ids() == ["small/last-1blocks"]


def test_what_is_fresh_takes_nothing_from_before_the_run(tmp_path: Path) -> None:
    """Neither of the case nor of the dense model; what another process of the run kept it takes."""
    model = object()

    def asked(since: int) -> list[str]:
        partials = Partials(tmp_path, since)
        journal = partials.journal("a", "k" * 64)
        with measuring(journal, 0, {"dense": model}, lambda: partials.dense("d" * 64)):
            shared = resume.once([model], lambda: 1, lambda: [f"after {since}"])
        with measuring(journal, 1, {"pruned": model}):
            own = resume.once([model], lambda: 1, lambda: [f"after {since}"])
        journal.close()
        return [*shared, *own]

    assert asked(0) == ["after 0"] * 2
    assert asked(0) == ["after 0"] * 2
    run = time.time_ns()
    assert asked(run) == [f"after {run}"] * 2
    assert asked(run) == [f"after {run}"] * 2


def test_a_fresh_session_begins_when_its_run_does(tmp_path: Path) -> None:
    """A worker's session is as old as the run, and any other takes what there is."""
    since = "2026-01-02T03:04:05+00:00"
    sessions = [
        Session([], Store(tmp_path), Baselines(tmp_path), "cpu", fresh=fresh, since=since)
        for fresh in (True, False)
    ]
    # 20,455 days after 1970, three hours, four minutes and five seconds.
    assert [s.partials._since for s in sessions] == [(20455 * 86400 + 11045) * 10**9, 0]


# ------------------------------------------------------------------------- signals


def python(program: str, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until_deep(process: subprocess.Popen[str]) -> None:
    """Wait for a program's line ``deep``, and till it has left Python for what follows."""
    assert process.stdout is not None
    assert process.stdout.readline() == "deep\n"
    begun = _spent(process)[1]
    # It sleeps, or has computed for 0.2 s.
    assert _until(lambda: (now := _spent(process))[0] == "S" or now[1] > begun + 20)


def _spent(process: subprocess.Popen[str]) -> tuple[str, int]:
    """The state of a program's main thread, and the ticks that it has computed."""
    stat = Path(f"/proc/{process.pid}/task/{process.pid}/stat").read_text()
    words = stat.rpartition(")")[2].split()
    return words[0], int(words[11])


DEEP = """\
import hashlib
from prunebench.system import signals
with signals.handled(lambda: print('saved', flush=True), patience=0.2):
    print('deep', flush=True)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)  # an hour in C
"""


@pytest.mark.slow
def test_a_main_thread_that_does_not_come_back_is_left_behind() -> None:
    """Deep in a library Python raises nothing: another thread saves and exits 75 in time."""
    process = python(DEEP)
    until_deep(process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (75, "saved\n"), err


DEEP_SEARCH = """\
import hashlib, sys
from pathlib import Path
import torch
from prunebench import resume
from prunebench.results.resume import folders as partial
from prunebench.system import signals
from prunebench.results.resume import search_state as standing
standing.SHARE = 0
journal = partial.Partials(Path(sys.argv[1])).journal('a', 'k' * 64)
with signals.handled(partial.last_words, patience=0.2), partial.searching(journal):
    resume.save_state([1], {'x': torch.full((3,), 0.1)}, 5)
    print('deep', flush=True)
    hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)
"""


@pytest.mark.slow
def test_a_search_that_does_not_come_back_is_saved_without_it(tmp_path: Path) -> None:
    """A decomposition in a library may take minutes; what the search stood on before is kept."""
    process = python(DEEP_SEARCH, str(tmp_path))
    until_deep(process)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=60)
    found = Partials(tmp_path).journal("a", "k" * 64).state()

    assert process.returncode == 75, err
    assert found is not None
    assert found[0] == [1]
    assert torch.equal(found[1]["x"], torch.full((3,), 0.1))


#: A search whose last words take a second, in which the main thread comes back.
COMES_BACK = """\
import sys, threading, time
from contextlib import closing
from pathlib import Path
import torch
from prunebench import resume
from prunebench.results.resume import folders as partial
from prunebench.system import signals
from prunebench.results.resume import search_state as standing
from prunebench.models import tensors
standing.SHARE, signals.SAVING = 0, 0.1
begun, write = threading.Event(), tensors.files.write

def slow(path, data):
    begun.set()
    time.sleep(1)
    write(path, data)

tensors.files.write = slow
journal = partial.Partials(Path(sys.argv[1])).journal('a', 'k' * 64)
with (
    signals.handled(partial.last_words, patience=0.2),
    closing(journal),
    partial.searching(journal),
):
    resume.save_state([1], {'x': torch.full((3,), 0.1)}, 5)
    try:
        print('deep', flush=True)
        time.sleep(60)
    WAY
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "way",
    [
        "finally: begun.wait()",
        "except KeyboardInterrupt: begun.wait()",
        "except KeyboardInterrupt: begun.wait(); sys.exit(3)",
    ],
    ids=["raises", "goes on", "exits"],
)
def test_last_words_are_not_cut_off(way: str, tmp_path: Path) -> None:
    """However the main thread comes back while they are written, it lets them end the process."""
    process = python(COMES_BACK.replace("WAY", way), str(tmp_path))
    assert process.stdout is not None
    assert process.stdout.readline() == "deep\n"
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    found = Partials(tmp_path).journal("a", "k" * 64).state()

    assert found is not None, err
    assert torch.equal(found[1]["x"], torch.full((3,), 0.1))
    assert (process.returncode, err) == (75, "")


LATE = """\
import signal, time
from prunebench.system import signals
with signals.handled(lambda: None):
    # The signal goes to another thread, as it may, and does not wake this one.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        print('deep', flush=True)
        time.sleep(5)
    except KeyboardInterrupt:
        print(signals.SAVING - signals.time_left())
"""


LATER = """\
import signal, threading, time
from prunebench.system import signals
begun = threading.Event()

def last_words():
    begun.set()
    time.sleep(2)
    print('saved', flush=True)

with signals.handled(last_words, patience=0.2):
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
    try:
        print('deep', flush=True)
        begun.wait()
    except KeyboardInterrupt:
        print('main', flush=True)
"""


@pytest.mark.slow
def test_a_main_thread_that_comes_back_does_not_speak_into_the_last_words() -> None:
    """Reports are written by one thread: the other waits where it sees the signal."""
    process = python(LATER)
    until_deep(process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (75, "saved\n"), err


@pytest.mark.slow
def test_the_time_to_save_is_counted_from_the_signal() -> None:
    """Not from when the main thread comes back and sees it: who sent it has a clock too."""
    process = python(LATE)
    until_deep(process)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)

    assert float(out) > 1.0, err


STUBBORN = """\
import time
from prunebench.system import signals
with signals.handled(lambda: None):
    try:
        print('ready', flush=True)
        time.sleep(60)
    except KeyboardInterrupt:
        print('first', flush=True)
        time.sleep(60)
"""


@pytest.mark.slow
def test_a_second_ctrl_c_kills_at_once() -> None:
    """Whatever the way out of the first one waits for."""
    process = python(STUBBORN)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "first\n"
    time.sleep(0.3)  # sooner it is the first one again
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=40)  # the sleep would last longer

    assert process.returncode == 130


PRESSED_TWICE = """\
import os, signal, time
from prunebench.system import signals
signals.TWICE = 30.0
with signals.handled(lambda: None):
    try:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(1)
        print('saved')
"""


@pytest.mark.slow
def test_a_ctrl_c_that_comes_twice_at_once_is_one() -> None:
    """The terminal sends it to everybody, and a wrapper passes its own on."""
    process = python(PRESSED_TWICE)
    out, err = process.communicate(timeout=60)

    assert (process.returncode, out) == (0, "saved\n"), err


@pytest.mark.slow
def test_a_second_ctrl_c_kills_at_once_where_nobody_saw_the_first() -> None:
    """Deep in a library Python's own handlers do not run."""
    process = python(DEEP)
    until_deep(process)

    def pressed() -> int | None:
        process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # two that follow closely may be one for a process that has to wait
        return process.poll()

    code = _until(pressed)
    process.kill()
    out, err = process.communicate(timeout=60)

    assert (code, out) == (130, ""), err


FORKING = """\
import os, signal, time
from prunebench.system import signals
with signals.handled(lambda: print('last words', flush=True), patience=5):
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writing, b'x')
        time.sleep(60)
        os._exit(0)
    os.read(reading, 1)
    os.kill(pid, signal.SIGTERM)
    status = os.waitpid(pid, 0)[1]
    time.sleep(1)
    print(os.WTERMSIG(status), signals.time_left())
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


@pytest.mark.slow
def test_a_signal_to_a_forked_child_is_the_childs_alone() -> None:
    """As ``multiprocessing`` ends its workers; what is ours still reaches us."""
    process = python(FORKING)
    out, err = process.communicate(timeout=60)

    assert out == f"{int(signal.SIGTERM)} inf\n", err
    assert "StopRequest: SIGTERM" in err


@pytest.mark.slow
@pytest.mark.parametrize("place", [(Session, "__init__"), (run_table, "table")])
@pytest.mark.parametrize(("name", "expected"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_before_the_cases_or_after_them_is_told_too(
    place: tuple[Any, str],
    name: str,
    expected: int,
    short: Path,
    cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The shell would say 143, which no scheduler takes for *run it again*."""

    def signalled(*_: object, **__: object) -> None:
        os.kill(os.getpid(), getattr(signal, name))
        time.sleep(5)

    monkeypatch.setattr(*place, signalled)
    code, _, err = cli("run", "cases", "-q", "--json", "out.json")

    assert code == expected
    assert "run the same command to resume" in err
    assert (short / "out.json").exists() == (place[1] == "table")


def test_handlers_are_put_back_and_other_threads_left_alone() -> None:
    """As before the block, whatever happened in it; from a thread nothing is touched."""
    import threading

    names = [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1]
    before = [signal.getsignal(s) for s in names]

    def stopped() -> None:
        with signals.handled(lambda: None):
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(5)

    with pytest.raises(signals.StopRequest, match="SIGUSR1"):
        stopped()
    assert [signal.getsignal(s) for s in names] == before
    seen = []

    def inside() -> None:
        with signals.handled(lambda: None):
            seen.extend(signal.getsignal(s) for s in names)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert seen == before


PARENT = """\
import sys
from prunebench.metrics.memory import _finished
child = '''
import threading, time
from prunebench.metrics import _peak
threading.Thread(target=_peak._end_with_parent, daemon=True).start()
import os
print(os.getpid(), file=open({file!r}, 'w'), flush=True)
time.sleep(60)
'''
_finished([sys.executable, '-c', child])
"""


@pytest.mark.slow
def test_the_child_of_a_killed_run_goes_with_it(tmp_path: Path) -> None:
    """What kills us reaches the parent alone; the child notices that its input ended."""
    file = tmp_path / "pid"
    process = python(PARENT.replace("{file!r}", repr(str(file))))
    pid = int(_until(lambda: file.exists() and file.read_text().strip()))
    process.kill()
    process.communicate()

    def gone() -> bool:
        stat = Path(f"/proc/{pid}/stat")
        return not stat.exists() or stat.read_text().split()[2] == "Z"

    assert _until(gone)


def _until(true: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 40
    while not (found := true()) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found

"""What --dry-run says, against what then happens and against arithmetic by hand."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import ROOT, read

from prunebench import reference
from prunebench.case import Case
from prunebench.cases import loader
from prunebench.data.model_config import shape_of
from prunebench.runs import estimate
from prunebench.runs.dry_run import START
from prunebench.system.machine import GIB, gibibytes


def outlook(project: Path, cli, *arguments: str) -> tuple[list[str], dict[str, Any]]:
    code, out, err = cli("run", "cases", "--dry-run", "--json", "plan.json", *arguments)
    assert code == 0, err
    return out.splitlines(), read(project / "plan.json")


def test_what_would_happen_is_told_and_nothing_is_done(project: Path, cli) -> None:
    """Model, where it is, data, tasks, time, memory; no results folder appears."""
    lines, data = outlook(project, cli)
    (case,) = data["cases"]

    assert lines[0].startswith("small/sleb-windows-2blocks: would run, about ")
    assert "(a rough guess)" in lines[0]
    assert lines[1] == (
        "  model prunebench/reference (folder, 1,797,760 parameters); data tinyworld; "
        "tasks tinyworld_facts, tinyworld_recall"
    )
    assert lines[2].startswith("1 case: 1 would run; in all about ")
    assert (case["source"], case["folder"]) == ("folder", str(reference.MODEL))
    assert case["memory"] == data["total"]["memory"] > 4 * 1_797_760
    assert not (project / ".prunebench").exists()


def test_what_ran_once_is_expected_to_take_what_it_took(project: Path, cli) -> None:
    """Stored answers are reused; asked afresh, the estimate is the record's own time."""
    cli("run", "cases", "-q", "--json", "a.json")
    (record,) = read(project / "a.json")["records"]
    cost = record["cost"]
    lines, data = outlook(project, cli)
    assert lines == ["small/sleb-windows-2blocks: in the store", "1 case: 1 in the store"]
    assert data["total"]["seconds"] == 0

    lines, data = outlook(project, cli, "--fresh")
    parts = data["cases"][0]["parts"]
    assert "(measured before)" in lines[0]
    assert parts["search"] == cost["search_time"]
    assert parts["load"] == cost["load_time"]
    assert sum(parts.values()) == pytest.approx(cost["case_time"])
    assert cost["case_time"] > cost["search_time"] + cost["load_time"] > 0


def test_the_peak_of_a_search_is_measured_where_the_system_permits(project: Path, cli) -> None:
    """Linux tells; the states of 8 windows of 128 tokens fit in what was added."""
    cli("run", "cases", "-q", "--json", "a.json")
    (record,) = read(project / "a.json")["records"]
    if "search_memory" not in record["cost"]:
        pytest.skip("this system does not let a process set back its high-water mark")

    assert 0 <= record["cost"]["search_memory"] < 2 * GIB


def test_memory_that_work_adds_is_seen() -> None:
    """Sixty-four mebibytes that were filled and freed within the block."""
    from prunebench.system.machine import PeakMemory

    with PeakMemory("cpu") as peak:
        block = bytearray(64 << 20)
        block[:: 1 << 12] = b"x" * len(block[:: 1 << 12])
        del block
    if peak.added is None:
        pytest.skip("this system does not let a process set back its high-water mark")

    assert 60 << 20 < peak.added < 96 << 20


def test_a_total_counts_what_is_shared_once(project: Path, cli) -> None:
    """One load, one search for two amounts of a nested method, each case's own part."""
    case = project / "cases" / "small.yaml"
    case.write_text(case.read_text().replace("blocks: [2]", "blocks: [1, 2]"))
    _, data = outlook(project, cli)
    parts = [c["parts"] for c in data["cases"]]
    expected = (
        START
        + max(p["load"] for p in parts)
        + max(p["search"] for p in parts)
        + sum(p["own"] for p in parts)
    )

    assert data["total"]["seconds"] == pytest.approx(expected)
    assert expected < START + sum(sum(p.values()) for p in parts)


def test_guesses_are_scaled_by_what_was_measured(project: Path, cli) -> None:
    """With one case of two on record, the other's guess is multiplied by that one's error."""
    cli("run", "cases", "-q", "--json", "a.json")
    took = read(project / "a.json")["records"][0]["cost"]["case_time"]
    case = project / "cases" / "small.yaml"
    case.write_text(case.read_text().replace("blocks: [2]", "blocks: [2, 3]"))
    cases = loader.load([project / "cases"])
    unscaled = [estimate.rough(c, shape(c), "cpu").total for c in cases]
    _, data = outlook(project, cli, "--fresh")
    told = [sum(c["parts"].values()) for c in data["cases"]]

    assert [c["basis"] for c in data["cases"]] == ["measured", "rough"]
    assert told == pytest.approx([took, unscaled[1] * took / unscaled[0]])


def shape(case: Case) -> Any:
    return shape_of(read(Path(estimate.hub.folder_of(case.model.id) or "") / "config.json"))


def test_what_cannot_run_is_told_with_its_reason(project: Path, cli) -> None:
    """A need that this machine has not, a model that is not there, a score without meaning."""
    case = project / "cases" / "small.yaml"
    text = case.read_text()
    case.write_text(text + "needs: {gpus: 4}\n")
    lines, data = outlook(project, cli, "--device", "cpu")
    assert lines[0].startswith(
        "small/sleb-windows-2blocks: skipped: needs 4 GPUs, this is cpu; it would take "
    )
    assert data["total"]["cases"] == {"skip": 1}
    case.write_text(text + "needs: {memory: 4000GiB}\n")
    assert "skipped: needs 4000GiB of main memory, this machine has" in outlook(project, cli)[0][0]

    case.write_text(text)
    lines, _ = outlook(project, cli, "--set", "model.id=org/absent")
    assert "would fail: model 'org/absent' is not in the hub cache" in lines[0]
    lines, _ = outlook(project, cli, "--set", "model.weights=random")
    assert "would fail: a model of random weights has no meaningful perplexity" in lines[0]
    case.write_text(text.replace("accuracy", "acuracy"))
    assert cli("run", "cases", "--dry-run")[0] == 2


def test_a_model_to_download_is_named(project: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Online and not in the cache: where it would come from, and that nothing else is known."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(project / "hub"))
    lines, data = outlook(project, cli, "--set", "model.id=org/away")

    assert "would run, for an unknown time" in lines[0]
    assert "model org/away (to be downloaded)" in lines[1]
    assert lines[-1] == "to be downloaded: org/away"
    assert data["total"]["downloads"] == ["org/away"]


def test_constants_are_those_below_torch() -> None:
    """Estimates cannot import them, so they are kept in step here."""
    from prunebench.models import causal_lm as models
    from prunebench.models import stream

    assert estimate.BATCH_TOKENS == models.BATCH_TOKENS
    assert stream.search_budget(torch.device("cpu")) == estimate.CPU_BUDGET


def by_hand(tmp_path: Path, text: str) -> list[Case]:
    folder = tmp_path / "cases"
    folder.mkdir()
    shutil.copytree(ROOT / "cases" / "latency" / "shapes", folder / "shapes")
    (folder / "a.yaml").write_text(text)
    return loader.load([folder / "a.yaml"])


def test_memory_is_the_formula_for_llama_2_7b(tmp_path: Path) -> None:
    """Weights 13.48 GB in 16 bit; cache 0.5 MiB a token; logits and the MLP's inner states."""
    cases = by_hand(
        tmp_path,
        "model: {id: ./shapes/llama-2-7b, weights: random, dtype: float16}\n"
        "method: {name: dense}\n"
        "matrix:\n"
        "  metrics:\n"
        "    - [{name: latency, batch_size: 64, prompt_tokens: 64, new_tokens: 128}]\n"
        "    - [{name: memory, peak: true}]\n",
    )
    weights = 2 * 6_738_415_616
    cache = 2 * 32 * 4096 * 2 * 64 * (64 + 128)  # keys and values of 32 blocks, 2 bytes
    prompt = 64 * 64 * (2 * 3 * 11008 + 4 * 4096) * 2

    found = [estimate.memory(c, shape(c), "cpu") for c in cases]
    assert found == [weights + cache + prompt, 2 * weights]
    assert cache == 64 * 192 * 512 * 1024
    assert cases[0].id != cases[1].id


def test_needs_of_the_shipped_latency_cases_hold_by_the_formula() -> None:
    """What each case asks of a GPU covers its estimate, and is not more than twice that."""
    cases = loader.load([ROOT / "cases" / "latency"])
    gpu_cases = [c for c in cases if c.needs.gpu_memory]
    models: dict[str, float] = {}
    for case in gpu_cases:
        needed = estimate.memory(case, shape(case), "cpu") / GIB
        assert needed < gibibytes(case.needs.gpu_memory), (case.id, needed)
        models[case.model.id] = max(models.get(case.model.id, 0), needed)
    for case in gpu_cases:
        assert gibibytes(case.needs.gpu_memory) < 2 * models[case.model.id], case.id
    assert len(models) == 4

"""Every record says where it comes from."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from factories import accuracy, record

from prunebench import Record, reference
from prunebench.cases import loader
from prunebench.data import datasets
from prunebench.results import answer_key, provenance

CASE = """\
model: {id: prunebench/reference}
method: {name: random, seed: 3}
blocks: 2
metrics: [{name: perplexity, dataset: ./own.txt, seqlen: 64, nsamples: 2}]
"""


def git(folder: Path, *arguments: str) -> str:
    user = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "init.defaultBranch=trunk"]
    command = ["git", *user, *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.mark.slow
def test_git_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No repository, no commit yet, a clean one, a changed one, none on a branch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git() == (None, "", None)
    git(tmp_path, "init")
    assert provenance.git() == (None, "", None)
    (tmp_path / "case.yaml").write_text("a")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-m", "first")
    commit = git(tmp_path, "rev-parse", "HEAD")[:12]
    (tmp_path / ".prunebench").mkdir()
    (tmp_path / ".prunebench" / "result").write_text("not known to git")
    assert provenance.git() == (commit, "trunk", False)
    (tmp_path / "case.yaml").write_text("b")
    assert provenance.git() == (commit, "trunk", True)
    git(tmp_path, "checkout", "-f", "--detach")
    assert provenance.git() == (commit, "", False)

    monkeypatch.setenv("PATH", "")
    assert provenance.git() == (None, "", None)


def test_a_run_records_where_it_comes_from(
    project: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Command, precision, seeds, hashes, settings; told by `show`, in JSON too."""
    (project / "cases" / "small.yaml").write_text(CASE)
    text = "\n".join(datasets.documents("tinyworld", "evaluation")[:50])
    (project / "cases" / "own.txt").write_text(text)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert cli("run", "cases", "-q")[0] == 0
    shown = json.loads(cli("show", "small/random-seed3-2blocks", "--json")[1])["record"]
    found = shown["provenance"]

    assert found["command"] == "prunebench run cases -q"
    assert found["dtype"] == config_dtype()
    assert found["seeds"] == {"random": 3}
    assert found["data"] == {"own": hashlib.sha256(text.encode()).hexdigest()}
    assert found["settings"]["NVIDIA_TF32_OVERRIDE"] == "0"
    assert found["model_source"] == "folder"
    assert found["host"]
    lines = cli("show", "small/random-seed3-2blocks", "--provenance")[1].splitlines()
    assert "command: prunebench run cases -q" in lines
    assert f"key: {shown['key']}" in lines


def config_dtype() -> str:
    config = json.loads((reference.MODEL / "config.json").read_text())
    return str(config.get("dtype", config.get("torch_dtype")))


def test_the_host_can_be_kept_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """And the user's name with it, where it is part of a path."""
    (case,) = [c for c in loader.load([Path("cases/smoke")]) if c.dense][:1]
    monkeypatch.setattr(sys, "argv", ["prunebench", "run", f"{Path.home()}/cases"])
    assert provenance.of(case, "float32").host
    monkeypatch.setenv("PRUNEBENCH_ANONYMOUS", "1")
    found = provenance.of(case, "float32")

    assert found.host == ""
    assert found.command == "prunebench run ~/cases"


def test_the_revision_is_the_commit_it_stood_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A branch of the hub's cache resolves to its snapshot."""
    from huggingface_hub import constants

    commit = "0123456789" * 4
    repository = tmp_path / "models--org--name"
    shutil.copytree(reference.MODEL, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    path = tmp_path / "case.yaml"
    path.write_text(
        "model: {id: org/name}\nmethod: {name: first}\nblocks: 1\nmetrics: [{name: compute}]\n"
    )
    (case,) = loader.load([path])
    found = provenance.of(case, "float32")

    assert (found.model_source, found.model_commit) == ("hub cache", commit)
    # A folder with the same files is the same question.
    path.write_text(path.read_text().replace("org/name", str(reference.MODEL)))
    assert answer_key.key(loader.load([path])[0], "cpu") == answer_key.key(case, "cpu")


def test_records_without_provenance_still_load() -> None:
    """Those of earlier versions."""
    data = msgspec.to_builtins(record(accuracy(90)))
    del data["provenance"]

    assert msgspec.convert(data, Record) == record(accuracy(90))

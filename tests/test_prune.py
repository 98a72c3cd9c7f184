"""`prunebench prune` exactly as the contract says, against the oracle and plain transformers."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import transformers
from conftest import read


@pytest.fixture
def saved(tiny, ids, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tiny model and two files of token ids, as the working directory."""
    tiny("llama").hf.save_pretrained(tmp_path / "model")
    (tmp_path / "calib.json").write_text(json.dumps(ids.tolist()))
    (tmp_path / "eval.json").write_text(json.dumps(ids.flip(1).tolist()))
    monkeypatch.chdir(tmp_path)
    return tmp_path


IDS = ("--calibration-ids", "calib.json", "--eval-ids", "eval.json")


def test_the_json_has_the_contracts_keys_and_values(saved: Path, ids, cli) -> None:
    """Names, counts, plan, trace, and perplexities equal to a plain loop."""
    code, _, err = cli("prune", "./model", "--method", "sleb", "--blocks", 2, *IDS, "--json", "o")
    assert code == 0, err
    data = read(saved / "o")

    assert list(data) == [
        "method",
        "model",
        "parameters",
        "dense_parameters",
        "sparsity",
        "plan",
        "trace",
        "perplexity",
    ]
    assert data["method"] == {"name": "sleb"}
    assert data["plan"][0]["edit"] == "drop_blocks"
    assert len(data["plan"][0]["blocks"]) == 2
    assert data["sparsity"] == 1 - data["parameters"] / data["dense_parameters"]
    assert {"step", "scores", "chosen", "margin", "block_forwards"} <= set(data["trace"][0])
    assert [s["chosen"] for s in data["trace"]] == [str(b) for b in data["plan"][0]["blocks"]]
    model = transformers.AutoModelForCausalLM.from_pretrained("model").eval()
    with torch.no_grad():
        losses = [model(row[None], labels=row[None]).loss.double().item() for row in ids.flip(1)]
    ppl = data["perplexity"]
    assert ppl["dense"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-6)
    assert len(ppl["after_each_step"]) == 2
    assert ppl["after_each_step"][-1] == ppl["pruned"]


def test_the_checkpoint_reloads_in_plain_transformers(saved: Path, ids, cli) -> None:
    """--output is a folder that transformers opens, with the perplexity that was told."""
    command = ["--method", "shortened_llama", "--option", "keep_first=1", "--option", "keep_last=1"]
    code, _, err = cli("prune", "./model", *command, "--blocks", 2, *IDS, "--json", "o",
                       "--output", "out")  # fmt: skip
    assert code == 0, err
    model = transformers.AutoModelForCausalLM.from_pretrained("out").eval()
    with torch.no_grad():
        losses = [model(row[None], labels=row[None]).loss.double().item() for row in ids.flip(1)]
    data = read(saved / "o")

    assert model.config.num_hidden_layers == 4
    assert data["perplexity"]["pruned"] == pytest.approx(
        math.exp(sum(losses) / len(losses)), rel=1e-6
    )
    assert "after_each_step" not in data["perplexity"]
    assert data["method"] == {"name": "shortened_llama", "keep_first": 1, "keep_last": 1}


def test_without_eval_ids_nothing_is_evaluated(saved: Path, cli) -> None:
    """Perplexity is null, and a method that needs no data loads none."""
    code, out, _ = cli("prune", "./model", "--method", "random", "--sparsity", 0.3, "--json", "o")

    assert code == 0
    assert read(saved / "o")["perplexity"] is None
    assert "drop_blocks" in out


def test_the_oracle_through_the_command_line(shared: Path, tmp_path: Path, cli) -> None:
    """SLEB on the oracle's model and tokens: its removals and its perplexity after each."""
    theirs = read(shared / "oracles" / "depth.json")
    ids = read(shared / "oracles" / "depth_ids.json")
    for name in ("calib", "eval"):
        (tmp_path / name).write_text(json.dumps(ids[name]))
    files = ("--calibration-ids", tmp_path / "calib", "--eval-ids", tmp_path / "eval")
    model = shared / "oracles" / "model-a"
    cli("prune", model, "--method", "sleb", "--blocks", 6, *files, "--json", tmp_path / "o")
    data = read(tmp_path / "o")

    assert data["plan"] == [
        {"edit": "drop_blocks", "blocks": theirs["sleb"]["runs"]["all"]["removal_list"]}
    ]
    expected = theirs["perplexity"]["sleb_mean_of_window_means_after_removals"]
    mine = [data["perplexity"]["dense"], *data["perplexity"]["after_each_step"]]
    assert mine == pytest.approx(expected, rel=1e-5)


BAD = [
    (["--method", "slep", "--blocks", "1"], "unknown method 'slep'; did you mean 'sleb'?"),
    (["--method", "sleb"], "give exactly one of sparsity, blocks for sleb; found none"),
    (["--method", "sleb", "--blocks", "1", "--sparsity", "0.1"], "found sparsity, blocks"),
    (["--method", "sleb", "--blocks", "0"], "--blocks: found 0"),
    (["--method", "sleb", "--blocks", "5"], "at most 4 may"),
    (["--method", "sleb", "--slicing", "0.2"], "sleb takes 'sparsity' or 'blocks'"),
    (["--method", "sleb", "--blocks", "1", "--option", "keep=1"], "did you mean 'keep_"),
    (["--method", "sleb", "--blocks", "1", "--option", "keep"], "--option keep: found no '='"),
    (["--method", "sleb", "--blocks", "1", "--dtype", "float8"], "float8"),
    (["--method", "sleb", "--blocks", "1", "--eval-ids", "none.json"], "none.json: cannot be read"),
    (["--method", "sleb", "--blocks", "1", "--eval-ids", "ragged.json"], "equally long"),
    (["--method", "sleb", "--blocks", "1", "--eval-ids", "text.json"], "list of lists"),
    (["--method", "sleb", "--blocks", "1", "--eval-ids", "large.json"], "token id 99"),
    (["--method", "sleb", "--blocks", "1", "--device", "abacus"], "--device abacus"),
    (["--method", "random", "--blocks", "1", "--output", "calib.json"], "is there already"),
]


@pytest.mark.parametrize(("arguments", "says"), BAD)
def test_bad_input_is_a_line_and_writes_nothing(
    arguments: list[str], says: str, saved: Path, cli
) -> None:
    """One line on standard error, exit 2, no output folder, no JSON."""
    (saved / "ragged.json").write_text("[[1, 2, 3], [1, 2]]")
    (saved / "text.json").write_text('{"a": "b"}')
    (saved / "large.json").write_text("[[1, 99]]")
    code, _, err = cli("prune", "./model", "--calibration-ids", "calib.json", *arguments,
                       "--json", "o")  # fmt: skip

    assert code == 2
    assert says in err
    assert "Traceback" not in err
    assert not (saved / "o").exists()


def test_a_missing_model_is_one_line(saved: Path, cli) -> None:
    """A folder that is not there is named."""
    code, _, err = cli("prune", "./nowhere", "--method", "random", "--blocks", 1)

    assert code == 2
    assert "'./nowhere' cannot be loaded" in err

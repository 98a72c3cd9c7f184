"""`prunebench prune` exactly as the contract says, against the oracle and plain transformers."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
from factories import read

from prunebench.errors import PrunebenchError
from prunebench.models import export


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


@pytest.mark.slow
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
    (["--method", "random", "--blocks", "1", "--output", "calib.json"], "already exists"),
    (["--method", "sprint", "--blocks", "1"], "sprint takes 'sparsity' or 'sublayers'"),
    (["--method", "sprint"], "for sprint, or the option target_speedup; found none"),
    (["--method", "sprint", "--sublayers", "12"], "at most 11 may: the last MLP is kept"),
    (["--method", "sprint", "--sparsity", "0.99"], "all sublayers that may go are 0."),
    (["--method", "sprint", "--sublayers", "1", "--option", "norm=l3"], "allowed: l1, l2"),
    (["--method", "sprint", "--sublayers", "1", "--option", "damping=.inf"], "a finite number"),
    (["--method", "sliding_layer_merging"], "or the option threshold; found none"),
    (["--method", "sliding_layer_merging", "--blocks", "5"], "at most 4 may"),
    (["--method", "slicegpt", "--slicing", "0.99"], "less than the least width, 8"),
    (["--method", "slicegpt", "--blocks", "1"], "slicegpt takes 'sparsity' or 'slicing'"),
    (["--method", "sleb", "--blocks", "1", "--option", "name=first"], "a name is no option"),
    (["--method", "external"], "exactly one of 'checkpoint' and 'plan'"),
    (["--method", "external", "--option", "plan=none.json"], "none.json: cannot be read"),
    (["--method", "external", "--option", "checkpoint=./none"], "no such model folder: './none'"),
    (["--method", "external", "--option", "checkpoint=./model", "--blocks", "1"], "leave out"),
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


@pytest.mark.parametrize(
    ("option", "place", "says"),
    [
        ("--output", "model", "already exists and is not an empty folder"),
        ("--output", "calib.json/x", "calib.json/x: cannot be written: Not a directory"),
        ("--json", "model", "model: cannot be written: it is a folder"),
        ("--json", "calib.json/x", "calib.json/x: cannot be written: Not a directory"),
    ],
)
def test_a_place_that_takes_nothing_is_found_out_before_the_search(
    option: str, place: str, says: str, saved: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A search takes hours; where its result cannot go is known at once."""
    from prunebench.methods.sleb import Sleb

    monkeypatch.setattr(Sleb, "choose", lambda *_: pytest.fail("it searched"))

    code, _, err = cli("prune", "./model", "--method", "sleb", "--blocks", 1, *IDS, option, place)

    assert code == 2
    assert says in err
    assert sorted(p.name for p in saved.iterdir()) == ["calib.json", "eval.json", "model"]


def test_what_was_found_is_told_where_the_checkpoint_cannot_be_kept(
    saved: Path, cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full in the end costs the checkpoint, not the search."""

    def full(*_: object) -> None:
        raise PrunebenchError("out: cannot be written: No space left on device")

    monkeypatch.setattr(export, "save", full)

    code, out, err = cli("prune", "./model", "--method", "last", "--blocks", 2, "--output", "out",
                         "--json", "o")  # fmt: skip

    assert (code, err) == (2, "out: cannot be written: No space left on device\n")
    assert out.startswith("drop_blocks 5 4; sparsity")
    assert read(saved / "o")["plan"] == [{"edit": "drop_blocks", "blocks": [5, 4]}]


def test_a_device_without_numbers_is_one_line(saved: Path, cli) -> None:
    """Torch has a device for shapes alone, where nothing can be pruned or scored."""
    code, _, err = cli("prune", "./model", "--method", "sleb", "--blocks", 1, *IDS,
                       "--device", "meta")  # fmt: skip

    assert code == 2
    assert err.startswith("--device meta: ")
    assert err.count("\n") == 1


def test_a_missing_model_is_one_line(saved: Path, cli) -> None:
    """A folder that is not there is named."""
    code, _, err = cli("prune", "./nowhere", "--method", "random", "--blocks", 1)

    assert code == 2
    assert "no such model folder: './nowhere'" in err


EVERY = {
    "sleb": ["--blocks", 2],
    "shortened_llama": ["--blocks", 2, "--option", "keep_first=1", "--option", "keep_last=1"],
    "block_influence": ["--blocks", 2],
    "sprint": ["--sublayers", 2, "--option", "attn_latency=2", "--option", "mlp_latency=1"],
    "sliding_layer_merging": ["--blocks", 2],
    "slicegpt": ["--slicing", 0.25],
    "slice_global": ["--slicing", 0.25],
}
CALIBRATED = [m for m in EVERY if m != "block_influence"]


@pytest.mark.parametrize("method", EVERY)
def test_every_method_through_the_command_line(method: str, saved: Path, ids, cli) -> None:
    """The contract's keys, an edit that says everything, a checkpoint with the told perplexity."""
    code, _, err = cli("prune", "./model", "--method", method, *EVERY[method], *IDS, "--json", "o",
                       "--output", "out")  # fmt: skip
    assert code == 0, err
    data = read(saved / "o")
    fields = {
        "drop_blocks": {"edit", "blocks"},
        "drop_sublayers": {"edit", "sublayers"},
        "refit_weights": {"edit", "modules", "tensors"},
        "merge_blocks": {"edit", "ranges", "formula"},
        "slice_hidden": {"edit", "widths", "variant", "scope", "tensors"},
    }
    for edit in data["plan"]:
        assert set(edit) == fields[edit["edit"]]
        if "tensors" in edit:
            assert (saved / f"{edit['tensors']}.safetensors").is_file()
    assert "tensors" not in data
    for step in data["trace"]:
        assert {"step", "scores", "chosen", "margin", "noise", "block_forwards"} <= set(step)
    assert read(saved / "out" / "pruning.json") == {k: v for k, v in data.items() if k != "trace"}
    special = method in ("sprint", "slicegpt")
    model = transformers.AutoModelForCausalLM.from_pretrained("out", trust_remote_code=special)
    with torch.no_grad():
        losses = [model(row[None], labels=row[None]).loss.double().item() for row in ids.flip(1)]
    assert data["perplexity"]["pruned"] == pytest.approx(
        math.exp(sum(losses) / len(losses)), rel=1e-6
    )
    assert data["parameters"] == sum(p.numel() for p in model.parameters())
    assert ("after_each_step" in data["perplexity"]) == (method in ("sleb", "sprint"))
    if method == "sprint":
        assert len(data["perplexity"]["after_each_step"]) == 2
        assert data["perplexity"]["after_each_step"][-1] == data["perplexity"]["pruned"]


@pytest.mark.parametrize("method", CALIBRATED)
def test_a_model_without_a_finite_score_is_one_line(method: str, saved: Path, tiny, cli) -> None:
    """NaN on every candidate: exit 3, a plain sentence, nothing written."""
    lm = tiny("llama")
    with torch.no_grad():
        lm.hf.get_input_embeddings().weight.fill_(float("nan"))
    lm.hf.save_pretrained("broken")
    code, _, err = cli("prune", "./broken", "--method", method, *EVERY[method], *IDS, "--json", "o",
                       "--output", "out")  # fmt: skip

    assert code == 3, err
    assert "finite" in err
    assert err.count("\n") == 1
    assert not (saved / "o").exists()
    assert not (saved / "out").exists()


@pytest.mark.slow
def test_a_count_that_cannot_be_had_is_exit_3(shared: Path, tmp_path: Path, cli) -> None:
    """Sliding Layer Merging with an unreachable amount names the nearest."""
    ids = read(shared / "oracles" / "sublayer_merge_ids.json")
    (tmp_path / "calib").write_text(json.dumps(ids["calib"]))
    code, _, err = cli("prune", shared / "oracles" / "model-a", "--method", "sliding_layer_merging",
                       "--blocks", 10, "--calibration-ids", tmp_path / "calib")  # fmt: skip

    assert code == 3
    assert "the nearest counts that one removes are 9" in err


@pytest.mark.slow
@pytest.mark.usefixtures("saved")
def test_a_threshold_beside_an_amount_warns(cli) -> None:
    """A plain line on standard error, exit 0, the threshold's plan; alone it says nothing."""
    command = ["prune", "./model", "--method", "sliding_layer_merging", "--option", "threshold=1.5"]
    done = subprocess.run(
        [sys.executable, "-m", "prunebench", *command, "--blocks", "2", *IDS],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0
    assert done.stderr == (
        "warning: threshold 1.5 removes 0 blocks, not the 2 asked for; the threshold decides\n"
    )
    assert "nothing removed" in done.stdout
    code, _, err = cli(*command, *IDS)
    assert (code, err) == (0, "")

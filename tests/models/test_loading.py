"""Models of random weights, made from a config alone, and models that device_map spreads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from factories import FAMILIES, read, tiny_config

from prunebench import (
    CausalLM,
    DropBlocks,
    DropSublayers,
    MergeBlocks,
    Plan,
    PrunebenchError,
    apply,
    choose,
    lm_eval_model,
    load_model,
)
from prunebench.cases import loader
from prunebench.data import fingerprints
from prunebench.runs.functional import tensor
from prunebench.specs import CalibrationSpec, ModelSpec


@pytest.fixture
def shape(tmp_path: Path) -> Path:
    """A folder with nothing but the config of a tiny Llama."""
    tiny_config("llama").save_pretrained(tmp_path / "shape")
    return tmp_path / "shape"


def same(one: CausalLM, other: CausalLM) -> bool:
    pairs = zip(one.hf.parameters(), other.hf.parameters(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("family", FAMILIES)
def test_random_weights_need_a_config_only_and_repeat(family: str, tmp_path: Path, ids) -> None:
    """Bit-equal on repeat, whatever was drawn before, in the dtype that is asked for."""
    tiny_config(family).save_pretrained(tmp_path)
    lm = load_model(tmp_path, weights="random", dtype="bfloat16")
    torch.rand(7)
    before = torch.random.get_rng_state()

    assert same(lm, load_model(tmp_path, weights="random", dtype="bfloat16"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert {p.dtype for p in lm.hf.parameters()} == {torch.bfloat16}
    assert torch.isfinite(lm.window_nll(ids)).all()


def test_a_random_model_has_a_hash_of_its_own(shape: Path, tiny) -> None:
    """The config decides it; the same folder with real weights is another model."""
    tiny("llama").hf.save_pretrained(shape)
    drawn = fingerprints.model_hash(ModelSpec(str(shape), weights="random"))
    assert drawn != fingerprints.model_hash(ModelSpec(str(shape)))

    config = json.loads((shape / "config.json").read_text())
    (shape / "config.json").write_text(json.dumps(config))  # other white space, same model
    assert fingerprints.model_hash(ModelSpec(str(shape), weights="random")) == drawn
    (shape / "config.json").write_text(json.dumps({**config, "intermediate_size": 56}))
    assert fingerprints.model_hash(ModelSpec(str(shape), weights="random")) != drawn


def test_random_calibration_is_even_and_seeded(shape: Path) -> None:
    """Every id of the vocabulary about as often; a seed is a draw; lines and windows are one."""
    from prunebench.models.calibration import Calibration

    lm = load_model(shape, weights="random")
    spec = CalibrationSpec(dataset="random", nsamples=100, seqlen=64)
    drawn = Calibration(spec, lm).windows()
    counts = torch.bincount(drawn.flatten(), minlength=64)
    other = CalibrationSpec(dataset="random", nsamples=100, seqlen=64, seed=1)

    assert drawn.shape == (100, 64)
    assert counts.min() > 60  # of 100 expected, four standard deviations down
    assert counts.max() < 140
    assert torch.equal(drawn, Calibration(spec, lm).windows("lines"))
    assert not torch.equal(drawn, Calibration(other, lm).windows())


RANDOM_CASES = """\
model: {id: ../shape, weights: random, dtype: float32}
calibration: {dataset: random, nsamples: 4, seqlen: 16}
metrics:
  - {name: memory}
  - {name: latency, prompt_tokens: 8, new_tokens: 2, rounds: 3, warmup: 0}
matrix:
  method:
    - {name: sleb}
    - {name: sprint, refit: false, latency_aware: false}
    - {name: slicegpt}
  sparsity: [0.15]
"""


@pytest.mark.slow
def test_methods_choose_shapes_without_any_text(shape: Path, project: Path, cli) -> None:
    """A run on random weights: plans, timings, and the question says so."""
    (project / "cases" / "small.yaml").write_text(RANDOM_CASES)
    code, out, _ = cli("run", "cases", "--json", "a.json", "-q")
    records = read(project / "a.json")["records"]

    assert code == 0, out
    assert [r["plan"][0]["edit"] for r in records] == [
        "drop_blocks",
        "drop_sublayers",
        "slice_hidden",
    ]
    assert all(r["asked"]["model"]["weights"] == "random" for r in records)
    assert all(r["parameters"] < r["dense_parameters"] for r in records)


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("metrics: [{name: perplexity, dataset: tinyworld}]", "no meaningful perplexity"),
        ("metrics: [{name: accuracy, tasks: [piqa]}]", "no meaningful accuracy"),
        ("calibration: {dataset: tinyworld}", "calibrate sleb on {dataset: random}"),
    ],
)
def test_a_random_model_is_not_scored(
    line: str, says: str, shape: Path, project: Path, cli
) -> None:
    """One line per case, before anything is loaded."""
    base = "model: {id: ../shape, weights: random}\nmethod: {name: sleb}\nblocks: 1\n"
    rest = "" if line.startswith("metrics") else "metrics: [{name: memory}]\n"
    (project / "cases" / "small.yaml").write_text(f"{base}{rest}{line}\n")
    code, out, _ = cli("run", "cases", "-q", "-k", "sleb")

    assert code == 3
    assert says in out


def test_the_random_data_set_is_for_calibration_only(project: Path, cli) -> None:
    """Nothing is scored on ids without meaning; the place in the file is named."""
    case = project / "cases" / "small.yaml"
    case.write_text(
        case.read_text().replace("perplexity, dataset: tinyworld", "perplexity, dataset: random")
    )
    code, _, err = cli("check", "cases")

    assert code == 2
    assert "cases/small.yaml:4:24: found 'random', which is for calibration" in err


# --------------------------------------------------------------------------------------- spread

#: Half of a tiny Llama's blocks wait on disk and are fetched for every forward.
SPLIT = {
    "model.embed_tokens": "cpu",
    "model.rotary_emb": "cpu",
    "model.norm": "cpu",
    "lm_head": "cpu",
    **{f"model.layers.{i}": "cpu" if i < 3 else "disk" for i in range(6)},
}


@pytest.fixture
def folder(tiny, tmp_path: Path) -> Path:
    """A tiny Llama as a folder."""
    tiny("llama").hf.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("device_map", ["auto", "sequential", {"": "cpu"}, SPLIT])
def test_a_spread_model_is_the_same_model(device_map: object, folder: Path, ids) -> None:
    """Losses, parameters and greedy tokens equal those of the model in one place."""
    whole, spread = load_model(folder), load_model(folder, device_map=device_map)
    prompt = {"input_ids": ids[:1, :6], "attention_mask": torch.ones(1, 6).long()}
    told = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}

    assert spread.spread is (device_map is SPLIT)
    assert spread.device == torch.device("cpu")
    for _ in range(2):
        assert torch.equal(spread.window_nll(ids), whole.window_nll(ids))
        assert spread.num_parameters == whole.num_parameters
    assert torch.equal(spread.hf.generate(**prompt, **told), whole.hf.generate(**prompt, **told))


def test_a_spread_model_is_scored_the_same(folder: Path, letters) -> None:
    """Choices on one context, and a head that fetches its weights for every forward."""
    from lm_eval.api.instance import Instance

    pairs = [("the cat", f" {word}") for word in ("sat", "ran", "eats")]
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    scores = []
    for lm in (load_model(folder), load_model(folder, device_map=SPLIT)):
        lm.tokenizer = letters
        scores.append(lm_eval_model(lm).loglikelihood(asked, disable_tqdm=True))

    assert scores[0] == scores[1]


@pytest.mark.parametrize(
    "plan",
    [
        Plan((DropBlocks((1, 4)),)),
        Plan((DropSublayers(((0, "attn"), (4, "mlp"), (5, "attn"))),)),
    ],
)
def test_parts_of_a_spread_model_can_go(plan: Plan, folder: Path, ids) -> None:
    """Removing from a share gives the same losses, and leaves the dense model as it was."""
    spread = load_model(folder, device_map=SPLIT)
    expected = apply(load_model(folder), plan)
    dense = spread.window_nll(ids)
    pruned = apply(spread.share(), plan)

    assert torch.equal(pruned.window_nll(ids), expected.window_nll(ids))
    assert pruned.num_parameters == expected.num_parameters
    assert torch.equal(spread.window_nll(ids), dense)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("sleb", {"blocks": 2}),
        ("shortened_llama", {"blocks": 1, "criterion": "ppl", "keep_first": 1, "keep_last": 1}),
        ("block_influence", {"blocks": 2}),
        ("sprint", {"sublayers": 3, "refit": False, "latency_aware": False}),
    ],
)
def test_searches_of_parts_decide_the_same_when_spread(
    method: str, options: dict, folder: Path, ids
) -> None:
    """Every score too, bit for bit."""
    whole, spread = load_model(folder), load_model(folder, device_map=SPLIT)
    expected = choose(whole, method, calibration=ids, **options)
    found = choose(spread, method, calibration=ids, **options)

    assert found.edits == expected.edits
    assert [s.scores for s in found.trace] == [s.scores for s in expected.trace]


@pytest.mark.parametrize(
    ("method", "options", "says"),
    [
        ("slicegpt", {"slicing": 0.25}, "cutting the width"),
        ("slice_global", {"slicing": 0.25}, "cutting the width"),
        ("sliding_layer_merging", {"blocks": 2}, "merging blocks"),
        ("sprint", {"sublayers": 2}, "refitting weights"),
        ("shortened_llama", {"blocks": 1, "keep_first": 1, "keep_last": 1}, "criterion taylor"),
    ],
)
def test_what_needs_weights_side_by_side_is_refused(
    method: str, options: dict, says: str, folder: Path, ids
) -> None:
    """One line that says what cannot be done and what can."""
    spread = load_model(folder, device_map=SPLIT)
    with pytest.raises(PrunebenchError, match=f"{says} needs the whole model on one device"):
        choose(spread, method, calibration=tensor(ids), **options)
    with pytest.raises(PrunebenchError, match="merging blocks needs the whole model"):
        apply(spread, Plan((MergeBlocks(((1, 2),)),)))


def test_device_maps_in_case_files(project: Path, cli) -> None:
    """A word or a mapping; anything else is named with its place, and the question keeps it."""
    case = project / "cases" / "small.yaml"
    text = case.read_text()
    case.write_text(text.replace("dtype: float32", "dtype: float32, device_map: auto"))
    (loaded,) = loader.load([case])
    assert loaded.asked["model"]["device_map"] == "auto"
    case.write_text(text.replace("dtype: float32", "dtype: float32, device_map: all"))
    code, _, err = cli("check", "cases")

    assert code == 2
    assert "cases/small.yaml:1:" in err
    assert "'all'" in err


@pytest.mark.slow
def test_a_spread_model_goes_the_whole_way(project: Path, cli) -> None:
    """Search, scores and counts of a run are bit-equal to those of the model in one place."""
    map_ = {"model.embed_tokens": "cpu", "model.rotary_emb": "cpu", "model.norm": "cpu"}
    map_ |= {"lm_head": "cpu"} | {
        f"model.layers.{i}": "disk" if i % 2 else "cpu" for i in range(12)
    }
    text = (
        "calibration: {dataset: tinyworld, nsamples: 2, seqlen: 32}\n"
        "metrics:\n"
        "  - {name: perplexity, dataset: tinyworld, seqlen: 64, nsamples: 4}\n"
        "  - {name: accuracy, tasks: [tinyworld_facts], limit: 8}\n"
        "  - {name: compute, tokens: 16}\n"
        "matrix: {method: [{name: sleb, calibration_unit: windows}], blocks: [1, 2]}\n"
    )
    (project / "cases" / "small.yaml").unlink()
    for name, more in (("whole", ""), ("spread", f", device_map: {json.dumps(map_)}")):
        model = f"model: {{id: prunebench/reference, dtype: float32{more}}}\n"
        (project / "cases" / f"{name}.yaml").write_text(model + text)
    code, out, _ = cli("run", "cases", "--json", "a.json", "-q")
    assert code == 0, out
    spread, whole = (read(project / "a.json")["records"][i : i + 2] for i in (0, 2))

    assert spread[0]["asked"]["model"]["device_map"] == map_
    for one, other in zip(spread, whole, strict=True):
        for key in ("plan", "trace", "measurements", "parameters", "model_hash"):
            assert one[key] == other[key], key

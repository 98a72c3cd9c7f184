"""Plans that came from elsewhere: removal lists, saved plans with tensors, other checkpoints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from factories import FAMILIES, read

import prunebench
from prunebench import PrunebenchError
from prunebench.edits.drop_blocks import DropBlocks
from prunebench.edits.drop_sublayers import DropSublayers
from prunebench.models import export, plan_files

LISTS = [
    ("[5, 3, 9]", "blocks", (DropBlocks((5, 3, 9)),)),
    ("5,3,9", "blocks", (DropBlocks((5, 3, 9)),)),
    ("5\n3\n9\n", "blocks", (DropBlocks((5, 3, 9)),)),
    ("7\n", "blocks", (DropBlocks((7,)),)),
    ('{"removal_list": [5, 3], "model": "x"}', "blocks", (DropBlocks((5, 3)),)),
    ("20 2 5", "sublayers", (DropSublayers(((10, "attn"), (1, "attn"), (2, "mlp"))),)),
    ('[[10, "attn"], [2, "mlp"]]', "blocks", (DropSublayers(((10, "attn"), (2, "mlp"))),)),
    ('["10.attn", "2.mlp"]', "blocks", (DropSublayers(((10, "attn"), (2, "mlp"))),)),
    ('[4, "2.mlp"]', "blocks", (DropBlocks((4,)), DropSublayers(((2, "mlp"),)))),
    (
        '{"model_type": "llama", "drop_attn_list": [1, 2], "drop_mlp_list": [3]}',
        "blocks",
        (DropSublayers(((1, "attn"), (2, "attn"), (3, "mlp"))),),
    ),
    ('{"plan": [{"edit": "drop_blocks", "blocks": [1]}]}', "blocks", (DropBlocks((1,)),)),
    ('[{"edit": "drop_blocks", "blocks": [1]}]', "blocks", (DropBlocks((1,)),)),
]


@pytest.mark.parametrize(("text", "unit", "edits"), LISTS)
def test_removal_lists_are_read(text: str, unit: str, edits: Any, tmp_path: Path) -> None:
    """JSON, CSV, plain text; blocks, sublayers by name or by SPRINT's numbers."""
    path = tmp_path / "list"
    path.write_text(text)

    assert plan_files.imported(path, unit).edits == edits


BAD = [
    ("[1, 1]", "1 is listed twice"),
    ("[-1]", "found '-1', expected a number or like '3.attn'"),
    ("[1.5]", "found '1.5'"),
    ("[true]", "found 'True'"),
    ("first second", "found 'first'"),
    ("[]", "no list of what was removed"),
    ("", "no list of what was removed"),
    ("[1, 2", "not valid JSON"),
    ('{"what": [1]}', "expected a list under one of removal_list"),
    ('{"removed": [1], "order": [1]}', "found removed, order"),
    ('{"plan": [{"edit": "drop_everything"}]}', "no plan: Invalid value 'drop_everything'"),
    ('{"plan": [{"edit": "drop_blocks", "blocks": ["a"]}]}', "no plan: Expected `int`"),
]


@pytest.mark.parametrize(("text", "says"), BAD)
def test_what_is_no_removal_list_is_one_line(text: str, says: str, tmp_path: Path, cli) -> None:
    """Exit 2, the file is named, nothing is written."""
    (tmp_path / "list").write_text(text)
    code, _, err = cli("import-plan", tmp_path / "list", "--output", tmp_path / "plan.json")

    assert code == 2
    assert says in err
    assert err.count("\n") == 1
    assert str(tmp_path / "list") in err
    assert not (tmp_path / "plan.json").exists()


def test_a_ranking_is_cut(tmp_path: Path, cli) -> None:
    """The published block orders list every block; --count takes the first ones."""
    (tmp_path / "order.csv").write_text("11,8,24,21,12")
    code, out, _ = cli("import-plan", tmp_path / "order.csv", "--count", 2)

    assert code == 0
    assert json.loads(out)["plan"] == [{"edit": "drop_blocks", "blocks": [11, 8]}]
    code, _, err = cli("import-plan", tmp_path / "order.csv", "--count", 9)
    assert (code, "9 are asked for, it lists 5" in err) == (2, True)


def test_a_list_is_checked_against_a_model(tmp_path: Path, cli) -> None:
    """Only the config is read; a block that is not there is named."""
    (tmp_path / "list").write_text("[3, 12]")
    code, _, err = cli("import-plan", tmp_path / "list", "--model", "prunebench/reference")

    assert code == 2
    assert "the plan drops block 12; prunebench/reference has 0 to 11" in err
    code, _, err = cli("import-plan", tmp_path / "list", "--model", tmp_path / "none")
    assert (code, "no such model folder" in err) == (2, True)


def test_a_plan_of_ours_keeps_its_tensors_and_is_cut_where_it_can_be(
    tiny, ids, tmp_path: Path, cli
) -> None:
    """Tensors go along into another folder; what is no list of removals is not cut, in one line."""
    lm = tiny("llama")
    lm.hf.save_pretrained(tmp_path / "model")
    (tmp_path / "ids").write_text(json.dumps(ids.tolist()))
    source, copied = tmp_path / "plan.json", tmp_path / "other" / "copy.json"
    options = ("--option", "attn_latency=2", "--option", "mlp_latency=1", "--sublayers", 3)
    cli("prune", tmp_path / "model", "--method", "sprint", *options,
        "--calibration-ids", tmp_path / "ids", "--json", source)  # fmt: skip
    code, _, err = cli("import-plan", source, "--output", copied)
    assert code == 0, err
    first, second = (prunebench.apply(lm.share(), plan_files.read(p)) for p in (source, copied))
    with torch.no_grad():
        assert torch.equal(first.hf(ids).logits, second.hf(ids).logits)

    for path, count in ((source, 2), (tmp_path / "merge.json", 1)):
        (tmp_path / "merge.json").write_text(
            '{"plan": [{"edit": "merge_blocks", "ranges": [[1, 4]], "formula": "as_released"}]}'
        )
        code, _, err = cli("import-plan", path, "--count", count)
        assert code == 2
        assert "only a list of removals can be cut short" in err
        assert err.count("\n") == 1


METHODS = {
    "sleb": {"blocks": 2},
    "sprint": {"sublayers": 4, "attn_latency": 2.0, "mlp_latency": 1.0},
    "sliding_layer_merging": {"blocks": 2},
    "slicegpt": {"slicing": 0.25},
    "slice_global": {"slicing": 0.25},
}
COMBINATIONS = [(f, m) for f in FAMILIES for m in METHODS if (f, m) != ("opt", "slice_global")]


@pytest.mark.parametrize(("family", "method"), COMBINATIONS)
def test_a_plan_replays_bit_for_bit(family: str, method: str, tiny, ids, tmp_path: Path) -> None:
    """Saved with its tensors, read in and applied to a fresh model: the searched one's logits."""
    lm = tiny(family)
    plan = prunebench.choose(lm, method, calibration=ids, **METHODS[method])
    searched = prunebench.apply(lm.share(), plan)
    path = tmp_path / "plan.json"
    from prunebench.system.files import write_json

    write_json(path, {"plan": plan.edits, "trace": plan.trace})
    if plan.tensors is not None:
        plan.tensors.save(tmp_path)
    again = plan_files.read(path)
    replayed = prunebench.apply(tiny(family), again)

    assert again.edits == plan.edits
    assert again.trace == plan.trace
    with torch.no_grad():
        assert torch.equal(replayed.hf(ids).logits, searched.hf(ids).logits)


EXTERNAL = """\
model: {{id: prunebench/reference, dtype: float32}}
metrics:
  - {{name: perplexity, dataset: tinyworld, seqlen: 128, nsamples: 8}}
  - {{name: memory}}
method: {{name: external, {0}}}
"""


def answer(cli, folder: Path, what: str, *more: object) -> tuple[int, Any, str]:
    (folder / "cases").mkdir(exist_ok=True)
    (folder / "cases" / "given.yaml").write_text(EXTERNAL.format(what))
    out = folder / "out.json"
    out.unlink(missing_ok=True)
    code, _, err = cli("run", "cases", "--json", out, "-q", *more)
    return code, read(out) if out.exists() else None, err


def value(data: Any, metric: str) -> float:
    (record,) = data["records"]
    return next(m["value"] for m in record["measurements"] if m["metric"] == metric)


@pytest.mark.slow
def test_a_checkpoint_is_scored_beside_the_dense_model(tmp_path: Path, cli, monkeypatch) -> None:
    """Our own export and another family's folder: the same table, parameters against dense."""
    monkeypatch.chdir(tmp_path)
    lm = prunebench.load_model("prunebench/reference", dtype="float32")
    plan = prunebench.Plan((DropSublayers(((2, "mlp"), (0, "mlp"))),))
    pruned = prunebench.apply(lm.share(), plan)
    export.save(pruned, tmp_path / "pruned")
    code, data, err = answer(cli, tmp_path, "checkpoint: ../pruned")
    (record,) = data["records"]

    assert code == 0, err
    assert record["case_id"] == "given/external-pruned"
    assert record["plan"][0]["edit"] == "load_checkpoint"
    assert record["plan"][0]["checkpoint"] == "./pruned"
    assert record["parameters"] == pruned.num_parameters
    assert record["dense_parameters"] == lm.num_parameters
    from prunebench.models.calibration import evaluation_windows

    ids = evaluation_windows("tinyworld", lm, 128, 8)
    assert value(data, "perplexity/tinyworld") == prunebench.perplexity(pruned, ids)
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=196)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "pruned2")
    code, data, err = answer(cli, tmp_path, "checkpoint: ../pruned2")
    assert code == 0, err
    assert value(data, "perplexity/tinyworld") > 100


@pytest.mark.slow
def test_a_changed_checkpoint_is_measured_again(tmp_path: Path, cli, monkeypatch) -> None:
    """The store knows it by content: same files are reused, other weights are not."""
    monkeypatch.chdir(tmp_path)
    lm = prunebench.load_model("prunebench/reference", dtype="float32")
    folder = tmp_path / "pruned"
    first, second = (
        prunebench.apply(lm.share(), prunebench.Plan((DropBlocks((b,)),))) for b in (7, 1)
    )
    export.save(first, folder)
    _, before, _ = answer(cli, tmp_path, "checkpoint: ../pruned")
    _, same, _ = answer(cli, tmp_path, "checkpoint: ../pruned")
    second.hf.save_pretrained(folder)
    _, after, _ = answer(cli, tmp_path, "checkpoint: ../pruned")

    created = [d["records"][0]["key"] for d in (before, same, after)]
    assert created[0] == created[1] != created[2]
    assert value(after, "perplexity/tinyworld") > value(before, "perplexity/tinyworld")


def test_another_vocabulary_is_refused(tmp_path: Path, cli, monkeypatch) -> None:
    """Its scores would answer other questions: one line, exit 3, both sizes."""
    monkeypatch.chdir(tmp_path)
    config = transformers.GPT2Config(n_layer=1, n_embd=8, n_head=2, vocab_size=50)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "other")
    code, data, _ = answer(cli, tmp_path, "checkpoint: ../other")

    assert code == 3
    assert "a vocabulary of 50 tokens, the dense model one of 196" in data["verdicts"][0]["error"]


def test_an_imported_plan_is_a_case(tmp_path: Path, cli, monkeypatch) -> None:
    """import-plan, then a case with it: the removals that were listed."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "theirs.txt").write_text("7 6")
    code, out, err = cli("import-plan", "theirs.txt", "--output", "theirs.json")
    assert code == 0, err
    assert "method: {name: external, plan: ./theirs.json}" in out
    code, data, err = answer(cli, tmp_path, "plan: ../theirs.json")

    assert code == 0, err
    assert data["records"][0]["plan"] == [{"edit": "drop_blocks", "blocks": [7, 6]}]


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("checkpoint: ./none", "no such model folder: './none'"),
        ("plan: ./none.json", "no such plan file: './none.json'"),
        ("checkpoint: a/b, plan: ./x", "no such plan file"),
        ("checkpoint: a/b}\nsparsity: 0.3\nmarks: [slow", None),
        ("seed: 1", "unknown key 'seed'"),
    ],
)
def test_bad_external_cases_are_told(what: str, says: str | None, tmp_path: Path, cli) -> None:
    """File, line and column; exit 2."""
    path = tmp_path / "given.yaml"
    path.write_text(EXTERNAL.format(what) if says else EXTERNAL.format(what).rstrip("}\n") + "]\n")
    code, _, err = cli("check", path)

    assert code == 2
    assert (says or "external takes what it is given; leave out 'sparsity'") in err
    assert f"{path}:" in err


def test_external_takes_one_thing() -> None:
    """Neither or both is refused."""
    for options in ({}, {"checkpoint": "a/b", "plan": "x.json"}):
        with pytest.raises(PrunebenchError, match="exactly one of 'checkpoint' and 'plan'"):
            prunebench.choose(None, "external", **options)

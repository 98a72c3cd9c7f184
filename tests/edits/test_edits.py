"""Every edit on every family: identities, decoding, checkpoints, and plans that do not fit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from factories import FAMILIES, slicing, tiny_config

import prunebench
from prunebench import CausalLM, DropBlocks, DropSublayers, Plan, PrunebenchError
from prunebench.edits.merge_blocks import MergeBlocks
from prunebench.edits.refit_weights import RefitWeights
from prunebench.edits.slice_hidden import SliceHidden
from prunebench.models import export
from prunebench.models.rotation import STAGE
from prunebench.models.tensors import Tensors
from prunebench.models.widths import parameter_count

SUBLAYERS = (
    ((0, "attn"), (1, "attn"), (3, "attn"), (3, "mlp"), (5, "mlp")),
    ((0, "mlp"), (2, "attn"), (4, "attn"), (1, "attn")),
)


def refit(lm: CausalLM) -> Plan:
    """Block 1's MLP writes twice what it did, block 2 loses its attention."""
    name = f"{lm.family.blocks}.1.{lm.family.mlp_out}"
    tensors = Tensors()
    sha256 = tensors.add({name: 2 * lm.hf.get_submodule(name).weight})
    drop = DropSublayers(((2, "attn"),))
    return Plan((drop, RefitWeights((name,), sha256)), tensors=tensors)


EDITS: dict[str, Callable[[CausalLM], Plan]] = {
    "sublayers": lambda _: Plan((DropSublayers(SUBLAYERS[0]),)),
    "sublayers-2": lambda _: Plan((DropSublayers(SUBLAYERS[1]),)),
    "merge": lambda _: Plan((MergeBlocks(((3, 4), (0, 2))),)),
    "merge-published": lambda _: Plan((MergeBlocks(((2, 4),), "as_published"),)),
    "refit": refit,
    "slice": lambda lm: slicing(lm, 24, "block"),
    "slice-global": lambda lm: slicing(lm, 24, "global"),
}


def edited(edit: str, lm: CausalLM) -> CausalLM:
    return prunebench.apply(lm.share(), EDITS[edit](lm))


every_family = pytest.mark.parametrize("family", FAMILIES)
#: A narrower OPT is no plain checkpoint, which is refused; a test below says so.
every_edit = pytest.mark.parametrize(
    ("family", "edit"),
    [(f, e) for f in FAMILIES for e in EDITS if (f, e) != ("opt", "slice-global")],
)
every_scope = pytest.mark.parametrize(
    ("family", "scope"),
    [(f, s) for f in FAMILIES for s in ("block", "global") if (f, s) != ("opt", "global")],
)


def logits(lm: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return (lm.hf if isinstance(lm, CausalLM) else lm)(ids).logits


@every_family
@pytest.mark.parametrize("sublayers", SUBLAYERS)
def test_dropping_a_half_equals_silencing_it(family: str, sublayers, tiny, ids) -> None:
    """Without a half the logits are those of a model whose half writes zeros, bit for bit."""
    lm, silent = tiny(family), tiny(family)
    for block, part in sublayers:
        name = lm.family.attn_out if part == "attn" else lm.family.mlp_out
        linear = silent.blocks[block].get_submodule(name)
        with torch.no_grad():
            for parameter in linear.parameters():
                parameter.zero_()
    dropped = prunebench.apply(lm.share(), Plan((DropSublayers(sublayers),)))

    assert torch.equal(logits(dropped, ids), logits(silent, ids))
    whole = [b for b in range(6) if {(b, "attn"), (b, "mlp")} <= set(sublayers)]
    assert len(dropped.blocks) == dropped.hf.config.num_hidden_layers == 6 - len(whole)
    expected = lm.gone(sublayers)[-1]
    assert 1 - dropped.num_parameters / lm.num_parameters == pytest.approx(expected)


@every_edit
def test_the_dense_model_is_left_alone(edit: str, family: str, tiny, ids) -> None:
    """Editing a share changes no tensor and no config of the model it shares with."""
    lm = tiny(family)
    before, config = logits(lm, ids), lm.hf.config.to_dict()
    edited(edit, lm)

    assert torch.equal(logits(lm, ids), before)
    assert lm.hf.config.to_dict() == config


@every_edit
def test_decoding_agrees_however_it_is_done(edit: str, family: str, tiny, ids) -> None:
    """Greedy, left-padded, beam search and a static cache give what no cache gives."""
    hf = edited(edit, tiny(family)).hf
    options = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0}
    prompt = {"input_ids": ids[:2, :10], "attention_mask": torch.ones(2, 10).long()}
    padded = {**prompt, "attention_mask": torch.tensor([[0] * 3 + [1] * 7, [1] * 10])}
    for inputs, more in [(prompt, {}), (padded, {}), (prompt, {"num_beams": 3})]:
        plain = hf.generate(**inputs, **options, **more, use_cache=False)

        assert torch.equal(hf.generate(**inputs, **options, **more), plain)
    plain = hf.generate(**prompt, **options, use_cache=False)
    assert torch.equal(hf.generate(**prompt, **options, cache_implementation="static"), plain)
    states = hf(ids, output_hidden_states=True).hidden_states
    assert len(states) == hf.config.num_hidden_layers + 1


@pytest.mark.parametrize("lost", [(0,), (0, 2), (0, 1, 2), (1, 5), (0, 2, 5), (5, 0, 1, 3, 4)])
@pytest.mark.parametrize("family", ["qwen2", "qwen3"])
def test_caches_hold_where_layer_types_mix(family: str, lost: tuple[int, ...], ids) -> None:
    """Whichever attentions go, the first place of each layer type is in use and of that type."""
    config = tiny_config(family)
    config.use_sliding_window, config.sliding_window = True, 6
    full, sliding = "full_attention", "sliding_attention"
    config.layer_types = [full, sliding, full, sliding, sliding, full]
    torch.manual_seed(0)
    lm = CausalLM(transformers.AutoModelForCausalLM.from_config(config).eval())
    with torch.no_grad():
        for parameter in lm.hf.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    hf = prunebench.apply(lm, Plan((DropSublayers(tuple((b, "attn") for b in lost)),))).hf
    options = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    padded = torch.tensor([[0] * 3 + [1] * 7, [1] * 10])
    for mask in (torch.ones(2, 10).long(), padded):
        prompt = {"input_ids": ids[:2, :10], "attention_mask": mask, **options}
        plain = hf.generate(**prompt, use_cache=False)

        assert torch.equal(hf.generate(**prompt), plain)
        assert torch.equal(hf.generate(**prompt, num_beams=2),
                           hf.generate(**prompt, num_beams=2, use_cache=False))  # fmt: skip


@every_edit
def test_a_checkpoint_is_the_model(edit: str, family: str, tiny, ids, tmp_path: Path) -> None:
    """Saved, reloaded by us and by AutoModel: same logits, same parameters, same config."""
    lm = edited(edit, tiny(family))
    export.save(lm, tmp_path / "out")
    again = prunebench.load_model(tmp_path / "out", dtype="float32")
    special = edit in ("sublayers", "sublayers-2", "refit", "slice")
    auto = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "out", trust_remote_code=special
    )

    assert torch.equal(logits(again, ids), logits(lm, ids))
    assert torch.equal(logits(auto.eval(), ids), logits(lm, ids))
    written = [
        hf.generate(ids[:2, :10], max_new_tokens=8, do_sample=False, pad_token_id=0)
        for hf in (auto, lm.hf)
    ]
    assert torch.equal(*written)
    assert again.num_parameters == lm.num_parameters == sum(p.numel() for p in auto.parameters())
    assert (tmp_path / "out" / export.CODE).exists() is special
    assert (again.hf.config.model_type == family) is not special
    with pytest.raises(PrunebenchError, match="already exists"):
        export.save(lm, tmp_path / "out")


@pytest.mark.slow
def test_a_checkpoint_opens_without_prunebench(tiny, ids, tmp_path: Path) -> None:
    """A process that cannot import us reloads it by its own model file, and refuses without."""
    lm = edited("sublayers", tiny("qwen2"))
    export.save(lm, tmp_path / "out")
    torch.save({"ids": ids, "logits": logits(lm, ids)}, tmp_path / "expected.pt")
    program = f"""
import sys
sys.modules["prunebench"] = None
import torch, transformers
expected = torch.load({str(tmp_path / "expected.pt")!r})
load, folder = transformers.AutoModelForCausalLM.from_pretrained, {str(tmp_path / "out")!r}
hf = load(folder, trust_remote_code=True)
with torch.no_grad():
    assert torch.equal(hf.eval()(expected["ids"]).logits, expected["logits"])
try:
    load(folder, trust_remote_code=False)
except ValueError as error:
    print("refused")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=tmp_path
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "refused"


@every_scope
def test_a_full_rotation_changes_no_logit(scope: str, family: str, tiny, ids) -> None:
    """Uncut random rotations leave the function as it was, in float64 to rounding."""
    lm = tiny(family)
    lm.hf.double()
    rotated = prunebench.apply(lm.share(), slicing(lm, lm.hf.config.hidden_size, scope))

    # The families' own norms and rotary angles round to float32 inside.
    assert torch.allclose(logits(rotated, ids), logits(lm, ids), atol=1e-5, rtol=0)


@every_family
def test_a_sliced_model_is_the_dense_one_with_its_stream_projected(family: str, tiny, ids) -> None:
    """Before each norm the state goes through Q Q^T; nothing else of the dense model changes."""
    from prunebench.methods._slicing import fused, projected
    from prunebench.models.rotation import Norms
    from prunebench.models.stream import Stream

    lm = tiny(family)
    plan = slicing(lm, 24, "block")
    bundle = plan.tensors[plan.edits[0].tensors]
    stages = [bundle[STAGE.format(i)] for i in range(12)]
    norms = Norms(lm, "exact")
    (batch,) = Stream(lm, ids).batches
    with torch.no_grad():
        state = batch.entering
        if norms.layer_norm:
            state = state - state.mean(-1, keepdim=True)
        for index in range(6):
            block = fused(lm, norms, index)
            for half in lm.family.halves:
                state = projected(state, stages.pop(0))
                state = state + batch.branch(block, index, half, state)
        expected = batch.loss(lm, state)
    sliced = prunebench.apply(lm.share(), plan)

    assert sliced.window_nll(ids).tolist() == pytest.approx(expected.tolist(), rel=1e-5)


@every_scope
def test_parameters_are_foretold(scope: str, family: str, tiny) -> None:
    """The count at a width, told without slicing, is the count of the sliced model."""
    lm = tiny(family)
    count = parameter_count(lm, scope)
    for kept in (8, 16, 24, 32):
        sliced = prunebench.apply(lm.share(), slicing(lm, kept, scope))

        assert count(kept) == sliced.num_parameters


def test_parameters_of_a_sliced_llama_follow_the_formula(tiny) -> None:
    """V d + L (d (2H + 2K + 3F) + 2 d^2) + V D, the last block's output and shortcut D wide."""
    lm = tiny("llama")
    v, d, full, f, h, k, depth = 64, 24, 32, 48, 32, 16, 6
    layers = depth * (d * (2 * h + 2 * k + 3 * f) + 2 * d * d) + (full - d) * (f + d)

    assert parameter_count(lm, "block")(d) == v * d + layers + v * full


def test_opt_without_projections_is_sliced_too(ids) -> None:
    """The released models beyond 350m have none; their head gains the final norm's shift."""
    config = tiny_config("opt")
    config.word_embed_proj_dim = config.hidden_size
    torch.manual_seed(0)
    hf = transformers.OPTForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in hf.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    lm = CausalLM(hf)
    rotated = prunebench.apply(lm.share(), slicing(lm, 32, "block"))

    assert torch.allclose(logits(rotated, ids), logits(lm, ids), atol=2e-5, rtol=0)
    assert rotated.hf.lm_head.bias is not None
    assert rotated.hf.lm_head.weight is not rotated.hf.get_input_embeddings().weight
    assert parameter_count(lm, "block")(32) == rotated.num_parameters


@every_family
def test_merging_as_released_is_the_top_block_with_the_bottoms_norms(
    family: str, tiny, ids
) -> None:
    """The released in-place loop, literally, gives the same block up to float rounding."""
    lm, literal = tiny(family), tiny(family)
    low, high = 1, 4
    for name, module in literal.blocks[low].named_modules():
        if isinstance(module, torch.nn.Linear):
            with torch.no_grad():
                for k in range(low, high + 1):
                    weight = lm.blocks[k].get_submodule(name).weight
                    module.weight.add_(weight - module.weight)
    literal.keep([i for i in range(6) if not low < i <= high])
    merged = prunebench.apply(lm.share(), Plan((MergeBlocks(((low, high),)),)))

    assert torch.allclose(logits(merged, ids), logits(literal, ids), atol=1e-4, rtol=0)
    assert {p.data_ptr() for p in merged.hf.parameters()} <= {
        p.data_ptr() for p in lm.hf.parameters()
    }, "a merged block takes no memory of its own"


def test_merging_as_published_is_the_papers_equation(tiny) -> None:
    """W = sum of all, less (count - 1) times the lowest; norms are the lowest's."""
    lm = tiny("qwen3")
    merged = prunebench.apply(lm.share(), Plan((MergeBlocks(((1, 3),), "as_published"),)))
    name = "mlp.up_proj.weight"
    weights = [lm.blocks[k].get_parameter(name) for k in (1, 2, 3)]

    assert torch.allclose(
        merged.blocks[1].get_parameter(name), sum(weights) - 2 * weights[0], atol=1e-6
    )
    norm = merged.blocks[1].input_layernorm.weight
    assert norm.data_ptr() == lm.blocks[1].input_layernorm.weight.data_ptr()


BAD = [
    (DropSublayers(((6, "attn"),)), "drops a sublayer of block 6; this model has 0 to 5"),
    (DropSublayers(((1, "mlp"), (1, "mlp"))), "twice"),
    (MergeBlocks(((3, 3),)), "no range"),
    (MergeBlocks(((2, 4), (4, 5))), "merges block 4 twice"),
    (MergeBlocks(((4, 6),)), "merges block 6"),
    (RefitWeights(("model.layers.9.mlp.down_proj",)), "not there"),
    (RefitWeights(("model.layers.1.mlp.down_proj",)), "with nothing, expected"),
    (SliceHidden((24,) * 11), "11 widths; this model has 12"),
    (SliceHidden((24,) * 12), "turns stage 0 by nothing"),
]


@pytest.mark.parametrize(("edit", "says"), BAD)
def test_a_plan_that_does_not_fit_changes_nothing(edit, says: str, tiny, ids) -> None:
    """One line, and the model is as before, also where a sound edit stands first."""
    lm = tiny("llama")
    before = logits(lm, ids)
    with pytest.raises(PrunebenchError, match=says):
        prunebench.apply(lm, Plan((DropBlocks((0,)), edit)))

    assert torch.equal(logits(lm, ids), before)


def test_a_block_cannot_go_whole_and_in_part(tiny) -> None:
    """Two edits that contradict each other are refused."""
    plan = Plan((DropBlocks((2,)), DropSublayers(((2, "mlp"),))))
    with pytest.raises(PrunebenchError, match="twice"):
        prunebench.apply(tiny("llama"), plan)


def test_slicing_per_block_and_removing_exclude_each_other(tiny) -> None:
    """One rotation for the whole model goes together with removals; one per norm does not."""
    lm = tiny("llama")
    drop = DropBlocks((2,))
    for scope in ("block", "global"):
        plan = slicing(lm, 24, scope)
        both = Plan((*plan.edits, drop), tensors=plan.tensors)
        if scope == "block":
            with pytest.raises(PrunebenchError, match="turned otherwise"):
                prunebench.apply(lm.share(), both)
        else:
            assert len(prunebench.apply(lm.share(), both).blocks) == 5


def test_a_plan_without_its_tensors_is_told(tiny) -> None:
    """The hash is named."""
    plan = Plan((RefitWeights(("x",), "abcdef0123456789"),), tensors=Tensors())
    with pytest.raises(PrunebenchError, match=r"tensors abcdef012345\.\.\., which are missing"):
        prunebench.apply(tiny("llama"), plan)


def test_tensors_are_files_named_by_their_hash(tmp_path: Path) -> None:
    """Saved, checked by an ordinary sha256, read back equal; a damaged file is refused."""
    import hashlib

    tensors = Tensors()
    sha256 = tensors.add({"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2).half()})
    (path,) = tensors.save(tmp_path)
    assert path.name == f"{hashlib.sha256(path.read_bytes()).hexdigest()}.safetensors"
    again = Tensors()
    again.load(tmp_path, sha256)
    assert torch.equal(again[sha256]["b"], tensors[sha256]["b"])
    assert again == tensors
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(PrunebenchError, match="damaged"):
        Tensors().load(tmp_path, sha256)
    with pytest.raises(PrunebenchError, match="cannot be read"):
        Tensors().load(tmp_path, "0" * 64)


TAKING_OUT = {
    "sleb": {"blocks": 1},
    "shortened_llama": {"blocks": 1, "criterion": "magnitude", "keep_first": 0, "keep_last": 0},
    "block_influence": {"blocks": 1},
    "random": {"blocks": 1},
    "sprint": {"sublayers": 1, "latency_aware": False},
    "sliding_layer_merging": {"blocks": 1},
    "slicegpt": {"slicing": 0.25},
    "slice_global": {"slicing": 0.25},
}


@pytest.mark.parametrize("method", TAKING_OUT)
def test_nothing_is_taken_out_of_a_sliced_model(method: str, tiny, ids) -> None:
    """Its blocks read and write in different bases, so one less would leave nonsense: refused."""
    lm = prunebench.apply(tiny("llama"), slicing(tiny("llama"), 24, "block"))
    before = logits(lm, ids)
    with pytest.raises(PrunebenchError, match="rotated"):
        prunebench.apply(
            lm, prunebench.choose(lm, method, calibration=ids, **TAKING_OUT[method])
        )  # fmt: skip

    assert torch.equal(logits(lm, ids), before)


@pytest.mark.parametrize("method", ["sleb", "slicegpt"])
def test_a_globally_sliced_model_can_be_pruned_further(method: str, tiny, ids) -> None:
    """It is a plain, narrower model with one basis: everything works on it."""
    lm = prunebench.apply(tiny("llama"), slicing(tiny("llama"), 24, "global"))
    plan = prunebench.choose(lm, method, calibration=ids, **TAKING_OUT[method])

    assert torch.isfinite(prunebench.apply(lm.share(), plan).window_nll(ids)).all()


def post_norm_opt() -> CausalLM:
    config = tiny_config("opt")
    config.do_layer_norm_before = False
    return CausalLM(transformers.OPTForCausalLM(config).eval())


def test_a_post_norm_model_is_dropped_whole_only(ids) -> None:
    """OPT-350m normalises after each half: blocks may go, halves and widths are refused."""
    lm = post_norm_opt()
    for method in ("sleb", "sliding_layer_merging"):
        plan = prunebench.choose(lm, method, blocks=1, calibration=ids)
        assert len(prunebench.apply(lm.share(), plan).blocks) == 5
    for method, amount in (("sprint", {"sublayers": 1}), ("slicegpt", {"slicing": 0.25})):
        with pytest.raises(PrunebenchError, match="do_layer_norm_before=False"):
            prunebench.choose(lm, method, calibration=ids, **amount)
    with pytest.raises(PrunebenchError, match="do_layer_norm_before=False"):
        prunebench.apply(lm, Plan((DropSublayers(((0, "mlp"),)),)))


def test_a_narrower_opt_is_refused(tiny) -> None:
    """What is missing is named, with what works instead."""
    with pytest.raises(PrunebenchError, match=r"no head_dim.*slicegpt works"):
        prunebench.choose(tiny("opt"), "slice_global", slicing=0.25)


@pytest.mark.parametrize(
    ("family", "key", "value", "says"),
    [
        ("llama", "sliding_window", 8, "sliding_window=8"),
        ("llama", "layer_types", ["sliding_attention"] * 6, "layer_types with sliding_attention"),
        ("llama", "residual_multiplier", 0.5, "residual_multiplier=0.5"),
        ("qwen2", "drop_attn_list", [1], r"drop_attn_list=\[1\]"),
    ],
)
def test_what_the_class_would_ignore_is_refused(family, key, value, says, tmp_path: Path) -> None:
    """A config may say what the model class never reads: the model would be another one."""
    config = tiny_config(family)
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(PrunebenchError, match=f"silently ignore settings of the config: {says}"):
        prunebench.load_model(tmp_path)


def test_skipped_halves_in_a_per_layer_config_are_refused(tmp_path: Path) -> None:
    """Any family's config takes ``per_layer_config`` with ``skip``; stock Llama ignores it."""
    config = tiny_config("llama")
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    written = json.loads(path.read_text())
    path.write_text(json.dumps({**written, "per_layer_config": {"1": {"skip": ["self_attn"]}}}))
    with pytest.raises(PrunebenchError, match="per_layer_config"):
        prunebench.load_model(tmp_path)

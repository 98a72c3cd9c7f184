"""SliceGPT and slice_global against the authors' outputs, logits and stage records included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from factories import FAMILIES, oracle_of

import prunebench
from prunebench import PrunebenchError
from prunebench.models.rotation import STAGE
from prunebench.models.widths import parameter_count, reachable

every_family = pytest.mark.parametrize("family", FAMILIES)
RATIOS = (0.125, 0.25, 0.375, 0.5, 0.75)


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Any]:
    return oracle_of(shared, "slicegpt", "depth_ids")


def logits(lm: Any, ids: Any) -> torch.Tensor:
    with torch.no_grad():
        return lm.hf(torch.as_tensor(ids)).logits.double()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["exact", "as_released"])
@pytest.mark.parametrize("ratio", RATIOS)
def test_slicegpt_computes_as_the_released_code(ratio: float, variant: str, oracle) -> None:
    """Sizes, logits, their distance and KL to dense, every stage: the oracle's own tolerances."""
    named = "as_is" if variant == "as_released" else variant
    wanted = {"ratio": ratio, "variant": named, "dtype": "fp64", "orientation": "pca"}
    (theirs,) = [r for r in oracle["sliced"] if all(r[k] == v for k, v in wanted.items())]
    allowed = oracle["suggested_tolerances"]
    lm, ids = oracle["lm"], oracle["ids"]
    plan = prunebench.choose(
        lm, "slicegpt", slicing=ratio, variant=variant, calibration=ids["calib"]
    )
    sliced = prunebench.apply(lm.share(), plan)

    assert plan.edits[0].widths == (theirs["new_hidden"],) * 24
    assert sliced.num_parameters == theirs["params_after"]
    shortcuts = sum(p.numel() for n, p in sliced.hf.named_parameters() if "shortcut" in n)
    assert shortcuts == theirs["params_after_shortcut_Q"]
    assert prunebench.perplexity(sliced, ids["eval"]) == pytest.approx(
        theirs["ppl"], rel=allowed["ppl_relative"]
    )
    mine, dense = logits(sliced, ids["eval"]), logits(lm, ids["eval"])
    for place, values in theirs["logits_probe"].items():
        probed = mine[0, int(place.removeprefix("pos")), oracle["logits_probe_token_ids"]]
        assert probed.tolist() == pytest.approx(values, abs=allowed["logits_probe_absolute"])
    assert (mine - dense).square().mean().sqrt().item() == pytest.approx(
        theirs["rms_logit_diff_to_dense"], rel=allowed["rms_logit_diff_to_dense_relative"]
    )
    kl = (dense.softmax(-1) * (dense.log_softmax(-1) - mine.log_softmax(-1))).sum(-1).mean()
    assert kl.item() == pytest.approx(
        theirs["mean_kl_dense_to_sliced_nats"], rel=allowed["mean_kl_relative"]
    )
    bases = plan.tensors[plan.edits[0].tensors]
    for number, (step, stage) in enumerate(zip(plan.trace, theirs["stages"], strict=False)):
        assert step.scores["trace"] == pytest.approx(stage["trace"], rel=allowed["trace_relative"])
        assert step.scores["kept"] == pytest.approx(
            stage["kept_energy_fraction"], abs=allowed["kept_energy_fraction_absolute"]
        )
        top = [step.scores[f"eigenvalue {i}"] for i in range(1, 6)]
        assert top == pytest.approx(stage["top8"][:5], rel=allowed["top8_relative"])
        projector = bases[STAGE.format(number)].square().sum(1)[:4].tolist()
        assert projector == pytest.approx(
            stage["projector_diag_first4"], abs=allowed["projector_diag_absolute"]
        )


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["exact", "as_released"])
def test_fusing_alone_is_what_the_released_code_makes_of_it(variant: str, oracle) -> None:
    """Uncut: *exact* keeps the dense perplexity, *as_released* moves it as recorded."""
    lm, ids = oracle["lm"], oracle["ids"]
    named = "as_is" if variant == "as_released" else variant
    theirs = oracle["rotation_only"][named]["fp64"]["rotate_and_slice_ratio0"]
    plan = prunebench.choose(
        lm, "slicegpt", slicing=1e-9, variant=variant, calibration=ids["calib"], round_to=1
    )
    assert plan.edits[0].widths[0] == 127  # a slice of nothing is rounded down, too
    from prunebench.methods._slicing import per_block
    from prunebench.runs.functional import tensor

    whole = prunebench.apply(lm.share(), per_block(lm, tensor(ids["calib"]), 128, variant))
    assert prunebench.perplexity(whole, ids["eval"]) == pytest.approx(theirs["ppl"], rel=1e-6)
    assert whole.num_parameters == theirs["params"]
    moved = (logits(whole, ids["eval"]) - logits(lm, ids["eval"])).abs().max().item()
    assert moved == pytest.approx(theirs["max_abs_logit_diff_to_dense"], abs=4e-5)


@every_family
@pytest.mark.parametrize("method", ["slicegpt", "slice_global"])
def test_the_search_leaves_the_model_and_repeats_itself(
    method: str, family: str, tiny, ids
) -> None:
    """Bit-identical model afterwards; a second search gives the same tensors, by their hash."""
    lm = tiny(family)
    if method == "slice_global" and family == "opt":
        with pytest.raises(PrunebenchError, match="no plain checkpoint"):
            prunebench.choose(lm, method, slicing=0.25, calibration=ids)
        return
    before = logits(lm, ids)
    plans = [prunebench.choose(lm, method, slicing=0.25, calibration=ids) for _ in range(2)]

    assert torch.equal(logits(lm, ids), before)
    assert plans[0].edits == plans[1].edits
    assert len(plans[0].trace) == (12 if method == "slicegpt" else 1)


@every_family
def test_principal_axes_keep_the_function_better_than_random_ones(family: str, tiny, ids) -> None:
    """The point of the method, in every family: less change of the logits than a random cut."""
    from factories import slicing

    lm = tiny(family)
    plan = prunebench.choose(lm, "slicegpt", slicing=0.25, calibration=ids)
    dense = logits(lm, ids)

    def change(p: Any) -> float:
        return (logits(prunebench.apply(lm.share(), p), ids) - dense).square().mean().item()

    assert change(plan) < 0.5 * change(slicing(lm, plan.edits[0].widths[0], "block"))


@pytest.mark.parametrize("asked", [0.05, 0.2, 0.4])
@pytest.mark.parametrize("method", ["slicegpt", "slice_global"])
def test_sparsity_takes_the_nearest_width(asked: float, method: str, tiny, ids) -> None:
    """No other multiple of eight comes nearer; what is added (shortcuts, a head) counts."""
    lm = tiny("mistral")
    plan = prunebench.choose(lm, method, sparsity=asked, calibration=ids)
    scope = plan.edits[0].scope
    count = parameter_count(lm, scope)
    reached = {w: 1 - count(w) / lm.num_parameters for w in reachable(lm, scope, 8)}
    pruned = prunebench.apply(lm.share(), plan)

    achieved = 1 - pruned.num_parameters / lm.num_parameters
    assert achieved == pytest.approx(reached[plan.edits[0].widths[0]])
    assert abs(achieved - asked) == pytest.approx(min(abs(r - asked) for r in reached.values()))


def test_a_global_slice_of_an_untied_model_removes_what_it_says(oracle) -> None:
    """Without shortcuts and with the head cut, a quarter of the width is a quarter of the model."""
    lm = oracle["lm"]
    plan = prunebench.choose(lm, "slice_global", slicing=0.25, calibration=oracle["ids"]["calib"])
    sliced = prunebench.apply(lm.share(), plan)

    assert 1 - sliced.num_parameters / lm.num_parameters == pytest.approx(0.25, abs=1e-3)


def test_heads_that_must_divide_the_width_do(tiny, ids) -> None:
    """Llama's config refuses other widths, so none is chosen; Mistral's takes any."""
    assert reachable(tiny("llama"), "global", 1) == [4, 8, 12, 16, 20, 24, 28, 32]
    assert reachable(tiny("mistral"), "global", 1) == [*range(1, 33)]


@pytest.mark.parametrize(
    ("method", "amount", "says"),
    [
        ("slicegpt", {"slicing": 0.9}, "leaves less than the least width, 8"),
        ("slicegpt", {"slicing": 0.5, "round_to": 64}, "multiple of 64, but the hidden size is 32"),
        ("slicegpt", {"blocks": 2}, "slicegpt takes 'sparsity' or 'slicing'"),
    ],
)
def test_what_cannot_be_sliced_is_told(method: str, amount, says: str, tiny, ids) -> None:
    """One line each."""
    with pytest.raises(PrunebenchError, match=says):
        prunebench.choose(tiny("llama"), method, calibration=ids, **amount)

"""SPRINT and Sliding Layer Merging against the authors' outputs, identities and plain loops."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from factories import FAMILIES, oracle_of

import prunebench
from prunebench import Plan, PrunebenchError
from prunebench.edits.drop_sublayers import DropSublayers
from prunebench.edits.merge_blocks import Formula, MergeBlocks
from prunebench.errors import PrunebenchWarning, SearchError
from prunebench.methods._merge_trials import Trials
from prunebench.methods._sliding import Sliding
from prunebench.models.timing import Round, Timer
from prunebench.plan import name
from prunebench.runs.functional import tensor

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture(scope="module")
def oracle(shared: Path) -> dict[str, Any]:
    return oracle_of(shared, "sublayer_merge", "sublayer_merge_ids")


# ---------------------------------------------------------------------- SPRINT

#: Run to the tolerances of the oracle's README: stage 1, stage 2, norm of a fit, perplexity.
RUNS = {
    "tuned_latA_fp64": (1e-3, 1e-3, 2e-3, 1e-4),
    "tuned_latB_fp64": (1e-3, 1e-3, 2e-3, 1e-4),
    "tuned_nolat_fp64": (1e-3, 1e-3, 2e-3, 1e-4),
    "untuned_latA": (1e-5, None, None, 1e-6),
    "untuned_latB": (1e-5, None, None, 1e-6),
    "untuned_nolat": (1e-5, None, None, 1e-6),
    "extra_12removals_latA_fp64": (1e-3, 1e-3, 2e-3, 5e-4),
    "extra_12removals_untuned_latB": (1e-5, None, None, 1e-6),
    "extra_cands3_ckpt8_latA_fp64": (1e-3, 1e-3, 2e-3, 1e-4),
    "extra_ratio075_latA_fp64": (1e-3, 1e-3, 2e-3, 1e-4),
    "extra_damp1_latA_fp64": (1e-5, 1e-5, 1e-5, 1e-5),
    "extra_12removals_ckpt11_latA_fp64": (1e-3, 1e-3, 2e-3, 5e-4),
    "extra_12removals_ckpt11_untuned_latA": (1e-5, None, None, 1e-6),
}


def options(settings: dict[str, Any]) -> dict[str, Any]:
    """The oracle's settings as ours."""
    return {
        "candidates": settings["num_candidate_sublayers"],
        "refit": settings["in_comp_tuning"],
        "latency_aware": settings["latency_aware"],
        "attn_latency": settings["latency"]["MHA"],
        "mlp_latency": settings["latency"]["MLP"],
        "damping": settings["damping_coefficient"],
        "ratio": settings["in_comp_tuning_ratio"],
        "checkpoints": settings["num_checkpoints"],
        "sublayers": settings["num_remove_sublayers"],
    }


def called(number: int) -> str:
    """The oracle's sublayer number as our traces call it."""
    return name((number // 2, "mlp" if number % 2 else "attn"))


def given(values: list[float | None]) -> dict[str, float]:
    """The oracle's list over sublayers as a trace has it."""
    return {called(s): v for s, v in enumerate(values) if v is not None}


@pytest.mark.slow
@pytest.mark.parametrize("run", RUNS)
def test_sprint_decides_as_the_released_code(run: str, oracle) -> None:
    """Every removal, every score of both stages, every fit, and the perplexity after each."""
    theirs = oracle["sprint"]["runs"][run]
    stage1, stage2, norm, ppl = RUNS[run]
    plan = prunebench.choose(
        oracle["lm"], "sprint", calibration=oracle["ids"]["calib"], **options(theirs["settings"])
    )

    assert [step.chosen for step in plan.trace] == [called(s) for s in theirs["removed"]]
    assert [name(s) for s in plan.edits[0].sublayers] == [called(s) for s in theirs["removed"]]
    for count, (mine, round_) in enumerate(zip(plan.trace, theirs["rounds"], strict=True), 1):
        first = mine.first_stage or mine.scores
        assert first == pytest.approx(given(round_["stage1_scores"]), rel=stage1)
        part = plan.prefix(count)
        if stage2 is not None:
            assert mine.scores == pytest.approx(given(round_["stage2_scores"]), rel=stage2)
            module = f"model.layers.{round_['tuned_sublayer'] // 2}.mlp.down_proj"
            weight = part.tensors[part.edits[1].tensors].get(module)
            if weight is not None:  # unless that MLP went itself
                assert weight.norm().item() == pytest.approx(
                    round_["tuned_down_proj_fro"], rel=norm
                )
        pruned = prunebench.apply(oracle["lm"].share(), part)
        assert prunebench.perplexity(pruned, oracle["ids"]["eval"]) == pytest.approx(
            round_["ppl"], rel=ppl
        )
        assert mine.determined
        relative = mine.margin / min(
            mine.ranking.values() if mine.ranking else mine.scores.values()
        )
        assert relative == pytest.approx(round_["pick_margin_rel"], rel=0.05)


def test_sprint_spends_fewer_passes_than_the_released_code(oracle) -> None:
    """A dense first stage: 2 attentions and 3 MLPs a block, not 3 and 5; less in later rounds."""
    plan = prunebench.choose(
        oracle["lm"], "sprint", refit=False, latency_aware=False, sublayers=1,
        calibration=oracle["ids"]["calib"],
    )  # fmt: skip

    assert plan.trace[0].block_forwards <= 8 * 12 * 2.5


@pytest.mark.parametrize("family", ["llama", "opt"])
@pytest.mark.parametrize("checkpoints", [0, 1, 3, 8])
@pytest.mark.parametrize("refit", [False, True])
def test_scores_that_still_hold_are_not_computed_again(
    refit: bool, checkpoints: int, family: str, tiny, ids
) -> None:
    """Recomputing everything from the restart point, as released, gives the same bits, and costs.

    Sixteen of twenty sublayers go, so that restarts, kept states and out-of-date scores all occur.
    """
    from prunebench.methods._sprint_scores import Search
    from prunebench.methods.sprint import Sprint

    class Forgetful(Search):
        keep_all = False

        def first_stage(self) -> None:
            self.keep_all = False
            self.holds = [False] * self.count
            super().first_stage()

    options = Sprint(refit=refit, checkpoints=checkpoints, attn_latency=2.0, mlp_latency=1.0)
    settings = options.settings()
    runs = [kind(settings, tiny(family, 10), ids, (2.0, 1.0)) for kind in (Search, Forgetful)]
    for _ in range(16):
        for run in runs:
            run.first_stage()
            if refit:
                run.second_stage()
        assert runs[0].pseudo == runs[1].pseudo
        assert runs[0].scores() == runs[1].scores()
        steps = [run.remove(0.0, 0) for run in runs]
        assert steps[0] == steps[1]
    assert runs[0].stream.halves < runs[1].stream.halves


def literal_scores(lm: Any, ids: torch.Tensor, removed: list[int]) -> dict[int, float]:
    """First-stage scores with no cache at all: two whole forwards a sublayer, hidden states read.

    The output with a sublayer, removed ones between it and its end running again, and without it.
    """
    count = 2 * len(lm.blocks)
    alive = [s for s in range(count) if s not in removed]
    scores = {}
    for s in alive:
        after = [k for k in alive if k > s and k % 2]
        end = after[0] if after else min(s + 1, count - 1)
        y = state_after(lm, ids, {k for k in removed if not s <= k <= end}, end)
        y_hat = state_after(lm, ids, {*removed, s}, end)
        distance = (y - y_hat).abs().sum((1, 2)) / y.abs().sum((1, 2))
        scores[s] = distance.sum().item()
    return scores


def state_after(lm: Any, ids: torch.Tensor, gone: set[int], end: int) -> torch.Tensor:
    """What leaves sublayer *end*: the blocks behind it go, and the sublayers *gone*."""
    cut = lm.share()
    last = end // 2
    drop = tuple((s // 2, "mlp" if s % 2 else "attn") for s in sorted(gone) if s <= end)
    if end % 2 == 0:
        drop = (*drop, (last, "mlp"))
    cut.keep(range(last + 1))
    prunebench.apply(cut, Plan((DropSublayers(drop),) if drop else ()))
    seen = []
    hook = cut.blocks[-1].register_forward_hook(lambda *a: seen.append(a[-1]))
    with torch.no_grad():
        cut.hf(ids)
    hook.remove()
    return seen[0][0] if isinstance(seen[0], tuple) else seen[0]


@pytest.mark.slow
@every_family
def test_sprint_equals_the_literal_loop_in_every_family(family: str, tiny, ids) -> None:
    """Without caches, checkpoints or look-ahead: the same removals, the same scores."""
    lm = tiny(family)
    plan = prunebench.choose(
        lm, "sprint", refit=False, attn_latency=2.0, mlp_latency=1.0, sublayers=4, calibration=ids
    )
    removed: list[int] = []
    for step in plan.trace:
        scores = literal_scores(lm, ids, removed)
        chosen = min(scores, key=lambda s: scores[s] / (1.0 if s % 2 else 2.0))

        assert step.scores == pytest.approx({called(s): v for s, v in scores.items()}, rel=1e-4)
        assert step.chosen == called(chosen)
        removed.append(chosen)


@every_family
def test_a_fit_is_the_least_squares_solution(family: str, tiny, ids) -> None:
    """The written weight solves, by numpy's lstsq on the activations, what the paper asks for."""
    import numpy as np

    from prunebench.methods._sprint_scores import Search, _inputs_of
    from prunebench.methods.sprint import Sprint

    lm = tiny(family)
    state = Search(Sprint().settings(), lm, ids, (1.0, 1.0))
    state.first_stage()
    fit = state.fit([4])[4]
    (batch,), end = state.stream.batches, 5
    linear = lm.hf.get_submodule(state.modules[end])
    with torch.no_grad():
        entering = state.stream.run(batch, batch.entering, [0, 1])
        kept = state.stream.run(batch, entering, [2])
        with _inputs_of(linear) as seen:
            batch.branch(lm.blocks[2], 2, lm.family.halves[1], entering)
    x = seen[0].reshape(-1, seen[0].shape[-1]).double().numpy()
    bias = 0 if linear.bias is None else linear.bias.detach()
    target = (kept - entering - bias).flatten(0, 1).double().numpy()
    solution = np.linalg.lstsq(x, target, rcond=None)[0].T

    assert fit.at == end
    assert np.abs(fit.weight.numpy() - solution).max() < 1e-4 * np.abs(solution).max()
    assert fit.score < state.pseudo[4]


def test_a_fit_that_can_be_perfect_is(tiny, ids) -> None:
    """With as many hidden units as tokens the fitted MLP makes up for everything: score 0."""
    lm = tiny("llama")
    few = ids[:1, :16]
    plan = prunebench.choose(
        lm, "sprint", latency_aware=False, candidates=12, sublayers=1, calibration=few
    )

    assert min(plan.trace[0].scores.values()) < 1e-3
    pruned = prunebench.apply(lm.share(), plan)
    assert pruned.nll(few) == pytest.approx(lm.nll(few), rel=1e-3)


@pytest.mark.parametrize(
    "option", [{"norm": "l2"}, {"reference": "current"}, {"refit_dtype": "float32"}]
)
def test_other_settings_of_sprint_search_too(option: dict[str, Any], tiny, ids) -> None:
    """L2, the running reference and the float32 fit each give a plan with finite scores."""
    lm = tiny("llama")
    plan = prunebench.choose(
        lm, "sprint", latency_aware=False, sublayers=4, calibration=ids, **option
    )

    assert plan.size == 4
    assert all(s is not None for step in plan.trace for s in step.scores.values())
    pruned = prunebench.apply(lm.share(), plan)
    assert torch.isfinite(pruned.window_nll(ids)).all()


def test_the_l2_score_is_the_root_of_squares(tiny, ids) -> None:
    """The first stage with norm l2, against whole forwards."""
    lm = tiny("llama")
    plan = prunebench.choose(
        lm, "sprint", norm="l2", refit=False, latency_aware=False, sublayers=1, calibration=ids
    )
    y, y_hat = state_after(lm, ids, set(), 5), state_after(lm, ids, {4}, 5)
    expected = ((y - y_hat).square().sum((1, 2)) / y.square().sum((1, 2))).sqrt().sum().item()

    assert plan.trace[0].scores["2.attn"] == pytest.approx(expected, rel=1e-4)


def test_sprint_stops_at_the_speedup(tiny, ids) -> None:
    """The estimate reaches the target with the last removal and not before; it needs no amount."""
    lm = tiny("llama")
    plan = prunebench.choose(
        lm, "sprint", target_speedup=1.3, attn_latency=2.0, mlp_latency=1.0, calibration=ids
    )
    costs = [2.0 if part == "attn" else 1.0 for _, part in plan.edits[0].sublayers]

    assert 18 / (18 - sum(costs)) >= 1.3 > 18 / (18 - sum(costs[:-1]))
    for amount in ({"sublayers": 9}, {"sparsity": 0.05}):
        with pytest.warns(PrunebenchWarning, match="the speedup decides"):
            both = prunebench.choose(
                lm, "sprint", target_speedup=1.3, attn_latency=2.0, mlp_latency=1.0,
                calibration=ids, **amount,
            )  # fmt: skip
        assert both.edits == plan.edits


@pytest.mark.parametrize("asked", [0.1, 0.25, 0.4])
def test_sprint_takes_the_nearest_sparsity(asked: float, tiny, ids) -> None:
    """No other prefix of a longer search comes nearer to what was asked."""
    lm = tiny("llama")
    few = {"refit": False, "latency_aware": False, "calibration": ids}
    plan = prunebench.choose(lm, "sprint", sparsity=asked, **few)
    longer = prunebench.choose(lm, "sprint", sublayers=9, **few)
    reached = lm.gone(longer.edits[0].sublayers)

    assert plan.edits == longer.prefix(plan.size).edits
    assert abs(reached[plan.size] - asked) == min(abs(r - asked) for r in reached)


def test_sprint_measures_latencies_that_are_not_given(tiny, ids, monkeypatch) -> None:
    """They are measured once, stand in the plan, and comparing plans passes over them."""
    from prunebench.methods import _latency

    monkeypatch.setattr(_latency, "measure", lambda _: (3.0, 1.5))
    lm = tiny("llama")
    few = {"refit": False, "mlp_latency": 2.0, "sublayers": 2, "calibration": ids}
    plan = prunebench.choose(lm, "sprint", **few)
    (edit,) = plan.edits

    assert (edit.attn_latency, edit.mlp_latency) == (3.0, 2.0)
    assert edit.bare() == DropSublayers(edit.sublayers)
    given_both = prunebench.choose(lm, "sprint", attn_latency=3.0, **few)
    assert given_both.edits == (edit.bare(),)


def clock(attn: float, mlp: float) -> Any:
    """A stand-in for the stopwatch: what a model's halves cost, and a start-up of 5 ms."""

    def time_once(timer: Timer) -> Round:
        halves = [timer.lm.halves(block) for block in timer.lm.blocks]
        total = 5 + sum(attn * a + mlp * m for a, m in halves)
        return Round(0.0, total / 1e3)

    return time_once


def test_latencies_come_from_three_models(tiny, monkeypatch) -> None:
    """The difference per removed half, whatever else a model costs; nonsense is refused."""
    from prunebench.methods import _latency

    lm = tiny("llama", blocks=8)
    monkeypatch.setattr(Timer, "time", clock(3.0, 2.0))
    assert _latency.measure(lm) == pytest.approx((3.0, 2.0))
    monkeypatch.setattr(Timer, "time", clock(3.0, 0.0))
    with pytest.raises(SearchError, match="too noisy; give attn_latency and mlp_latency"):
        _latency.measure(lm)


# ------------------------------------------------------- Sliding Layer Merging


def windows_of(plan: Plan) -> list[list[int]]:
    return [list(range(a, b + 1)) for edit in plan.edits for a, b in edit.ranges]


def tried(plan: Plan) -> list[tuple[str, float]]:
    """Every window of the trace with its similarity."""
    return [(k, v) for step in plan.trace for k, v in step.scores.items() if k != "threshold"]


def slide(oracle, **more: Any) -> Plan:
    ids = oracle["ids"]["calib"]
    return prunebench.choose(oracle["lm"], "sliding_layer_merging", calibration=ids, **more)


OFFICIAL = (
    "removed_3",
    "removed_3_multiwindow",
    "removed_5",
    "removed_5_multiwindow",
    "widest_multiwindow",
    "never_failing_window_dropped",
)


@pytest.mark.slow
@pytest.mark.parametrize("run", OFFICIAL)
def test_sliding_decides_as_the_released_code(run: str, oracle) -> None:
    """Every window tried, its similarity, what was merged, and the perplexity of the result."""
    theirs = oracle["sliding"]["official"][run]
    plan = slide(oracle, threshold=theirs["threshold"])

    assert windows_of(plan) == theirs["windows"]
    assert [w for w, _ in tried(plan)] == [f"{t['low']}-{t['high']}" for t in theirs["trials"]]
    assert [s for _, s in tried(plan)] == pytest.approx(
        [t["similarity"] for t in theirs["trials"]], abs=1e-5
    )
    passes = [step.chosen != "threshold" for step in plan.trace]
    assert passes == [bool(t["passes"]) for t in theirs["trials"]]
    assert min(step.margin for step in plan.trace) == pytest.approx(
        theirs["min_margin_to_threshold"], abs=1e-5
    )
    pruned = prunebench.apply(oracle["lm"].share(), plan)
    assert len(pruned.blocks) == theirs["final_layers"]
    assert prunebench.perplexity(pruned, oracle["ids"]["eval"]) == pytest.approx(
        theirs["final_ppl"], rel=1e-5
    )


@pytest.mark.slow
@pytest.mark.parametrize("run", OFFICIAL[:-1])
def test_sliding_by_the_published_formula(run: str, oracle) -> None:
    """The recomputation of the paper's equation: same windows and perplexity at its threshold."""
    theirs = oracle["sliding"]["paper_formula_own_recomputation"][run]
    search = theirs["same_threshold_projections_only"]
    plan = slide(oracle, threshold=search["threshold"], formula="as_published")
    assert windows_of(plan) == search["windows"]
    for expected, edits in (
        (search["final_ppl"], plan.edits),
        (
            theirs["same_windows_projections_only"]["ppl"],
            (MergeBlocks(tuple((w[0], w[-1]) for w in
             theirs["same_windows_projections_only"]["windows"]), "as_published"),),
        ),
    ):  # fmt: skip
        pruned = prunebench.apply(oracle["lm"].share(), Plan(edits))
        assert prunebench.perplexity(pruned, oracle["ids"]["eval"]) == pytest.approx(
            expected, rel=1e-5
        )


@pytest.fixture(scope="module")
def sliding(oracle) -> Sliding:
    return sliding_of(oracle, "as_released")


def sliding_of(oracle, formula: Formula) -> Sliding:
    lm = oracle["lm"]
    return Sliding(Trials(lm, tensor(oracle["ids"]["calib"]), formula), len(lm.blocks))


@pytest.mark.slow
def test_every_threshold_that_makes_a_difference_is_found(sliding, oracle) -> None:
    """The oracle's whole table: each interval of thresholds with the windows it merges."""
    runs = [*sliding.runs()]
    theirs = oracle["sliding"]["threshold_table_official"]

    assert [[list(w) for w in run.windows] for run in runs] == [row["windows"] for row in theirs]
    assert [run.removed for run in runs] == [row["removed"] for row in theirs]
    assert [run.interval[0] for run in runs[:-1]] == pytest.approx(
        [row["t_low"] for row in theirs[:-1]], abs=1e-5
    )


@pytest.mark.slow
def test_every_threshold_is_found_by_the_published_formula_too(oracle) -> None:
    """The same against the recomputation with the paper's equation."""
    runs = sliding_of(oracle, "as_published").runs()
    theirs = oracle["sliding"]["threshold_table_paper_projections_only"]

    assert [[list(w) for w in run.windows] for run in runs] == [row["windows"] for row in theirs]


@pytest.mark.slow
def test_an_amount_takes_the_threshold_of_highest_similarity(sliding, oracle) -> None:
    """No interval of the oracle's table that removes as many ends at a higher similarity."""
    for count in range(1, 10):
        rows = [r for r in oracle["sliding"]["threshold_table_official"] if r["removed"] == count]
        ends = [sliding.run((row["t_low"] + min(row["t_high"], 1.0)) / 2) for row in rows]
        best = max(ends, key=lambda run: run.similarity)
        assert sliding.run_removing(count).windows == best.windows
    assert slide(oracle, blocks=5).edits == (MergeBlocks(sliding.run_removing(5).windows),)


def test_a_count_that_no_threshold_removes_is_told(sliding, oracle) -> None:
    """Ten blocks of twelve cannot: the message names the nearest counts."""
    with pytest.raises(
        SearchError,
        match="removes exactly 10 blocks of this model; the nearest counts that one removes are 9",
    ):
        sliding.run_removing(10)
    with pytest.raises(PrunebenchError, match="at most 10 may"):
        slide(oracle, blocks=11)


@pytest.mark.slow
def test_a_given_threshold_decides_and_an_amount_beside_it_is_checked(oracle) -> None:
    """A mismatch warns; the threshold's plan is taken. A match says nothing."""
    with pytest.warns(PrunebenchWarning, match="removes 3 blocks, not the 5 asked for"):
        plan = slide(oracle, threshold=0.99585, blocks=5)
    assert windows_of(plan) == [[7, 8, 9, 10]]
    slide(oracle, threshold=0.99585, blocks=3)


@every_family
def test_thresholds_at_the_ends(family: str, tiny, ids) -> None:
    """Above 1 nothing merges; below -1 everything passes and, as released, nothing is merged."""
    lm = tiny(family)
    for threshold in (1.5, -1.5):
        plan = prunebench.choose(lm, "sliding_layer_merging", threshold=threshold, calibration=ids)
        assert plan.edits == ()
        # One trial a step down, and one more for every window that was merged.
        assert len(plan.trace) == len(lm.blocks) - 2


@every_family
def test_similarity_is_the_cosine_of_whole_models(family: str, tiny, ids) -> None:
    """Every trial against a whole forward of the merged model, through transformers itself."""
    lm = tiny(family)
    plan = prunebench.choose(lm, "sliding_layer_merging", threshold=0.3, calibration=ids)
    with torch.no_grad():
        dense = lm.hf.base_model(ids).last_hidden_state.double().flatten(1)
    merges = [r for edit in plan.edits for r in edit.ranges]
    for window, similarity in tried(plan):
        low, high = map(int, window.split("-"))
        # What was merged before lies above; a window of one block is the model so far.
        ranges = [r for r in merges if r[0] > high] + [(low, high)] * (low < high)
        merged = prunebench.apply(lm.share(), Plan((MergeBlocks(tuple(ranges)),)))
        with torch.no_grad():
            state = merged.hf.base_model(ids).last_hidden_state.double().flatten(1)
        cosine = torch.cosine_similarity(state, dense, dim=1).mean().item()
        assert similarity == pytest.approx(cosine, abs=1e-6)

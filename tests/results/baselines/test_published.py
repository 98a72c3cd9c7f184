"""The papers' numbers: sound in themselves, found for the right records, told and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from factories import ROOT
from factories import published_record as record
from msgspec.structs import replace

from prunebench import CaseError, Measurement, Tolerance, registry
from prunebench.cases import keys, loader
from prunebench.data.yaml_source import Source
from prunebench.reports.sentences import published_lines
from prunebench.results.baselines import published
from prunebench.results.baselines.published import Row, findings, matching, rows
from prunebench.results.store import Store

FOLDER = ROOT / "baselines" / "published"
ALL = rows(FOLDER)


def one(**wanted: Any) -> list[Row]:
    return [row for row in ALL if all(getattr(row, k) == v for k, v in wanted.items())]


# -------------------------------------------------------------------- the data


def test_no_number_is_there_twice() -> None:
    """One source says one thing about one model, method, amount and metric."""
    seen = set()
    for row in ALL:
        key = (row.source, row.by, row.where, row.model, str(row.method), str(row.amount),
               row.label, str(row.calibration), row.metric, row.hardware)  # fmt: skip
        assert key not in seen, key
        seen.add(key)


def test_every_protocol_is_ours_or_says_that_it_is_not() -> None:
    """A name in brackets is somebody's own code."""
    ours = {p.stem for p in loader.PROTOCOLS.glob("*.yaml")}

    assert {row.protocol for row in ALL if "(" not in row.protocol} <= ours


def test_values_are_what_their_metric_can_be() -> None:
    """Accuracies are fractions, perplexities at least 1, speedups near 1."""
    for row in ALL:
        if row.metric.startswith("accuracy/"):
            assert 0 < row.value < 1, row
        if row.metric.startswith("perplexity/"):
            assert row.value > 1, row
        if "speedup" in row.metric:
            assert 0.9 < row.value < 2, row


def test_means_are_means_of_their_tasks() -> None:
    """SliceGPT's five, Shortened LLaMA's seven and ProcrustesGPT's five, but for rounding twice."""
    groups: dict[Any, dict[str, float]] = {}
    for row in ALL:
        if row.metric.startswith("accuracy/"):
            key = (row.source, row.where, row.model, str(row.method), str(row.amount),
                   str(row.calibration))  # fmt: skip
            groups.setdefault(key, {})[row.metric.removeprefix("accuracy/")] = row.value
    checked = 0
    for tasks in groups.values():
        if "mean" in tasks and len(tasks) > 1:
            mean = tasks.pop("mean")
            assert mean == pytest.approx(sum(tasks.values()) / len(tasks), abs=1.001e-4)
            checked += 1
    # Of SliceGPT's, dense, sliced and recovered, one is left out for a printed mean that is off.
    assert checked == 11 + 10 + 60 + 24 - 1


def test_slebs_gains_are_ratios_of_its_times() -> None:
    """Tokens a second over the dense model's, and milliseconds under it."""
    throughput = {
        (str(r.method), r.label): r.value
        for r in one(metric="latency/hf-eager-64x64+128/throughput")
    }
    gains = one(metric="latency/hf-eager-64x64+128/speedup-end-to-end")
    dense = throughput[("{'name': 'dense'}", "")]
    assert len(gains) == 9
    for row in gains:
        ratio = throughput[(str(row.method), row.label)] / dense
        assert row.value == pytest.approx(ratio, abs=0.0051)
    prefill = one(metric="latency/hf-eager-1x2048+0/prefill")
    whole = next(r.value for r in prefill if r.method["name"] == "dense")
    for row in one(metric="latency/hf-eager-1x2048+0/speedup-prefill"):
        other = next(r.value for r in prefill if (r.method, r.label) == (row.method, row.label))
        assert row.value == pytest.approx(whole / other, abs=0.0051)


def test_more_slicing_costs_more_in_every_table_of_slicegpt() -> None:
    """Perplexity rises and accuracy falls with the amount, per table, model and calibration."""
    groups: dict[Any, list[tuple[float, float]]] = {}
    for row in ALL:
        if row.method["name"] == "slicegpt" and row.metric in ("perplexity/wikitext2",
                                                               "accuracy/mean"):  # fmt: skip
            key = (row.source, row.where, row.model, row.metric, str(row.calibration))
            groups.setdefault(key, []).append((row.amount["slicing"], row.value))
    assert len(groups) > 20
    for (*_, metric, _), points in groups.items():
        values = [value for _, value in sorted(points)]
        assert values == sorted(values, reverse=metric == "accuracy/mean")


def test_two_sources_agree_on_llama_2_7b() -> None:
    """SLEB's WikiText-2 at 4 and 8 blocks by two third parties; its C4 by itself and one more."""
    llama = {"model": "meta-llama/Llama-2-7b-hf"}
    for blocks, value in ((4, 6.95), (8, 10.39)):
        found = one(
            metric="perplexity/wikitext2", amount={"blocks": blocks}, protocol="sleb@1", **llama
        )
        assert [row.value for row in found] == [value, value]
        assert len({row.by for row in found}) == 2
    own = one(metric="perplexity/c4", amount={"blocks": 7}, by="", **llama)
    theirs = one(metric="perplexity/c4", amount={"blocks": 7}, source="third parties", **llama)
    assert [r.value for r in own] == [r.value for r in theirs] == [12.32]


def test_slebs_dense_mean_follows_from_another_repositorys_scores() -> None:
    """Shortened LLaMA's values of Llama-2-7B, by SLEB's variants: 69.00; by its own five: 69.14."""
    scores = {
        (row.protocol, row.metric): row.value
        for row in one(source="Shortened LLaMA, arXiv:2402.02834", model="meta-llama/Llama-2-7b-hf",
                       method={"name": "dense"})
    }  # fmt: skip
    normalised = {t: scores[("shortened-llama (the other variant of each task)", f"accuracy/{t}")]
                  for t in ("piqa", "arc_easy")}  # fmt: skip
    own = {t: scores[("shortened-llama@1", f"accuracy/{t}")]
           for t in ("piqa", "arc_easy", "hellaswag", "arc_challenge", "winogrande")}  # fmt: skip
    (sleb,) = one(source="SLEB, arXiv:2402.09025", metric="accuracy/mean",
                  model="meta-llama/Llama-2-7b-hf", method={"name": "dense"})  # fmt: skip

    assert sum((own | normalised).values()) / 5 == pytest.approx(sleb.value, abs=6e-5)
    assert sum(own.values()) / 5 == pytest.approx(0.6914, abs=6e-5)


def test_slebs_slicegpt_is_slicegpts_own_within_the_last_digit() -> None:
    """The means it prints are table 7's, calibrated on WikiText-2; one of OPT-30B is table 8's."""
    theirs = {
        (r.model, r.amount["slicing"], r.calibration["dataset"]): r.value
        for r in one(source="SliceGPT, arXiv:2401.15024", metric="accuracy/mean",
                     method={"name": "slicegpt"})
    }  # fmt: skip
    quoted = one(
        source="SLEB, arXiv:2402.09025", metric="accuracy/mean", method={"name": "slicegpt"}
    )
    assert len(quoted) == 21
    for row in quoted:
        key = (row.model, row.amount["slicing"], row.calibration["dataset"])
        assert row.value == pytest.approx(theirs[key], abs=1.1e-4), row
    (odd,) = (r.model for r in quoted if r.calibration["dataset"] == "alpaca")
    assert odd == "facebook/opt-30b"
    assert theirs[(odd, 0.2, "wikitext2")] == 0.6273


def test_a_third_party_gets_slicegpts_table_5() -> None:
    """The fork's per-block rotations, within about the last digit that the paper prints."""
    paper = {(r.model, r.amount["slicing"]): r.value for r in one(where="table 5")}
    fork = [r for r in one(method={"name": "slicegpt"}, calibration={"dataset": "wikitext2",
            "nsamples": 128}, metric="perplexity/wikitext2") if r.by]  # fmt: skip
    assert len(fork) == 10
    for row in fork:
        assert row.value == pytest.approx(paper[(row.model, row.amount["slicing"])], abs=0.0125)


#: Vocabulary, hidden, feed-forward, blocks, heads, key/value heads.
LLAMAS = {
    "meta-llama/Llama-2-7b-hf": (32000, 4096, 11008, 32, 32, 32),
    "decapoda-research/llama-7b-hf": (32000, 4096, 11008, 32, 32, 32),
    "lmsys/vicuna-7b-v1.3": (32000, 4096, 11008, 32, 32, 32),
    "meta-llama/Llama-2-13b-hf": (32000, 5120, 13824, 40, 40, 40),
    "lmsys/vicuna-13b-v1.3": (32000, 5120, 13824, 40, 40, 40),
    "meta-llama/Llama-2-70b-hf": (32000, 8192, 28672, 80, 64, 8),
    "meta-llama/Meta-Llama-3-8B": (128256, 4096, 14336, 32, 32, 8),
}
#: Hidden and blocks.
OPTS = {"125m": (768, 12), "1.3b": (2048, 24), "2.7b": (2560, 32), "6.7b": (4096, 32),
        "13b": (5120, 40), "30b": (7168, 48), "66b": (9216, 64)}  # fmt: skip


def sliced(model: str, slicing: float | None, gone: int = 0) -> int:
    """Parameters by hand: shortcuts and the untied head count; the last block writes all."""
    opt = OPTS.get(model.removeprefix("facebook/opt-"))
    if opt:
        hidden, blocks = opt
        vocabulary, ffn, matrices = 50272, 4 * hidden, 12 * hidden
        biases, norms = 4 * hidden + ffn + hidden, 4 * hidden
        tables = vocabulary + 2050
    else:
        vocabulary, hidden, ffn, blocks, heads, kv_heads = LLAMAS[model]
        matrices = 2 * hidden + 2 * hidden // heads * kv_heads + 3 * ffn
        biases, norms, tables = 0, 2 * hidden, vocabulary
    if slicing is None:
        head, final = (0, 2 * hidden) if opt else (vocabulary * hidden, hidden)
        whole = hidden * matrices + biases + norms
        return tables * hidden + head + final + (blocks - gone) * whole
    width = int((1 - slicing) * hidden) // 8 * 8
    # Biases of what reads stay as long as they were; those of what writes are cut.
    cut = (3 * hidden + ffn + 2 * width) if opt else 0
    block = width * matrices + 2 * width**2 + cut
    last = (hidden - width) * (ffn + width + bool(opt))
    head = vocabulary * hidden + (vocabulary if opt else 0)
    return tables * width + blocks * block + last + head


def test_stated_sparsities_follow_from_the_sizes() -> None:
    """Of SLEB's blocks and SliceGPT's widths; and they are what ProcrustesGPT's paper says."""
    stated = [row for row in ALL if row.sparsity is not None]
    assert len(stated) > 600
    for row in stated:
        left = sliced(row.model, row.amount.get("slicing"), int(row.amount.get("blocks", 0)))
        assert row.sparsity == pytest.approx(1 - left / sliced(row.model, None), abs=5.1e-5), row
    procrustes = one(by="the authors of ProcrustesGPT", metric="perplexity/wikitext2",
                     method={"name": "sleb"})  # fmt: skip
    found = {(r.model[-6:-3], round(100 * (r.sparsity or 0), 1)) for r in procrustes}
    assert found == {("-7b", 12.0), ("-7b", 24.0), ("-7b", 36.0),
                     ("13b", 12.2), ("13b", 24.4), ("13b", 36.6)}  # fmt: skip


def test_published_parameter_counts_follow_from_the_sizes() -> None:
    """To the last one: dense, blocks gone, sliced. One rotation needs no shortcuts but the last."""
    checked = 0
    for row in one(metric="compute/parameters"):
        known = row.model in LLAMAS or row.model.startswith("facebook/opt-")
        if not known or row.method["name"] == "LLM-Pruner":
            continue
        if row.method["name"] == "one rotation":
            _, hidden, _, blocks, *_ = LLAMAS[row.model]
            width = int((1 - row.amount["slicing"]) * hidden) // 8 * 8
            left = sliced(row.model, row.amount["slicing"]) - 2 * blocks * width**2
            # Of shortcuts, the one that brings the last block's output back to full width stays.
            assert row.value == pytest.approx(left + width**2, abs=row.uncertainty)
        else:
            slicing, blocks = row.amount.get("slicing"), int(row.amount.get("blocks", 0))
            assert row.value == sliced(row.model, slicing, blocks)
            checked += 1
    assert checked == 26


def test_rankings_name_every_block_once() -> None:
    """And with the '+' rule give the sets that the dossier lists."""
    own = [
        r
        for f in published._files(FOLDER)
        for r in f.rankings
        if not r.where.startswith("EvoPress")
    ]
    found = {(r.model, r.method.get("criterion")): r.blocks for r in own}
    for (model, criterion), blocks in found.items():
        if criterion:
            assert sorted(blocks) == list(range(len(blocks))), model

    def kept(model: str, criterion: str, count: int) -> list[int]:
        blocks = found[(model, criterion)]
        safe = {0, 1, 2, 3, len(blocks) - 2, len(blocks) - 1}
        return sorted([b for b in blocks if b not in safe][:count])

    assert kept("lmsys/vicuna-7b-v1.3", "ppl", 6) == [10, 11, 20, 24, 25, 27]
    assert kept("meta-llama/Llama-2-7b-hf", "ppl", 6) == [7, 8, 11, 12, 21, 24]
    assert kept("meta-llama/Llama-2-7b-hf", "taylor", 6) == [24, 25, 26, 27, 28, 29]
    assert kept("meta-llama/Meta-Llama-3-8B", "taylor", 6) == [23, 24, 25, 26, 28, 29]
    assert kept("lmsys/vicuna-13b-v1.3", "ppl", 8) == [12, 20, 24, 26, 32, 34, 35, 36]
    assert kept("rishiraj/CatPPT-base", "magnitude", 6) == [4, 5, 6, 7, 9, 12]


def test_another_calibration_text_ranks_other_blocks() -> None:
    """EvoPress's first six blocks share 3 and 5 with the authors', as the dossier counts."""
    by_where = {
        (r.model, "EvoPress" in r.where): set(r.blocks[:6])
        for f in published._files(FOLDER)
        for r in f.rankings
        if r.method.get("criterion") == "ppl"
    }
    for model, shared in (("meta-llama/Llama-2-7b-hf", 3), ("meta-llama/Meta-Llama-3-8B", 5)):
        assert len(by_where[(model, True)] & by_where[(model, False)]) == shared


def test_what_is_read_off_sprints_picture_gives_what_it_prints() -> None:
    """Its lead over the second best, and BlockPruner's hours over its own, within the reading."""
    where = "imgs/pruning_cost_acc.svg"
    gains = one(metric="accuracy/gain", where=f"{where}, printed")
    ratios = one(metric="cost/ratio")
    assert (len(gains), len(ratios)) == (5, 5)
    for row in gains:
        scores = one(metric="accuracy/mean", where=where, model=row.model)
        own, second = sorted((r.value for r in scores), reverse=True)[:2]
        assert row.value == pytest.approx(own - second, abs=2 * scores[0].uncertainty)
    for row in ratios:
        hours = [r for r in one(metric="cost/search_time", model=row.model) if where in r.where]
        (ours,) = (r for r in hours if r.method["name"] == "sprint")
        (other,) = (r for r in hours if r.method["name"] == "BlockPruner")
        low = (other.value - other.uncertainty) / (ours.value + ours.uncertainty)
        high = (other.value + other.uncertainty) / (ours.value - ours.uncertainty)
        assert low < row.value < high


def test_rows_of_our_methods_could_be_cases() -> None:
    """Their options exist, and the amount is one that the method takes; a misspelt one is never
    found.
    """
    ours = [row for row in ALL if row.method["name"] in registry.names("methods")]
    assert len(ours) > 300
    for row in ours:
        options = {k: v for k, v in row.method.items() if k != "name"}
        method = keys.build_method(row.method["name"], options)
        if row.amount:
            method.amount(row.amount)  # raises nothing


# ---------------------------------------------------------------- finding rows


def found(**changes: Any) -> set[tuple[str, float]]:
    return {(row.metric, row.value) for row in matching(record(**changes), ALL)}


def test_rows_are_found_by_model_method_and_amount() -> None:
    """A mirror of the weights is the same model; another amount, option or model is another row."""
    both = {("perplexity/c4", 12.32), ("perplexity/wikitext2", 9.14)}

    assert found() == both
    assert found(model={"id": "meta-llama/llama-2-7B-HF"}) == both
    assert found(amount={"blocks": 4}) == {("perplexity/c4", 9.34), ("perplexity/wikitext2", 6.95)}
    assert found(amount={"blocks": 5}) == set()
    assert found(amount={"sparsity": 0.2}) == set()
    assert found(model={"id": "./my-llama"}) == set()
    assert found(method={"name": "middle"}) == set()


def test_calibration_tells_tables_apart() -> None:
    """SliceGPT's table 1 has 1,024 windows and its table 5 has 128, which is the default."""
    sliced = {"method": {"name": "slicegpt"}, "amount": {"slicing": 0.25}}

    assert ("perplexity/wikitext2", 7.56) in found(**sliced)
    assert ("perplexity/wikitext2", 7.24) not in found(**sliced)
    assert ("perplexity/wikitext2", 7.24) in found(**sliced, calibration={"nsamples": 1024})
    assert found(**sliced, calibration={"dataset": "c4"}) == set()


def test_rows_of_another_protocol_are_told_and_not_compared() -> None:
    """Dense Llama-2-7B has 5.47 in windows of 2,048 and 12.19 in windows of 128."""
    dense = record(
        method={"name": "dense"}, amount={}, calibration=None, protocol="shortened-llama@1"
    )
    lines = published_lines(dense, matching(dense, ALL))

    assert any(
        line.startswith("published perplexity/wikitext2 12.19 (Shortened LLaMA") for line in lines
    )
    (other,) = [line for line in lines if "by slicegpt@1" in line]
    assert "not compared with shortened-llama@1: perplexity/wikitext2 5.47" in other
    assert not any(line.startswith("published perplexity/wikitext2 5.47") for line in lines)


def test_what_does_not_say_how_much_is_gone_is_about_no_record() -> None:
    """SPRINT's picture has no speedup; a case that stops at one has no amount either."""
    case = {
        "protocol": "sprint@1",
        "model": {"id": "meta-llama/Meta-Llama-3-8B"},
        "method": {"name": "sprint", "target_speedup": 1.41},
        "amount": {},
    }
    measured = (Measurement("accuracy/mean", 0.6, "acc", "higher"),)
    row = Row("s", "w", "sprint@1", "Meta-Llama-3-8B", case["method"], "accuracy/mean", 0.698)

    assert one(metric="accuracy/mean", protocol="sprint@1", model="meta-llama/Meta-Llama-3-8B")
    assert matching(replace(record(**case), measurements=measured), ALL) == []
    # A row that states the option says how much.
    assert matching(replace(record(**case), measurements=measured), [row]) == [row]


def test_uploads_with_other_tokenizers_are_other_models() -> None:
    """LLaMA-1's perplexity on PTB was 22.1 with one upload, and is far off with others."""
    dense = {"method": {"name": "dense"}, "amount": {}, "calibration": None}
    dense["protocol"] = "shortened-llama@1"

    own = ("perplexity/wikitext2", 12.615)
    assert own not in found(model={"id": "huggyllama/llama-7b"}, **dense)
    assert own in found(model={"id": "baffo32/decapoda-research-llama-7B-hf"}, **dense)


def measuring(*metrics: dict[str, Any]) -> set[str]:
    """Which published metrics of Llama-2-13B at 4 blocks are compared, of a case with *metrics*."""
    now = tuple(
        Measurement(metric, 0.5, "", "higher")
        for metric in ("accuracy/mean", "perplexity/c4", "perplexity/wikitext2")
    )
    asked = {"model": {"id": "meta-llama/Llama-2-13b-hf"}, "amount": {"blocks": 4}}
    mine = replace(record(metrics=list(metrics), **asked), measurements=now)
    return {row.metric for row in published.compared(mine, matching(mine, ALL))}


def test_a_case_that_measures_otherwise_is_not_compared() -> None:
    """Fewer questions or other windows under a protocol's name; a batch size changes nothing."""
    theirs = Source(loader.PROTOCOLS / "sleb@1.yaml").data["metrics"]
    wikitext2, c4, accuracy = theirs[:3]
    everything = {"accuracy/mean", "perplexity/c4", "perplexity/wikitext2"}

    assert measuring(*theirs) == everything
    assert measuring(wikitext2, c4, accuracy | {"batch_size": 1}) == everything
    assert wikitext2.pop("seqlen") == 2048  # a default that is left out is no difference
    assert measuring(wikitext2, c4, accuracy) == everything
    assert measuring(wikitext2, c4, accuracy | {"limit": 8}) == everything - {"accuracy/mean"}
    assert measuring(wikitext2, c4, accuracy | {"tasks": ["piqa"]}) == everything - {
        "accuracy/mean"
    }
    assert measuring(wikitext2, c4 | {"seqlen": 128}, accuracy) == everything - {"perplexity/c4"}


def test_one_task_of_a_protocol_is_compared_by_its_own_variant() -> None:
    """cases/reproduce asks for PIQA alone: normalised it is the paper's, otherwise it is not."""
    measured = (Measurement("accuracy/piqa", 0.5762, "acc", "higher"),)

    def compared(**accuracy: Any) -> list[float]:
        asked = {
            "protocol": "slicegpt@1",
            "model": {"id": "facebook/opt-125m"},
            "method": {"name": "slicegpt"},
            "amount": {"slicing": 0.2},
            "metrics": [{"name": "accuracy", "tasks": ["piqa"], "num_fewshot": 0, **accuracy}],
        }
        mine = replace(record(**asked), measurements=measured)
        return [row.value for row in published.compared(mine, matching(mine, ALL))]

    assert compared(acc_norm=["piqa"]) == [0.5762]
    assert compared() == []
    assert compared(acc_norm=["piqa"], limit=8) == []


def test_a_record_of_a_version_with_other_options_is_about_no_published_number() -> None:
    """Of its calibration or of a metric: whoever reads a folder of records meets such."""
    theirs = Source(loader.PROTOCOLS / "sleb@1.yaml").data["metrics"]
    later = {"an option of later": 1}

    assert measuring(*({**metric, **later} for metric in theirs)) == set()
    assert found(calibration={"nsamples": 128, **later}) == set()
    assert found(calibration={"nsamples": 128})


def test_what_is_measured_otherwise_is_told() -> None:
    """A number that is left out is named, with the reason."""
    case = record(metrics=[{"name": "perplexity", "dataset": "c4", "seqlen": 128}])
    lines = published_lines(case, matching(case, ALL))

    assert any("not compared with this case, which measures otherwise" in line for line in lines)
    assert not any(line.startswith("published perplexity/c4") for line in lines)


# --------------------------------------------------------------------- judging


@pytest.mark.parametrize(
    ("value", "outcome"),
    [(12.33, "same"), (12.4, "same"), (12.7, "worse"), (11.9, "better"), (None, "worse")],
)
def test_a_case_can_be_judged_by_the_papers(value: float | None, outcome: str) -> None:
    """Within one per cent of 12.32 is the same; the note says who says so."""
    mine = record(value)
    by_what = {f.what: f for f in findings(mine, matching(mine, ALL), Tolerance(rel=0.01))}
    finding = by_what["published/perplexity/c4"]

    assert (str(finding.outcome), finding.was) == (outcome, 12.32)
    # The authors' own number judges where there is one, and a third party's where there is none.
    assert "SLEB, arXiv:2402.09025" in finding.note
    assert "measured by Zephyr271828" in by_what["published/perplexity/wikitext2"].note


def test_another_protocol_and_timings_judge_nothing() -> None:
    """Numbers of other windows, and milliseconds of another machine."""
    mine = record(protocol="prunebench@1")
    timed = replace(
        record(model={"id": "meta-llama/Llama-2-70b-hf"}, amount={"blocks": 16}),
        measurements=(Measurement("latency/hf-eager-1x2048+0/prefill", 1.0, "ms", "lower"),),
    )

    assert findings(mine, matching(mine, ALL), Tolerance()) == []
    assert [r.value for r in matching(timed, ALL)] == [1364.1]
    assert findings(timed, matching(timed, ALL), Tolerance()) == []


def test_what_is_just_allowed_is_the_same() -> None:
    """0.90 - 0.89 is 0.010000000000000009 in floats, and no more than a point."""
    row = Row("s", "t", "sleb@1", "Llama-2-7b-hf", {"name": "sleb"}, "perplexity/c4", 0.90,
              {"blocks": 7})  # fmt: skip
    for value, outcome in ((0.89, "same"), (0.8899, "better"), (0.9101, "worse")):
        (finding,) = findings(record(value), [row], Tolerance(abs=0.01))
        assert str(finding.outcome) == outcome


def test_what_the_source_leaves_open_is_allowed() -> None:
    """A value read off a plot within 0.1 points."""
    row = Row("s", "plot", "sleb@1", "Llama-2-7b-hf", {"name": "sleb"}, "perplexity/c4", 12.0,
              {"blocks": 7}, uncertainty=0.5)  # fmt: skip
    (finding,) = findings(record(12.4), [row], Tolerance())

    assert str(finding.outcome) == "same"
    assert str(findings(record(12.6), [row], Tolerance())[0].outcome) == "worse"


def test_show_puts_the_papers_beside_ours(tmp_path: Path, cli, monkeypatch) -> None:
    """A line per number, with the source and by how much ours differs; and as JSON."""
    monkeypatch.chdir(tmp_path)
    Store(Path(".prunebench")).save(replace(record(), key="k"))
    code, out, _ = cli("show", "sleb-7blocks")

    assert code == 0
    assert (
        "published perplexity/c4 12.32 (SLEB, arXiv:2402.09025, assets/c4_perplexity.png, "
        "sparsity 21.0%), ours 12.3 (-0.2%)"
    ) in out
    assert '"published"' in cli("show", "sleb-7blocks", "--json")[1]


def test_a_case_asks_to_be_judged_by_a_key(tmp_path: Path) -> None:
    """It is policy like a tolerance: no part of the question."""
    text = "protocol: sleb@1\nmodel: {id: some/model}\nmethod: {name: sleb}\nblocks: 7\n"
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text(text + "published: {rel: 0.02}\n")
    plain, strict = loader.load([tmp_path])

    assert plain.published is None
    assert strict.published == Tolerance(rel=0.02)
    assert plain.asked == strict.asked


@pytest.mark.slow
def test_only_files_that_name_a_model_are_read_for_it(tmp_path: Path) -> None:
    """The same rows about each model, by any of its names; for others no file is even parsed."""
    for model in {name for row in ALL for name in (row.model, *row.aliases)}:
        own = [row for row in ALL if published._is_model(model, row)]
        found = rows(FOLDER, frozenset({f"./elsewhere/{model.rsplit('/')[-1].upper()}"}))
        assert [row for row in found if published._is_model(model, row)] == own != []
    (tmp_path / "bad.yaml").write_text("tables: [{model: some/Llama}")

    assert rows(tmp_path, frozenset({"prunebench/reference"})) == ()
    with pytest.raises(CaseError):
        rows(tmp_path, frozenset({"prunebench/reference", "mirror/llama"}))


# --------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ("source: x\ntables:\n  - {where: t, protocol: p, rows: []}\n", "3:5",
         "give metric and models, or model and metrics"),
        ("source: x\ntables:\n  - where: t\n    protocol: p\n    metric: m\n    models: [a, b]\n"
         "    rows:\n      - {method: sleb, values: [1]}\n", "8:9", "1 values for 2 columns"),
        ("source: x\ntables:\n  - where: t\n    protocol: p\n    metric: m\n    models: [a]\n"
         "    rows:\n      - {method: sleb, value: [1]}\n", "8:24", "unknown key 'value'"),
        ("source: x\ntabels: []\n", "2:1", "unknown key 'tabels'; did you mean 'tables'"),
    ],
)  # fmt: skip
def test_mistakes_name_their_place(text: str, place: str, message: str, tmp_path: Path) -> None:
    """File, line and column of what is wrong."""
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(CaseError) as stop:
        published.rows(tmp_path)

    assert any(f"bad.yaml:{place}: {message}" in problem for problem in stop.value.problems)


TABLE = """\
source: x
tables:
  - where: t
    protocol: PROTOCOL
    metric: perplexity/c4
    models: [a/b, a/c]
    rows:
      - {method: METHOD, AMOUNTvalues: [5, 6]}
"""


@pytest.mark.parametrize(
    ("changes", "place", "message"),
    [
        ({"AMOUNT": "amount: {blocks: [4]}, "}, "8:33", "1 amounts for 2 columns"),
        ({"AMOUNT": "amount: {block: 4}, "}, "8:33", "unknown amount 'block'; did you mean"),
        ({"AMOUNT": "amount: {slicing: 0.2}, "}, "8:24", "sleb takes 'sparsity' or 'blocks'"),
        ({"AMOUNT": "calibration: {nsample: 4}, "}, "8:38", "unknown key 'nsample'"),
        ({"AMOUNT": "sparsity: [0.1], "}, "8:24", "1 sparsities for 2 columns"),
        ({"METHOD": "{criterion: ppl}"}, "8:10", "missing key 'name' of a method"),
        ({"METHOD": "{name: sleb, keep: 1}"}, "8:31", "unknown key 'keep'; did you mean"),
        ({"PROTOCOL": "slab@1"}, "4:5", "unknown protocol 'slab@1'; did you mean 'sleb@1'?"),
        ({"source: x": "source: x\naliases: {a/q: [b/q]}"}, "2:11", "no table has 'a/q'"),
        ({"source: x": "rankings: [{where: w, model: m, method: {name: sleb}, blocks: [1, 1]}]\n"
          "source: x"}, "1:55", "found a block twice"),
    ],
)  # fmt: skip
def test_a_number_that_nobody_would_find_is_a_mistake(
    changes: dict[str, str], place: str, message: str, tmp_path: Path
) -> None:
    """A misspelt amount, option, calibration or protocol would only ever match nothing."""
    text = TABLE
    for old, new in changes.items():
        text = text.replace(old, new)
    for word, plain in {"PROTOCOL": "sleb@1", "METHOD": "sleb", "AMOUNT": ""}.items():
        text = text.replace(word, plain)
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(CaseError) as stop:
        published.rows(tmp_path)

    (problem,) = stop.value.problems
    assert f"bad.yaml:{place}: {message}" in problem


def test_methods_that_are_not_ours_may_have_any_options(tmp_path: Path) -> None:
    """What others call theirs is not checked; the table itself, as above, is sound."""
    text = TABLE.replace("PROTOCOL", "theirs (own code)").replace("AMOUNT", "")
    (tmp_path / "good.yaml").write_text(text.replace("METHOD", "{name: LaCo, ratio: 2}"))

    assert [row.value for row in published.rows(tmp_path)] == [5.0, 6.0]


def test_a_record_with_an_option_of_another_version_is_about_nothing() -> None:
    """It is shown without published numbers, not refused."""
    assert found(method={"name": "sleb", "gone": 1}) == set()

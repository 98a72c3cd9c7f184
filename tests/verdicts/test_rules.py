"""What a run makes of its tests: one level for all, second measurements, noise, seeds."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from factories import CPU, record
from msgspec.structs import replace
from scipy import stats as scipy_stats

from prunebench import Measurement, Record, Tolerance
from prunebench.case import Case
from prunebench.reports import explain
from prunebench.results import timing_noise as noise
from prunebench.verdicts import seeds
from prunebench.verdicts.significance import holm
from prunebench.verdicts.verdict import FAILING, Outcome, Rules, Verdict, compare, settle

GPU = replace(CPU, device="nvidia-h200")


def answered(task: str, right: int, of: int = 200, instead: str = "") -> Measurement:
    samples = tuple(float(i < right) for i in range(of))
    return Measurement(
        f"accuracy/{task}", right / of, "acc", "higher", samples, paired=True, instead=instead
    )


def tasks(*right: int) -> list[Measurement]:
    """A measurement per task, and their mean."""
    parts = [answered(f"t{i}", n, instead="accuracy/mean") for i, n in enumerate(right)]
    samples = tuple(s for part in parts for s in part.samples)
    value = sum(part.value or 0 for part in parts) / len(parts)
    return [*parts, Measurement("accuracy/mean", value, "acc", "higher", samples, paired=True)]


def judged(now: Record, was: Record, allowed: float = 0.01, **rules: Any) -> Verdict:
    return compare(now, was, lambda _: Tolerance(abs=allowed), rules=Rules(**rules))


def outcomes(verdict: Verdict) -> dict[str, str]:
    return {f.what: str(f.outcome) for f in verdict.findings if f.what != "plan"}


def test_tasks_diagnose_and_their_mean_decides() -> None:
    """A task that fell does not fail the case that another's gain makes up for."""
    now, was = record(*tasks(150, 190)), record(*tasks(170, 172))
    verdict = judged(now, was)
    found = {f.what: f for f in verdict.findings}

    assert outcomes(verdict) == {
        "accuracy/t0": "worse",
        "accuracy/t1": "better",
        "accuracy/mean": "unsure",
    }
    assert found["accuracy/t0"].diagnostic
    assert (verdict.ok, verdict.outcome) == (True, "unsure")


def test_a_task_that_a_case_names_decides() -> None:
    """A tolerance for one task by its full name makes it a gate."""
    now, was = record(*tasks(150, 190)), record(*tasks(170, 172))

    assert not judged(now, was, gates=("accuracy/t0",)).ok


def test_the_loss_is_weighted_as_the_test_weighs_it() -> None:
    """A task of 400 and one of 100: their drops by the weight of their sizes, by hand."""
    parts = [
        (answered("t0", 360, 400, "accuracy/mean"), answered("t0", 380, 400, "accuracy/mean")),
        (answered("t1", 80, 100, "accuracy/mean"), answered("t1", 80, 100, "accuracy/mean")),
    ]
    sides = []
    for i in (0, 1):
        own = [pair[i] for pair in parts]
        samples = tuple(s for m in own for s in m.samples)
        value = sum(m.value or 0 for m in own) / 2
        mean = Measurement("accuracy/mean", value, "acc", "higher", samples, paired=True)
        sides.append(record(*own, mean))
    (finding,) = [f for f in judged(*sides).findings if f.what == "accuracy/mean"]
    units = (10, round(10 * 4**0.15))

    assert finding.evidence is not None
    assert finding.evidence.loss == pytest.approx(20 * units[0] / (400 * units[0] + 100 * units[1]))
    assert finding.evidence.worse == 20


def test_one_of_many_tests_needs_more() -> None:
    """What alone is worse is unsure among sixty; what is far worse stays so. Holm's numbers."""
    alike = judged(record(answered("t", 170)), record(answered("t", 170)))
    mild = judged(record(answered("t", 161)), record(answered("t", 170)))
    strong = judged(record(answered("t", 130)), record(answered("t", 170)))
    verdicts = [mild, strong, *[alike] * 58]
    assert [v.outcome for v in verdicts[:3]] == ["worse", "worse", "same"]
    settled = settle([(v, FAILING) for v in verdicts])
    found = [next(f for f in v.findings if f.what == "accuracy/t") for v in settled]
    adjusted = holm([f.p or 0 for f in found])

    assert [v.outcome for v in settled[:3]] == ["unsure", "worse", "same"]
    assert [v.ok for v in settled[:3]] == [True, False, True]
    assert [f.evidence.adjusted for f in found] == adjusted
    assert "one of 60 tests" in found[0].note
    assert mild.findings[1].evidence.least < found[0].evidence.least


def test_where_the_others_cannot_be_seen_all_share_one_level() -> None:
    """Under pytest each item counts all tests (Bonferroni), never less strict than Holm."""
    now, was = record(answered("t", 161)), record(answered("t", 170))

    assert judged(now, was).outcome == "worse"
    assert judged(now, was, family=60).outcome == "unsure"
    assert judged(now, was, alpha=0.001).outcome == "unsure"


def test_what_crashed_stays_crashed() -> None:
    """Settling judges findings, of which a crash has none."""
    crashed = Verdict("a/b", ok=False, error="boom")

    assert settle([(crashed, FAILING)]) == [crashed]


def timed(value: float, rounds: int = 20) -> Measurement:
    samples = tuple(value * (1 + 0.01 * math.sin(i)) for i in range(rounds))
    return Measurement("latency/x/speedup", value, "x", "higher", samples)


def test_a_timing_is_worse_when_measured_twice() -> None:
    """Until then it is to be confirmed; a second measurement that disagrees makes it unsure."""
    was = record(timed(1.5), environment=GPU)
    now = record(timed(1.2), environment=GPU)
    confirmed = replace(now, again=(timed(1.21),))
    refuted = replace(now, again=(timed(1.5),))

    assert judged(now, was).unconfirmed == ("latency/x/speedup",)
    assert judged(confirmed, was).outcome == "worse"
    assert judged(confirmed, was).unconfirmed == ()
    assert judged(refuted, was).outcome == "unsure"
    assert "a second time: 1.5, same" in judged(refuted, was).findings[-1].note


def test_less_than_the_noise_of_the_machine_is_not_believed() -> None:
    """A slowdown of a fifth is worse at 5 % noise, and not at 30 %."""
    was = record(timed(1.5), environment=GPU)
    now = record(timed(1.2), environment=GPU, again=(timed(1.2),))
    noisy = judged(now, was, noise={"latency/x/speedup": 0.3})

    assert judged(now, was, noise={"latency/x/speedup": 0.05}).outcome == "worse"
    assert noisy.outcome == "same"
    assert noisy.findings[-1].allowed == pytest.approx(0.45)
    assert noisy.findings[-1].evidence.noise == pytest.approx(0.45)


def test_margins_make_small_losses_certain() -> None:
    """Leads that shrink everywhere tell what a handful of flipped answers cannot."""
    rng = np.random.default_rng(0)
    lead = rng.normal(1, 1, 400)

    def measured(margins: Any, *, kept: bool) -> Measurement:
        right = (margins > 0).astype(float)
        own = tuple(margins.tolist()) if kept else ()
        value = float(right.mean())
        return Measurement("accuracy/t", value, "acc", "higher", tuple(right), True, margins=own)

    def outcome(*, kept: bool) -> str:
        now, was = (record(measured(m, kept=kept)) for m in (lead - 0.04, lead))
        return judged(now, was, 0.0).outcome

    assert [outcome(kept=kept) for kept in (False, True)] == ["unsure", "worse"]


def test_an_interval_over_seeds_by_students_formula() -> None:
    """Three seeds without samples: SciPy's t-interval of their mean; samples widen it."""
    values = [2.40, 2.46, 2.41]

    def seed(value: float, samples: tuple[float, ...] = ()) -> Record:
        return record(Measurement("divergence/t", value, "nats", "lower", samples, paired=True))

    (one,) = seeds.intervals({"a/b": [seed(v) for v in values]})
    error = np.std(values, ddof=1) / math.sqrt(3)
    low, high = scipy_stats.t.interval(0.95, 2, np.mean(values), error)
    windows = tuple(np.random.default_rng(1).normal(2.4, 0.2, 50).tolist())
    (wide,) = seeds.intervals({"a/b": [seed(v, windows) for v in values]})
    asked = scipy_stats.sem(windows)

    assert (one.low, one.high, one.seeds) == (pytest.approx(low), pytest.approx(high), 3)
    assert wide.over_questions == pytest.approx(asked)
    assert wide.high - wide.mean == pytest.approx(
        math.hypot(high - np.mean(values), 1.96 * asked), 1e-3
    )
    assert seeds.intervals({"a/b": [seed(2.4)]}) == []


def test_the_error_of_a_mean_over_tasks_and_of_perplexity() -> None:
    """Binomial errors in quadrature over the number of tasks; and the exponential's slope."""
    whole = record(*tasks(150, 190))
    mean = whole.find("accuracy/mean")
    errors = [math.sqrt(p * (1 - p) / 199) for p in (0.75, 0.95)]
    losses = np.random.default_rng(2).normal(1, 0.1, 30)
    value = math.exp(losses.mean())
    ppl = Measurement("perplexity/t", value, "ppl", "lower", tuple(losses.tolist()), True)

    assert mean is not None
    assert seeds.standard_error(mean, whole) == pytest.approx(math.hypot(*errors) / 2)
    assert seeds.standard_error(ppl, record(ppl)) == pytest.approx(value * scipy_stats.sem(losses))


def test_every_finding_explains_itself() -> None:
    """The numbers of the test: how many moved, the interval, p, alpha, what could be seen."""
    now, was = record(*tasks(150, 188)), record(*tasks(180, 190))
    text = "\n".join(explain.explanation(now, was, judged(now, was)))

    for part in (
        "of 400 questions 32 are worse and 0 better",
        "lost 8.00 pp: 95% sure it is below 10.16 pp, and above 5.84 pp; allowed 1.00 pp",
        "one-sided alpha 0.05",
        "worse: the loss is more than allowed and significant",
        "minimum detectable drop (80% power): ",
        "    accuracy/t0: worse, lost 15.00 pp",
    ):
        assert part in text


def test_plans_are_told_apart_as_a_diff() -> None:
    """In order of removal, with the step at which they parted and both margins."""
    from prunebench import DropBlocks, Step

    was = record()
    trace = (was.trace[0], Step(1, {"3": 1.5, "4": 1.2}, "4", margin=0.3, noise=1e-6))
    now = record(plan=(DropBlocks((5, 4)),), trace=trace)
    lines = explain.explanation(now, was, judged(now, was))

    assert explain.plan_diff(now, was) == [
        "  drop_blocks 5",
        "- drop_blocks 3",
        "+ drop_blocks 4",
    ]
    assert any("diverged at step 1: chose 4 at 1.2 before 3 at 1.5" in line for line in lines)
    assert any("the baseline: chose 3 at 1.2 before 4 at 1.4" in line for line in lines)


@pytest.mark.slow
def test_seeds_make_cases_and_one_interval(project: Path, cli) -> None:
    """Two seeds: two searches, one baseline, one verdict, one interval; the table says so."""
    file = project / "cases" / "small.yaml"
    lines = file.read_text().replace(
        "nsamples: 8, seqlen: 128", "nsamples: 4, seqlen: 64, seed: [0, 7]"
    )
    file.write_text("".join(x for x in lines.splitlines(keepends=True) if "accuracy" not in x))
    code, out, _ = cli("run", "cases", "--json", "out.json")
    result = json.loads(Path("out.json").read_text())
    ids = [v["case_id"] for v in result["verdicts"]]

    assert code == 0
    assert ids == ["small/sleb-windows-2blocks" + end for end in ("", "-seed7")]
    assert [r["asked"]["calibration"].get("seed", 0) for r in result["records"]] == [0, 7]
    values = [
        next(m["value"] for m in r["measurements"] if m["metric"].startswith("perplexity"))
        for r in result["records"]
    ]
    (interval,) = [i for i in result["intervals"] if i["metric"].startswith("perplexity")]
    assert interval["mean"] == pytest.approx(np.mean(values))
    assert "over 2 calibration seeds" in out
    assert cli("run", "cases", "--strict", "--accept", "--because", "first")[0] == 0
    assert [p.stem for p in Path("baselines/quality/small").glob("*.json")] == [
        "sleb-windows-2blocks"
    ]
    assert cli("run", "cases", "--strict")[0] == 0


@pytest.mark.slow
def test_calibrating_raises_what_is_allowed(project: Path, cli, monkeypatch) -> None:
    """Timings of one model beside itself are kept by device, and a gate on it reads them."""
    (project / "cases" / "small.yaml").write_text(
        "model: {id: prunebench/reference, dtype: float32}\n"
        "metrics: [{name: latency, prompt_tokens: 8, new_tokens: 2, rounds: 3, warmup: 0}]\n"
        "method: {name: dense}\n"
    )
    code, out, _ = cli("calibrate", "cases", "--repetitions", "3", "--json", "noise.json")
    kept = noise.load(Path(".prunebench"), "cpu")

    assert code == 0
    assert "believable from" in out
    assert kept is not None
    assert json.loads(Path("noise.json").read_text())["effects"] == kept.effects
    speedup = "latency/hf-eager-1x8+2/speedup-end-to-end"
    assert 0 < kept.effects["prunebench/reference"][speedup] < 10
    (project / "cases" / "small.yaml").write_text(
        "model: {id: prunebench/reference, dtype: float32}\n"
        "metrics: [{name: compute}]\nmethod: {name: dense}\n"
    )
    code, _, err = cli("calibrate", "cases")
    assert (code, err.strip()) == (
        2,
        "no case here measures latency: there is nothing to calibrate",
    )


def test_a_slow_timing_is_measured_again_before_it_fails(project: Path, monkeypatch) -> None:
    """The session asks for it once, keeps it in the record, and does not ask again."""
    from prunebench.cases import loader
    from prunebench.results.baselines.accept import accepted
    from prunebench.results.baselines.files import Baselines
    from prunebench.results.store import Store
    from prunebench.runs.session import Session

    (case,) = loader.load([project / "cases"])
    baselines = Baselines(project / "baselines")
    now = record(timed(1.2), case_id=case.id, asked=case.asked, environment=GPU, key="k")
    was = replace(now, measurements=(timed(1.5),))
    baselines.save(was, accepted("first"))
    asked = []

    class FakeWorker:
        device = "cpu"

        def run(self, case: Case) -> Record:  # noqa: ARG002
            return now

        def again(self, case: Case, names: Any) -> tuple[Measurement, ...]:  # noqa: ARG002
            asked.append(tuple(names))
            return (timed(second),)

    for second, expected in ((1.2, "worse"), (1.5, "unsure")):
        session = Session([case], Store(project / f"store{second}"), baselines, "cpu")
        session._worker = FakeWorker()  # type: ignore[assignment]
        result = session.answer(case)
        assert result.verdict.outcome == expected
        assert result.record is not None
        assert result.record.again == (timed(second),)
        stored = session.store.latest(case.id)
        assert stored is not None
        assert stored.again == (timed(second),)
        assert session.judge(case, stored).outcome == expected
    assert asked == [("latency/x/speedup",)] * 2


def test_the_level_is_stricter_by_night(project: Path) -> None:
    """0.05, or 0.01 for cases marked nightly; a case may say, and a run overrides both."""
    from prunebench.cases import loader

    file = project / "cases" / "small.yaml"
    plain = file.read_text()
    levels = []
    for more in ("", "marks: [nightly]\n", "marks: [nightly]\nalpha: 0.02\n"):
        file.write_text(plain + more)
        (case,) = loader.load([file])
        levels.append((case.rules().alpha, case.rules(0.001).alpha))

    assert levels == [(0.05, 0.001), (0.01, 0.001), (0.02, 0.001)]


def test_unsure_is_what_a_gate_says_that_cannot_know() -> None:
    """Ten questions, one lost, five points allowed: neither worse nor same."""
    verdict = judged(record(answered("t", 8, 10)), record(answered("t", 9, 10)), 0.2)

    assert verdict.outcome == Outcome.UNSURE
    assert verdict.ok


@pytest.mark.slow
def test_planted_noise_is_worse_and_a_little_of_it_is_not(project: Path, cli, monkeypatch) -> None:
    """End to end: noise on one block's weights, too little to matter and enough to."""
    import torch

    from prunebench.models import surgery

    assert cli("run", "cases", "--accept", "--because", "first")[0] == 0
    apply = surgery.apply

    def noisy(part: float) -> Any:
        def changed(lm: Any, plan: Any) -> Any:
            pruned = apply(lm, plan)
            weights = torch.Generator().manual_seed(0)
            for module in pruned.blocks[4].modules():
                for name, weight in list(module.named_parameters(recurse=False)):
                    noise = torch.randn(weight.shape, generator=weights) * weight.std()
                    worse = torch.nn.Parameter(weight + part * noise, requires_grad=False)
                    setattr(module, name, worse)
            return pruned

        return changed

    codes, words = [], []
    for part in (1e-4, 2.0):
        monkeypatch.setattr(surgery, "apply", noisy(part))
        code, _, _ = cli("run", "cases", "--fresh", "--json", "out.json")
        codes.append(code)
        (verdict,) = json.loads(Path("out.json").read_text())["verdicts"]
        words.append({f["what"]: f["outcome"] for f in verdict["findings"]})

    assert codes == [0, 1]
    assert {words[0]["perplexity/tinyworld"], words[0]["accuracy/mean"]} == {"same"}
    assert {words[1]["perplexity/tinyworld"], words[1]["accuracy/mean"]} == {"worse"}

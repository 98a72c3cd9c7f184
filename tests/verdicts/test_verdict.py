from __future__ import annotations

import math
from array import array
from typing import Any

import pytest
from factories import CPU, accuracy, record
from msgspec.structs import replace

from prunebench import DropBlocks, Measurement, Record, Step, Tolerance
from prunebench.runs.result import exit_code
from prunebench.verdicts import fail_on, verdict
from prunebench.verdicts.conditions import Condition
from prunebench.verdicts.evidence import evidence
from prunebench.verdicts.significance import rounds, sign_flips
from prunebench.verdicts.verdict import Finding, Outcome, Verdict, compare, judge


def outcome(now: Measurement, was: Measurement, tolerance: Tolerance | None = None) -> str:
    return str(judge(now, was, tolerance or Tolerance()).outcome)


def test_sign_test_is_mcnemars_closed_form() -> None:
    """N wrong-ways against m right-ways: the upper tail of Binomial(n + m, 1/2)."""
    for ups, downs in ((1, 0), (5, 0), (9, 2), (3, 3)):
        n = ups + downs
        expected = sum(math.comb(n, k) for k in range(ups, n + 1)) / 2**n

        assert sign_flips([1] * ups + [-1] * downs + [0] * 7) == pytest.approx(expected)


def test_other_questions_are_not_comparable() -> None:
    """A data set that shrank under its name: 30 answers lost of 50 are no *same*.

    By medians, which are 1 on both sides, nothing would have moved.
    """
    now, was = accuracy(30, of=50), accuracy(98)

    found = judge(now, was, Tolerance(0.01))

    assert (found.outcome, found.now, found.was) == ("not_comparable", 0.6, 0.98)
    assert found.note == "50 questions or windows, the baseline has 100"
    assert evidence(now, was) is None
    assert judge(accuracy(60), was, Tolerance(0.01)).outcome == "worse"


def test_a_condition_on_a_loss_over_other_questions_is_open() -> None:
    """``drop`` and ``p`` are about the same questions; ``now`` is a fact all the same."""
    now, was = record(accuracy(30, of=50)), record(accuracy(98))
    texts = ("accuracy/t: drop > 1pp", "accuracy/t: p < 0.05", "accuracy/t < 0.7")
    items = [fail_on.read(text) for text in texts]
    conditions = [item for item in items if isinstance(item, Condition)]

    drop, p, value = fail_on.findings(now, was, conditions)

    for found in (drop, p):
        assert found.outcome == "not_comparable"
        assert found.note == "50 questions or windows, the baseline has 100"
    assert value.outcome == "worse"
    assert value.fails


def test_no_difference_is_no_evidence() -> None:
    """Identical answers have p = 1."""
    assert sign_flips([0] * 10) == 1.0


def test_separated_timings_have_the_smallest_possible_p() -> None:
    """Five rounds all slower than five: one of C(10, 5) orders."""
    p = rounds([2.0, 2.1, 2.2, 2.3, 2.4], [1.0, 1.1, 1.2, 1.3, 1.4]).p

    assert p == pytest.approx(1 / math.comb(10, 5))


def test_worse_needs_size_and_significance() -> None:
    """A drop of 3 questions is beyond 1 point but may be chance; a drop of 10 is not."""
    tolerance = Tolerance(abs=0.01)

    assert outcome(accuracy(90), accuracy(90), tolerance) == "same"
    assert outcome(accuracy(87), accuracy(90), tolerance) == "unsure"
    assert outcome(accuracy(80), accuracy(90), tolerance) == "worse"
    assert outcome(accuracy(95), accuracy(90), tolerance) == "better"


def test_same_needs_as_much_evidence_as_worse() -> None:
    """A question lost of a hundred may stand for a loss of 2.6 points; of a thousand, of 0.3."""
    tolerance = Tolerance(abs=0.01)
    few = judge(accuracy(89), accuracy(90), tolerance)
    many = judge(accuracy(899, 1000), accuracy(900, 1000), tolerance)

    assert [str(f.outcome) for f in (few, many)] == ["unsure", "same"]
    assert [f.evidence and round(f.evidence.high, 4) for f in (few, many)] == [0.0264, 0.0026]


def test_lower_is_better_turns_the_direction() -> None:
    """Higher perplexity is worse, lower is better; the larger of abs and rel is allowed."""
    losses = [1.0 + i / 100 for i in range(40)]

    def ppl(shift: float) -> Measurement:
        samples = tuple(loss + shift for loss in losses)
        value = math.exp(sum(samples) / 40)
        return Measurement("perplexity/t", value, "ppl", "lower", samples, paired=True)

    assert outcome(ppl(0.02), ppl(0), Tolerance(rel=0.01)) == "worse"
    assert outcome(ppl(0.02), ppl(0), Tolerance(rel=0.03)) == "same"
    assert outcome(ppl(0.02), ppl(0), Tolerance(rel=0.01, abs=1)) == "same"
    assert outcome(ppl(-0.02), ppl(0), Tolerance(rel=0.01)) == "better"


def test_values_without_samples_are_judged_by_size() -> None:
    """Where nothing was sampled, only the tolerance speaks."""
    now, was = (Measurement("accuracy/mean", v, "acc", "higher") for v in (0.89, 0.9))

    assert outcome(now, was, Tolerance(abs=0.005)) == "worse"
    assert outcome(now, was, Tolerance(abs=0.02)) == "same"
    assert outcome(was, now, Tolerance(abs=0.005)) == "better"


def test_better_needs_significance_as_worse_does() -> None:
    """Three questions gained of a hundred are beyond a point and may be chance."""
    assert outcome(accuracy(93), accuracy(90), Tolerance(abs=0.01)) != "better"


def test_timings_are_held_to_what_their_test_weighs() -> None:
    """The median of all shifts (Hodges and Lehmann), which the medians' difference may belie.

    Rounds fall around 1 and 10 ms. All are 0.1 ms slower, and two more of a hundred fall around 10:
    no doubt slower, by 0.1 ms, though the median leaps from one heap to the other.
    """
    was = timing("latency/p/prefill", [1 + i / 1000 for i in range(51)] + [10.0] * 49)
    now = timing("latency/p/prefill", [1.1 + i / 1000 for i in range(49)] + [10.1] * 51)
    found = judge(now, was, Tolerance(abs=5.0))

    assert found.now is not None
    assert found.was is not None
    assert found.evidence is not None
    assert found.now - found.was > 9
    assert found.evidence.p < 1e-6
    assert found.evidence.loss == pytest.approx(0.1, abs=1e-5)
    assert found.outcome == "same"


def timing(name: str, rounds: list[float]) -> Measurement:
    return Measurement(name, sorted(rounds)[len(rounds) // 2], "ms", "lower", tuple(rounds))


def test_every_timing_is_confirmed_by_its_own_second_measurement() -> None:
    """One of two that looked slow is so again, the other is not."""
    steady, slow = [1.0 + i / 1000 for i in range(20)], [2.0 + i / 1000 for i in range(20)]
    names = ("latency/p/prefill", "latency/p/decode")
    gpu = replace(CPU, device="nvidia-h200")
    was = record(*(timing(name, steady) for name in names), environment=gpu)
    now = record(*(timing(name, slow) for name in names), environment=gpu)
    now = replace(now, again=(timing(names[0], slow), timing(names[1], steady)))
    found = {
        f.what: str(f.outcome) for f in compare(now, was, lambda _: Tolerance(rel=0.05)).findings
    }

    assert found == {"plan": "same", names[0]: "worse", names[1]: "unsure"}


def test_there_is_no_slack_for_rounding() -> None:
    """What is past the tolerance is past it, however little."""
    now, was = (Measurement("x/y", v, "", "higher") for v in (0.9499, 1.0))

    assert outcome(now, was, Tolerance(abs=0.05)) == "worse"
    assert outcome(replace(now, value=0.9501), was, Tolerance(abs=0.05)) == "same"


def test_what_is_not_finite_is_worse_even_without_a_baseline() -> None:
    """A broken model fails on its first night."""
    broken = Measurement("perplexity/t", None, "ppl", "lower")
    first = compare(record(broken), None, lambda _: Tolerance())

    assert outcome(broken, replace(broken, value=3.0)) == "worse"
    full = replace(broken, note="out of memory")
    assert outcome(full, full) == "same"  # a fact like any other, where it was so before
    assert [outcome(full, broken), outcome(broken, full), outcome(broken, broken)] == ["worse"] * 3
    assert outcome(full, replace(full, value=3.0, note="")) == "worse"
    fine = replace(broken, value=3.0)
    noted = replace(fine, note="the GPU was shared")
    for now, was, why in (
        (fine, broken, "no finite value"),
        (fine, full, "out of memory"),
        (noted, fine, noted.note),
        (fine, noted, noted.note),
    ):
        found = judge(now, was, Tolerance())
        assert (str(found.outcome), found.note) == ("not_comparable", why)
    assert (first.ok, first.outcome) == (False, "worse")


def asked(**metrics: dict[str, Any]) -> dict[str, Any]:
    return {"metrics": [{"name": name, **options} for name, options in metrics.items()]}


def test_a_metric_that_is_added_or_changed_leaves_the_others_standing() -> None:
    """Each is a question of its own: new, not comparable, gone, and the rest judged."""
    kept, new = accuracy(90), Measurement("divergence/t", 0.1, "nats", "lower")
    changed = Measurement("perplexity/t", 5.0, "ppl", "lower")
    old = Measurement("generation/t", 0.5, "match", "higher")
    now = record(
        kept, new, changed, asked=asked(accuracy={}, divergence={}, perplexity={"seqlen": 128})
    )
    was = record(
        kept, old, changed, asked=asked(accuracy={}, generation={}, perplexity={"seqlen": 64})
    )
    result = {f.what: f for f in compare(now, was, lambda _: Tolerance()).findings}

    assert {what: str(f.outcome) for what, f in result.items()} == {
        "plan": "same",
        "perplexity": "not_comparable",
        "accuracy/t": "same",
        "divergence/t": "new",
        "generation/t": "gone",
    }
    assert "perplexity.seqlen is 128, was 64" in result["perplexity"].note


def test_another_question_is_not_comparable_and_says_what_differs() -> None:
    """The sentence names the key, both values, and nothing is judged."""
    was = record(accuracy(90))
    now = record(accuracy(10), asked={**was.asked, "amount": {"blocks": 3}})
    result = compare(now, was, lambda _: Tolerance())

    assert [f.outcome for f in result.findings] == ["not_comparable"]
    assert "amount.blocks is 3, was 2" in result.findings[0].note
    assert result.ok


def test_a_changed_plan_is_a_finding_with_both_plans() -> None:
    """Other blocks than accepted is a finding of its own, whatever the numbers say."""
    now = record(
        plan=(DropBlocks((4, 3)),),
        trace=(
            Step(0, {"4": 0.9, "5": 1.0}, "4", margin=0.1, noise=1e-6),
            Step(1, {"3": 1.2, "5": 1.4}, "3", margin=0.2, noise=1e-6),
        ),
    )
    result = compare(now, record(), lambda _: Tolerance(), (Outcome.CHANGED_PLAN,))

    assert (result.outcome, result.ok) == ("changed_plan", False)
    assert result.findings[0].note == "now drop_blocks 4 3, was drop_blocks 5 3"
    assert compare(now, record(), lambda _: Tolerance()).ok


def test_a_choice_within_the_noise_is_a_tie() -> None:
    """Plans that part where neither run could tell the candidates apart are the same."""
    mine = Step(0, {"4": 1.0, "5": 1.0 + 5e-7}, "4", margin=5e-7, noise=1e-6)
    theirs = Step(0, {"4": 1.0 + 5e-7, "5": 1.0}, "5", margin=5e-7, noise=1e-6)
    now = record(plan=(DropBlocks((4,)),), trace=(mine,))
    was = record(plan=(DropBlocks((5,)),), trace=(theirs,))
    sure = replace(was, trace=(replace(theirs, margin=1e-3, noise=1e-6),))

    assert compare(now, was, lambda _: Tolerance()).outcome == "same"
    assert compare(now, sure, lambda _: Tolerance()).outcome == "changed_plan"


def test_a_choice_without_a_score_is_no_tie() -> None:
    """One that is not finite, or that the other run did not look at, is within no noise."""

    def step(chosen: str, **scores: float | None) -> Step:
        return Step(0, {k[1:]: v for k, v in scores.items()}, chosen, margin=0.0, noise=1e-6)

    theirs = record(plan=(DropBlocks((5,)),), trace=(step("5", _4=1.0, _5=1.0),))
    for mine in (step("4", _4=None, _5=1.0), step("4", _4=1.0, _5=None), step("4", _4=1.0)):
        now = record(plan=(DropBlocks((4,)),), trace=(mine,))
        for one, other in ((now, theirs), (theirs, now)):
            assert compare(one, other, lambda _: Tolerance()).outcome == "changed_plan"


def test_a_tie_may_change_how_a_search_goes_on() -> None:
    """A window merged at a threshold it just passes: fewer trials follow, and another kind of plan.

    What decides is the ranking where there is one, not the scores.
    """
    from prunebench.edits.merge_blocks import MergeBlocks

    mine = Step(0, {"4-5": 0.9, "threshold": 0.9 - 1e-7}, "4-5", 1e-7, 1e-6)
    theirs = Step(0, {"4-5": 0.9, "threshold": 0.9 + 1e-7}, "threshold", 1e-7, 1e-6)
    more = Step(1, {"3-4": 0.5, "threshold": 0.9}, "threshold", 0.4, 1e-6)
    now = record(plan=(MergeBlocks(((4, 5),)),), trace=(mine,))
    was = record(plan=(), trace=(theirs, more))
    assert compare(now, was, lambda _: Tolerance()).outcome == "same"

    ranked = replace(mine, ranking={"4-5": 0.9, "threshold": 0.5})
    assert (
        compare(replace(now, trace=(ranked,)), was, lambda _: Tolerance()).outcome == "changed_plan"
    )


@pytest.mark.parametrize("odd", [1e308, -1e308, 1e40, math.inf, math.nan, 5e-324])
@pytest.mark.parametrize("paired", [True, False])
def test_samples_of_any_size_are_judged_or_passed_over(odd: float, *, paired: bool) -> None:
    """A foreign record may hold anything: no number, no test, and size decides."""
    was = Measurement("perplexity/t", 2.0, "ppl", "lower", (odd, 0.5, 0.7), paired)
    now = replace(was, value=3.0, samples=(0.5, odd, 0.7))

    assert outcome(now, was, Tolerance(rel=0.1)) in ("worse", "unsure")


def test_gone_and_new_metrics_are_told() -> None:
    """A metric that is no longer measured fails; a new one is only new."""
    other = Measurement("accuracy/u", 0.5, "acc", "higher")
    result = compare(record(other), record(accuracy(90)), lambda _: Tolerance())

    assert {f.what: str(f.outcome) for f in result.findings} == {
        "plan": "same",
        "accuracy/u": "new",
        "accuracy/t": "gone",
    }
    assert not result.ok


def test_timings_are_judged_on_a_named_device_only() -> None:
    """On cpu latency is reported and never fails; on a GPU of one name it is judged."""

    def timed(milliseconds: float, device: str) -> Record:
        samples = tuple(milliseconds + i / 100 for i in range(8))
        measurement = Measurement("latency/decode", milliseconds, "ms", "lower", samples)
        return record(measurement, environment=replace(CPU, device=device))

    def judged(device: str) -> Verdict:
        return compare(timed(9, device), timed(3, device), lambda _: Tolerance(rel=0.05))

    assert judged("cpu").ok
    assert [f.what for f in judged("cpu").findings] == ["plan"]
    assert judged("nvidia-h200").outcome == "worse"


def test_differences_go_as_deep_as_both_sides_do() -> None:
    """A mapping against anything else, lists of two lengths, and what is too long for a line."""

    def said(now: object, was: object) -> list[str]:
        return list(verdict.differences({"a": now}, {"a": was}))

    assert said({"b": 1}, {"b": 1}) == []
    assert said({"b": 1, "c": 2}, {"b": 3, "d": 4}) == [
        "a.b is 1, was 3",
        "a.c is 2, was not given",
        "a.d is not given, was 4",
    ]
    assert said({"b": 1}, 3) == ["a is {'b': 1}, was 3"]
    assert said(3, {"b": 1}) == ["a is 3, was {'b': 1}"]
    assert said([1, 2], [1, 3]) == ["a[1] is 2, was 3"]
    assert said([1, 2], [1]) == ["a is [1, 2], was [1]"]
    assert said("x" * 60, "y" * 61) == [f"a is {'x' * 60}, was {'y' * 57}..."]


def test_a_case_for_an_interval_is_neither_good_nor_bad() -> None:
    """What it is called, unless it crashed or could not run."""
    of = Verdict("a/b-seed1", ok=True, seed_of="a/b")

    assert of.outcome == "interval"
    assert replace(of, error="boom").outcome == "crashed"
    assert replace(of, skipped="no GPU").outcome == "skipped"


def verdict_of(outcome: Outcome, *, ok: bool = True) -> Verdict:
    return Verdict("a/b", ok, (Finding("x", outcome),))


@pytest.mark.parametrize(
    ("verdicts", "plain", "strict"),
    [
        ([verdict_of(Outcome.SAME)], 0, 0),
        ([verdict_of(Outcome.WORSE, ok=False)], 1, 1),
        ([Verdict("a/b", ok=False, error="boom")], 3, 3),
        ([Verdict("a/b", ok=False, error="boom"), verdict_of(Outcome.WORSE, ok=False)], 1, 1),
        ([verdict_of(Outcome.UNSURE)], 0, 4),
        ([verdict_of(Outcome.NOT_COMPARABLE)], 0, 6),
        ([verdict_of(Outcome.NEW)], 0, 6),
        ([Verdict("a/b", ok=True, skipped="no GPU")], 0, 0),
    ],
)
def test_exit_codes(verdicts: list[Verdict], plain: int, strict: int) -> None:
    """The table of the contract, with and without --strict."""
    assert exit_code(verdicts) == plain
    assert exit_code(verdicts, strict=True) == strict


def test_sparsity_is_the_fraction_of_parameters_that_is_gone() -> None:
    """80 of 100 left is a sparsity of 0.2."""
    assert record().sparsity == pytest.approx(0.2)


def test_alpha_is_one_in_twenty() -> None:
    """The documented error rate is the one in force."""
    assert verdict.ALPHA == 0.05


def test_a_plan_that_contradicts_its_trace_is_no_tie() -> None:
    """The same choices with other edits mean a broken method, never noise."""
    now = record(plan=(DropBlocks((4, 3)),))

    assert compare(now, record(), lambda _: Tolerance()).outcome == "changed_plan"


def test_what_the_file_format_rounds_has_not_moved() -> None:
    """Right and wrong as parts of a dense score: McNemar's p, not that of a thousand tiny moves."""
    right = [1.0] * 60 + [0.0] * 40
    fewer = [0.0] * 12 + [1.0] * 50 + [0.0] * 38
    stored = tuple(array("f", [r / 0.93 for r in right]))
    was = Measurement("accuracy/recovery", 0.6 / 0.93, "of dense", "higher", stored, paired=True)
    now = replace(was, value=0.5 / 0.93, samples=tuple(r / 0.93 for r in fewer))
    plain = [
        Measurement("accuracy/mean", sum(x) / 100, "acc", "higher", tuple(x), paired=True)
        for x in (fewer, right)
    ]

    def p(newer: Measurement, older: Measurement) -> float:
        seen = evidence(newer, older)
        assert seen is not None
        return seen.p

    assert p(now, was) == p(*plain)
    assert p(replace(was, samples=tuple(r / 0.93 for r in right)), was) == 1.0

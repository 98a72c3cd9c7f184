"""The committed smoke baselines are ones that somebody else's machine can meet."""

from __future__ import annotations

import math

import pytest
from factories import ROOT

from prunebench.cases import loader
from prunebench.results.baselines.files import Baselines

if not (ROOT / "cases").is_dir():
    pytest.skip("the tests run without the repository around them", allow_module_level=True)

CASES = {case.id: case for case in loader.load([ROOT / "cases" / "smoke"])}
BASELINES = Baselines(ROOT / "baselines")


@pytest.mark.parametrize("case_id", CASES)
def test_every_smoke_case_has_a_baseline_to_the_same_question(case_id: str) -> None:
    """Accepted, with a reason, for the case as it stands."""
    record = BASELINES.load(case_id, "cpu")
    accepted = BASELINES.accepted(case_id)

    assert record is not None
    assert accepted is not None
    assert accepted.because
    assert record.asked == CASES[case_id].asked


def test_no_smoke_baseline_is_orphaned() -> None:
    """Each belongs to a case."""
    ids = {i for i in BASELINES.case_ids() if i.startswith("smoke/")}

    assert ids == set(CASES)


@pytest.mark.parametrize("case_id", CASES)
def test_every_choice_has_a_clear_margin(case_id: str) -> None:
    """At least 1e-3 to the runner-up: in nats or in cosine, else as a part of the score.

    A width is asked for and not chosen; its margin is between eigenvalues, which are never equal.
    """
    record = BASELINES.load(case_id, "cpu")
    assert record is not None
    method = CASES[case_id].asked["method"]["name"]
    for step in record.trace if not method.startswith("slice") else ():
        assert step.margin is not None
        margin = step.margin
        if method not in ("sleb", "sliding_layer_merging"):
            chosen = step.decided_by(step.chosen)
            assert chosen is not None
            margin = math.log((chosen + step.margin) / chosen)

        assert margin >= 1e-3, step
        assert step.determined


def test_methods_beat_the_random_control() -> None:
    """At the larger amount every published method leaves a better perplexity than random."""
    ppl = {}
    for case_id, case in CASES.items():
        record = BASELINES.load(case_id, "cpu")
        measured = record.find("perplexity/tinyworld") if record else None
        if measured and case.target.sparsity == 0.3:
            ppl[case.label] = measured.value

    assert len(ppl) >= 8
    assert all(v < ppl["random-0.3"] for k, v in ppl.items() if k != "random-0.3")


def test_methods_beat_the_mean_of_five_random_draws() -> None:
    """On all questions, at no less achieved sparsity than the draws they are held against."""
    records = {
        case.id: BASELINES.load(case.id, "cpu")
        for case in loader.load([ROOT / "cases" / "reference"])
    }
    draws: dict[float, list[float]] = {}
    others: dict[str, tuple[float, float]] = {}
    for case_id, record in records.items():
        measured = record.find("perplexity/tinyworld") if record else None
        assert record is not None, case_id
        assert measured is not None
        assert measured.value is not None
        name = record.asked["method"]["name"]
        if name == "random":
            draws.setdefault(round(record.sparsity, 4), []).append(measured.value)
        elif name not in ("dense", "first", "middle", "last"):
            others[case_id] = (record.sparsity, measured.value)

    assert sorted(map(len, draws.values())) == [5, 5]
    assert len(others) >= 24
    for case_id, (sparsity, ppl) in others.items():
        held_against = max(s for s in draws if s <= sparsity + 1e-4)
        assert ppl < sum(draws[held_against]) / 5, case_id

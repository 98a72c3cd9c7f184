"""What a gate can see: printed power against simulated power of the very test that judges."""

from __future__ import annotations

import numpy as np
import pytest
from factories import p_paired

from prunebench.verdicts.significance import detectable, sample_size


def power(questions: int, disagreement: float, drop: float, alpha: float, draws: int) -> float:
    """How often the sign test finds the drop, over random sets of answers."""
    rng = np.random.default_rng(0)
    worse = (disagreement + drop) / 2 / disagreement
    found = 0
    for _ in range(draws):
        moved = rng.binomial(questions, disagreement)
        ups = int(rng.binomial(moved, worse))
        found += p_paired([1.0] * ups + [-1.0] * (int(moved) - ups)) < alpha
    return found / draws


@pytest.mark.parametrize(
    ("questions", "disagreement", "alpha", "expected"),
    [(20_465, 0.05, 0.05, 0.0039), (20_465, 0.2, 0.05, 0.0078), (1_267, 0.05, 0.05, 0.0156)],
)
def test_the_smallest_drop_is_what_the_literature_has(questions, disagreement, alpha, expected):
    """The dossier's table, 2.486 sqrt(d / n), for a test that is not exact; a question more."""
    found = detectable(questions, disagreement, alpha) - 1 / questions

    assert found == pytest.approx(expected, rel=0.02)
    assert found == pytest.approx(2.486 * (disagreement / questions) ** 0.5, rel=0.02)


@pytest.mark.parametrize(
    ("questions", "disagreement", "alpha"), [(2_000, 0.1, 0.05), (5_000, 0.05, 0.01)]
)
def test_the_smallest_drop_is_found_as_often_as_said(questions, disagreement, alpha) -> None:
    """80 % within three points, by the exact test itself; with no drop alarms stay below alpha."""
    drop = detectable(questions, disagreement, alpha)

    assert power(questions, disagreement, drop, alpha, 1500) == pytest.approx(0.8, abs=0.03)
    assert power(questions, disagreement, 0.0, alpha, 1500) <= alpha + 0.01


def test_size_and_drop_are_inverses() -> None:
    """As many questions as the smallest drop takes are the questions there are."""
    for questions in (300, 3_000, 30_000):
        drop = detectable(questions, 0.1, 0.01, 0.9)
        assert sample_size(drop, 0.1, 0.01, 0.9) == pytest.approx(questions, rel=1e-6)


def test_too_few_questions_find_nothing_short_of_everything() -> None:
    """Of ten questions half must be lost, whatever else moved; no drop takes no number of them."""
    assert detectable(10, 0.05) == detectable(10, 0.2) > 0.5
    assert sample_size(0.0, 0.05) == float("inf")


def test_power_says_how_many_questions_a_drop_takes(cli) -> None:
    """Half a point at 5 % disagreement, in each way to write it; and as JSON."""
    expected = -(-sample_size(0.005, 0.05) // 1)
    for text in ("0.5pp", "0.5%", "0.005"):
        code, out, _ = cli("power", "--detect", text)
        assert (code, f"a drop of 0.5 pp takes {expected:,.0f} questions" in out) == (0, True)
    assert f'"questions": {expected:.0f}' in cli("power", "--detect", "0.5pp", "--json")[1]


@pytest.mark.slow
def test_power_says_what_each_gate_could_see(project, cli) -> None:
    """From the number of questions of an accepted baseline, beside what the case allows."""
    assert cli("run", "cases", "--accept", "--because", "first")[0] == 0
    code, out, _ = cli("power", "cases", "--disagreement", "10%")
    row = next(line.split() for line in out.splitlines() if "accuracy/mean" in line)

    assert code == 0
    assert row[:3] == ["small/sleb-windows-2blocks", "accuracy/mean", "80"]
    assert float(row[3]) == pytest.approx(detectable(80, 0.1) * 100, abs=0.005)
    assert row[5:] == ["1.00", "pp"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--detect", "much"], "--detect much: expected a part of the questions"),
        (["--detect", "0"], "--detect 0: expected a part of the questions"),
        (
            ["--detect", "9pp", "--disagreement", "5%"],
            "no drop exceeds the disagreement",
        ),
        (["--disagreement", "500%"], "--disagreement 500%: expected a part"),
    ],
)
def test_bad_arguments_of_power_are_one_line(arguments, message, cli) -> None:
    """Exit 2, what was found and what is allowed."""
    code, out, err = cli("power", *arguments)

    assert (code, out) == (2, "")
    assert message in err
    assert len(err.splitlines()) == 1

"""Power and false alarm rate of the tests that judge, by simulation.

    python bench/verdicts.py [--draws 2000] [--write docs/verdicts.md]

Every row calls the code that judges a run (`prunebench.verdicts.significance` and
`prunebench.verdicts.verdict`) on drawn answers and timings, from fixed seeds. `--write` puts the
tables into the page between its markers.
`python bench/planted.py` does the same end to end, on the shipped model.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from prunebench.record import Measurement, Tolerance
from prunebench.verdicts.significance import Stratum, answers, detectable, holm
from prunebench.verdicts.verdict import Outcome, judge

#: The papers' seven tasks: BoolQ, PIQA, HellaSwag, WinoGrande, ARC-easy, ARC-challenge, OpenBookQA.
SEVEN = (3270, 1838, 10042, 1267, 2376, 1172, 500)
ARC_CHALLENGE = 5
Floats = NDArray[np.float64]
Row = tuple[str, ...]


def sized(total: int) -> list[int]:
    """*total* questions in the proportions of the seven tasks."""
    sizes = [round(total * n / sum(SEVEN)) for n in SEVEN]
    sizes[2] += total - sum(sizes)
    return sizes


def moved(rng: np.random.Generator, n: int, disagreement: float, drop: float) -> Floats:
    """For each question 1 if only the older model was right, -1 if only the newer, else 0."""
    u = rng.random(n)
    lost, won = (disagreement + drop) / 2, (disagreement - drop) / 2
    return np.where(u < lost, 1.0, np.where(u < lost + won, -1.0, 0.0))


def strata(
    rng: np.random.Generator, sizes: Sequence[int], disagreement: float, drops: Sequence[float]
) -> list[Floats]:
    """The answers of every task."""
    pairs = zip(sizes, drops, strict=True)
    return [moved(rng, n, max(disagreement, abs(drop)), drop) for n, drop in pairs]


def p_ours(tasks: Sequence[Floats]) -> float:
    """The p-value that judges."""
    return answers([Stratum(task.tolist()) for task in tasks]).p


def p_pooled(tasks: Sequence[Floats]) -> float:
    """McNemar's over all questions alike, whatever task they are of."""
    return answers([Stratum(np.concatenate(tasks).tolist())]).p


def p_macro(tasks: Sequence[Floats]) -> float:
    """A z-test of the plain mean of the tasks."""
    loss = np.mean([task.mean() for task in tasks])
    spread = np.sqrt(sum((task**2).sum() / len(task) ** 2 for task in tasks)) / len(tasks)
    return 1 - NormalDist().cdf(float(loss / spread)) if spread else 1.0


def rates(draw: Callable[[np.random.Generator], Sequence[bool]], draws: int) -> list[float]:
    """How often each of the answers of *draw* is yes, always from the same seed."""
    rng = np.random.default_rng(0)
    return np.mean([draw(rng) for _ in range(draws)], axis=0).tolist()


def told(rate: float, draws: int) -> str:
    """A rate in per cent, and how far so many draws may be off (95 %)."""
    off = 1.96 * (max(rate * (1 - rate), 1 / draws) / draws) ** 0.5
    return f"{rate:.1%} ± {off * 100:.1f}"


# ------------------------------------------------------------------------------ right and wrong


def right_and_wrong(draws: int) -> tuple[Row, list[Row]]:
    """20,000 questions, 5 % disagreement; and a loss in one task alone."""
    sizes, rows = sized(20_000), []
    one = [0.03 * (i == ARC_CHALLENGE) for i in range(7)]
    for what, drops, alpha in (
        ("0.4 points lost everywhere", [0.004] * 7, 0.05),
        ("nothing lost (A/A)", [0.0] * 7, 0.05),
        ("0.55 points lost everywhere", [0.0055] * 7, 0.01),
        ("nothing lost (A/A)", [0.0] * 7, 0.01),
        ("3 points lost in ARC-challenge alone", one, 0.05),
    ):
        # Whether alarms keep to one in a hundred takes many draws to tell.
        count = draws if any(drops) else 4 * draws
        found = rates(
            lambda rng, drops=drops, alpha=alpha: [
                p(tasks) < alpha
                for tasks in [strata(rng, sizes, 0.05, drops)]
                for p in (p_ours, p_pooled, p_macro)
            ],
            count,
        )
        rows.append((what, f"{alpha:g}", *(told(rate, count) for rate in found)))
    head = ("20,000 questions, 5 % disagreement", "alpha", "ours", "all alike", "plain mean")
    return head, rows


# -------------------------------------------------------------------------------------- margins

#: Leads of the right choice: 75 % of the answers right, as many near the edge as the formula says.
CENTRE, WIDTH = 1.0, 1.5
AT_EDGE = NormalDist(CENTRE, WIDTH).pdf(0.0)


def with_margins(
    rng: np.random.Generator, sizes: Sequence[int], disagreement: float, drop: float, *, heavy: bool
) -> list[Stratum]:
    """Answers that change because leads do: by noise, of heavy tails or not, and by a shift.

    Both models have a noise of their own about what a question gives: with no shift neither is
    better. A lead near the edge changes sides in proportion to the mean size of the difference.
    """
    # |a - b| on average, of Student's t with three degrees of freedom and of the normal.
    size = disagreement / AT_EDGE / (1.6528 if heavy else 2 / np.sqrt(np.pi))
    tasks = []
    for n in sizes:
        lead = rng.normal(CENTRE, WIDTH, n)
        noise = rng.standard_t(3, (2, n)) if heavy else rng.normal(size=(2, n))
        before, after = lead + size * noise - [[0.0], [drop / AT_EDGE]]
        worse = (before > 0).astype(float) - (after > 0).astype(float)
        tasks.append(Stratum(worse.tolist(), (before - after).tolist()))
    return tasks


def margins(draws: int) -> tuple[Row, list[Row]]:
    """What leads add to right and wrong."""
    sizes, rows = sized(20_000), []
    for what, drop, heavy in (
        ("nothing lost (A/A)", 0.0, False),
        ("nothing lost (A/A), heavy tails", 0.0, True),
        ("0.1 points lost", 0.001, False),
        ("0.1 points lost, heavy tails", 0.001, True),
        ("0.2 points lost", 0.002, False),
        ("0.4 points lost", 0.004, False),
    ):

        def draw(rng: np.random.Generator, drop: float = drop, heavy: bool = heavy) -> list[bool]:
            seen = answers(with_margins(rng, sizes, 0.05, drop, heavy=heavy))
            return [(seen.p_right or 0) < 0.05, seen.p < 0.05]

        rows.append((what, *(told(rate, draws) for rate in rates(draw, draws))))
    return ("20,000 questions, alpha 0.05", "right and wrong alone", "with margins"), rows


# ----------------------------------------------------------------------------- fixed tolerances


def fixed(draws: int) -> tuple[Row, list[Row]]:
    """What gates of a fixed tolerance see of the same answers."""
    sizes, rows = sized(20_000), []
    before = 0.7

    def verdict(tasks: Sequence[Floats]) -> list[bool]:
        drops = [task.mean() for task in tasks]
        return [
            p_ours(tasks) < 0.05,
            float(np.mean(drops)) > 0.01,
            any(drop > 0.01 for drop in drops),
            any(drop > 0.05 * before for drop in drops),
        ]

    for what, drop in (
        ("nothing lost (A/A)", 0.0),
        ("0.4 points lost", 0.004),
        ("1 point lost", 0.01),
        ("2 points lost", 0.02),
    ):
        found = rates(lambda rng, drop=drop: verdict(strata(rng, sizes, 0.05, [drop] * 7)), draws)
        rows.append((what, *(told(rate, draws) for rate in found)))
    head = (
        "20,000 questions, 5 % disagreement",
        "ours, alpha 0.05",
        "mean fell by 1 point",
        "any task fell by 1 point",
        "any task fell by 5 %",
    )
    return head, rows


# ---------------------------------------------------------------------------------- many cases


def matrix(draws: int) -> tuple[Row, list[Row]]:
    """60 cases of seven tasks in which nothing changed: in how many runs does one alarm?"""
    sizes = sized(4_000)

    def run(rng: np.random.Generator) -> Iterator[tuple[float, float]]:
        for _ in range(60):
            tasks = strata(rng, sizes, 0.05, [0.0] * 7)
            yield p_ours(tasks), min(p_pooled([task]) for task in tasks)

    def draw(rng: np.random.Generator) -> list[bool]:
        ps, least = zip(*run(rng), strict=True)
        adjusted = min(holm(ps))
        return [
            adjusted < 0.05,
            adjusted < 0.01,
            min(ps) < 0.05,
            min(least) < 0.05,
        ]

    found = rates(draw, draws)
    head = ("60 cases x 7 tasks, nothing changed", "runs with an alarm")
    names = (
        "one test a case, Holm, alpha 0.05",
        "one test a case, Holm, alpha 0.01",
        "one test a case at 0.05, each for itself",
        "seven tests a case at 0.05, each for itself",
    )
    return head, [(name, told(rate, draws)) for name, rate in zip(names, found, strict=True)]


# --------------------------------------------------------------------------------------- timings


def timed(rng: np.random.Generator, rounds: int, speedup: float, noise: float) -> Measurement:
    """Interleaved rounds on a machine whose pace drifts: dense and pruned, noise on each."""
    pace = np.exp(np.cumsum(rng.normal(0, 0.01, rounds)))
    dense, pruned = (pace * np.exp(rng.normal(0, noise, rounds)) for _ in range(2))
    ratios = speedup * dense / pruned
    samples = tuple(ratios.tolist())
    return Measurement("latency/x/speedup", float(np.median(ratios)), "x", "higher", samples)


def timings(draws: int) -> tuple[Row, list[Row]]:
    """A slowdown of 5 % at 3 % noise; confirmed by a second measurement."""
    rows = []
    tolerance = Tolerance(rel=0.025)

    def draw(rng: np.random.Generator, slower: float, rounds: int, noise: float) -> list[bool]:
        was = timed(rng, rounds, 1.5, noise)
        once, again = (timed(rng, rounds, 1.5 * (1 - slower), noise) for _ in range(2))
        worse = [judge(m, was, tolerance).outcome == Outcome.WORSE for m in (once, again)]
        return [worse[0], all(worse)]

    for what, slower, rounds, noise in (
        ("5 % slower, 30 rounds, 3 % noise on the ratio", 0.05, 30, 0.03 / np.sqrt(2)),
        ("5 % slower, 30 rounds, 3 % noise on each time", 0.05, 30, 0.03),
        ("unchanged (A/A), 30 rounds, 3 % noise on each time", 0.0, 30, 0.03),
        ("5 % slower, 10 rounds, 3 % noise on each time", 0.05, 10, 0.03),
        ("unchanged (A/A), 10 rounds, 3 % noise on each time", 0.0, 10, 0.03),
    ):
        found = rates(lambda rng, s=slower, r=rounds, n=float(noise): draw(rng, s, r, n), draws)
        rows.append((what, *(told(rate, draws) for rate in found)))
    return ("2.5 % allowed, alpha 0.05", "worse", "worse, and confirmed"), rows


# ----------------------------------------------------------------------------------------- power


def power(draws: int) -> tuple[Row, list[Row]]:
    """The smallest drop as printed, and how often it is found."""
    rows = []
    for questions, disagreement, alpha in (
        (400, 0.1, 0.05),
        (1_267, 0.05, 0.05),
        (4_000, 0.05, 0.01),
        (20_000, 0.05, 0.05),
        (20_000, 0.02, 0.01),
    ):
        drop = detectable(questions, disagreement, alpha)

        def draw(
            rng: np.random.Generator,
            n: int = questions,
            d: float = disagreement,
            drop: float = drop,
            alpha: float = alpha,
        ) -> list[bool]:
            return [p_pooled([moved(rng, n, d, drop)]) < alpha]

        (found,) = rates(draw, draws)
        size = f"{drop * 100:.2f} points"
        asked = (f"{questions:,}", f"{disagreement:.0%}", f"{alpha:g}")
        rows.append((*asked, size, "80 %", told(found, draws)))
    head = ("questions", "disagreement", "alpha", "smallest drop", "printed", "simulated")
    return head, rows


SECTIONS = {
    "right-and-wrong": right_and_wrong,
    "margins": margins,
    "fixed": fixed,
    "matrix": matrix,
    "timings": timings,
    "power": power,
}


def markdown(head: Row, rows: Sequence[Row]) -> str:
    """A table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


def put(page: Path, name: str, table: str) -> None:
    """Put *table* into *page* between the markers of that *name*."""
    text = page.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    before, rest = text.split(start)
    _, after = rest.split(end)
    page.write_text(f"{before}{start}\n\n{table}\n\n{end}{after}", encoding="utf-8")


def main() -> None:
    """Draw, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--only", choices=SECTIONS, nargs="*", default=list(SECTIONS))
    given = parser.parse_args()
    for name in given.only:
        start = time.perf_counter()
        # A run of the matrix is sixty cases, and margins are many numbers.
        draws = given.draws // 4 if name in ("matrix", "margins") else given.draws
        head, rows = SECTIONS[name](draws)
        table = markdown(head, rows)
        print(f"\n{name}: {draws} draws, {time.perf_counter() - start:.0f} s\n{table}")
        sys.stdout.flush()
        if given.write:
            put(given.write, name, table)


if __name__ == "__main__":
    main()

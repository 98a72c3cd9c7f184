"""What the step detector of ``prunebench history`` finds and invents, on simulated nights.

    python bench/steps.py

Rows by the number of nights. *quiet*: series without a step that show one, on Gaussian noise and on
Student's t with 3 degrees of freedom. *spike*: the same with one Gaussian night off by 20 sigma.
*found*: a step of 3 sigma located to within one night, five nights from the end and anywhere at
least five nights from both. *alone*: that step and no other. Fixed seeds; about a minute.
"""

from __future__ import annotations

from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

from prunebench.verdicts.change_points import steps

RUNS = 10_000
NIGHTS = (10, 20, 30, 60, 120)
EDGE = 5


def found(values: np.ndarray) -> list[int]:
    return [step.at for step in steps(values.tolist())]


def row(nights: int, runs: int = RUNS) -> list[float]:
    """The fractions of one row of the table."""
    rng = np.random.default_rng(nights)
    quiet = fmean(bool(found(rng.standard_normal(nights))) for _ in range(runs))
    heavy = fmean(bool(found(rng.standard_t(3, nights))) for _ in range(runs))
    spiked = []
    for _ in range(runs):
        values = rng.standard_normal(nights)
        values[rng.integers(nights)] += 20
        spiked.append(bool(found(values)))
    near, near_alone = stepped(rng, nights, runs, anywhere=False)
    inside, inside_alone = stepped(rng, nights, runs, anywhere=True)
    return [quiet, heavy, fmean(spiked), near, near_alone, inside, inside_alone]


def stepped(
    rng: np.random.Generator, nights: int, runs: int, *, anywhere: bool
) -> tuple[float, float]:
    """How often a step of 3 sigma is located, and how often it alone is."""
    located, alone = [], []
    for _ in range(runs):
        at = int(rng.integers(EDGE, nights - EDGE + 1)) if anywhere else nights - EDGE
        values = rng.standard_normal(nights)
        values[at:] += 3
        cuts = found(values)
        located.append(any(abs(cut - at) <= 1 for cut in cuts))
        alone.append(located[-1] and len(cuts) == 1)
    return fmean(located), fmean(alone)


def main() -> None:
    names = ("nights", "quiet", "quiet, t3", "spike", "found at the edge", "alone", "found inside")
    table = Table(*names, "alone", box=None)
    for nights in NIGHTS:
        table.add_row(str(nights), *(f"{value:.1%}" for value in row(nights)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

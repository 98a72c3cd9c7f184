"""What the step detector of ``prunebench history`` finds, and finds wrongly, in simulated series.

    python bench/steps.py

Rows by the number of records. *quiet*: series without a step that show one, on Gaussian noise and
on Student's t with 3 degrees of freedom. *spike*: the same with one Gaussian record off by 20
sigma. *found*: a step of 3 sigma located to within one record, five records from the end and
anywhere at least five records from both ends. *alone*: that step and no other. Fixed seeds; about a
minute.
"""

from __future__ import annotations

from statistics import fmean

import numpy as np
from rich.console import Console
from rich.table import Table

from prunebench.verdicts.change_points import steps

RUNS = 10_000
RECORDS = (10, 20, 30, 60, 120)
EDGE = 5


def found(values: np.ndarray) -> list[int]:
    return [step.at for step in steps(values.tolist())]


def row(records: int, runs: int = RUNS) -> list[float]:
    """The fractions of one row of the table."""
    rng = np.random.default_rng(records)
    quiet = fmean(bool(found(rng.standard_normal(records))) for _ in range(runs))
    heavy = fmean(bool(found(rng.standard_t(3, records))) for _ in range(runs))
    spiked = []
    for _ in range(runs):
        values = rng.standard_normal(records)
        values[rng.integers(records)] += 20
        spiked.append(bool(found(values)))
    near, near_alone = stepped(rng, records, runs, anywhere=False)
    inside, inside_alone = stepped(rng, records, runs, anywhere=True)
    return [quiet, heavy, fmean(spiked), near, near_alone, inside, inside_alone]


def stepped(
    rng: np.random.Generator, records: int, runs: int, *, anywhere: bool
) -> tuple[float, float]:
    """How often a step of 3 sigma is located, and how often it alone is."""
    located, alone = [], []
    for _ in range(runs):
        at = int(rng.integers(EDGE, records - EDGE + 1)) if anywhere else records - EDGE
        values = rng.standard_normal(records)
        values[at:] += 3
        cuts = found(values)
        located.append(any(abs(cut - at) <= 1 for cut in cuts))
        alone.append(located[-1] and len(cuts) == 1)
    return fmean(located), fmean(alone)


def main() -> None:
    names = ("records", "quiet", "quiet, t3", "spike", "found at the edge", "alone", "found inside")
    table = Table(*names, "alone", box=None)
    for records in RECORDS:
        table.add_row(str(records), *(f"{value:.1%}" for value in row(records)))
    Console(width=100).print(table)


if __name__ == "__main__":
    main()

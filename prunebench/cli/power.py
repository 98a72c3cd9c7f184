"""``prunebench power``: the accuracy drop that a gate can detect."""

from __future__ import annotations

from typing import Annotated

import typer

from ..reports import run_table
from ..results import power as powers
from ..system.console import console, print_line
from ..verdicts.verdict import ALPHA
from .options import (
    Alpha,
    AsJson,
    BaselineDir,
    Keyword,
    Paths,
    chosen_cases,
    print_json,
    read_baselines,
)


def power(
    paths: Paths = None,
    keyword: Keyword = "",
    detect: Annotated[
        str, typer.Option(metavar="DROP", help="Print how many questions detect it, e.g. 0.5pp.")
    ] = "",
    disagreement: Annotated[
        str, typer.Option(metavar="PART", help="Questions on which only one model is right.")
    ] = "5%",
    alpha: Alpha = None,
    probability: Annotated[
        float, typer.Option("--power", min=0.5, max=0.999, help="Probability to detect it.")
    ] = 0.8,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
) -> None:
    """Print the drop that each gate can detect. Or the questions to detect one."""
    part = powers.fraction(disagreement, "--disagreement")
    if not detect:
        roots = read_baselines(baselines)
        cases = chosen_cases(paths, keyword)
        found = list(powers.of_cases(cases, roots, part, alpha, probability))
        if as_json:
            print_json(found)
        else:
            run_table.gates_table(found, console())
        return
    drop = powers.fraction(detect, "--detect")
    level = alpha or ALPHA
    count = powers.questions(drop, part, level, probability)
    if as_json:
        print_json({"detect": drop, "disagreement": part, "questions": count})
    else:
        how = f"one-sided {level:g}, {probability:.0%} of the time, {part:.1%} disagreement"
        print_line(f"a drop of {drop * 100:g} pp takes {count:,} questions ({how})")

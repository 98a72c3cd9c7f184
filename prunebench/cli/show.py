"""``prunebench show`` and ``power``: a case in depth, and what a gate could have seen."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import PrunebenchError
from ..reports import run_table, sentences
from ..results import power as gates
from ..results.store import Store
from ..system.console import print_line
from ..verdicts.verdict import ALPHA
from . import completion
from .options import (
    Alpha,
    AsJson,
    BaselineDir,
    Keyword,
    Paths,
    StoreDir,
    chosen_cases,
    defined,
    print_json,
    read_baselines,
    stored_case,
)
from .paths import DEFAULT_STORE


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.command()(show)
    app.command()(power)


def show(
    case_id: Annotated[
        str,
        typer.Argument(
            help="A case id, or the end of one.", autocompletion=completion.stored_cases
        ),
    ],
    why: Annotated[
        bool, typer.Option("--explain", help="Tell every finding with the numbers behind it.")
    ] = False,
    origin: Annotated[
        bool, typer.Option("--provenance", help="Tell where the record comes from.")
    ] = False,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Show the newest record of a case beside its baseline."""
    from ..reports import case_page, explain
    from ..results import judging, provenance
    from ..results.baselines import published

    records = Store(store)
    found = stored_case(case_id, records)
    record = records.latest(found)
    if record is None:
        raise PrunebenchError(f"no record of {found!r} can be read; run it again")
    roots = read_baselines(baselines)
    was = roots.load(record.case_id, record.environment.device)
    cases = defined([record.case_id])
    case = cases.get(record.case_id)
    rows = published.matching(record, published.rows(roots.published))
    judged = judging.judge_stored(record, roots, case)
    if as_json:
        print_json({"record": record, "baseline": was, "verdict": judged, "published": rows})
    else:
        shown = case_page.gathered(record, judged, records, roots, rows, list(cases.values()))
        case_page.show(shown, sentences.console(), trace=why)
        for line in explain.explanation(record, was, judged) if why else ():
            print_line(line)
        for line in provenance.told(record) if origin else ():
            print_line(line)


def power(
    paths: Paths = None,
    keyword: Keyword = "",
    detect: Annotated[
        str, typer.Option(metavar="DROP", help="How many questions find it, e.g. 0.5pp.")
    ] = "",
    disagreement: Annotated[
        str, typer.Option(metavar="PART", help="Questions on which only one model is right.")
    ] = "5%",
    alpha: Alpha = None,
    chance: Annotated[
        float, typer.Option("--power", min=0.5, max=0.999, help="Probability to find it.")
    ] = 0.8,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
) -> None:
    """Say what drop each gate could see, or how many questions it takes to see one."""
    part = gates.fraction(disagreement, "--disagreement")
    if detect:
        drop = gates.fraction(detect, "--detect")
        level = alpha or ALPHA
        count = gates.questions(drop, part, level, chance)
        if as_json:
            print_json({"detect": drop, "disagreement": part, "questions": count})
        else:
            how = f"one-sided {level:g}, {chance:.0%} of the time, {part:.1%} disagreement"
            print_line(f"a drop of {drop * 100:g} pp takes {count:,} questions ({how})")
        return
    roots = read_baselines(baselines)
    found = list(gates.of_cases(chosen_cases(paths, keyword), roots, part, alpha, chance))
    if as_json:
        print_json(found)
    else:
        run_table.gates_table(found, sentences.console())

"""``prunebench show``: one case in depth."""

from __future__ import annotations

from typing import Annotated

import typer

from ..errors import PrunebenchError
from ..results.store import Store
from ..system.console import console, print_line
from .options import (
    AsJson,
    BaselineDir,
    StoredCase,
    StoreDir,
    defined,
    print_json,
    read_baselines,
    stored_case,
)
from .paths import DEFAULT_STORE


def show(
    case_id: StoredCase,
    explain: Annotated[
        bool, typer.Option("--explain", help="Print every finding with the numbers behind it.")
    ] = False,
    provenance: Annotated[
        bool, typer.Option("--provenance", help="Print where the record comes from.")
    ] = False,
    as_json: AsJson = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Show the newest record of a case next to its baseline."""
    from ..reports import case_page
    from ..reports.explain import explanation
    from ..results import judging
    from ..results import provenance as origin
    from ..results.baselines import published

    records = Store(store)
    found = stored_case(case_id, records)
    record = records.latest(found)
    if record is None:
        raise PrunebenchError(f"no record of {found!r} can be read; run it again")
    roots = read_baselines(baselines)
    was = roots.load(record.case_id, record.environment.device)
    cases = defined([record.case_id])
    rows = published.matching(record, published.rows(roots.published))
    verdict = judging.judge_stored(record, roots, cases.get(record.case_id))
    if as_json:
        print_json({"record": record, "baseline": was, "verdict": verdict, "published": rows})
        return
    page = case_page.gathered(record, verdict, records, roots, rows, list(cases.values()))
    case_page.show(page, console(), trace=explain)
    for line in explanation(record, was, verdict) if explain else ():
        print_line(line)
    for line in origin.lines(record) if provenance else ():
        print_line(line)

"""``prunebench accept``: stored records become baselines, with a reason."""

from __future__ import annotations

import typer

from ..errors import PrunebenchError
from ..results.baselines import accept as accepting
from ..results.baselines.files import OWN, Baselines
from ..results.store import Store
from ..runs.result import CRASHED, OK
from ..system.console import print_line, print_note
from .options import BaselineDir, Because, Force, Keyword, Paths, StoreDir, chosen_cases
from .paths import DEFAULT_STORE, default_baselines


def accept(
    paths: Paths = None,
    keyword: Keyword = "",
    because: Because = "",
    force: Force = False,
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Make the newest stored records the baselines. All of them, or none."""
    if not because.strip():
        raise PrunebenchError("accept needs --because TEXT: a baseline changes for a reason")
    target = Baselines(baselines or OWN)
    accepting.end(target)
    cases = chosen_cases(paths, keyword)
    records = Store(store)
    accepted = accepting.accept(
        accepting.newest(cases, records),
        cases,
        because,
        records,
        target,
        present=Baselines(baselines or default_baselines()),
        force=force,
    )
    print_accepted(accepted)
    raise typer.Exit(OK if accepted.written else CRASHED)


def print_accepted(accepted: accepting.Acceptance) -> None:
    """Print which files were written and which objections were overridden."""
    for line in accepted.overridden:
        print_note(f"overridden: {line.rpartition('; ')[0]}")
    if not accepted.written:
        print_note("nothing was accepted: no record of a case that is compared with a baseline")
    for path in accepted.written:
        print_line(f"accepted {path}")

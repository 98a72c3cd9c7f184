"""``prunebench compare``: two sets of results, the newer against the older."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..cases.keyword import matcher
from ..formatting import counted, moved, number
from ..reports import sentences
from ..results import compare as comparing
from ..results import readers
from ..results.compare import Compared
from ..runs.result import NOTHING, exit_code
from ..system.console import COLOURS, console, print_note
from ..verdicts import fail_on as fail_rules
from ..verdicts.verdict import Finding
from .options import AsJson, FailOn, Keyword, Strict, defined, print_json, warn_cut_off


def compare(
    a: Annotated[Path, typer.Argument(metavar="A", help="The older.", show_default=False)],
    b: Annotated[Path, typer.Argument(metavar="B", help="The newer.", show_default=False)],
    keyword: Keyword = "",
    fail_on: FailOn = "",
    strict: Strict = False,
    show_all: Annotated[bool, typer.Option("-v", "--all", help="Also list what is same.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare two runs, folders, records, or results of lm-eval.

    Each may be a file of run --json, a results folder, a baselines folder, a record, or results
    that plain lm-eval wrote. A regression from A to B exits 1.
    """
    warn_cut_off([a, b])
    sides = readers.read(a), readers.read(b)
    cases = defined(case_id for side in sides for case_id in side.case_ids())
    select = matcher(keyword)
    known = comparing.families(sides) if fail_on else ()
    failing, conditions = fail_rules.given(fail_on, "--fail-on", known)
    found = comparing.compare(*sides, cases, select, failing, conditions)
    if as_json:
        print_json({"a": str(a), "b": str(b), "verdicts": found.verdicts, "notes": found.notes})
    if not found.common:
        for side in sides:
            ids = [i for i in side.case_ids() if select(i)]
            print_note(f"nothing in common: {side.path} has {_some(ids)}")
        raise typer.Exit(NOTHING)
    if not as_json:
        _print(found, console(), everything=show_all)
    raise typer.Exit(exit_code(found.verdicts, strict=strict))


def _some(ids: list[str]) -> str:
    if not ids:
        return "no selected case"
    more = f" and {len(ids) - 3} more" if len(ids) > 3 else ""
    return ", ".join(ids[:3]) + more


def _print(found: Compared, out: Console, *, everything: bool) -> None:
    grid = Table(box=None, pad_edge=False)
    for name in ("case", "metric", "A", "B", "difference", "outcome"):
        numeric = name in ("A", "B", "difference")
        grid.add_column(name, justify="right" if numeric else "left", overflow="fold")
    for verdict in found.verdicts:
        for finding in verdict.findings:
            if everything or (finding.outcome != "same" and not finding.diagnostic):
                grid.add_row(verdict.case_id, *_row(finding))
    if grid.row_count:
        out.print(grid)
    lines = [line for verdict in found.verdicts for line in sentences.lines(verdict)]
    lines += [
        f"{verdict.case_id}: new case: {verdict.findings[0].note}"
        for verdict in found.verdicts
        if any(f.what == "case" and f.outcome == "new" for f in verdict.findings)
    ]
    for line in [*lines, *found.notes, summary(found)]:
        out.print(Text(line), soft_wrap=True)


def _row(finding: Finding) -> tuple[str | Text, ...]:
    now, was = ("" if value is None else number(value) for value in (finding.now, finding.was))
    change = ""
    if finding.now is not None and finding.was is not None:
        change = moved(finding.now, finding.was)
    outcome = str(finding.outcome)
    style = "dim" if finding.diagnostic else COLOURS.get(outcome, "")
    name = f"  {finding.what}" if finding.diagnostic else finding.what
    return name, was, now, change, Text(outcome.replace("_", " "), style=style)


def summary(found: Compared) -> str:
    """``11 cases, 11 in both: 10 same, 1 worse``, the newer against the older."""
    counts = Counter(verdict.outcome.replace("_", " ") for verdict in found.verdicts)
    words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
    return f"{counted(len(found.verdicts), 'case')}, {found.common} in both: {words}"

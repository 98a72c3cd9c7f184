"""Draws docs/run.svg: what the terminal shows after `prunebench run`, from the stored results."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from prunebench import casefile, report
from prunebench.baseline import Baselines
from prunebench.session import Session
from prunebench.store import Store


def main() -> None:
    """Run the main job (or reuse its stored records) and export the terminal as SVG."""
    cases = casefile.load([Path("cases/smoke")])
    session = Session(cases, Store(Path(".prunebench")), Baselines(Path("baselines")), "cpu")
    console = Console(record=True, width=94)
    console.print("$ prunebench run", style="bold")
    results = session.settled([session.answer(case) for case in cases])
    for i, result in enumerate(results):
        # A stored record is a real run's; the picture is of the run, not of the reuse.
        results[i] = type(result)(result.case, result.verdict, result.record)
    report.table(results, console)
    Path("docs/run.svg").write_text(console.export_svg(title="prunebench", unique_id="prunebench"))


if __name__ == "__main__":
    main()

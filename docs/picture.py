"""Draws what the terminal shows, from the stored results, as SVGs below docs/.

    python docs/picture.py [--store .prunebench]

Nothing is measured: every number is of a stored run of the smoke cases. In the picture of a
regression the numbers of this run are compared with a baseline whose scores are another, better
case's.
"""

from __future__ import annotations

import argparse
import io
import tempfile
from pathlib import Path

from msgspec.structs import replace
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, SVG_EXPORT_THEME, TerminalTheme

from prunebench.case import Case
from prunebench.cases import loader
from prunebench.reports import case_page, run_table
from prunebench.results.baselines.accept import accepted
from prunebench.results.baselines.files import Baselines
from prunebench.results.store import Store
from prunebench.runs.result import Result
from prunebench.runs.session import Session
from prunebench.system.console import InertConsole

CASES = loader.load([Path("cases/smoke")])
BASELINES = Baselines(Path("baselines"))


class Window(io.StringIO):
    """A terminal that nobody looks at."""

    def isatty(self) -> bool:
        """As a person's."""
        return True


def main() -> None:
    """Draw them all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, default=Path(".prunebench"))
    store = Store(parser.parse_args().store)
    images = Path("docs/img")
    images.mkdir(exist_ok=True)
    results = judged(store, BASELINES)
    draw(Path("docs/run.svg"), "run", 100, table=results)
    draw(images / "run-light.svg", "run", 100, DEFAULT_TERMINAL_THEME, table=results)
    draw(images / "run-80.svg", "run", 80, table=results)
    draw(images / "run-160.svg", "run", 160, table=results)
    with tempfile.TemporaryDirectory() as folder:
        draw(
            images / "run-worse.svg",
            "run -k '0.3 and not nsamples'",
            120,
            table=judged(store, planted(store, Path(folder)), "0.3"),
        )
    for name, number in (("sleb-0.3", 0), ("sprint", 1)):
        case = [c for c in CASES if c.label.startswith(name)][number]
        picture = images / f"show-{name.split('-')[0]}.svg"
        draw(picture, f"show {case.label} --explain", 132, case=case, store=store)


def judged(store: Store, baselines: Baselines, ending: str = "") -> list[Result]:
    """The newest stored answers to the smoke cases, judged together as one run."""
    cases = [case for case in CASES if case.label.endswith(ending)]
    session = Session(cases, store, baselines, "cpu")
    results = []
    for case in cases:
        record = store.latest(case.id, case.asked)
        if record is None:
            raise SystemExit(f"no record of {case.id}: run `prunebench run` first")
        # Not marked as reused: the picture is of the run that made them.
        results.append(Result(case, session.judge(case, record), record))
    return session.settled(results)


def planted(store: Store, folder: Path) -> Baselines:
    """Baselines as if shortened_llama had once been as good as SLEB."""
    changed = Baselines(folder)
    for case in CASES:
        was = BASELINES.load(case.id, "cpu")
        if was is None:
            continue
        if case.label == "shortened_llama-0.3":
            other = store.latest("smoke/tinyworld/sleb-0.3")
            assert other is not None  # noqa: S101
            scores = tuple(m for m in other.measurements if not m.varies)
            was = replace(was, measurements=scores)
        changed.save(was, accepted("for a picture"))
    return changed


def draw(
    path: Path,
    command: str,
    width: int,
    theme: TerminalTheme = SVG_EXPORT_THEME,
    *,
    table: list[Result] | None = None,
    case: Case | None = None,
    store: Store | None = None,
) -> None:
    """Write what a command prints in a window of *width* columns."""
    console = InertConsole(record=True, width=width, file=Window(), color_system="truecolor")
    console.print(f"$ prunebench {command}", style="bold", markup=False, highlight=False)
    if table is not None:
        run_table.table(table, console)
    if case is not None and store is not None:
        record = store.latest(case.id, case.asked)
        if record is None:
            raise SystemExit(f"no record of {case.id}: run `prunebench run` first")
        verdict = Session([case], store, BASELINES, "cpu").judge(case, record)
        shown = case_page.gathered(record, verdict, store, BASELINES, (), CASES)
        case_page.show(shown, console, trace=True)
    svg = console.export_svg(title="prunebench", theme=theme, unique_id=path.stem.replace("-", ""))
    # The page brings no font from elsewhere: a terminal's own is meant.
    path.write_text(_without_fonts(svg))


def _without_fonts(svg: str) -> str:
    """*svg* without the @font-face rules with which rich loads a font from a network."""
    before, *rest = svg.split("@font-face")
    kept = [part.partition("}")[2].lstrip() for part in rest]
    return before + "".join(kept)


if __name__ == "__main__":
    main()

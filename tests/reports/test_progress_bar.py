"""The progress of a run, and what a shell completes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from factories import ROOT, record, result

from prunebench.case import Case
from prunebench.reports import progress_bar
from prunebench.reports.progress_bar import Display, fitted
from prunebench.results.store import Store
from prunebench.runs.result import Result
from prunebench.verdicts.verdict import Verdict


class FakeClock:
    """Seconds that a test advances."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


# ---------------------------------------------------------------------------------------- display


def test_a_log_gets_a_line_per_case(
    cases: dict[str, Case], capsys: pytest.CaptureFixture[str]
) -> None:
    """Which of how many, and the seconds; on standard error alone."""
    clock = FakeClock()
    sleb, dense = cases["sleb-0.15"], cases["dense"]
    with Display(3, clock=clock) as display:
        display.done(Result(dense, Verdict(dense.id, ok=True), record(), cached=True))
        display.step(sleb, "waiting for another")
        display.step(sleb, "waiting for another")
        clock.now += 500
        display.step(sleb, "loading")
        clock.now += 12
        display.done(result(sleb, "same"))
    out, err = capsys.readouterr()

    assert out == ""
    assert err.splitlines() == [
        "[1/3] tiny/dense: same (reused)",
        "sleb-0.15: waiting for another",
        "[2/3] tiny/sleb-0.15: loading",  # after so long a wait, a sign of life
        "[2/3] tiny/sleb-0.15: same in 12 s",
    ]


def test_a_log_of_long_work_is_not_silent_for_long(
    cases: dict[str, Case], capsys: pytest.CaptureFixture[str]
) -> None:
    """Services end what says nothing; once a minute is enough."""
    clock = FakeClock()
    case = cases["sleb-0.15"]
    with Display(1, clock=clock) as display:
        display.step(case, "loading")
        for number in range(1, 131):
            clock.now += 1
            display.step(case, f"searching, removal {number} of 200")

    assert capsys.readouterr().err.splitlines() == [
        "[1/1] tiny/sleb-0.15: searching, removal 60 of 200",
        "[1/1] tiny/sleb-0.15: searching, removal 120 of 200",
    ]


def test_quiet_says_nothing(cases: dict[str, Case], capsys: pytest.CaptureFixture[str]) -> None:
    """Not even that it waits."""
    with Display(1, quiet=True) as display:
        display.step(cases["dense"], "waiting for another")
        display.done(result(cases["dense"], "same", 0))

    assert capsys.readouterr() == ("", "")


def test_the_bar_shows_each_worker_and_what_is_left(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line per worker, and a bar no wider than the window.

    Of 5 cases 3 are finished; the last two took 10 and 110 s, so the other two take about 2 min.
    """
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(progress_bar.console, "watched", lambda _: True)
    clock = FakeClock()
    display = Display(5, clock=clock)
    display.console.width = 60
    for seconds in (3, 10, 110):
        clock.now += seconds
        display.done(result(cases["dense"], "same", 0))
    display.worker_step(
        0, cases["sliding_layer_merging-0.3-nsamples10"], "searching, blocks 3 to 5"
    )
    display.worker_step(1, cases["sleb-0.3"], "loading")
    with display.console.capture() as captured:
        display.console.print(display._bar.get_renderable())
    lines = [line.rstrip() for line in captured.get().splitlines()]

    assert lines[0].startswith("1 sliding_layer")
    assert lines[0].endswith(": searching, blocks 3 to 5")
    assert lines[1] == "2 sleb-0.3: loading"
    assert lines[2].endswith("3/5 0:02:03 0:02:00")
    assert max(map(len, lines)) <= 60


@pytest.mark.parametrize("width", [12, 20, 40, 80])
def test_a_long_name_gives_way_to_what_is_being_done(width: int) -> None:
    """The middle of a name goes first; then the end of the words."""
    text = fitted("sprint-attn_latency5-mlp_latency4-0.3", "removal 2 of 7", width)

    assert len(text) <= width
    assert text.endswith("removal 2 of 7") == (width >= 40)


# ------------------------------------------------------------------------------------- completion


def completed(folder: Path, words: str, **environment: str) -> list[str]:
    """What bash would be offered for the last of *words*; nothing heavy may be imported for it."""
    program = (
        "import sys\n"
        "sys.argv = ['prunebench']\n"
        "from prunebench.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'transformers', 'numpy', 'datasets', 'lm_eval'} & set(sys.modules)\n"
        "    assert not heavy, heavy\n"
    )
    given = {
        "COMP_WORDS": f"prunebench {words}",
        "COMP_CWORD": str(len(words.split(" "))),
        "_PRUNEBENCH_COMPLETE": "complete_bash",
    }
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **given,
             **environment},
    )  # fmt: skip
    assert done.stderr == ""
    return done.stdout.split()


@pytest.fixture
def completing(project: Path) -> Path:
    """A folder with a case file of five cases and a record of one of them."""
    (project / "cases" / "more").mkdir()
    (project / "cases" / "more" / "wide.yaml").write_text(
        "model: {id: prunebench/reference}\nprotocol: tinyworld@1\n"
        "matrix:\n  method: [{name: slicegpt}, {name: slice_global}]\n  slicing: [0.2, 0.3]\n"
    )
    Store(project / ".prunebench").save(record(case_id="more/wide/slicegpt-slicing0.2", key="k"))
    return project


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("prune x --method sl", {"sleb", "slice_global", "slicegpt", "sliding_layer_merging"}),
        ("run cases/more -k slicegpt", {"slicegpt", "slicegpt-slicing0.2", "slicegpt-slicing0.3"}),
        ("run cases/more -k nothing", set()),
        ("run cases/m", {"cases/more", "cases/more/wide.yaml"}),
        ("show more", {"more/wide/slicegpt-slicing0.2"}),
        ("history slice", {"slicegpt-slicing0.2"}),
        ("run --set calib", {"calibration="}),
        ("run --device c", {"cpu", "cuda"}),
        ("lis", {"list"}),
    ],
)
def test_a_shell_completes_values(words: str, offered: set[str], completing: Path) -> None:
    """Through the protocol of typer's own scripts, without torch."""
    assert set(completed(completing, words)) == offered


@pytest.mark.slow
def test_without_records_show_offers_the_cases(completing: Path) -> None:
    """Of the case files."""
    (record_file,) = (completing / ".prunebench").rglob("*.json")
    record_file.unlink()

    assert set(completed(completing, "show slice_global")) == {
        "slice_global-slicing0.2",
        "slice_global-slicing0.3",
    }


@pytest.mark.slow
def test_what_goes_wrong_while_completing_is_not_told(completing: Path) -> None:
    """A broken case file: no word, no traceback."""
    (completing / "cases" / "more" / "wide.yaml").write_text("method: [")

    assert completed(completing, "run cases/more -k sl") == []


def test_the_last_word_of_an_expression_is_completed(
    completing: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands before it stays."""
    from types import SimpleNamespace

    from prunebench.cli import completion as offers

    monkeypatch.chdir(completing)
    context: Any = SimpleNamespace(args=["cases/more"], params={})

    assert offers.keywords(context, "not (slice_g") == [
        "not (slice_global",
        "not (slice_global-slicing0.2",
        "not (slice_global-slicing0.3",
    ]


@pytest.mark.slow
def test_completion_is_installed_for_the_program(completing: Path) -> None:
    """`--show-completion` gives bash a script that asks as these tests do."""
    done = subprocess.run(
        [sys.executable, "-c", "import sys; sys.argv = ['prunebench']\n"
         "from prunebench.cli import main; main()"],
        capture_output=True, text=True, check=False, cwd=completing,
        env={**os.environ, "_PRUNEBENCH_COMPLETE": "source_bash",
             "PYTHONPATH": str(ROOT)},
    )  # fmt: skip

    assert re.search(r"_PRUNEBENCH_COMPLETE=complete_bash", done.stdout)

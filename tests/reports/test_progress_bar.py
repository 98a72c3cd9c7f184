"""How far a run is, how long it still takes, and what a shell completes."""

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
from prunebench.reports.eta import TimeLeft, expected
from prunebench.reports.progress_bar import Display, fitted
from prunebench.results.store import Store
from prunebench.runs.dry_run import Outlook
from prunebench.runs.estimate import Parts
from prunebench.runs.session import Result
from prunebench.verdicts.verdict import Verdict


class FakeClock:
    """Seconds that grow when they are told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def outlook(
    case: Case, status: str = "run", parts: Parts | None = None, basis: str = ""
) -> Outlook:
    return Outlook(case.id, "m", None, "folder", None, (), (), status, parts=parts, basis=basis)


# -------------------------------------------------------------------------------------- time left


def test_known_cases_take_what_they_took() -> None:
    """10 + 20 + 30 seconds; 4 of the first are over, then all of it in 5, half as long as told."""
    clock = FakeClock()
    left = TimeLeft(clock)
    left.expect(["a", "b", "c"], {"a": 10.0, "b": 20.0, "c": 30.0})
    assert left.left() is None  # nothing has begun

    left.begin("a")
    clock.now += 4
    assert left.left() == pytest.approx(6 + 20 + 30)
    clock.now += 1
    assert left.finish("a") == 5
    assert left.left() == pytest.approx((20 + 30) * 5 / 10)


def test_unknown_cases_take_the_mean_of_those_that_ran() -> None:
    """Nothing is told before one is finished; reused answers say nothing."""
    clock = FakeClock()
    left = TimeLeft(clock)
    left.expect(["a", "b", "c", "d"], {})
    left.begin("a")
    assert left.left() is None
    clock.now += 8
    left.finish("a")
    assert left.left() == 24
    left.begin("b")
    assert left.finish("b", reused=True) is None
    assert left.left() == 16
    left.begin("c")
    clock.now += 4
    assert left.finish("c") == 4
    assert left.left() == (8 + 4) / 2


def test_known_and_unknown_ones_each_by_their_own() -> None:
    """The known took twice as long as told: 2 x 10 is left of them, and a mean of 20."""
    clock = FakeClock()
    left = TimeLeft(clock)
    left.expect(["a", "b", "c"], {"a": 10.0, "b": 10.0})
    left.begin("a")
    clock.now += 20
    left.finish("a")

    assert left.left() == pytest.approx(2 * 10 + 20)


def test_workers_share_the_work_but_not_a_case() -> None:
    """Two of them: half of 10 + 10 + 40, yet no less than the 40 of one case."""
    clock = FakeClock()
    left = TimeLeft(clock)
    left.expect(["a", "b", "c"], {"a": 10.0, "b": 10.0, "c": 40.0})
    left.begin("a")
    left.begin("b")

    assert left.left(1) == 60
    assert left.left(2) == 40
    clock.now += 5
    assert left.left(1) == 5 + 5 + 40


def test_a_case_that_takes_longer_than_told_leaves_nothing_of_itself() -> None:
    """Never less than none; and with nothing pending nothing is said."""
    clock = FakeClock()
    left = TimeLeft(clock)
    left.expect(["a", "b"], {"a": 1.0, "b": 2.0})
    left.begin("a")
    clock.now += 100
    assert left.left() == 2
    left.finish("a")
    left.finish("b", reused=True)
    assert left.left() is None


def test_what_cases_share_counts_for_the_first_of_them(cases: dict[str, Case]) -> None:
    """A model's loading, a nested search; stored ones take nothing, rough guesses are left out."""
    parts = Parts(load=1.0, search=10.0, own=100.0)
    labels = ["sleb-0.15", "sleb-0.3", "slicegpt-0.15", "dense", "slicegpt-0.3"]
    run = [cases[label] for label in labels]
    outlooks = [
        outlook(run[0], parts=parts, basis="measured"),
        outlook(run[1], parts=parts, basis="measured"),
        outlook(run[2], parts=parts, basis="measured"),
        outlook(run[3], "reuse"),
        outlook(run[4], parts=parts, basis="rough"),
    ]

    assert expected(run, outlooks) == {
        run[0].id: 111.0,
        run[1].id: 100.0,
        run[2].id: 110.0,
        run[3].id: 0.0,
    }


# ---------------------------------------------------------------------------------------- display


def test_a_log_gets_a_line_per_case(
    cases: dict[str, Case], capsys: pytest.CaptureFixture[str]
) -> None:
    """Which of how many, the seconds, what is left; on standard error alone."""
    clock = FakeClock()
    sleb, dense, other = (cases[label] for label in ("sleb-0.15", "dense", "sleb-0.3"))
    run = [dense, sleb, other]
    with Display(3, clock=clock) as display:
        display.expect(lambda: (run, [outlook(case) for case in run]))
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
        "[2/3] tiny/sleb-0.15: same in 12 s, about 12 s left",
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


def test_the_store_is_asked_once_and_only_when_something_runs(cases: dict[str, Case]) -> None:
    """An unchanged night reads no record twice."""
    asked = []
    case = cases["sleb-0.15"]

    def look() -> tuple[list[Case], list[Outlook]]:
        asked.append(1)
        return [case], [outlook(case)]

    with Display(2, quiet=True) as display:
        display.expect(look)
        display.done(Result(case, Verdict(case.id, ok=True), record(), cached=True))
        assert not asked
        display.step(case, "loading")
        display.step(case, "searching")

    assert asked == [1]


def test_the_bar_shows_each_worker_and_what_is_left(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A line for what each is at, and one of the whole, no wider than the window."""
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(progress_bar.screen, "watched", lambda _: True)
    clock = FakeClock()
    run = [cases["sliding_layer_merging-0.3-nsamples10"], cases["sleb-0.3"]]
    parts = Parts(load=0.0, search=0.0, own=60.0)
    display = Display(2, clock=clock)
    display.console.width = 60
    display.expect(lambda: (run, [outlook(c, parts=parts, basis="measured") for c in run]))
    display.worker_step(0, run[0], "searching, trial 7, blocks 3 to 5")
    display.worker_step(1, run[1], "loading")
    with display.console.capture() as captured:
        display.console.print(display._bar.get_renderable())
    lines = [line.rstrip() for line in captured.get().splitlines()]

    assert lines[0].startswith("1 sliding_l..")
    assert lines[0].endswith(": searching, trial 7, blocks 3 to 5")
    assert lines[1] == "2 sleb-0.3: loading"
    assert lines[2].endswith("0/2 0:00:00 about 60 s left")
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

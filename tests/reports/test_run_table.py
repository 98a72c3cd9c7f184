"""What the terminal shows: the table of a run and one case in depth, in every kind of window."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import pytest
from factories import measured, published_record, record, result
from msgspec.structs import replace

from prunebench import Measurement, Record, SliceHidden, formatting
from prunebench.case import Case
from prunebench.reports import case_page, columns, run_table
from prunebench.results.baselines.published import Row
from prunebench.runs.result import Result
from prunebench.system import console as screen
from prunebench.system.console import InertConsole
from prunebench.verdicts.seeds import Interval
from prunebench.verdicts.verdict import Verdict


class Window(io.StringIO):
    """A person's terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def run_of(cases: dict[str, Case]) -> list[Result]:
    """Eight cases, of which two went wrong and two are doubtful."""
    outcomes = {
        "dense": ("same", 0),
        "sleb-0.15": ("same", 16),
        "sleb-0.3": ("worse", 33),
        "shortened_llama-ppl-0.15": ("same", 16),
        "shortened_llama-ppl-0.3": ("crashed", 0),
        "slicegpt-0.15": ("unsure", 19),
        "slicegpt-0.3": ("not_comparable", 27),
        "sliding_layer_merging-0.3-nsamples10": ("better", 33),
    }
    return [result(cases[label], *outcome) for label, outcome in outcomes.items()]


def shown(results: list[Result], width: int, **options: Any) -> str:
    """What a window of that width shows, without its escape codes."""
    console = InertConsole(**{"file": Window(), "width": width, "color_system": None} | options)
    run_table.table(results, console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


def rows(text: str) -> list[list[str]]:
    """The table's cells, a row for a case, its name's lines joined again."""
    lines = text.splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("case "))
    end = next(i for i in range(head, len(lines)) if re.match(r"\s*$|±|\+|hidden", lines[i]))
    found: list[list[str]] = []
    for line in lines[head + 1 : end]:
        if re.fullmatch(r"[─-]+", line.strip()):
            continue
        if line.startswith("  ") and found:
            found[-1][0] += line.split()[0]
        else:
            found.append(re.split(r"  +", line.strip()))
    return found


# ------------------------------------------------------------------------------------------ table


@pytest.mark.parametrize("width", [40, 60, 80, 100, 160, 250])
def test_no_line_is_wider_than_the_window(width: int, cases: dict[str, Case]) -> None:
    """But commands, which are there to be copied."""
    text = shown(run_of(cases), width)
    long = [line for line in text.splitlines() if len(line.rstrip()) > width]

    assert [line for line in long if "prunebench run" not in line] == []


@pytest.mark.parametrize("width", [40, 80, 160])
def test_every_case_and_its_outcome_are_there(width: int, cases: dict[str, Case]) -> None:
    """Whatever the width: a long name goes over several lines, and no word is cut."""
    told = {row[0]: row[-1] for row in rows(shown(run_of(cases), width)) if "change" not in row[0]}

    assert set(told) == set(cases)
    assert told["sleb-0.3"] == "▼ worse"
    assert told["slicegpt-0.3"] == "∅ not comparable"
    assert told["shortened_llama-ppl-0.3"] == "✗ crashed"


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_what_a_narrow_window_leaves_out_it_names(width: int, cases: dict[str, Case]) -> None:
    """Every column is either a heading or in the line that says what a wider window shows."""
    text = " ".join(shown(run_of(cases), width).split())
    heading = text.partition(" case ")[2].partition("verdict")[0]
    note = text.partition("hidden columns: ")[2].partition(" tiny/")[0]

    for column in (
        "sparsity",
        "ppl",
        "acc",
        "recovery",
        "match",
        "prefill",
        "decode",
        "memory",
        "search",
    ):
        assert (column in heading) != (column in note), column
    assert ("search" in heading) == (width == 200)


def test_dense_is_first_then_what_failed_then_by_sparsity(cases: dict[str, Case]) -> None:
    """The gravest of the failures first; doubtful ones lead their group of similar sparsity."""
    names = [row[0] for row in rows(shown(run_of(cases)[::-1], 200)) if "change" not in row[0]]

    assert names == [
        "dense",
        "shortened_llama-ppl-0.3",
        "sleb-0.3",
        "slicegpt-0.15",
        "shortened_llama-ppl-0.15",
        "sleb-0.15",
        "slicegpt-0.3",
        "sliding_layer_merging-0.3-nsamples10",
    ]


def test_sparsities_far_apart_are_groups_of_their_own(cases: dict[str, Case]) -> None:
    """Four points of a gap or eight in all part them: 16, 18, 20, 22, 24 | 26, 28 | 33 | 60."""
    case = cases["sleb-0.15"]
    results = [result(case, "same", gone) for gone in (60, 16, 28, 18, 24, 20, 26, 22, 33)]
    grouped = [[round(100 * r.record.sparsity) for r in g if r.record]
               for g in run_table.groups(results)]  # fmt: skip

    assert grouped == [[16, 18, 24, 20, 22], [28, 26], [33], [60]]


def test_models_and_protocols_have_tables_of_their_own(cases: dict[str, Case]) -> None:
    """Each with its name above it; cases of two files keep their files' names."""
    one = cases["sleb-0.15"]
    other = replace(one, id="far/sleb-0.15", asked={**one.asked, "model": {"id": "big/model"}})
    beside = replace(one, id="more/sleb-0.15")
    text = shown([result(c, "same") for c in (one, other, beside)], 100)

    first, second = text.index("prunebench/reference"), text.index("big/model")
    assert first < second
    assert text.count("\ncase ") == 2
    assert re.search(r"^more/sleb-0.15 ", text, re.MULTILINE)
    assert re.search(r"^sleb-0.15 ", text, re.MULTILINE)


def test_uncertainty_stands_beside_the_numbers(cases: dict[str, Case]) -> None:
    """The binomial's closed form for accuracies; for medians of rounds, root pi / 2 over them."""
    (row,) = rows(shown([result(cases["sleb-0.15"], "same")], 200))
    binomial = math.sqrt(0.9 * 0.1 / 99)
    median = math.sqrt(math.pi / 2) * 0.1 / math.sqrt(3)

    assert f"90.0% ±{100 * binomial:.1f}" in row
    assert f"1.20x ±{median:.2f}" in row


def test_a_change_stands_below_what_moved(cases: dict[str, Case]) -> None:
    """Signed, in the column of its number; none below what is the same."""
    text = shown(run_of(cases), 200)
    lines = text.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("sleb-0.3 "))
    value = lines[at].index("2.500") + len("2.500")

    assert lines[at + 1].startswith("└ change")
    assert lines[at + 1][:value].endswith("+0.250")
    assert sum(line.startswith("└ change") for line in lines) == 2  # worse and unsure moved


def test_the_papers_numbers_stand_below_ours(cases: dict[str, Case]) -> None:
    """Of the same protocol only, with their source and what they had removed."""
    case = cases["sleb-0.15"]
    now = published_record(12.3)
    row = Row("SLEB", "Table 1", "sleb@1", "Llama-2-7b-hf", {"name": "sleb"}, "perplexity/c4",
              12.32, {"blocks": 7}, sparsity=0.21)  # fmt: skip
    other = replace(row, protocol="slicegpt@1", value=99.0)
    text = shown([Result(case, Verdict(case.id, ok=True), now, published=(row, other))], 100)
    line = next(line for line in text.splitlines() if line.startswith("└ paper: SLEB"))

    assert re.split(r"  +", line.strip())[1:] == ["21.0%", "12.320"]
    assert "published perplexity/c4 12.32 (SLEB, Table 1" in " ".join(text.split())


def test_the_command_to_run_again_is_whole(cases: dict[str, Case]) -> None:
    """On one line in the narrowest window, so that it can be copied."""
    lines = shown(run_of(cases), 40).splitlines()

    assert f"  run it again: {cases['sleb-0.3'].reproduce}" in lines


def test_findings_are_whole_lines_where_no_person_reads(cases: dict[str, Case]) -> None:
    """For grep: the case's id first, nothing broken. A person's are below their case."""
    piped = shown(run_of(cases), 40, file=io.StringIO()).splitlines()
    case_id = cases["sleb-0.3"].id
    told = f"{case_id}: worse perplexity/t: 2.5000, was 2.2500 (+0.25), p = 0.25"

    assert told in piped
    person = shown(run_of(cases), 120).splitlines()
    assert person[person.index(case_id) + 1] == told.replace(f"{case_id}:", " ")


# ------------------------------------------------------------------------------ kinds of terminals


def test_no_color_gives_no_escape_codes(
    cases: dict[str, Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even bold; and the outcomes are words with signs all the same."""
    coloured = shown(run_of(cases), 80, color_system="standard", force_terminal=True)
    monkeypatch.setenv("NO_COLOR", "1")
    plain = shown(run_of(cases), 80, color_system="standard", force_terminal=True)

    assert "\x1b[" in coloured
    assert "\x1b" not in plain
    assert "▼ worse" in plain
    assert re.sub(r"\x1b\[[\d;]*m", "", coloured) == plain


@pytest.mark.parametrize(
    ("variables", "escapes", "widest"),
    [
        ({}, False, 100),
        ({"FORCE_COLOR": "1"}, True, 100),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, 100),
        ({"TERM": "dumb"}, False, 100),
        ({"COLUMNS": "60"}, False, 60),
    ],
)
def test_what_is_piped(
    variables: dict[str, str],
    escapes: bool,
    widest: int,
    cases: dict[str, Case],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No colours unless they are forced; room for the table unless COLUMNS says otherwise."""
    for name in ("NO_COLOR", "FORCE_COLOR", "COLUMNS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    run_table.table([result(cases["sleb-0.15"], "same")], screen.console())
    out = capsys.readouterr().out

    assert ("\x1b[" in out) == escapes
    console = screen.console()
    assert console.width == widest


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_where_there_is_no_unicode_ascii_signs_stand_in(
    encoding: str, cases: dict[str, Case]
) -> None:
    """Nothing but the encoding's letters, and every word with a sign of its own."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    console = InertConsole(file=file, width=100)
    run_table.table(run_of(cases), console)
    file.flush()
    text = file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]

    assert "v worse" in text
    assert "90.0% +-3.0" in text
    assert not any(sign in text for sign in "▼±─└")


def test_foreign_letters_do_not_stop_a_poor_terminal(cases: dict[str, Case]) -> None:
    """A name with letters that its encoding lacks has question marks, and the table its width."""
    case = cases["sleb-0.15"]
    named = replace(case, id="tiny/modèle-ж")
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    run_table.table([result(named, "same")], InertConsole(file=file, width=60))
    file.flush()

    assert "mod?le-?" in file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


@pytest.mark.parametrize("signs", [screen.UNICODE, screen.ASCII])
def test_signs_tell_outcomes_apart_without_colour(signs: screen.Signs) -> None:
    """A sign for every outcome; only what is as grave shares one, and its word tells it apart."""
    assert set(signs.outcomes) == set(screen.COLOURS)
    shared = [w for w, s in signs.outcomes.items() if list(signs.outcomes.values()).count(s) > 1]
    assert shared == ["gone", "crashed"]
    drawn = [signs.kept, signs.removed, signs.joined, signs.cut, signs.refit]
    assert len(set(drawn)) == len(drawn)
    assert all(len(sign) == 1 for sign in [*drawn, *signs.outcomes.values()])


# ------------------------------------------------------------------------------------ one in depth


def in_depth(record: Record, width: int, *, trace: bool = False, **more: Any) -> str:
    """What `show` prints in a window."""
    console = InertConsole(file=Window(), width=width, color_system=None)
    verdict = Verdict(record.case_id, ok=True)
    case_page.show(case_page.Shown(record, verdict, **more), console, trace=trace)
    return str(console.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_show_fits_its_window_and_names_every_measurement(width: int) -> None:
    """The header, the strip, each number; only commands may be longer."""
    now = measured(20)
    text = in_depth(now, width, blocks=6, trace=True)
    long = [line for line in text.splitlines() if len(line.rstrip()) > width]

    assert [line for line in long if "prunebench" not in line] == []
    joined = re.sub(r"\n *", "", text)
    for measurement in now.measurements:
        assert measurement.metric.rpartition("/")[2] in joined
    assert "sparsity 20.00%" in " ".join(text.split())


def test_show_draws_what_went_and_in_which_order() -> None:
    """Blocks 5 and 3 of 6, as the record of test_verdict has them."""
    lines = in_depth(measured(20), 80, blocks=6).splitlines()
    at = next(i for i, line in enumerate(lines) if line.strip().startswith("block "))

    assert lines[at : at + 3] == [
        "  block  0  1  2  3  4  5",
        "  attn   ■  ■  ■  □  ■  □",
        "  mlp    ■  ■  ■  □  ■  □",
    ]
    assert "  in order of removal: 5 3" in lines


def test_show_tells_how_each_choice_was_made_only_when_asked() -> None:
    """A row a step: what was chosen, by how much, against which noise and runner-up."""
    now = replace(measured(20), trace=(replace(measured(20).trace[0], runner_up="3"),))
    asked = in_depth(now, 80, blocks=6, trace=True)

    assert re.search(r"^ +0  5 +1 +0\.1 +1e-06 +3 +✓ sure$", asked, re.MULTILINE)
    assert "runner-up" not in in_depth(now, 80, blocks=6)


def test_show_says_where_the_rest_is() -> None:
    """The history, the interval over seeds, or how to come by one."""
    asked = {**measured(20).asked, "calibration": {"dataset": "tinyworld"}}
    now = replace(measured(20), asked=asked)
    seeded = Interval("a/b", "perplexity/t", 3, 2.5, 2.25, 2.75, "ppl", 0.1, 0.1)
    with_seeds = in_depth(now, 100, count=4, intervals=(seeded,), reproduce="prunebench run x")
    alone = in_depth(now, 100, reproduce="prunebench run x")

    assert "4 records in the results folder:\n  prunebench history a/b\n" in with_seeds
    assert "perplexity/t over 3 calibration seeds 2.5000, 95% from 2.2500 to 2.7500" in with_seeds
    assert "--set" not in with_seeds
    assert "  prunebench run x --set 'calibration.seed=[0,1,2]'\n" in alone


def test_show_of_a_model_that_is_cut_names_its_width() -> None:
    """One width for all of the stream."""
    now = replace(measured(20), plan=(SliceHidden((96,), scope="global"),), trace=())

    assert "▬ cut to width 96" in in_depth(now, 80, blocks=4)


# ---------------------------------------------------------------------------------------- figures


@pytest.mark.parametrize(
    ("error", "unit", "value", "text"),
    [
        (0.0123, "acc", 0.9, "1.2"),
        (0.00049, "acc", 0.99, ""),
        (0.0, "acc", 1.0, ""),
        (0.0123, "ppl", 2.5, "0.012"),
        (0.54321, "ppl", 17.8, "0.54"),
        (43.21, "ppl", 812.0, "43"),
        (0.1234, "x", 1.4, "0.12"),
        (0.02, "ms", 4.7, ""),
        (math.inf, "ppl", 2.0, ""),
    ],
)
def test_an_error_has_two_digits_and_is_no_finer_than_its_value(
    error: float, unit: str, value: float, text: str
) -> None:
    """As the value beside it is written: points with one place, perplexities with three."""
    assert formatting.error(error, unit, value) == text


def test_times_in_another_unit_have_no_error() -> None:
    """Samples in seconds say nothing of a median in milliseconds; nor does a single round."""
    seconds = Measurement("latency/x/ttft", 5.0, "ms", "lower", (0.004, 0.005, 0.006))
    single = Measurement("latency/x/speedup", 1.5, "x", "higher", (1.5,))

    assert columns.uncertainty(seconds, record(seconds)) == 0
    assert columns.uncertainty(single, record(single)) == 0

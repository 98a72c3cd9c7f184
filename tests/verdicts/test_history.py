"""Nights of one question on one device as series, with the steps that were planted."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from factories import CPU, accuracy, record
from msgspec.structs import replace

from prunebench import Measurement, PrunebenchError, Record
from prunebench.cli.history import sparkline
from prunebench.results.store import Store
from prunebench.verdicts.history import first_of_each, history

FIRST = datetime.fromisoformat("2026-11-01T02:00:00+00:00")


def ppl(value: float | None) -> Measurement:
    return Measurement("perplexity/t", value, "ppl", "lower")


def night(day: int, *measurements: Measurement, **changes: Any) -> Record:
    asked = {"method": {"name": "sleb"}, "metrics": [{"name": "perplexity", "seqlen": 128}]}
    env = replace(CPU, commit=f"{day:040x}", packages={"torch": "2.12" if day < 9 else "2.13"})
    fields = {"asked": asked, "environment": env, "key": "k" * 64}
    created = (FIRST + timedelta(days=day)).isoformat(timespec="seconds")
    return record(*measurements, created=created, **{**fields, **changes})


def all_of(names: Any) -> Any:
    return names


def newest_first(records: list[Record]) -> list[Record]:
    return sorted(records, key=lambda r: r.created, reverse=True)


def test_a_planted_step_is_told_with_its_night_and_what_changed_with_it() -> None:
    """Twelve nights, the ninth is worse for good: levels, commits, packages, direction."""
    past = history(
        newest_first([night(d, ppl(2.5 if d < 9 else 2.6), accuracy(90)) for d in range(13)]),
        all_of,
    )
    (change,) = past.series[0].steps

    assert [s.metric for s in past.series] == ["perplexity/t", "accuracy/t"]
    assert (change.at, change.before, change.after) == (9, 2.5, 2.6)
    assert change.worse
    assert change.packages == ("torch 2.12 -> 2.13",)
    assert past.series[0].points[9].commit == f"{9:040x}"
    assert past.series[1].steps == ()
    assert past.left_out == ()


def test_what_is_worse_depends_on_the_metrics_direction() -> None:
    """Lower perplexity and higher accuracy are better."""
    records = [night(d, ppl(3.0 - (d > 5)), accuracy(90 - (d > 5))) for d in range(12)]
    lower, fewer = history(newest_first(records), all_of).series

    assert [c.worse for c in lower.steps] == [False]
    assert [c.worse for c in fewer.steps] == [True]


def test_a_night_without_a_finite_value_is_kept_and_is_no_step() -> None:
    """The index of a step counts that night too."""
    values = [2.5, 2.5, None, 2.5, 2.7, 2.7, 2.7]
    series = history(newest_first([night(d, ppl(v)) for d, v in enumerate(values)]), all_of).series

    assert [n.value for n in series[0].points] == values
    assert [c.at for c in series[0].steps] == [4]


def test_nights_to_other_questions_and_on_other_devices_are_counted() -> None:
    """A changed metric leaves only its own series shorter; a changed method both."""
    other = {"method": {"name": "sleb"}, "metrics": [{"name": "perplexity", "seqlen": 256}]}
    random = {"method": {"name": "random"}, "metrics": other["metrics"]}
    gpu = replace(CPU, device="nvidia-h200")
    records = [night(d, ppl(2.0), accuracy(90), asked=random) for d in range(2)]
    records += [night(d, ppl(3.0), accuracy(90), asked=other) for d in range(2, 5)]
    records += [night(d, ppl(4.0), accuracy(90)) for d in range(5, 9)]
    records += [night(0, ppl(9.0), accuracy(10), environment=gpu)]
    past = history(newest_first(records), all_of)

    assert [[n.value for n in s.points] for s in past.series] == [[4.0] * 4, [0.9] * 7]
    assert set(past.left_out) == {
        "2 older records answer another question: method.name is sleb, was random",
        "3 older records answer another question: perplexity.seqlen is 128, was 256",
        "1 more record on nvidia-h200: --device nvidia-h200",
    }
    on_gpu = history(newest_first(records), all_of, "nvidia-h200")
    assert [n.value for n in on_gpu.series[0].points] == [9.0]
    with pytest.raises(PrunebenchError, match=r"no record on 'h200'; .*allowed: cpu, nvidia-h200"):
        history(records, all_of, "h200")


def test_last_takes_the_newest_nights() -> None:
    """Steps before them are not looked for."""
    records = newest_first([night(d, ppl(2.0 + (d > 4))) for d in range(12)])

    assert len(history(records, all_of).series[0].steps) == 1
    late = history(records, all_of, last=5).series[0]
    assert [n.value for n in late.points] == [3.0] * 5
    assert late.steps == ()


def test_a_column_takes_the_first_name_of_the_first_pattern_that_fits() -> None:
    """As the run table does."""
    names = ["accuracy/a", "accuracy/b", "accuracy/mean", "perplexity/t", "perplexity/u"]
    columns = [("perplexity/*",), ("accuracy/mean", "accuracy/*"), ("generation/*",)]

    assert first_of_each(names, columns) == ["perplexity/t", "accuracy/mean"]
    assert first_of_each(["accuracy/a"], columns) == ["accuracy/a"]


def test_a_sparkline_spans_lowest_to_highest() -> None:
    """Eight heights, a gap for what was not finite, the floor for equal values."""
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert sparkline([1.0, None, 3.0]) == "▁ █"
    assert sparkline([5.0, 5.0]) == "▁▁"
    assert sparkline([]) == ""


@pytest.fixture
def nightly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store of 30 nights with a step on the twentieth."""
    monkeypatch.chdir(tmp_path)
    store = Store(tmp_path / ".prunebench")
    for day in range(30):
        store.save(night(day, ppl(2.5), accuracy(962 if day < 20 else 941, 1000)))
    return tmp_path


def test_the_command_tells_step_commit_and_direction(nightly: Path, cli) -> None:
    """One plain sentence per step; the nights around it and the newest are listed."""
    code, out, err = cli("history", "b")

    assert (code, err) == (0, "")
    assert "a/b on cpu" in out
    assert (
        "step down 0.9620 -> 0.9410 at 2026-11-21 (commit 0000000 -> 0000000), for the worse" in out
    )
    assert "2026-11-21 02:00  0000000  0.9410  -0.021  step down" in out
    assert "... 19 more" in out
    assert "▁" * 20 in out  # perplexity, which did not move
    assert "... 19 more" not in cli("history", "a/b", "--all")[1]
    assert "accuracy" not in cli("history", "a/b", "--metric", "perp*")[1]


def test_the_command_prints_json(nightly: Path, cli) -> None:
    """Series and steps as data."""
    data = json.loads(cli("history", "a/b", "--json", "--last", "15")[1])
    series = {s["metric"]: s for s in data["series"]}

    assert [n["value"] for n in series["accuracy/t"]["nights"]] == [0.962] * 5 + [0.941] * 10
    assert series["accuracy/t"]["steps"] == [
        {"at": 5, "before": 0.962, "after": 0.941, "worse": True, "packages": []}
    ]
    assert series["perplexity/t"]["steps"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["a/c"], "no record of 'a/c'; did you mean 'a/b'? allowed: a/b"),
        (["b", "--metric", "perplexty/t"], "no metric 'perplexty/t' in a/b; did you mean 'perpl"),
        (["b", "--device", "cuda"], "no record on 'cuda'; allowed: cpu"),
    ],
)
def test_what_is_not_there_is_one_line(nightly: Path, cli, arguments: list[str], says: str) -> None:
    """Exit 2, the nearest known word."""
    code, out, err = cli("history", *arguments)

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err

"""Two sets of results side by side: what may stand on either side, and what is said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from factories import CPU, accuracy, record, speedup
from msgspec.structs import replace

from prunebench import Measurement, Record
from prunebench.record import Tolerance
from prunebench.results import compare as comparing
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.compare import compare
from prunebench.results.lm_eval_files import Score
from prunebench.results.lm_eval_pairing import Unpaired
from prunebench.results.readers import read
from prunebench.results.store import Store
from prunebench.system.files import write_json
from prunebench.verdicts.verdict import Verdict

BECAUSE = Accepted(by="somebody", when="2026-11-22", because="a test")
GPU = replace(CPU, device="nvidia-h200")
OTHER = replace(CPU, device="nvidia-h100")


def one(case_id: str, right: int, *more: Measurement, **changes: Any) -> Record:
    return record(accuracy(right), *more, case_id=case_id, **changes)


def run_file(path: Path, *records: Record, verdicts: tuple[Verdict, ...] = ()) -> Path:
    write_json(path, {"records": records, "verdicts": verdicts})
    return path


def outcomes(a: Path, b: Path, **options: Any) -> dict[str, dict[str, str]]:
    found = compare(read(a), read(b), {}, **options)
    return {v.case_id: {f.what: str(f.outcome) for f in v.findings} for v in found.verdicts}


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """The same two cases as a run file, a store, baselines, and the first as single files."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cases").mkdir()
    records = (one("m/a", 90), one("m/b", 80))
    store, baselines = Store(tmp_path / ".prunebench"), Baselines(tmp_path / "baselines")
    for own in records:
        store.save(replace(own, key="k" * 64, created="2026-11-20", measurements=(accuracy(1),)))
        store.save(replace(own, key="k" * 64))
        baselines.save(own, BECAUSE)
    return {
        "run": run_file(tmp_path / "run.json", *records),
        "store": store.root,
        "records": store.root / "records" / "m" / "a" / f"{'k' * 20}.json",
        "baselines": baselines.root,
        "quality": baselines.root / "quality",
        "baseline": baselines.quality("m/a"),
    }


@pytest.mark.parametrize("a", ["run", "store", "records", "baselines", "quality", "baseline"])
@pytest.mark.parametrize("b", ["run", "store", "baselines"])
def test_every_kind_reads_as_the_same_records(sides: dict[str, Path], a: str, b: str) -> None:
    """With the samples and the newest night of each: the same on both sides."""
    left, right = read(sides[a]), read(sides[b])
    for case_id in left.case_ids():
        mine, other = left.record(case_id, "cpu"), right.record(case_id, "cpu")
        assert mine is not None
        assert other is not None
        assert mine.measurements == other.measurements
    found = outcomes(sides[a], sides[b])

    assert set(found["m/a"].values()) == {"same"}
    single = a in ("records", "baseline")
    assert set(found["m/b"].values()) == ({"new"} if single else {"same"})


def test_a_loss_fails_and_cases_on_one_side_are_named(sides, tmp_path: Path, cli) -> None:
    """Exit 1; the finding as a run tells it; gone fails, new does not."""
    worse = run_file(tmp_path / "b.json", one("m/a", 60), one("m/c", 90))
    code, out, err = cli("compare", sides["run"], worse)

    assert (code, err) == (1, "")
    assert "m/a: worse accuracy/t: 0.6000, was 0.9000 (-0.3), allowed 0.0100, p = " in out
    assert f"m/b: gone case: not in {worse}" in out
    assert f"m/c: new case: not in {sides['run']}" in out
    assert "3 cases, 1 in both: 1 gone, 1 new, 1 worse" in out
    assert cli("compare", sides["run"], worse, "-k", "c or a", "--fail-on", "gone")[0] == 0
    assert cli("compare", sides["run"], worse, "-k", "m/b", "--fail-on", "worse")[0] == 5


def test_conditions_fail_as_they_do_in_a_run(sides, tmp_path: Path, cli) -> None:
    """In place of outcomes, on the measurement they name; a metric nobody measured is a mistake."""
    b = run_file(tmp_path / "b.json", one("m/a", 89), one("m/b", 80))
    condition = "accuracy/*: drop >= 1pp"

    assert cli("compare", sides["run"], b)[0] == 0
    code, out, _ = cli("compare", sides["run"], b, "--fail-on", condition)
    assert code == 1
    assert "m/a: worse accuracy/t: drop >= 1pp: 0.8900, was 0.9000" in out
    code, _, err = cli("compare", sides["run"], b, "--fail-on", "acuracy/t < 0.5")
    assert code == 2
    assert err.startswith("--fail-on: ")
    assert "accuracy" in err


def test_what_is_same_is_listed_only_when_asked_for(sides, cli) -> None:
    """One line without -v, a row per metric with it, everything as JSON."""
    quiet = cli("compare", sides["run"], sides["store"], "--strict")
    told = cli("compare", sides["run"], sides["store"], "-v")

    assert quiet == (0, "2 cases, 2 in both: 2 same\n", "")
    assert told[1].count("accuracy/t") == 2
    data = json.loads(cli("compare", sides["run"], sides["store"], "--json")[1])
    assert [v["case_id"] for v in data["verdicts"]] == ["m/a", "m/b"]
    assert data["verdicts"][0]["ok"] is True


def test_the_tolerance_is_the_cases_where_there_is_one(sides, tmp_path: Path, cli) -> None:
    """A case file of the same id decides, as it does in show."""
    five_fewer = run_file(tmp_path / "b.json", one("m/sleb-2blocks", 85))
    ninety = run_file(tmp_path / "a.json", one("m/sleb-2blocks", 90))
    assert cli("compare", ninety, five_fewer)[0] == 1
    (tmp_path / "cases" / "m.yaml").write_text(
        "model: {id: prunebench/reference}\nmetrics: [{name: accuracy, tasks: [t]}]\n"
        "tolerance: {accuracy: {abs: 0.2}}\nmatrix: {method: [{name: sleb}], blocks: [2]}\n"
    )

    assert cli("compare", ninety, five_fewer)[0] == 0


def test_unsure_fails_only_strictly(sides, tmp_path: Path, cli) -> None:
    """Three fewer of a hundred may be chance: 4 with --strict; 6 where the question differs."""
    (tmp_path / "a.json").write_bytes((tmp_path / "run.json").read_bytes())
    fewer = run_file(tmp_path / "b.json", one("m/a", 87), one("m/b", 80))
    assert cli("compare", tmp_path / "a.json", fewer)[0] == 0
    assert cli("compare", tmp_path / "a.json", fewer, "--strict")[0] == 4
    other = run_file(tmp_path / "c.json", one("m/a", 90, asked={"method": {"name": "random"}}))
    code, out, _ = cli("compare", tmp_path / "a.json", other, "--strict", "-k", "m/a")

    assert code == 6
    assert "not_comparable case: the baseline answers another: method.name is random" in out


def test_timings_of_two_devices_are_not_compared(tmp_path: Path) -> None:
    """Quality is judged; on one device timings are too."""
    a = run_file(tmp_path / "a.json", one("m/a", 90, speedup(1.4), environment=GPU))
    b = run_file(tmp_path / "b.json", one("m/a", 90, speedup(1.1), environment=OTHER))
    c = run_file(tmp_path / "c.json", one("m/a", 90, speedup(1.1), environment=GPU))

    apart = {"plan": "same", "accuracy/t": "same", "timings": "not_comparable"}
    assert outcomes(a, b) == {"m/a": apart}
    assert outcomes(a, c)["m/a"]["latency/p/speedup-decode"] == "worse"
    (verdict,) = compare(read(a), read(c), {}).verdicts
    finding = verdict.findings[-1]
    assert finding.note == "measured once on each side"


def test_timings_of_baselines_are_taken_for_the_other_sides_device(tmp_path: Path) -> None:
    """From their own tree, either way round; where none were accepted there, none are missed."""
    baselines = Baselines(tmp_path / "baselines")
    baselines.save(one("m/a", 90, speedup(1.4), environment=GPU), BECAUSE)
    same = run_file(tmp_path / "b.json", one("m/a", 90, speedup(1.4), environment=GPU))
    elsewhere = run_file(tmp_path / "c.json", one("m/a", 90, speedup(1.4), environment=OTHER))
    all_same = {"plan": "same", "accuracy/t": "same", "latency/p/speedup-decode": "same"}

    assert outcomes(baselines.root, same)["m/a"] == all_same
    assert outcomes(same, baselines.root)["m/a"] == all_same
    for pair in ((baselines.root, elsewhere), (elsewhere, baselines.root)):
        assert outcomes(*pair)["m/a"] == {"plan": "same", "accuracy/t": "same"}


def test_a_timing_that_a_run_no_longer_has_is_gone(tmp_path: Path) -> None:
    """Between two runs on one device nothing is left out quietly."""
    a = run_file(tmp_path / "a.json", one("m/a", 90, speedup(1.4), environment=GPU))
    b = run_file(tmp_path / "b.json", one("m/a", 90, environment=GPU))

    assert outcomes(a, b)["m/a"]["latency/p/speedup-decode"] == "gone"


def test_cases_that_crashed_or_were_skipped_say_so(tmp_path: Path) -> None:
    """A crash is a loss; what the machine could not run is not comparable."""
    a = run_file(tmp_path / "a.json", one("m/a", 90), one("m/b", 90))
    verdicts = (Verdict("m/a", ok=False, error="boom"), Verdict("m/b", ok=True, skipped="no GPU"))
    b = run_file(tmp_path / "b.json", verdicts=verdicts)
    found = compare(read(a), read(b), {}).verdicts
    findings = [(v.ok, str(v.findings[0].outcome), v.findings[0].note) for v in found]

    assert findings == [
        (False, "gone", f"no record in {b}: it crashed: boom"),
        (True, "not_comparable", f"no record in {b}: no GPU"),
    ]


def test_nothing_in_common_exits_5_and_says_what_there_is(sides, tmp_path: Path, cli) -> None:
    """A line for each side."""
    other = run_file(tmp_path / "b.json", *(one(f"n/{i}", 90) for i in range(5)))
    code, out, err = cli("compare", sides["run"], other)

    assert (code, out) == (5, "")
    assert err == (
        f"nothing in common: {sides['run']} has m/a, m/b\n"
        f"nothing in common: {other} has n/0, n/1, n/2 and 2 more\n"
    )


def bad(folder: Path, kind: str) -> Path:
    path = folder / "bad.json"
    contents = {
        "truncated": (folder / "run.json").read_bytes()[:300],
        "another kind": b'{"hello": 1}',
        "a list": b"[1, 2]",
        "newer": msgspec.json.encode({"records": [replace(one("m/a", 90), schema=9)]}),
        "no record": b'{"records": [{"case_id": 3}]}',
        "binary": b"\x00\xff\x00",
    }
    if kind in contents:
        path.write_bytes(contents[kind])
        return path
    if kind != "missing":
        (folder / "bad").mkdir()
    if kind == "store":
        (folder / "bad" / "records").mkdir()
    if kind == "text":
        (folder / "bad" / "a.txt").write_text("hello")
    return folder / "bad"


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        ("missing", "bad: no such file or folder"),
        ("empty", "bad: an empty folder"),
        ("text", "bad: neither a file of `run --json`, a results folder such as .prunebench, "),
        ("store", "bad: a results folder without a record that can be read"),
        ("truncated", "bad.json: damaged: "),
        ("another kind", "bad.json: neither a file of `run --json`, "),
        ("a list", "bad.json: neither a file of `run --json`, "),
        ("newer", "bad.json: written by a newer prunebench (schema 9, this one"),
        ("no record", "bad.json: damaged: "),
        ("binary", "bad.json: damaged: "),
    ],
)
@pytest.mark.parametrize("swapped", [False, True])
def test_bad_input_is_one_line(
    sides, tmp_path: Path, cli, kind: str, says: str, swapped: bool
) -> None:
    """On either side: exit 2, the file first, what is wrong with it."""
    pair = [sides["run"], bad(tmp_path, kind)]
    code, out, err = cli("compare", *(pair[::-1] if swapped else pair))

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(str(tmp_path))
    assert says in err


@pytest.mark.slow
def test_the_same_words_after_a_real_run(project: Path, cli) -> None:
    """What `run --json` writes compares with the store that the run filled, samples and all."""
    assert cli("run", "cases", "--json", "a.json", "-q")[0] == 0
    code, out, err = cli("compare", "a.json", ".prunebench", "--strict")

    assert (code, err) == (0, "")
    assert out == "1 case, 1 in both: 1 same\n"


@pytest.mark.parametrize(
    ("now", "was", "outcome"),
    [(0.89, 0.90, "same"), (0.8899, 0.90, "worse"), (0.8, 0.79, "same"), (0.8, 0.7899, "better")],
)
def test_scores_without_samples_are_held_to_the_same_limit(
    now: float, was: float, outcome: str
) -> None:
    """A point lost of the point allowed is no loss, though 0.90 - 0.89 > 0.01 in floats."""
    pair = Unpaired("accuracy/x", "acc", Score(now, 0.0, 100), Score(was, 0.0, 100))

    assert str(comparing._unpaired(pair, Tolerance(abs=0.01)).outcome) == outcome

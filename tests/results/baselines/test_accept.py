"""Baselines that break, guards on accepting, the shelf, and two people's work in git."""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories import ANSWERED, CASES, GPU, ROOT, accuracy, answer, read, record
from msgspec.structs import replace

from prunebench import Measurement, PrunebenchError, Record
from prunebench.case import Case
from prunebench.cases import loader
from prunebench.edits.drop_blocks import DropBlocks
from prunebench.results.baselines import guards, review
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.store import Store

BECAUSE = Accepted(by="Ada", when="2026-11-22T10:00:00+00:00", because="first")


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Case]:
    """A user's folder with a matrix of cases; by label."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "m.yaml").write_text(CASES)
    monkeypatch.chdir(tmp_path)
    return {case.label: case for case in loader.load([Path("cases")])}


class Shelf:
    """Baselines and results of the current folder."""

    def __init__(self) -> None:
        self.baselines = Baselines(Path("baselines"))
        self.store = Store(Path(".prunebench"))

    def accept(self, *records: Record) -> None:
        for one in records:
            self.baselines.save(one, BECAUSE)

    def problems(self, cases: dict[str, Case], *records: Record) -> list[str]:
        """Why these may not become baselines of their cases."""
        by_id = {case.id: case for case in cases.values()}
        wanted = [by_id[r.case_id] for r in records]
        found = guards.objections(records, self.baselines, self.store, wanted)
        return [objection.line() for objection in found]


@pytest.fixture
def here(cases: dict[str, Case]) -> Shelf:
    return Shelf()


# ------------------------------------------------------------------ the files


def test_margins_and_clusters_lie_beside_and_not_in_the_file(tmp_path: Path) -> None:
    """They come back: margins to half precision and clipped to it, clusters exactly."""
    margins = (0.1, -3.25, 1e9, -math.inf)
    clusters = (7, 7, 3, 40_000)
    one = replace(accuracy(3, of=4), margins=margins, clusters=clusters, chance=0.25)
    (path,) = Baselines(tmp_path).save(record(one, again=(one,)), BECAUSE)
    back = Baselines(tmp_path).load("a/b", "cpu")
    assert back is not None
    kept = back.measurements[0]

    assert kept.margins == (0.0999755859375, -3.25, 65504.0, -65504.0)  # IEEE 754 binary16
    assert (kept.clusters, kept.samples, kept.chance) == (clusters, one.samples, 0.25)
    assert set(read(path)["measurements"][0]) == {
        *("metric", "value", "unit", "better", "paired", "chance")
    }
    assert read(path)["again"] == []


def test_twenty_thousand_margins_fit_and_noise_beyond_the_cap_is_refused(tmp_path: Path) -> None:
    """Two bytes each: the papers' seven tasks are far below the cap; the error states it."""
    noise = [int.from_bytes(hashlib.sha256(str(i).encode()).digest()[:4]) / 1e8 for i in range(500)]
    many = replace(accuracy(15_000, of=20_000), margins=tuple(noise * 40))
    (path,) = Baselines(tmp_path).save(record(many), BECAUSE)
    assert path.with_name("b.samples.gz").stat().st_size < 100_000
    losses = tuple(
        int.from_bytes(hashlib.sha256(str(i).encode()).digest()[:4]) / 1e8 for i in range(300_000)
    )
    huge = Measurement("perplexity/t", 2.0, "ppl", "lower", losses, paired=True)

    with pytest.raises(PrunebenchError, match=r"a/b: .* bytes of samples, at most 1000000"):
        Baselines(tmp_path).save(record(huge), BECAUSE)


def test_the_hash_is_of_the_data_and_the_samples(tmp_path: Path) -> None:
    """As written down: SHA-256 of canonical JSON without itself, a zero byte, the samples."""
    (path,) = Baselines(tmp_path).save(record(accuracy(37, of=90)), BECAUSE)
    data = read(path)
    said = data["accepted"].pop("sha256")
    canonical = json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
    samples = path.with_name("b.samples.gz").read_bytes()

    assert said == hashlib.sha256(canonical + b"\0" + samples).hexdigest()
    assert "forced" not in data["accepted"]


def test_layout_and_line_ends_are_nobodys_edit(tmp_path: Path) -> None:
    """Indented otherwise, keys in another order, CRLF as git's autocrlf makes it: it loads."""
    baselines = Baselines(tmp_path)
    (path,) = baselines.save(record(accuracy(37, of=90)), BECAUSE)
    was = baselines.load("a/b", "cpu")
    data = read(path)
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert baselines.load("a/b", "cpu") == was
    path.write_text(json.dumps(dict(reversed(data.items())), indent=7))

    assert baselines.load("a/b", "cpu") == was


def test_files_from_before_there_were_hashes_still_load(tmp_path: Path) -> None:
    """Without a hash and without counts nothing is checked that was not written."""
    baselines = Baselines(tmp_path)
    (path,) = baselines.save(record(accuracy(37, of=90)), BECAUSE)
    data = read(path)
    del data["accepted"]["sha256"], data["samples"]
    data["measurements"][0]["value"] = 0.5
    path.write_text(json.dumps(data))
    loaded = baselines.load("a/b", "cpu")

    assert loaded is not None
    assert loaded.measurements[0].value == 0.5


def _tampered(path: Path) -> None:
    text = path.read_text()
    value = json.loads(text)["measurements"][0]["value"]
    path.write_text(text.replace(str(value), str(value)[:-1] + str((int(str(value)[-1]) + 1) % 10)))


def _other_samples(path: Path) -> None:
    beside = path.with_name(path.name.replace(".json", ".samples.gz"))
    packed = json.loads(gzip.decompress(beside.read_bytes()))
    packed["accuracy/mean"]["bits"] = f"{int(packed['accuracy/mean']['bits'], 16) ^ 1:x}"
    beside.write_bytes(gzip.compress(json.dumps(packed).encode()))


def _fewer_samples(path: Path) -> None:
    beside = path.with_name(path.name.replace(".json", ".samples.gz"))
    packed = json.loads(gzip.decompress(beside.read_bytes()))
    packed["accuracy/mean"] = {"bits": "3", "count": 2}
    beside.write_bytes(gzip.compress(json.dumps(packed).encode()))


def _damaged_samples(path: Path) -> None:
    beside = path.with_name(path.name.replace(".json", ".samples.gz"))
    content = bytearray(beside.read_bytes())
    content[len(content) // 2] ^= 0xFF
    beside.write_bytes(content)


def _newer(path: Path) -> None:
    path.write_text(path.read_text().replace('"schema": 1', '"schema": 7'))


def _conflict(path: Path) -> None:
    path.write_text(f"<<<<<<< ours\n{path.read_text()}=======\n>>>>>>> theirs\n")


def _elsewhere(path: Path) -> None:
    for suffix in (".json", ".samples.gz"):
        target = path.with_name(f"sleb-1blocks{suffix}")
        shutil.copy(path.with_name(f"sleb-2blocks{suffix}"), target)


BROKEN = {
    "edited": (_tampered, "edited by hand since Ada accepted it on 2026-11-22; accept again"),
    "samples swapped": (_other_samples, "edited by hand since Ada accepted it"),
    "truncated": (
        lambda p: p.write_bytes(p.read_bytes()[:200]),
        "damaged: Input data was truncated",
    ),
    "conflict": (
        _conflict,
        "damaged: JSON is malformed: invalid character; a merge conflict is left in it",
    ),
    "no mapping": (lambda p: p.write_text("[]"), "damaged: Expected `object`, got `array`"),
    "wrong type": (lambda p: p.write_text('{"case_id": 3}'), "damaged: Expected `str`, got `int`"),
    "newer": (_newer, "written by a newer prunebench (schema 7, this one reads up to 1)"),
    "no samples": (
        lambda p: p.with_name("sleb-2blocks.samples.gz").unlink(),
        "samples missing: baselines/quality/m/sleb-2blocks.samples.gz; git add it or accept again",
    ),
    "bad samples": (_damaged_samples, "samples damaged: baselines/quality/m/sleb-2blocks.sam"),
    "fewer samples": (_fewer_samples, "samples do not fit the record: 2 of accuracy/mean, the re"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_each_way_to_break_is_one_line_of_its_own(cases, here: Shelf, cli, kind: str) -> None:
    """Through `run`: the case is not comparable and says why, others go on, no byte is written."""
    here.accept(*(answer(case) for case in cases.values()))
    for case in cases.values():
        _stored(here, case, answer(case))
    path = here.baselines.quality("m/sleb-2blocks")
    damage, says = BROKEN[kind]
    damage(path)
    before = {p: p.read_bytes() for p in Path("baselines").rglob("*.*") if p.is_file()}
    code, out, err = cli("run", "cases", "-q", "--device", "cpu", "--json", "out.json")
    (verdict,) = [v for v in read(Path("out.json"))["verdicts"] if v["case_id"] == "m/sleb-2blocks"]
    (finding,) = verdict["findings"]

    assert code == 0, err
    assert finding["outcome"] == "not_comparable"
    place, _, problem = finding["note"].partition(" ")
    assert place.startswith(f"{path}:")
    assert problem.startswith(says)
    assert "\n" not in finding["note"]
    assert f"m/sleb-2blocks: not_comparable baseline: {path}:" in out
    assert "5 cases: 1 not_comparable, 4 same" in out
    assert "Traceback" not in out + err
    assert {p: p.read_bytes() for p in Path("baselines").rglob("*.*") if p.is_file()} == before
    code, out, _ = cli("baseline", "list", "--strict")
    assert code == 6
    assert f"m/sleb-2blocks: damaged: {place} {says}" in out


def _stored(here: Shelf, case: Case, one: Record) -> Record:
    """*one* as if it had been measured now, found by the key that a run would look for."""
    from prunebench.results import answer_key

    keyed = replace(one, key=answer_key.key(case, "cpu") or "", created="2026-11-24T00:00:00+00:00")
    here.store.save(keyed)
    return keyed


def test_a_baseline_in_anothers_place_is_told(cases, here: Shelf) -> None:
    """Copied by hand: the record names another case than its file."""
    here.accept(answer(cases["sleb-2blocks"]))
    _elsewhere(here.baselines.quality("m/sleb-2blocks"))

    with pytest.raises(PrunebenchError, match=r"m/sleb-1blocks\.json: the record of another case"):
        here.baselines.load("m/sleb-1blocks", "cpu")


def test_a_baseline_by_another_protocol_says_so(cases, here: Shelf, cli) -> None:
    """The protocol is named, and nothing is compared; `baseline list` calls it stale."""
    here.accept(*(answer(case) for case in cases.values()))
    path = Path("cases/m.yaml")
    path.write_text(f"protocol: tinyworld@1\n{path.read_text()}")
    for case in loader.load([path]):
        _stored(here, case, answer(case))
    code, out, _ = cli("run", "cases", "-q", "--device", "cpu", "-k", "2blocks")
    says = "the baseline answers another: protocol is tinyworld@1, was not given"

    assert code == 0
    assert f"m/sleb-2blocks: not_comparable case: {says}" in out
    assert f"m/sleb-2blocks: stale: {says}" in cli("baseline", "list")[1]


# ------------------------------------------------------------------ the guards


@pytest.mark.slow
def test_the_shipped_baselines_pass_every_guard() -> None:
    """None of the real ones, pruned to ruins among them, would be refused today."""
    root = ROOT
    if not (root / "baselines").is_dir():
        pytest.skip("the tests run without the repository around them")
    baselines = Baselines(root / "baselines")
    known = {case.id: case for case in loader.load([root / "cases"])}
    guessing = {"agreement": 0.5, "recall": 0.25, "facts": 0.25, "order": 0.25}
    records = []
    for case_id in baselines.case_ids():
        was = baselines.load(case_id, "cpu")
        assert was is not None
        own = [
            replace(m, chance=guessing.get(m.metric.rsplit("_", 1)[-1])) for m in was.measurements
        ]
        records.append(replace(was, measurements=tuple(own)))
    cases = [known[r.case_id] for r in records]
    nowhere = Path("nowhere")

    assert len(records) >= 60
    assert guards.objections(records, Baselines(nowhere), Store(nowhere), cases) == []
    assert guards.objections(records, baselines, Store(nowhere), cases) == []


def test_a_sound_run_is_accepted_without_objection(cases, here: Shelf) -> None:
    """New ones, and the same again beside their baselines."""
    records = [answer(case) for case in cases.values()]
    assert here.problems(cases, *records) == []
    here.accept(*records)

    assert here.problems(cases, *records) == []


@pytest.mark.slow
def test_the_chance_level_is_that_of_the_exact_binomial(cases, here: Shelf) -> None:
    """A dense model that guesses is refused from exactly where the binomial tail says so."""
    n = 2 * ANSWERED

    def tail(right: int) -> float:
        return sum(math.comb(n, k) * 0.25**k * 0.75 ** (n - k) for k in range(right, n + 1))

    right = next(k for k in range(n) if tail(k) <= 0.05)
    assert tail(right - 1) > 0.05
    for count, refused in ((right, False), (right - 1, True)):
        part = count - 100
        dense = answer(cases["dense"], facts=part / ANSWERED, recall=100 / ANSWERED)
        lines = here.problems(cases, dense)
        assert bool(lines) == refused, lines
    (line,) = lines
    assert line == (
        f"m/dense: not accepted: accuracy: {right - 1} of {n} right, guessing gives 25.0%: the "
        f"dense model does no better (p = {tail(right - 1):.2g}): broken weights?; "
        f"--force overrides"
    )


def test_worse_than_guessing_is_refused_and_guessing_is_not_for_a_pruned_model(
    cases, here: Shelf
) -> None:
    """A control may guess; answers that avoid the right choice are mixed up."""
    control = cases["first-1blocks"]
    assert here.problems(cases, answer(control, facts=0.25, recall=0.25)) == []
    (line,) = here.problems(cases, answer(control, facts=0.15, recall=0.15))

    assert "accuracy: 120 of 800 right, guessing gives 25.0%: worse than guessing (p = " in line


def test_few_questions_say_nothing_of_chance(cases, here: Shelf) -> None:
    """Four wrong answers of four have p = 0.32: no statement."""
    few = replace(accuracy(0, of=4), chance=0.25)
    dense = replace(answer(cases["dense"]), measurements=(few,))

    assert here.problems(cases, dense) == []


def test_a_pruned_model_that_falls_to_chance_is_refused(cases, here: Shelf) -> None:
    """A baseline above chance: a pruned model that guesses is not accepted."""
    here.accept(answer(cases["sleb-2blocks"]))
    (line,) = here.problems(cases, answer(cases["sleb-2blocks"], facts=0.25, recall=0.25))

    assert "no better than that" in line
    assert "the baseline has 680 of 800: a broken run?" in line


@pytest.mark.parametrize("where", ["together", "baseline", "store"])
def test_no_pruned_model_is_far_above_the_dense_one(cases, here: Shelf, where: str) -> None:
    """Dense found among the accepted, the baselines or the store: five points, ten per cent."""
    dense = answer(cases["dense"], ppl=3.0, facts=0.6, recall=0.6)
    if where == "baseline":
        here.accept(dense)
    elif where == "store":
        here.store.save(dense)
    beside = [dense] if where == "together" else []

    def refused(**numbers: float) -> list[str]:
        good = {"ppl": 3.0, "facts": 0.6, "recall": 0.6}
        return here.problems(cases, *beside, answer(cases["sleb-1blocks"], **{**good, **numbers}))

    assert refused(ppl=2.72, facts=0.65) == []
    (low,) = refused(ppl=2.68)
    assert low.startswith(
        "m/sleb-1blocks: not accepted: perplexity/tinyworld 2.6800, the dense model has 3.0000: "
        "more than 10% below it"
    )
    high = refused(facts=0.7)
    assert "accuracy/tinyworld_facts 0.7000, the dense model has 0.6000: more than 5" in high[0]


def test_another_models_dense_is_no_dense_of_this_one(cases, here: Shelf) -> None:
    """Other weights, or other metric options: nothing is compared."""
    better = answer(cases["sleb-1blocks"], ppl=1.5)
    here.accept(answer(cases["dense"], model_hash="other"))
    assert here.problems(cases, better) == []
    here.accept(answer(cases["dense"]))

    assert len(here.problems(cases, better)) == 1


# ------------------------------------------------------------------ through the command line


def test_accept_takes_all_or_nothing(cases, here: Shelf, cli) -> None:
    """One case without a record: nothing is written, exit 2; --force takes the rest and says so."""
    records = [answer(case) for label, case in cases.items() if label != "sleb-3blocks"]
    for one in records:
        here.store.save(one)
    code, out, err = cli("accept", "cases", "--because", "looked at it")

    assert (code, out) == (2, "")
    assert err == (
        "m/sleb-3blocks: not accepted: stored records: none; run it first; --force accepts the "
        "rest\nnothing was accepted\n"
    )
    assert not Path("baselines").exists()
    code, out, err = cli("accept", "cases", "--because", "looked at it", "--force")
    assert code == 0
    assert out.count("accepted baselines/quality/m/") == 4
    assert "overridden: m/sleb-3blocks: not accepted: stored records: none" in err
    assert here.baselines.case_ids() == sorted(r.case_id for r in records)


def test_force_is_written_down_and_leaves_out_what_cannot_be_a_standard(
    cases, here: Shelf, cli
) -> None:
    """A value that is not finite is no baseline even then; the rest is, marked as forced."""
    for case in cases.values():
        here.store.save(answer(case, ppl=None if case.label == "sleb-2blocks" else 2.4))
    code, _, err = cli("accept", "cases", "--because", "no perplexity today")
    assert code == 2
    assert "m/sleb-2blocks: not accepted: not finite: perplexity/tinyworld; --force accepts" in err
    code, _, err = cli("accept", "cases", "--because", "no perplexity today", "--force")
    taken = here.baselines.load("m/sleb-2blocks", "cpu")
    assert taken is not None

    assert code == 0
    assert taken.find("perplexity/tinyworld") is None
    assert taken.find("accuracy/mean") is not None
    forced = {i: here.baselines.accepted(i) for i in here.baselines.case_ids()}
    assert [i for i, who in forced.items() if who and who.forced] == ["m/sleb-2blocks"]
    assert "sleb-2blocks   forced  quality" in cli("baseline", "list")[1]


def test_a_newer_versions_baseline_is_not_written_over(cases, here: Shelf, cli) -> None:
    """An older prunebench would throw away what it cannot read."""
    case = cases["sleb-2blocks"]
    here.accept(answer(case))
    path = here.baselines.quality(case.id)
    _newer(path)
    before = path.read_bytes()
    here.store.save(answer(case))
    code, _, err = cli("accept", "cases", "-k", "2blocks", "--because", "again")

    assert code == 2
    assert "written by a newer prunebench" in err
    assert path.read_bytes() == before


def test_an_edited_baseline_can_be_accepted_anew(cases, here: Shelf, cli) -> None:
    """As its line says: a damaged one has no say in what replaces it."""
    case = cases["sleb-2blocks"]
    here.accept(answer(case))
    _tampered(here.baselines.quality(case.id))
    here.store.save(answer(case))
    assert cli("accept", "cases", "-k", "2blocks", "--because", "again")[0] == 0

    assert here.baselines.load(case.id, "cpu") is not None


@pytest.mark.slow
def test_run_accepts_nothing_when_a_case_crashed(project: Path, cli) -> None:
    """The real loop: one case asks too much; without --force the other gets no baseline either."""
    path = project / "cases" / "small.yaml"
    text = _without_accuracy(path.read_text())
    path.write_text(text.replace("blocks: [2]", "blocks: [11, 2]"))
    code, out, err = cli("run", "cases", "--accept", "--because", "first", "-q")

    assert code == 3
    assert "accepted baselines" not in out
    assert "small/sleb-windows-11blocks: not accepted: crashed: " in err
    assert err.endswith("nothing was accepted\n")
    code, out, _ = cli("run", "cases", "--accept", "--because", "first", "-q", "--force")
    assert code == 3
    assert "accepted baselines/quality/small/sleb-windows-2blocks.json" in out


def test_seeds_that_only_serve_an_interval_get_no_baseline(cases, here: Shelf, cli) -> None:
    """The first of several seeds is accepted and listed; the others are no lack either."""
    path = Path("cases/m.yaml")
    path.write_text(path.read_text().replace("nsamples: 8,", "nsamples: 8, seed: [0, 1],"))
    every = loader.load([path])
    for case in every:
        here.store.save(answer(case))
    assert [c.id for c in every if c.for_interval and "2blocks" in c.id] == ["m/sleb-2blocks-seed1"]
    code, out, _ = cli("accept", "cases", "-k", "2blocks", "--because", "first")

    assert (code, out) == (0, "accepted baselines/quality/m/sleb-2blocks.json\n")
    assert "1 baseline: 1 ok\n" in cli("baseline", "list", "-k", "2blocks", "--strict")[1]
    code, out, err = cli("accept", "cases", "-k", "seed1", "--because", "first")
    assert (code, out) == (3, "")
    assert err.startswith("nothing was accepted: ")


def test_force_alone_is_refused(cases, cli) -> None:
    """It would do nothing, and somebody meant something."""
    code, _, err = cli("run", "cases", "--force", "-q")

    assert (code, err.splitlines()) == (
        2,
        ["--force goes with --accept: it overrides what guards a baseline"],
    )


def _without_accuracy(text: str) -> str:
    return "".join(line for line in text.splitlines(True) if "accuracy" not in line)


@pytest.mark.slow
def test_pytest_asks_the_guards_too(cases, here: Shelf) -> None:
    """A record that fell to chance: accepting fails in one line, forcing does not."""
    Path("pytest.ini").write_text("[pytest]\nprunebench_cases = cases\n")
    case = cases["sleb-2blocks"]
    here.accept(answer(case))
    _stored(here, case, answer(case, facts=0.25, recall=0.25))

    def run(*options: str) -> tuple[int, str]:
        flags = ["-q", "-k", "2blocks", "--prunebench-device", "cpu", *options]
        command = [sys.executable, "-m", "pytest", "cases", *flags]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr

    accept = ("--prunebench-accept", "--prunebench-because", "again")
    code, out = run(*accept)
    assert code == 1
    assert "not accepted: accuracy: 200 of 800 right, guessing gives 25.0%" in out
    assert "a broken run?; --prunebench-force overrides" in out
    assert "Traceback" not in out
    assert run(*accept, "--prunebench-force")[0] == 0
    who = here.baselines.accepted(case.id)
    assert who is not None
    assert (who.forced, who.because) == (True, "again")
    assert run("--prunebench-force")[0] == 4


# ------------------------------------------------------------------ the shelf


def test_list_tells_every_state(cases, here: Shelf, cli) -> None:
    """Fine, missing, stale, orphaned, with who, when and why; --strict exits 6."""
    here.accept(*(answer(c) for label, c in cases.items() if label != "sleb-3blocks"))
    code, out, _ = cli("baseline", "list")
    assert code == 0
    assert "sleb-2blocks   ok       quality  Ada  2026-11-22  first" in out
    assert "sleb-3blocks   missing" in out
    assert "4 baselines: 4 ok; 1 case without" in out
    path = Path("cases/m.yaml")
    text = path.read_text().replace("  - {method: {name: sleb}, blocks: 1}\n", "")
    path.write_text(
        text.replace("tasks: [tinyworld_facts, ", "limit: 9, tasks: [tinyworld_facts, ")
    )
    code, out, _ = cli("baseline", "list", "--strict")

    assert code == 6
    assert "m/sleb-1blocks: orphaned: no case of that name any more" in out
    says = "the baseline was measured otherwise: accuracy.limit is 9, was not given"
    assert f"m/sleb-2blocks: stale: {says}" in out
    states = {
        row["case_id"]: row["state"] for row in json.loads(cli("baseline", "list", "--json")[1])
    }
    assert states == {
        "m/dense": "stale",
        "m/sleb-2blocks": "stale",
        "m/sleb-3blocks": "missing",
        "m/first-1blocks": "stale",
        "m/sleb-1blocks": "orphaned",
    }


def test_timings_are_on_the_shelf_under_their_device(cases, here: Shelf, cli) -> None:
    """Both trees in one row, and removed together."""
    case = cases["dense"]
    timed = Measurement("latency/x/ttft", 3.5, "ms", "lower", (3.0, 4.0))
    quality = answer(case, environment=GPU)
    here.accept(replace(quality, measurements=(*quality.measurements, timed)))
    assert "quality, latency nvidia-h200" in cli("baseline", "list", "-k", "dense")[1]
    code, out, _ = cli("baseline", "rm", "m/dense")

    assert code == 0
    assert out == (
        "removed baselines/quality/m/dense.json\n"
        "removed baselines/quality/m/dense.samples.gz\n"
        "removed baselines/latency/nvidia-h200/m/dense.json\n"
        "removed baselines/latency/nvidia-h200/m/dense.samples.gz\n"
    )
    assert list(Path("baselines").rglob("*")) == []


def test_rm_removes_what_it_says_and_no_more(cases, here: Shelf, cli) -> None:
    """A dry run leaves all; unknown ids and no ids are usage errors; others stay."""
    here.accept(*(answer(c) for c in cases.values()))
    published = Path("baselines/published/x.yaml")
    published.parent.mkdir()
    published.write_text("")
    files = set(Path("baselines").rglob("*"))
    assert cli("baseline", "rm")[0] == 2
    code, _, err = cli("baseline", "rm", "m/dense", "m/sleb-2block")
    assert code == 2
    assert err.startswith("no baseline of 'm/sleb-2block'; did you mean 'm/sleb-2blocks'?")
    assert "would remove baselines/quality/m/dense.json" in cli(
        "baseline", "rm", "m/dense", "--dry-run"
    )[1]  # fmt: skip
    assert set(Path("baselines").rglob("*")) == files
    cli("baseline", "rm", "m/dense")

    assert {p.name for p in files - set(Path("baselines").rglob("*"))} == {
        "dense.json",
        "dense.samples.gz",
    }


def test_only_orphans_are_orphans(cases, here: Shelf, cli) -> None:
    """Not those that --set made of a case; and without cases/ nothing is called one."""
    case = cases["sleb-2blocks"]
    here.accept(
        answer(case),
        replace(answer(case), case_id="m/sleb-4blocks@blocks=4"),
        replace(answer(case), case_id="gone/sleb-4blocks@blocks=4"),
        replace(answer(case), case_id="m/sleb-9blocks"),
    )
    every = loader.load([Path("cases")])
    # Of the files that were run: what lies elsewhere is not theirs to tell.
    assert review.orphans(here.baselines, every) == ["gone/sleb-4blocks@blocks=4", "m/sleb-9blocks"]
    assert review.hint(here.baselines, every) == (
        "1 baseline has no case any more; prunebench baseline rm --orphaned"
    )
    Path("cases").rename("elsewhere")
    code, _, err = cli("baseline", "rm", "--orphaned")
    assert (code, "it is not known" in err) == (2, True)
    code, out, err = cli("baseline", "list", "-k", "sleb-9blocks")
    assert "sleb-9blocks  ok" in out
    assert "it is not known" in err
    Path("elsewhere").rename("cases")
    cli("baseline", "rm", "--orphaned")

    assert here.baselines.case_ids() == ["m/sleb-2blocks", "m/sleb-4blocks@blocks=4"]
    assert review.hint(here.baselines, every) == ""


def test_review_tells_what_accept_would_change(cases, here: Shelf, cli) -> None:
    """Create, change with old and new, unchanged, no record; guards; the command. No writing."""
    here.accept(*(answer(cases[label]) for label in ("dense", "sleb-1blocks", "sleb-2blocks")))
    for label, ppl in (("dense", 2.4), ("sleb-1blocks", 2.41), ("sleb-3blocks", 2.6)):
        here.store.save(answer(cases[label], ppl=ppl))
    moved = answer(
        cases["sleb-2blocks"], ppl=3.0, facts=0.25, recall=0.25, plan=(DropBlocks((5, 4)),)
    )
    here.store.save(moved)
    before = {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()}
    code, out, _ = cli("baseline", "review", "cases")
    lines = out.splitlines()

    assert code == 0
    assert {p: p.read_bytes() for p in Path().rglob("*") if p.is_file()} == before
    assert lines[:3] == ["unchanged: 1", "no record: 1", "  m/first-1blocks"]
    assert "create: 1\n  m/sleb-3blocks\n    perplexity/tinyworld 2.6000" in out
    assert "  m/sleb-1blocks\n    " in out
    assert "perplexity/tinyworld: 2.4100, was 2.4000 (+0.01)" in out
    assert "      - drop_blocks 3\n      + drop_blocks 4\n" in out
    assert "m/sleb-2blocks: not accepted: accuracy: 200 of 800 right, guessing gives" in out
    assert lines[-2:] == [
        "to accept: prunebench accept cases --because TEXT",
        "refused for the reasons above; --force overrides",
    ]
    shown = json.loads(cli("baseline", "review", "cases", "--json")[1])
    effects = {c["case_id"]: c["effect"] for c in shown["changes"]}
    assert effects["m/sleb-2blocks"] == "change"
    assert len(shown["problems"]) == 2


# ------------------------------------------------------------------ two people


def git(*words: str) -> str:
    command = ["git", "-c", "user.name=Ada", "-c", "user.email=ada@example.org", *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_whoever_git_says_accepts_whatever_its_bytes(
    cases, here: Shelf, cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name from before UTF-8 is told as far as it can be read, and costs no acceptance."""
    (tmp_path / "gitconfig").write_bytes("[user]\n\tname = J\xf6rg\n".encode("latin-1"))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    here.store.save(answer(cases["dense"]))

    assert cli("accept", "cases", "-k", "dense", "--because", "first")[0] == 0
    accepted = here.baselines.accepted("m/dense")
    assert accepted is not None
    assert accepted.by == "J\N{REPLACEMENT CHARACTER}rg"


@pytest.mark.slow
def test_two_peoples_baselines_merge_in_git(cases, here: Shelf, cli) -> None:
    """Each accepts other cases of one matrix, one also changes one: no conflict, all load."""
    Path(".gitignore").write_text(".prunebench/\n")
    accept: Callable[..., Any] = lambda label: cli(  # noqa: E731
        "accept", "cases", "-k", label, "--because", f"for {label}"
    )
    for case in cases.values():
        here.store.save(answer(case))
    git("init", "-q", "-b", "main")
    assert accept("dense")[0] == 0
    git("add", ".")
    git("commit", "-qm", "start")
    git("checkout", "-qb", "hers")
    here.store.save(answer(cases["dense"], ppl=2.41, created="2026-11-25T00:00:00+00:00"))
    assert accept("dense")[0] == 0
    assert accept("1blocks")[0] == 0
    git("add", ".")
    git("commit", "-qm", "hers")
    git("checkout", "-qb", "his", "main")
    assert accept("sleb-2blocks or sleb-3blocks")[0] == 0
    git("add", ".")
    git("commit", "-qm", "his")
    git("merge", "-q", "--no-edit", "hers")
    loaded = {i: here.baselines.load(i, "cpu") for i in here.baselines.case_ids()}

    assert git("status", "--porcelain") == ""
    assert sorted(loaded) == sorted(case.id for case in cases.values())
    dense = loaded["m/dense"]
    assert dense is not None
    assert dense.measurements[0].value == 2.41
    assert cli("baseline", "list", "--strict")[0] == 0

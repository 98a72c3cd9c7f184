"""The store's upkeep: what `cache verify` finds, and what `cache gc` never takes."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import filelock
import pytest
from factories import CPU, accuracy, record
from msgspec.structs import replace

from prunebench import PrunebenchError, Record
from prunebench.results import gc, inventory, timing_noise
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.store import Store
from prunebench.system import files, hash_cache

KEY = "k" * 64
LONG_AGO = (1, 1)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(tmp_path / "memory"))
    monkeypatch.chdir(tmp_path)
    return Store(tmp_path / "store")


@pytest.fixture
def baselines(tmp_path: Path) -> Baselines:
    return Baselines(tmp_path / "baselines")


def night(day: int, right: int = 90, **changes: object) -> Record:
    fields = {"key": KEY, "created": f"2026-01-{day:02}T02:00:00+00:00", **changes}
    return record(accuracy(right), **fields)


def left(store: Store) -> list[str]:
    """The days of the nights that are still there."""
    found, _ = inventory.stored_records(inventory.items(store.root))
    return [n.head.created[8:10] for n in found]


def collect(store: Store, baselines: Baselines, **limits: object) -> list[str]:
    going = gc.removable(store, baselines, **limits)  # type: ignore[arg-type]
    return [one.why for one in gc.remove(going, store.root)]


def accept(baselines: Baselines, made: Record) -> None:
    baselines.save(made, Accepted("me", "2026-01-01", "first"))


def test_without_a_limit_no_night_goes(store: Store, baselines: Baselines) -> None:
    """Only what was left behind would."""
    for day in (1, 2, 3):
        store.save(night(day))

    assert collect(store, baselines) == []
    assert left(store) == ["03", "02", "01"]


def test_the_newest_and_what_a_baseline_was_accepted_from_stay(
    store: Store, baselines: Baselines
) -> None:
    """Whatever the limits say."""
    for day in range(1, 8):
        store.save(night(day))
    accept(baselines, night(3))

    assert len(collect(store, baselines, older_than=1.0, max_size=0.0)) == 5
    assert left(store) == ["07", "03"]
    assert store.find("a/b", KEY) == night(7)


def test_timings_of_another_night_are_cited_too(store: Store, baselines: Baselines) -> None:
    """The two trees of baselines may come from two nights."""
    gpu = replace(CPU, device="nvidia-h200")
    from prunebench import Measurement

    timing = Measurement("latency/x", 1.0, "ms", "lower")
    for day in range(1, 6):
        made = night(day, environment=gpu)
        store.save(replace(made, measurements=(*made.measurements, timing)))
    made = night(2, environment=gpu)
    accept(baselines, replace(made, measurements=(*made.measurements, timing)))
    accept(baselines, night(4, environment=gpu))
    collect(store, baselines, older_than=1.0)

    assert left(store) == ["05", "04", "02"]


def test_a_damaged_baseline_protects_all_nights_of_its_case(
    store: Store, baselines: Baselines
) -> None:
    """It might cite any of them."""
    for day in (1, 2, 3):
        store.save(night(day))
        store.save(night(day, case_id="a/c"))
    accept(baselines, night(1))
    baselines.quality("a/b").write_text("{")
    collect(store, baselines, older_than=1.0)

    assert left(store) == ["03", "03", "02", "01"]


def test_a_night_goes_only_if_every_limit_lets_it(store: Store, baselines: Baselines) -> None:
    """Young ones and the last few stay; a size takes the oldest first."""
    for day in range(1, 10):
        store.save(night(day))
    age = time.time() - gc._seconds("2026-01-05T03:00:00+00:00")
    assert len(collect(store, baselines, older_than=age, keep_last=7)) == 2
    assert left(store)[-1] == "03"
    collect(store, baselines, keep_last=5)
    assert left(store) == ["09", "08", "07", "06", "05"]
    sizes = sum(item.size for item in inventory.items(store.root))
    collect(store, baselines, max_size=sizes * 0.7)
    assert left(store) == ["09", "08", "07"]


def test_age_alone_lets_older_nights_go(store: Store, baselines: Baselines) -> None:
    """Seconds back from now; one that says no time is as young as can be."""
    for day in range(1, 8):
        store.save(night(day))
    store.save(night(1, key="l" * 64, created="1 May"))
    store.save(night(8, key="l" * 64))
    age = time.time() - datetime(2026, 1, 5, 3, tzinfo=UTC).timestamp()
    collect(store, baselines, older_than=age)

    assert left(store) == ["08", "07", "06", ""]


def test_tensors_that_any_plan_names_stay(store: Store, baselines: Baselines) -> None:
    """However old: without them the plan is no model."""
    used, unused = "a" * 64, "b" * 64
    for sha256 in (used, unused):
        path = store.root / f"{sha256}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        os.utime(path, LONG_AGO)
    files.write_json(store.root / "plan.json", {"edits": [{"tensors": used}]})

    assert collect(store, baselines) == ["no plan names it"]
    assert (store.root / f"{used}.safetensors").exists()


def test_another_question_keeps_its_own_newest(store: Store, baselines: Baselines) -> None:
    """A run with --limit is newer and answers less; the whole answer is still needed."""
    store.save(night(1))
    store.save(night(2, key="l" * 64, asked={"method": {"name": "sleb"}, "limit": 5}))
    collect(store, baselines, older_than=1.0, keep_last=1)

    assert left(store) == ["02", "01"]


def test_a_case_that_is_no_more_keeps_nothing(store: Store, baselines: Baselines) -> None:
    """If that is known; and what --set made of a case is still a case."""
    kept = ["a/b", "a/b@limit=5", "x/a/b", "x/a/c@limit=5"]
    for case_id in (*kept, "gone/b", "gone/b@limit=5", "x/gone/b@limit=5"):
        store.save(night(1, case_id=case_id))
    collect(store, baselines, older_than=1.0)
    assert len(left(store)) == 7
    collect(store, baselines, older_than=1.0, cases={"a/b", "x/a/b"})

    assert store.case_ids() == kept
    assert not (store.root / "records" / "gone").exists()


def test_what_runs_left_behind_goes_when_nobody_needs_it(
    store: Store, baselines: Baselines
) -> None:
    """Parts of cases, locks and unfinished files, each only when it is old; held locks stay."""
    store.save(night(1))
    old = {
        "partial/abc/x.jsonl": "never resumed",
        f"partial/{KEY[:20]}/x.jsonl": "its case is finished",
        "locks/free.lock": "held by nobody",
        "locks/free.owner": "held by nobody",
        "locks/left.owner": "held by nobody",
        "records/a/.b.json.tmp": "never finished",
        f"{'0' * 64}.safetensors": "no plan names it",
    }
    young = ["partial/def/x.jsonl", "locks/young.lock", "records/a/.c.json.tmp"]
    held = {"locks/held.lock", "locks/held.owner"}
    for name in (*old, *young, *held):
        path = store.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
        if name in old or name in held:
            os.utime(path, LONG_AGO)
    with filelock.FileLock(store.root / "locks" / "held.lock"):
        os.utime(store.root / "locks" / "held.lock", LONG_AGO)
        assert sorted(collect(store, baselines)) == sorted(old.values())

    there = {item.path.relative_to(store.root).as_posix() for item in inventory.items(store.root)}
    assert {*young, *held} == {n for n in there if not n.endswith(f"{KEY[:20]}.json")}
    assert not (store.root / "partial" / "abc").exists()


@pytest.mark.parametrize("name", ["abc", KEY[:20]])
def test_a_search_that_goes_on_keeps_its_tensors(
    store: Store, baselines: Baselines, name: str
) -> None:
    """They are written once, its journal all the time; also where its case was answered before."""
    store.save(night(1))
    folder = store.root / "partial" / name
    folder.mkdir(parents=True)
    (folder / "1-a.jsonl").write_text("x")
    (folder / f"{'0' * 64}.safetensors").write_text("x")
    os.utime(folder / f"{'0' * 64}.safetensors", LONG_AGO)
    assert collect(store, baselines, older_than=gc.DAY) == []
    os.utime(folder / "1-a.jsonl", LONG_AGO)

    assert len(collect(store, baselines, older_than=gc.DAY)) == 2


def test_what_another_process_takes_away_meanwhile_is_no_problem(
    store: Store, baselines: Baselines, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look at a folder and the look at its file; two may collect at once."""
    gone = store.root / f"{'0' * 64}.safetensors"
    item = inventory.Item(gone, "tensors", 1, 1.0)
    monkeypatch.setattr(inventory, "items", lambda _: [item])
    monkeypatch.setattr(hash_cache, "entries", lambda: iter([(gone, None)]))
    monkeypatch.setattr(gc, "items", lambda _: [])

    assert list(inventory.damage(store, baselines)) == []
    assert inventory.content(store).hash_entries == 0
    assert gc.removable(store, baselines) == []


def test_what_is_no_text_is_damaged(store: Store, baselines: Baselines) -> None:
    """A record and a remembered hash with a byte that no UTF-8 has."""
    path = store.save(night(1))
    path.write_bytes(path.read_bytes().replace(b'"a/b"', b'"a/\xff"'))
    there = store.root / "there"
    there.write_bytes(b"x" * hash_cache.SMALL)
    os.utime(there, LONG_AGO)
    memory = hash_cache.memory()
    memory.mkdir(parents=True)
    hash_cache._place(hash_cache.Entry.of(there, there.stat())).write_bytes(b'{"path": "\xff"}')

    assert inventory.content(store).damaged == 1
    assert hash_cache.sha256(there) == hashlib.sha256(b"x" * hash_cache.SMALL).hexdigest()
    assert [entry for _, entry in hash_cache.entries()] == [None]


def test_old_memories_of_other_files_go(store: Store, baselines: Baselines, tmp_path: Path) -> None:
    """One that still holds stays, and one that is young: another machine may share the home."""
    there = tmp_path / "there"
    there.write_text("x")
    good = replace(hash_cache.Entry.of(there, there.stat()), sha256="0" * 64)
    gone = replace(good, path=str(tmp_path / "gone"))
    hash_cache.memory().mkdir(parents=True)
    for name, entry in (("good", good), ("gone", gone), ("young", gone)):
        files.write_json(hash_cache.memory() / f"{name}.json", entry)
        if name != "young":
            os.utime(hash_cache.memory() / f"{name}.json", LONG_AGO)

    assert collect(store, baselines) == ["its file has changed"]
    assert sorted(p.stem for p in hash_cache.memory().iterdir()) == ["good", "young"]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:60])


def moved(path: Path) -> None:
    path.rename(path.with_name(f"{'j' * 20}.json"))


def elsewhere(path: Path) -> None:
    (path.parent.parent / "c").mkdir()
    path.rename(path.parent.parent / "c" / path.name)


@pytest.mark.parametrize(
    ("harm", "says"),
    [(cut, "damaged"), (moved, "of another content"), (elsewhere, "of another case, 'a/b'")],
)
def test_verify_finds_a_record_that_is_not_what_its_place_says(
    store: Store, baselines: Baselines, harm: Callable[[Path], None], says: str
) -> None:
    """Truncated, under another key, under another case; and it is left as it is."""
    store.save(night(1))
    path = store.save(night(2))
    assert list(inventory.damage(store, baselines)) == []
    harm(path)
    before = {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()}
    (line,) = inventory.damage(store, baselines)

    assert says in line
    assert {p: p.read_bytes() for p in store.root.rglob("*") if p.is_file()} == before


def test_verify_reads_nights_tensors_noise_and_baselines(
    store: Store, baselines: Baselines
) -> None:
    """Each of them damaged once."""
    store.save(night(1))
    store.save(night(2))
    (first,) = (store.root / "records/a/b").glob("*.2026*.json")
    first.rename(first.with_name(first.name.replace("20260101", "20260109")))
    content = b"tensors"
    sha256 = hashlib.sha256(content).hexdigest()
    (store.root / f"{sha256}.safetensors").write_bytes(content)
    accept(baselines, night(2))
    timing_noise.save(store.root, timing_noise.Noise("cpu", "now", 3, {}))
    assert [line.partition(": ")[2] for line in inventory.damage(store, baselines)] == [
        "the record of another time, 2026-01-01T02:00:00+00:00"
    ]
    (store.root / f"{sha256}.safetensors").write_bytes(content + b"!")
    (store.root / "noise" / "cpu.json").write_text("[]")
    baselines.quality("a/b").write_text("{")
    found = "\n".join(inventory.damage(store, baselines))

    assert found.count("\n") == 3
    for name in (f"{sha256}.safetensors", "noise/cpu.json", "quality/a/b.json", "20260109"):
        assert name in found


@pytest.mark.parametrize("text", ["90", "d", "-1d", "1y", ""])
def test_ages_and_sizes_are_read_or_refused_in_one_line(text: str) -> None:
    """What is allowed stands in the message."""
    assert gc.seconds_of("90d", "-") == 90 * 86_400
    assert gc.seconds_of("1.5h", "-") == 5400
    assert gc.seconds_of("2w", "-") == 14 * 86_400
    for unit, size in {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "Ti": 2**40}.items():
        assert gc.bytes_of(f"5{unit}B", "-") == 5 * size
    assert gc.bytes_of("2 MiB", "-") == 2 * 2**20
    with pytest.raises(PrunebenchError, match=r"--older-than .*expected a number and h, d or w"):
        gc.seconds_of(text, "--older-than")
    with pytest.raises(PrunebenchError, match=r"--max-size .*expected a number and a unit"):
        gc.bytes_of(text, "--max-size")


def test_the_commands(project: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """`info` counts, verify exits 3 on damage, gc tells before it does."""
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(project / "memory"))
    store = Store(project / ".prunebench")
    assert "0 records of 0 cases" in cli("cache", "info")[1]
    for day in (1, 2, 3):
        store.save(night(day))
    found = json.loads(cli("cache", "info", "--json", "--device", "cpu")[1])
    assert (found["nights"], found["stored_cases"], found["current"], found["cases"]) == (
        3,
        1,
        0,
        1,
    )
    assert found["bytes"]["record"] == sum(
        p.stat().st_size for p in (project / ".prunebench").rglob("*.json")
    )
    assert cli("cache", "verify")[:2] == (0, "3 records and 0 baselines read: all sound\n")

    (project / "cases" / "a.yaml").write_text((project / "cases" / "small.yaml").read_text())
    code, out, _ = cli("cache", "gc", "--keep-last", "1", "--dry-run")
    assert (code, len(left(store))) == (0, 3)
    assert "would remove 2 record files" in out
    assert "removed 2 record files" in cli("cache", "gc", "--keep-last", "1")[1]
    assert left(store) == ["03"]
    assert "nothing to remove" in cli("cache", "gc", "--keep-last", "1")[1]
    assert cli("cache", "gc", "--max-size", "lots")[0] == 2

    cut(store.path("a/b", KEY))
    code, out, _ = cli("cache", "verify")
    assert code == 3
    assert "1 damaged" in out
    assert "cannot be read: prunebench cache verify lists them" in cli("cache", "info")[1]

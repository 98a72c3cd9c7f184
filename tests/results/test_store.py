"""The store keeps every night, whatever stops a night half-way."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from factories import accuracy, record
from msgspec.structs import replace

from prunebench import Record
from prunebench.errors import PrunebenchWarning
from prunebench.record import SCHEMA
from prunebench.results import archive
from prunebench.results.store import Store
from prunebench.system import files

KEY = "k" * 64


def night(day: int, right: int = 90, **changes: str) -> Record:
    return record(accuracy(right), key=KEY, created=f"2026-11-{day:02}T02:00:00+00:00", **changes)


def test_a_fresh_night_of_the_same_content_keeps_the_earlier_ones(tmp_path: Path) -> None:
    """Thirty nights, thirty answers, newest first; *find* gives the last; one case."""
    store = Store(tmp_path)
    nights = [night(day, 60 + day) for day in range(1, 31)]
    for one in nights:
        store.save(one)

    assert store.answers("a/b") == nights[::-1]
    assert store.find("a/b", KEY) == store.latest("a/b") == nights[-1]
    assert store.case_ids() == ["a/b"]
    names = [p.name for p in (tmp_path / "records/a/b").iterdir()]
    assert sorted(names)[0] == f"{KEY[:20]}.20261101020000.json"
    assert not any(":" in name for name in names)


def test_the_same_record_saved_again_is_kept_once(tmp_path: Path) -> None:
    """Nothing is written twice, also when an older night is saved again."""
    store = Store(tmp_path)
    for one in (night(1), night(1), night(2), night(1), night(2)):
        store.save(one)

    assert store.answers("a/b") == [night(2), night(1)]


def test_two_records_of_one_second_are_both_kept(tmp_path: Path) -> None:
    """A name that is taken by another record gets a number."""
    store = Store(tmp_path)
    for right in (90, 91, 92):
        store.save(night(1, right))

    values = {found.measurements[0].value for found in store.answers("a/b")}
    assert values == {0.9, 0.91, 0.92}


def test_timings_measured_again_belong_to_the_same_night(tmp_path: Path) -> None:
    """A record saved once more with them is one night, not two."""
    store = Store(tmp_path)
    again = replace(night(1), again=(accuracy(80),))
    store.save(night(1))
    store.save(again)

    assert store.answers("a/b") == [again]


@pytest.mark.parametrize("writes", [0, 1])
def test_a_crash_between_the_two_writes_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """Before or after the older record moved: it is there once, and the next night is whole."""
    store = Store(tmp_path)
    store.save(night(1))
    real, left = files.write, [writes]

    def stops(path: Path, data: bytes) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, data)

    with monkeypatch.context() as broken:
        broken.setattr(files, "write", stops)
        with pytest.raises(KeyboardInterrupt):
            store.save(night(2))

    assert store.answers("a/b") == [night(1)]
    store.save(night(2))
    assert store.answers("a/b") == [night(2), night(1)]


def test_a_damaged_record_is_replaced_and_the_nights_beside_it_stay(tmp_path: Path) -> None:
    """What cannot be read is no night."""
    store = Store(tmp_path)
    store.save(night(1))
    path = store.save(night(2))
    path.write_bytes(path.read_bytes()[:50])
    store.save(night(3))

    assert store.answers("a/b") == [night(3), night(1)]


def test_what_somebody_put_there_is_no_night(tmp_path: Path) -> None:
    """Another case's record, no text, no JSON that ends, no record; the case's own stay."""
    store = Store(tmp_path)
    folder = store.save(night(1)).parent
    other = store.save(night(2, case_id="a/c"))
    (folder / "other.json").write_bytes(other.read_bytes())
    for name, content in {
        "bytes": b'{"case_id": "\xff"}',
        "deep": b"[" * 100_000,
        "list": b"[]",
    }.items():
        (folder / f"{name}.json").write_bytes(content)

    assert store.answers("a/b") == [night(1)]
    assert store.latest("a/b") == night(1)
    # Nor is it an answer where a record would lie under its key.
    store.path("a/b", "o" * 64).write_bytes(other.read_bytes())
    assert store.find("a/b", "o" * 64) is None


def test_answers_are_to_one_question_or_of_one_device(tmp_path: Path) -> None:
    """As asked for, newest first."""
    store = Store(tmp_path)
    limited = replace(night(2), asked={"limit": 5}, key="l" * 64)
    elsewhere = night(3)
    elsewhere = replace(
        elsewhere, environment=replace(elsewhere.environment, device="nvidia-h200"), key="m" * 64
    )
    for one in (night(1), limited, elsewhere):
        store.save(one)

    assert store.answers("a/b") == [elsewhere, limited, night(1)]
    assert store.answers("a/b", night(1).asked) == [elsewhere, night(1)]
    assert store.answers("a/b", device="cpu") == [limited, night(1)]
    assert store.answers("a/b", {"limit": 5}, "nvidia-h200") == []
    assert store.latest("a/b", {"limit": 5}) == limited
    assert store.latest("a/b", {"limit": 6}) is None


def test_cases_are_told_in_order_and_what_has_no_key_is_kept(tmp_path: Path) -> None:
    """Whatever order a set or a folder has them in; a model that was never hashed has no key."""
    store = Store(tmp_path)
    ids = [f"{folder}/c{number}" for folder in "abc" for number in range(7)]
    for case_id in reversed(ids):
        store.save(night(1, case_id=case_id))
    unkeyed = replace(night(2), key="", case_id="a/c0")
    store.save(unkeyed)

    assert store.case_ids() == ids
    assert store.answers("a/c0") == [unkeyed, night(1, case_id="a/c0")]


# ------------------------------------------------------------------ of a newer version


def newer(path: Path, day: int, shape: str = "") -> Path:
    """A record as a later version may write it: of its schema, and perhaps of another shape."""
    data = json.loads(files.as_json(night(day)))
    data |= {"schema": SCHEMA + 1, "created": f"2026-11-{day:02}T00:00:00+00:00"}
    if shape == "other":
        data["measurements"] = {"accuracy": 0.99}
        data["asked"] = ["what", "else"]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data))
    return path


SAYS = "records of a newer prunebench are passed over; update prunebench"


@pytest.mark.parametrize("shape", ["", "other"])
def test_a_newer_versions_record_is_never_the_newest_answer(tmp_path: Path, shape: str) -> None:
    """Whatever its shape: it is passed over and told, and what this version made is the answer."""
    store = Store(tmp_path)
    ours = night(1)
    store.save(ours)
    folder = tmp_path / "records" / ours.case_id
    newer(folder / "ffff.json", 20, shape)
    newer(folder / "eeee.json", 21, shape)

    with pytest.warns(PrunebenchWarning, match=SAYS):
        assert store.latest(ours.case_id) == ours
    with pytest.warns(PrunebenchWarning, match=SAYS):
        assert store.answers(ours.case_id, ours.asked, ours.environment.device) == [ours]
    found = archive.read([tmp_path])
    assert found.records == (ours,)
    assert [p.partition(": ")[2] for p in found.problems] == [
        "written by a newer prunebench (schema 2, this one reads up to 1); update prunebench"
    ] * 2


@pytest.mark.parametrize("shape", ["", "other"])
def test_a_newer_versions_record_is_kept_when_the_case_runs_again(
    tmp_path: Path, shape: str
) -> None:
    """Under the very same key: told where it is found, and written beside before it is replaced."""
    store = Store(tmp_path)
    ours = night(1)
    path = newer(store.path(ours.case_id, ours.key), 20, shape)
    content = path.read_bytes()

    with pytest.warns(PrunebenchWarning, match=r"newer .*; update prunebench; the case runs again"):
        assert store.find(ours.case_id, ours.key) is None
    store.save(ours)
    store.save(ours)
    assert store.find(ours.case_id, ours.key) == ours
    kept = path.with_name(f"{path.stem}.20261120000000.json")
    assert kept.read_bytes() == content
    assert sorted(path.parent.iterdir()) == sorted([path, kept])


@pytest.mark.slow
@pytest.mark.filterwarnings("default::prunebench.errors.PrunebenchWarning")
@pytest.mark.parametrize("shape", ["", "other"])
@pytest.mark.parametrize(
    "command", ["show", "history", "cache info", "compare", "leaderboard", "export", "gc"]
)
def test_a_newer_versions_record_is_one_line_in_every_command(
    command: str, shape: str, tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """They go on with the records they know; `gc` takes neither it nor the newest known one."""
    root = tmp_path / "s"
    store = Store(root)
    for day in (1, 2):
        store.save(replace(night(day, 80 + day), key=f"{day}" * 40))
    ours = night(2)
    path = newer(root / "records" / ours.case_id / "ffff.json", 20, shape)
    words = {
        "show": ["show", ours.case_id, "--store", root],
        "history": ["history", ours.case_id, "--store", root],
        "cache info": ["cache", "info", "--store", root],
        "compare": ["compare", root, root],
        "leaderboard": ["leaderboard", root],
        "export": ["export", root],
        "gc": ["cache", "gc", "--keep-last", "1", "--older-than", "1h", "--store", root],
    }[command]
    before = set(root.rglob("*.json"))
    code, out, err = cli(*words)
    assert code == 0, err
    assert "Traceback" not in out + err
    assert "99" not in out
    if command in ("show", "history", "compare"):
        assert err == f"warning: {root}: {SAYS} (prunebench cache verify names them)\n"
    elif command == "cache info":
        assert "2 records of 1 case" in out
        assert "1 record cannot be read" in out
    elif command in ("leaderboard", "export"):
        assert err.startswith(f"left out: {path}: written by a newer prunebench (schema 2, ")
        assert len(err.splitlines()) == 1
    left = set(root.rglob("*.json"))
    assert before - left == ({store.path(ours.case_id, "1" * 40)} if command == "gc" else set())


@pytest.mark.filterwarnings("default::prunebench.errors.PrunebenchWarning")
def test_only_newer_records_of_a_case_are_none(
    tmp_path: Path, cli: Callable[..., tuple[int, str, str]]
) -> None:
    """`show` says to run it again, beside the line that says why none can be read."""
    newer(tmp_path / "records" / night(1).case_id / "ffff.json", 20)
    code, _, err = cli("show", night(1).case_id, "--store", tmp_path)

    assert code == 2
    assert SAYS in err.splitlines()[0]
    assert err.splitlines()[1:] == [f"no record of '{night(1).case_id}' can be read; run it again"]

"""A search that is cut off goes on where it was, and ends as if nothing had happened."""

from __future__ import annotations

import importlib
import threading
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import pytest
import torch
from factories import read

import prunebench
from prunebench import resume
from prunebench.errors import PrunebenchError, PrunebenchWarning
from prunebench.methods import _latency, _merge_trials, _slicing, _sprint_scores, shortened_llama
from prunebench.models import causal_lm, stream, tensors
from prunebench.models.stream import Batch
from prunebench.plan import Plan
from prunebench.results.resume import search_state
from prunebench.results.resume.folders import Partials, searching
from prunebench.results.resume.journal import Journal
from prunebench.system import signals

CASE = """\
model: {{id: prunebench/reference, dtype: float32}}
calibration: {{dataset: tinyworld, nsamples: 4, seqlen: 64}}
metrics: [{{name: perplexity, dataset: tinyworld, seqlen: 64, nsamples: 6}}]
method: {method}
{amount}
"""

KINDS = ("step", "part", "state")

#: Method and options; where its costly work is done, and how much is done again after a cut.
SEARCHES: dict[str, tuple[str, dict[str, Any]]] = {
    "sprint": ("sprint", {"sublayers": 4, "attn_latency": 2.0, "mlp_latency": 3.0}),
    "sprint-few-states": (
        "sprint",
        {"sublayers": 5, "attn_latency": 2.0, "mlp_latency": 3.0, "checkpoints": 1},
    ),
    "sprint-no-refit": ("sprint", {"sublayers": 4, "refit": False, "latency_aware": False}),
    "sprint-measured": ("sprint", {"target_speedup": 1.3}),
    "sprint-sparsity": ("sprint", {"sparsity": 0.15, "attn_latency": 2.0, "mlp_latency": 3.0}),
    "merging": ("sliding_layer_merging", {"blocks": 2}),
    "merging-threshold": ("sliding_layer_merging", {"threshold": 0.2}),
    "slicegpt": ("slicegpt", {"slicing": 0.25}),
    "slice_global": ("slice_global", {"slicing": 0.25}),
    "ppl": (
        "shortened_llama",
        {"blocks": 2, "criterion": "ppl", "keep_first": 1, "keep_last": 1},
    ),
    "taylor": ("shortened_llama", {"blocks": 2, "keep_first": 1, "keep_last": 1}),
    "influence": ("block_influence", {"blocks": 2}),
    "sleb": ("sleb", {"blocks": 3, "calibration_unit": "windows"}),
}


@pytest.fixture(autouse=True)
def _always_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every state is kept, though the tiny searches take less than writing it."""
    monkeypatch.setattr(search_state, "SHARE", 1e9)
    cut = causal_lm.batches
    monkeypatch.setattr(stream, "batches", lambda windows, size=None: cut(windows, size or 2))
    monkeypatch.setattr(_latency, "measure", lambda _: (Work.count("latency") and 2.0, 3.0))


class Work:
    """Counts what is costly: candidates tried, fits, decompositions, passes."""

    done: ClassVar[Counter[str]] = Counter()

    @classmethod
    def count(cls, what: str) -> int:
        cls.done[what] += 1
        return cls.done[what]

    @classmethod
    def taken(cls) -> Counter[str]:
        done, cls.done = cls.done, Counter()
        return done


@pytest.fixture(autouse=True)
def _counted(monkeypatch: pytest.MonkeyPatch) -> None:
    Work.taken()
    for place, name in [
        (_sprint_scores, "fitted"),
        (_sprint_scores, "relative_noise"),
        (_sprint_scores.Search, "second_stage"),
        (_merge_trials.Trials, "_similarity"),
        (_slicing, "gram_of"),
        (_slicing, "principal"),
        (shortened_llama.ShortenedLlama, "_taylor"),
        (stream.Stream, "influence"),
        (stream.Stream, "noise"),
        (Batch, "loss"),
        (Batch, "call"),
        (Batch, "branch"),
    ]:
        monkeypatch.setattr(place, name, counting(name, getattr(place, name)))


def counting(name: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def counted(*given: Any, **named: Any) -> Any:
        Work.count(name)
        return work(*given, **named)

    return counted


@pytest.fixture
def search(tiny: Callable[..., Any], ids: Any, request: pytest.FixtureRequest) -> Any:
    """The search of the test's name on a fresh model, in a journal or in none."""
    method, options = SEARCHES[request.param]

    def run(kept: Journal | None = None) -> tuple[Any, Counter[str]]:
        lm = tiny("llama")
        Work.taken()
        with searching(kept or Journal()):
            plan = prunebench.choose(lm, method, **options, calibration=ids[:5].tolist())
        return told(plan), Work.taken()

    return run


#: What is never done twice. (A loss of SLEB's last step is, and whatever runs a block.)
COSTLY = ("fitted", "relative_noise", "second_stage", "_similarity", "gram_of", "principal")
COSTLY += ("_taylor", "influence", "noise", "latency")


def told(plan: Plan) -> Any:
    """All that a plan says, tensors included, as bits."""
    edits = msgspec.to_builtins(plan.edits)
    named = [e["tensors"] for e in edits if e.get("tensors")]
    bits = {
        f"{sha256} {name}": tensor.numpy().tobytes()
        for sha256 in named
        for name, tensor in plan.tensors[sha256].items()
    }
    return edits, msgspec.to_builtins(plan.trace), bits


@contextmanager
def cut_off(after: int) -> Iterator[None]:
    """Ctrl-C right after so many lines of a search were kept."""
    append, lines = Journal.append, 0

    def cutting(self: Journal, entry: dict[str, Any], **how: bool) -> None:
        nonlocal lines
        append(self, entry, **how)
        lines += any(kind in entry for kind in KINDS)
        if lines == after:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "append", cutting)
        yield


def opened(folder: Path) -> Journal:
    return Partials(folder).journal("a/b", "k" * 64, ["perplexity"])


def lines_of(run: Any, folder: Path) -> int:
    """How many lines an undisturbed search keeps."""
    kept = opened(folder)
    run(kept)
    kept.close()
    lines = [line for file in folder.rglob("*.jsonl") for line in file.read_text().splitlines()]
    return sum(
        line.partition(" ")[2].startswith(tuple(f'{{"{k}":' for k in KINDS)) for line in lines
    )


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES, indirect=True)
def test_cut_off_after_any_kept_line_a_search_ends_the_same(search: Any, tmp_path: Path) -> None:
    """Plan, scores, block-forwards and tensors bit for bit; costly work is not done again."""
    expected, whole = search()
    total = lines_of(search, tmp_path / "whole")
    assert total >= 2
    for after in {1, 2, total // 2, total - 1, total}:
        folder = tmp_path / str(after)
        kept = opened(folder)
        Work.taken()
        with cut_off(after), pytest.raises(KeyboardInterrupt):
            search(kept)
        first = Work.taken()
        kept.close()
        again = opened(folder)
        found, second = search(again)
        again.close()

        assert found == expected
        assert not again.empty
        assert again.search_seconds > 0
        for name in COSTLY:
            assert first[name] + second[name] == whole[name], (after, name)


@pytest.mark.slow
@pytest.mark.parametrize("search", SEARCHES, indirect=True)
def test_cut_off_again_and_again_a_search_still_ends_the_same(search: Any, tmp_path: Path) -> None:
    """A run that never gets further than one more line ends in as many runs as there are."""
    expected, _ = search()
    runs = 0
    while runs < 100:
        kept = opened(tmp_path)
        runs += 1
        try:
            with cut_off(1):
                found, _ = search(kept)
            break
        except KeyboardInterrupt:
            continue
        finally:
            kept.close()
    assert 2 < runs < 100
    assert found == expected


@pytest.mark.parametrize(
    ("method", "more", "less"),
    [
        ("sprint", {"sublayers": 5}, {"sublayers": 2}),
        ("sprint", {"sparsity": 0.2}, {"sparsity": 0.1}),
        ("sleb", {"blocks": 3, "keep_first": 0}, {"blocks": 1, "keep_first": 0}),
    ],
)
def test_a_search_that_was_on_its_way_to_more_serves_less(
    method: str,
    more: dict[str, Any],
    less: dict[str, Any],
    tmp_path: Path,
    tiny: Callable[..., Any],
    ids: Any,
) -> None:
    """A sweep shares its search; what is left of one may ask for less than it came to."""

    def search(amount: dict[str, Any], kept: Journal) -> Any:
        with searching(kept):
            return told(
                prunebench.choose(tiny("llama"), method, **amount, calibration=ids.tolist())
            )

    expected = search(less, Journal())
    kept = opened(tmp_path)
    search(more, kept)
    kept.close()

    assert search(less, opened(tmp_path)) == expected


@pytest.mark.parametrize("search", ["ppl", "merging", "sprint", "slicegpt"], indirect=True)
def test_the_forwards_that_are_saved(search: Any, tmp_path: Path) -> None:
    """Cut off just before its end a search runs far fewer blocks than from the start."""
    _, whole = search()
    total = lines_of(search, tmp_path / "whole")
    kept = opened(tmp_path / "cut")
    with cut_off(total - 1), pytest.raises(KeyboardInterrupt):
        search(kept)
    kept.close()
    _, second = search(opened(tmp_path / "cut"))

    assert second["call"] + second["branch"] < (whole["call"] + whole["branch"]) / 2


@pytest.mark.parametrize(
    ("search", "label"),
    [
        ("sprint", "2 of 4 steps"),
        ("sprint-measured", "1 step"),
        ("merging", "2 trials"),
        ("slicegpt", "2 of 6 steps"),
        ("slice_global", "2 of 3 steps"),
        ("ppl", "2 of 18 candidates"),
        ("taylor", "2 of 2 rounds"),
        ("sleb", "1 of 3 steps"),  # after the noise
    ],
    indirect=["search"],
)
def test_how_far_it_came_is_told(search: Any, label: str, tmp_path: Path) -> None:
    """In the search's own units, and of how many where that is known."""
    kept = opened(tmp_path)
    with cut_off(2), pytest.raises(KeyboardInterrupt):
        search(kept)

    assert str(opened(tmp_path).progress) == f"at its search, {label} saved"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "amount", "of"),
    [
        ("{name: sprint, attn_latency: 5, mlp_latency: 4}", "sublayers: 3", 3),
        ("{name: slicegpt}", "slicing: 0.2", 12),
    ],
)
def test_a_run_says_where_its_search_goes_on(
    project: Path, cli: Callable[..., tuple[int, str, str]], method: str, amount: str, of: int
) -> None:
    """Before and at the start of a run; the record is that of a run that nothing disturbed."""
    (project / "cases" / "small.yaml").write_text(CASE.format(method=method, amount=amount))
    with cut_off(2):
        assert cli("run", "cases", "-q")[0] == 130
    _, out, _ = cli("run", "cases", "--dry-run")
    assert f"  resumes at its search, 2 of {of} steps saved\n" in out
    code, _, err = cli("run", "cases", "-q", "--json", "resumed.json")
    assert code == 0
    assert f" at its search, 2 of {of} steps saved\n" in err
    assert cli("run", "cases", "-q", "--store", "other", "--json", "whole.json")[0] == 0
    assert not list(project.rglob("partial"))
    found, expected = (
        read(project / name)["records"][0] for name in ("resumed.json", "whole.json")
    )
    for same in ("plan", "trace", "measurements", "parameters"):
        assert found[same] == expected[same]
    for same in ("block_forwards", "calibration_tokens"):
        assert found["cost"][same] == expected["cost"][same] > 0


def flipped(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("search", ["sprint", "slicegpt", "slice_global"], indirect=True)
@pytest.mark.parametrize("harm", [flipped, Path.unlink])
def test_a_tensor_that_is_damaged_is_told_and_the_search_made_again(
    search: Any, harm: Callable[[Path], None], tmp_path: Path
) -> None:
    """One bit of a file, or all of it; and the wrong file does not pass for the new one."""
    expected, whole = search()
    kept = opened(tmp_path)
    with cut_off(1), pytest.raises(KeyboardInterrupt):
        search(kept)
    kept.close()
    harm(sorted(tmp_path.rglob("*.safetensors"))[0])
    again = opened(tmp_path)
    with cut_off(1), pytest.raises(KeyboardInterrupt), pytest.warns(PrunebenchWarning) as seen:
        search(again)
    again.close()
    found, third = search(opened(tmp_path))

    assert len(seen) == 1
    assert "; the search starts over" in str(seen[0].message)
    assert found == expected
    saved = [name for name in ("gram_of", "fitted") if whole[name]]
    assert saved
    assert all(third[name] < whole[name] for name in saved)


@pytest.mark.parametrize("search", ["sprint", "merging", "ppl", "slicegpt"], indirect=True)
def test_a_damaged_line_is_told_and_what_it_held_is_computed_again(
    search: Any, tmp_path: Path
) -> None:
    """One letter of the second line that a search kept."""
    expected, _ = search()
    kept = opened(tmp_path)
    with cut_off(3), pytest.raises(KeyboardInterrupt):
        search(kept)
    kept.close()
    (file,) = tmp_path.rglob("*.jsonl")
    lines = file.read_bytes().split(b"\n")
    lines[2] = lines[2].replace(b'":', b'";', 1)
    file.write_bytes(b"\n".join(lines))
    with pytest.warns(PrunebenchWarning) as seen:
        found, _ = search(opened(tmp_path))

    assert f"{file}:3: damaged" in str(seen[0].message)
    assert found == expected


def test_files_of_a_state_go_when_they_are_not_needed(tmp_path: Path) -> None:
    """A new state takes the place of the last, what both have is written once, a plan ends it."""
    kept = opened(tmp_path)
    one, two, three = (torch.full((3,), float(i)) for i in range(3))
    written: list[Path] = []
    with pytest.MonkeyPatch.context() as patch, searching(kept):
        write = tensors.files.write

        def seen(path: Path, data: bytes) -> None:
            written.append(path)
            write(path, data)

        patch.setattr(tensors.files, "write", seen)
        resume.save_state([1], {"a": one, "b": two}, 1)
        assert len(list(tmp_path.rglob("*.safetensors"))) == 2
        resume.save_state([2], {"a": one, "b": three}, 2)
    assert len(written) == 3
    assert len(list(tmp_path.rglob("*.safetensors"))) == 2
    with searching(opened(tmp_path)):
        before = resume.state()
    assert before is not None
    assert before[0] == [2]
    assert torch.equal(before[1]["a"], one)
    assert torch.equal(before[1]["b"], three)
    kept.save_search(Plan(), 1.0, 2, None)
    assert list(tmp_path.rglob("*.safetensors")) == []
    kept.close()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_a_tensor_comes_back_as_it_lay_in_memory(tmp_path: Path, dtype: torch.dtype) -> None:
    """Bits, shape and order of axes: what a library computes from it is the same bit for bit."""
    base = torch.arange(24, dtype=dtype).reshape(2, 3, 4) / 7
    for order in [(0, 1, 2), (2, 0, 1), (1, 2, 0), (2, 1, 0)]:
        given = base.permute(order)
        back = tensors.kept(tmp_path, *tensors.keep(tmp_path, given))

        assert back.dtype == dtype
        assert torch.equal(back, given)
        assert back.stride() == given.stride()
        assert back.data_ptr() % 64 == 0
    odd = torch.tensor([float("nan"), -0.0, float("inf")], dtype=dtype)
    back = tensors.kept(tmp_path, *tensors.keep(tmp_path, odd))
    assert back.view(torch.uint8).tolist() == odd.view(torch.uint8).tolist()


def test_writing_tensors_takes_its_share_of_the_time_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hundredth: not before the search is a hundred times as old as the writing will take."""
    monkeypatch.setattr(search_state, "SHARE", 0.01)
    clock = [0.0]
    monkeypatch.setattr(search_state.time, "perf_counter", lambda: clock[0])
    kept = opened(tmp_path)
    large = torch.zeros(250_000)  # 1 MB: 2 ms at the speed that is thought of before any writing
    states = []
    with searching(kept):
        for done in range(1, 20):
            clock[0] += 0.051
            resume.save_state(done, {"x": large.clone()}, done)
            states.append(opened(tmp_path)._state)
    told = [0 if state is None else state.done for state in states]

    assert told == [*[0] * 3, *[4] * 4, *[8] * 4, *[12] * 4, *[16] * 4]
    kept.close()


def test_a_disk_without_room_for_tensors_costs_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny: Callable[..., Any], ids: Any
) -> None:
    """It is told once and the search goes on."""
    expected = told(prunebench.choose(tiny("llama"), "slicegpt", slicing=0.25, calibration=ids))

    def full(**_: object) -> None:
        raise OSError(28, "No space left on device")

    kept = opened(tmp_path)
    monkeypatch.setattr(tensors.files.tempfile, "mkstemp", full)
    with searching(kept), pytest.warns(PrunebenchWarning) as seen:
        found = prunebench.choose(tiny("llama"), "slicegpt", slicing=0.25, calibration=ids)

    assert len(seen) == 1
    assert "No space left on device; a killed run would start over" in str(seen[0].message)
    assert told(found) == expected


@pytest.mark.parametrize("what", ["a tensor", "the line"])
def test_a_disk_that_fills_up_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """The files of the state before are there, and nothing of the one that found no room."""
    from prunebench.results.resume import checksum_lines

    kept = opened(tmp_path)

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    write, count = tensors.files.write, 0

    def second_is_full(path: Path, data: bytes) -> None:
        nonlocal count
        count += 1
        if count == 2:
            raise PrunebenchError(f"{path}: cannot be written: No space left on device")
        write(path, data)

    with searching(kept):
        resume.save_state([1], {"a": torch.zeros(2), "b": torch.ones(2)}, 1)
        if what == "a tensor":
            monkeypatch.setattr(tensors.files, "write", second_is_full)
        else:
            monkeypatch.setattr(checksum_lines, "write", full)
        with pytest.warns(PrunebenchWarning, match="No space left on device; a killed run"):
            resume.save_state([2], {"a": torch.full((2,), 2.0), "b": torch.full((2,), 3.0)}, 2)
    with searching(opened(tmp_path)):
        before = resume.state()

    assert before is not None
    assert before[0] == [1]
    assert before[1]["b"].tolist() == [1, 1]
    assert len(list(tmp_path.rglob("*.safetensors"))) == (2 if what == "a tensor" else 4)


def test_a_journal_from_before_states_still_reads(tmp_path: Path) -> None:
    """Its lines as they were written then: a step without *of*, a search."""
    from prunebench.results.resume import checksum_lines

    kept = opened(tmp_path)
    step = {"step": 0, "scores": {"1": 0.5}, "chosen": "1"}
    kept.append({"step": step, "seconds": 2.0})
    kept.close()
    again = opened(tmp_path)

    assert str(again.progress) == "at its search, 1 step saved"
    assert [s.chosen for s in again.steps] == ["1"]
    assert again.search_seconds == 2.0
    (file,) = tmp_path.rglob("*.jsonl")
    assert checksum_lines.first(file) == {"journal": 1, "case": "a/b", "key": "k" * 64}


# ------------------------------------------------------------------------- stopped


#: The searches that keep where they stand, a piece of work of each, and where to stop it.
STATES: dict[str, tuple[Any, str, tuple[int, ...]]] = {
    "sprint": (_sprint_scores.Search, "first_stage", (1, 2, 4)),
    "sprint-few-states": (_sprint_scores.Search, "second_stage", (2, 5)),
    "sprint-no-refit": (_sprint_scores.Search, "first_stage", (2, 3)),
    "slicegpt": (_slicing, "principal", (2, 3, 8)),  # two are a block
    "slice_global": (_slicing, "_directions", (5, 14, 27)),  # thirteen are a batch
}


@contextmanager
def stopped(name: str, at: int, by: BaseException | None = None) -> Iterator[list[int]]:
    """Stop a search at its *at*-th piece of work; gives how many steps were done by then."""
    place, work, _ = STATES[name]
    calls, steps = 0, [0]
    keep = Journal.save_state

    def counted(self: Journal, data: Any, tensors: Any, done: int, of: int = 0) -> None:
        steps[0] = done
        keep(self, data, tensors, done, of)

    doing = getattr(place, work)

    def stopping(*given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise by or KeyboardInterrupt
        return doing(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Journal, "save_state", counted)
        patch.setattr(place, work, stopping)
        yield steps


@pytest.mark.slow
@pytest.mark.parametrize(("search", "name"), [(name, name) for name in STATES], indirect=["search"])
def test_a_stopped_search_loses_the_step_at_hand_at_most(
    search: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though too little time has passed to write tensors: it goes on from its last step."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)  # never worth it
    expected, _ = search()
    for at in STATES[name][2]:
        kept = opened(tmp_path / str(at))
        with stopped(name, at) as steps, pytest.raises(KeyboardInterrupt):
            search(kept)
        kept.close()
        again = opened(tmp_path / str(at))
        state = again.state()
        assert (state is None) == (steps[0] == 0)
        assert again.progress.parts == steps[0]
        found, _ = search(again)
        again.close()

        assert found == expected
    assert steps[0] >= 1


@pytest.mark.parametrize("search", ["slicegpt"], indirect=True)
def test_stopped_again_and_again_a_search_ends_the_same(
    search: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By Ctrl-C, by a scheduler, by Slurm's job itself: each run gets one block further."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    expected, _ = search()
    ways: list[BaseException] = [KeyboardInterrupt(), signals.StopRequest("SIGTERM"), SystemExit(1)]
    done = []
    for number in range(9):
        kept = opened(tmp_path)
        try:
            # A block is two decompositions; the third is of the next.
            with stopped("slicegpt", 3, ways[number % 3]):
                found, _ = search(kept)
            break
        except (KeyboardInterrupt, SystemExit):
            done.append(opened(tmp_path).progress.parts)
        finally:
            kept.close()
    assert done == [1, 2, 3, 4, 5]
    assert found == expected
    # Three batches and ten rotations: nothing of the states before the last.
    assert len(list(tmp_path.rglob("*.safetensors"))) == 13


def test_a_search_that_fails_or_ends_holds_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it stood on is only written when it is to go on."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    kept = opened(tmp_path)
    tensor = torch.ones(2)
    held = weakref.ref(tensor)
    with pytest.raises(ValueError, match="a bug"), searching(kept):  # noqa: PT012
        resume.save_state(1, {"x": tensor}, 1)
        raise ValueError("a bug")
    with searching(kept):
        resume.save_state(1, {"x": tensor}, 1)
    kept.save_pending(60.0)
    del tensor

    assert held() is None
    assert list(tmp_path.rglob("*")) == []


def test_data_of_a_stopped_search_is_that_of_its_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A list that the search goes on with is kept as it was."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    kept, chosen = opened(tmp_path), [3]
    with pytest.raises(KeyboardInterrupt), searching(kept):  # noqa: PT012
        resume.save_state(chosen, {"x": torch.ones(2)}, 1)
        chosen.append(5)
        raise KeyboardInterrupt
    kept.close()
    found = opened(tmp_path).state()

    assert found is not None
    assert found[0] == [3]


def test_a_mapping_of_a_stopped_search_is_kept_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A method may go on with the one that it gave."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    kept, given = opened(tmp_path), {"x": torch.ones(2), "y": torch.zeros(2)}
    with pytest.raises(KeyboardInterrupt), searching(kept):  # noqa: PT012
        resume.save_state(1, given, 1)
        given["x"] = torch.zeros(2)
        del given["y"]
        raise KeyboardInterrupt
    kept.close()
    found = opened(tmp_path).state()

    assert found is not None
    assert {name: tensor.tolist() for name, tensor in found[1].items()} == {
        "x": [1, 1],
        "y": [0, 0],
    }


@pytest.mark.parametrize(("search", "name"), [(name, name) for name in STATES], indirect=["search"])
def test_no_search_changes_a_tensor_that_it_gave(
    search: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are held, not copied, and may be written any time later."""
    given: list[tuple[Any, Any]] = []

    def seen(self: Journal, data: Any, tensors: Any, done: int, of: int = 0) -> None:
        given.extend((tensor, tensor.clone()) for tensor in tensors.values())

    monkeypatch.setattr(Journal, "save_state", seen)
    search(opened(tmp_path))

    assert given or "refit" in name
    assert all(torch.equal(tensor, before) for tensor, before in given)


def held_back(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, threading.Event]:
    """Files are written only when the second event is set; the first tells that one waits."""
    begun, go = threading.Event(), threading.Event()
    write = tensors.files.write

    def slow(path: Path, data: bytes) -> None:
        begun.set()
        assert go.wait(60)
        write(path, data)

    monkeypatch.setattr(tensors.files, "write", slow)
    return begun, go


def test_a_search_that_ends_waits_for_what_another_thread_writes_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is kept then is the search, and no state that would be older."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    kept, (begun, go) = opened(tmp_path), held_back(monkeypatch)
    writer = threading.Thread(target=kept.save_pending, args=(60.0,))
    with searching(kept):
        resume.save_state(1, {"x": torch.ones(2)}, 1)
        writer.start()
        assert begun.wait(60)
        threading.Timer(0.3, go.set).start()
    waited = go.is_set()
    kept.save_search(Plan(), 1.0, 2, None)
    kept.close()
    writer.join()

    assert waited
    assert list(tmp_path.rglob("*.safetensors")) == []
    assert opened(tmp_path).search() is not None


def test_a_search_that_did_not_wait_leaves_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where writing takes longer than anybody waits, what comes of it is thrown away."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    monkeypatch.setattr(signals, "LAST_WORDS", 0.01)
    kept, (begun, go) = opened(tmp_path), held_back(monkeypatch)
    writer = threading.Thread(target=kept.save_pending, args=(60.0,))
    with searching(kept):
        resume.save_state(1, {"x": torch.ones(2)}, 1)
        writer.start()
        assert begun.wait(60)
    kept.save_search(Plan(), 1.0, 2, None)
    go.set()
    writer.join()
    kept.close()

    assert list(tmp_path.rglob("*.safetensors")) == []
    assert opened(tmp_path)._state is None


SHORT = "a/b: too little memory to save the state of its search"


@pytest.mark.parametrize(
    ("place", "name", "error", "says", "files"),
    [
        ("results.resume.journal", "msgspec.to_builtins", MemoryError(), SHORT, 2),
        ("models.tensors", "_bytes", MemoryError(), SHORT, 2),
        (
            "models.tensors",
            "_bytes",
            RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"),
            SHORT,
            2,
        ),
        (
            "models.tensors",
            "_bytes",
            RuntimeError("DefaultCPUAllocator: can't allocate memory"),
            SHORT,
            2,
        ),
        (
            "results.resume.checksum_lines",
            "json.dumps",
            MemoryError(),
            "too little memory to write it; a killed run",
            4,
        ),
    ],
)
def test_too_little_memory_to_keep_a_state_costs_no_search(
    place: str,
    name: str,
    error: Exception,
    says: str,
    files: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is told, the search goes on, and the state before is there."""
    kept, count = opened(tmp_path), 0
    *path, last = name.split(".")
    module = importlib.import_module(f"prunebench.{place}")
    for part in path:
        module = getattr(module, part)
    work = getattr(module, last)

    def short(*given: Any, **more: Any) -> Any:
        nonlocal count
        count += 1
        if count == (1 if place != "models.tensors" else 2):  # the second tensor
            raise error
        return work(*given, **more)

    with searching(kept):
        resume.save_state([1], {"a": torch.zeros(2), "b": torch.ones(2)}, 1)
        with monkeypatch.context() as patch, pytest.warns(PrunebenchWarning, match=says):  # noqa: PT031
            patch.setattr(module, last, short)
            resume.save_state([2], {"a": torch.full((2,), 2.0), "b": torch.full((2,), 3.0)}, 2)
    kept.close()
    found = opened(tmp_path).state()

    assert found is not None
    assert found[0] == [1]
    assert len(list(tmp_path.rglob("*.safetensors"))) == files


def test_a_search_that_cannot_be_kept_for_want_of_memory_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its case goes on to what is measured."""

    def short(*_: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(tensors.Tensors, "save", short)
    kept = opened(tmp_path)
    with pytest.warns(
        PrunebenchWarning, match="too little memory to save the result of its search"
    ):
        kept.save_search(Plan((), (), tensors.Tensors()), 1.0, 2, None)
    kept.close()

    assert opened(tmp_path).search() is None


def test_a_scheduler_that_is_as_impatient_as_the_user_costs_no_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its signal comes while Ctrl-C's way out is writing."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    keep, came = tensors.keep, False

    def interrupted(folder: Path, tensor: Any) -> Any:
        nonlocal came
        if not came:
            came = True
            raise signals.StopRequest("SIGTERM")
        return keep(folder, tensor)

    monkeypatch.setattr(tensors, "keep", interrupted)
    kept = opened(tmp_path)
    with pytest.raises(signals.StopRequest), searching(kept):  # noqa: PT012
        resume.save_state(1, {"x": torch.ones(2)}, 1)
        raise KeyboardInterrupt
    kept.close()

    assert opened(tmp_path).state() is not None


def test_a_stop_stays_a_stop_though_the_search_cannot_be_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Any other error would be the case's failure, and the run would go on with the next."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    for error, says in (
        (RuntimeError("CUDA error: unspecified launch failure"), "cannot be saved: RuntimeError: "),
        (MemoryError(), SHORT),
    ):

        def broken(*_: Any, error: Exception = error) -> None:
            raise error

        monkeypatch.setattr(tensors, "keep", broken)
        kept = opened(tmp_path)
        with (  # noqa: PT012, PT031
            pytest.warns(PrunebenchWarning, match=says),
            pytest.raises(KeyboardInterrupt),
            searching(kept),
        ):
            resume.save_state(1, {"x": torch.ones(2)}, 1)
            raise KeyboardInterrupt
        kept.close()


@pytest.mark.parametrize(
    ("speed", "limit", "whole"),
    [
        # 4 MB in four tensors, 500 MB/s as long as nothing else is known.
        (None, 0.009, True),
        (None, 0.007, False),
        (None, -1.0, False),
        # 4 s a tensor: that shows after the first, and the other three would end after 16 s.
        (250_000, 17.0, True),
        (250_000, 15.0, False),
    ],
)
def test_a_stopped_search_is_kept_as_far_as_there_is_time(
    speed: int | None,
    limit: float,
    whole: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whole or not at all: what it says, what is on the disk, and where the next run begins."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    clock, writes = [0.0], 0
    keep = tensors.keep

    def slow(folder: Path, tensor: Any) -> Any:
        nonlocal writes
        writes += 1
        clock[0] += tensor.nbytes / speed if speed else 0.0
        return keep(folder, tensor)

    monkeypatch.setattr(search_state.time, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(tensors, "keep", slow)
    kept = opened(tmp_path)
    given = {str(i): torch.full((250_000,), float(i)) for i in range(4)}
    with warnings.catch_warnings(record=True) as seen, searching(kept):
        warnings.simplefilter("always")
        resume.save_state([1], given, 7)
        kept.save_pending(limit)
    kept.close()
    found = opened(tmp_path).state()
    files = sorted(tmp_path.rglob("*.safetensors"))

    if whole:
        assert not seen
        assert found is not None
        assert all(torch.equal(found[1][name], given[name]) for name in given)
    else:
        assert writes <= 1
        assert found is None
        assert files == []
        (one,) = seen
        assert str(one.message) == (
            "a/b: its search resumes from its beginning, not from step 7: "
            f"4 MB cannot be written in {max(limit, 0):.0f} s"
        )


def test_saving_that_takes_a_while_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever pressed Ctrl-C knows why the run has not ended yet."""
    monkeypatch.setattr(search_state, "SHARE", 0.0)
    for speed, said in [(5e8, ""), (1e6, "saving the state of the search, 4 MB\n")]:
        monkeypatch.setattr(search_state, "SPEED", speed)
        kept = opened(tmp_path / str(speed))
        with pytest.raises(KeyboardInterrupt), searching(kept):  # noqa: PT012
            resume.save_state([1], {"x": torch.zeros(1_000_000)}, 1)
            raise KeyboardInterrupt
        kept.close()
        assert capsys.readouterr().err == said
        assert opened(tmp_path / str(speed)).state() is not None

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest
from factories import CPU, accuracy, record
from msgspec.structs import replace

from prunebench import Measurement, PrunebenchError
from prunebench.edits.drop_blocks import DropBlocks
from prunebench.edits.drop_sublayers import DropSublayers
from prunebench.errors import PrunebenchWarning
from prunebench.plan import Plan, Step
from prunebench.record import storable
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.store import Store

BECAUSE = Accepted(by="someone", when="2026-11-22T00:00:00+00:00", because="first")
GPU = replace(CPU, device="nvidia-h200")


def measured() -> tuple[Measurement, ...]:
    losses = (0.5, 1.25, 0.125)
    return (
        accuracy(37, of=90),
        Measurement("perplexity/t", 1.9, "ppl", "lower", losses, paired=True),
        Measurement("latency/decode", 3.5, "ms", "lower", (3.0, 3.5, 4.5)),
    )


def test_a_baseline_comes_back_as_it_was_accepted(tmp_path: Path) -> None:
    """Values, plan, trace and every sample survive the two files."""
    baselines = Baselines(tmp_path)
    now = record(*measured())
    (path,) = baselines.save(now, BECAUSE)

    assert path == tmp_path / "quality/a/b.json"
    assert baselines.load("a/b", "cpu") == replace(now, measurements=now.measurements[:2])
    who = baselines.accepted("a/b")
    assert who is not None
    assert replace(who, sha256="") == BECAUSE
    assert baselines.case_ids() == ["a/b"]


def test_timings_live_under_their_device(tmp_path: Path) -> None:
    """On a named device timings have their own tree; elsewhere they are absent, not different."""
    baselines = Baselines(tmp_path)
    now = record(*measured(), environment=GPU)
    paths = baselines.save(now, BECAUSE)

    assert paths[1] == tmp_path / "latency/nvidia-h200/a/b.json"
    assert baselines.load("a/b", "nvidia-h200") == now
    other = baselines.load("a/b", "nvidia-a100")
    assert other is not None
    assert [m.metric for m in other.measurements] == ["accuracy/t", "perplexity/t"]


def test_the_same_record_gives_the_same_bytes(tmp_path: Path) -> None:
    """Accepting again changes nothing in git."""
    contents = []
    for name in ("one", "two"):
        Baselines(tmp_path / name).save(record(*measured()), BECAUSE)
        files = sorted((tmp_path / name).rglob("*.*"))
        contents.append([f.read_bytes() for f in files if f.is_file()])

    assert contents[0] == contents[1]


def test_right_and_wrong_answers_take_a_bit_each(tmp_path: Path) -> None:
    """20,000 answers are a few kilobytes."""
    Baselines(tmp_path).save(record(accuracy(12_345, of=20_000)), BECAUSE)

    assert (tmp_path / "quality/a/b.samples.gz").stat().st_size < 4000


@pytest.mark.parametrize("value", [math.inf, -1e301, 1e301])
def test_what_floats_cannot_add_up_is_kept_as_no_number(value: float, tmp_path: Path) -> None:
    """A record that a run writes can be read again, without the samples of a broken model."""
    broken = Measurement("perplexity/t", value, "ppl", "lower", (0.5, value), paired=True)
    kept = record(storable(broken), *measured()[:1])
    Store(tmp_path).save(kept)
    read = Store(tmp_path).latest(kept.case_id, kept.asked)

    assert read is not None
    assert read.measurements == (
        Measurement("perplexity/t", None, "ppl", "lower"),
        *measured()[:1],
    )


def test_a_broken_model_is_no_standard(tmp_path: Path) -> None:
    """A value that is not finite is not accepted and nothing is written."""
    broken = record(Measurement("perplexity/t", None, "ppl", "lower"))
    with pytest.raises(PrunebenchError, match="not finite: perplexity/t"):
        Baselines(tmp_path).save(broken, BECAUSE)

    assert list(tmp_path.iterdir()) == []


def test_what_compares_with_nothing_is_no_standard(tmp_path: Path) -> None:
    """A timing on a shared GPU is refused with its reason; memory that ran out is a fact."""
    shared = Measurement("latency/x", 3.5, "ms", "lower", note="the GPU was shared with process 7")
    with pytest.raises(PrunebenchError, match="not accepted, latency/x: the GPU was shared"):
        Baselines(tmp_path).save(record(shared, environment=GPU), BECAUSE)
    assert list(tmp_path.iterdir()) == []
    full = replace(shared, value=None, note="out of memory at batch 64")

    assert len(Baselines(tmp_path).save(record(full, environment=GPU), BECAUSE)) == 2


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-40]), "truncated"),
        (lambda p: p.write_text('{"case_id": 3}'), "damaged"),
        (lambda p: p.write_text(p.read_text().replace('"schema": 1', '"schema": 9')), "newer"),
        (lambda p: p.with_name("b.samples.gz").unlink(), "samples missing"),
        (lambda p: p.with_name("b.samples.gz").write_bytes(gzip.compress(b"[]")), "samples"),
    ],
)
def test_damaged_baselines_are_named_and_left_alone(tmp_path: Path, damage, says: str) -> None:
    """Truncated, edited, newer, without samples: one line with the file, no overwrite."""
    baselines = Baselines(tmp_path)
    (path,) = baselines.save(record(*measured()), BECAUSE)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(PrunebenchError, match=rf"b\.(json|samples\.gz): .*{says}"):
        baselines.load("a/b", "cpu")

    assert path.read_bytes() == before


def test_the_store_finds_exactly_that_content(tmp_path: Path) -> None:
    """A record is found by its key only; a damaged one counts as absent."""
    store = Store(tmp_path)
    saved = record(*measured(), key="k" * 64)
    path = store.save(saved)

    assert store.find("a/b", "k" * 64) == saved
    assert store.find("a/b", "j" * 64) is None
    assert store.find("a/b", None) is None
    path.write_bytes(path.read_bytes()[:100])
    with pytest.warns(PrunebenchWarning, match=f"{path}: damaged: .*; the case runs again"):
        assert store.find("a/b", "k" * 64) is None
    assert store.latest("a/b") is None


def test_the_newest_record_is_the_latest(tmp_path: Path) -> None:
    """By the time it was made, not by its name."""
    store = Store(tmp_path)
    for key, created in (("z", "2026-01-01"), ("a", "2026-03-01"), ("m", "2026-02-01")):
        store.save(record(key=key * 64, created=created))
    latest = store.latest("a/b")

    assert latest is not None
    assert latest.created == "2026-03-01"
    assert store.case_ids() == ["a/b"]


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    """A file where the folder should be is told by name."""
    (tmp_path / "records").write_text("in the way")
    with pytest.raises(PrunebenchError, match="cannot be written"):
        Store(tmp_path).save(record(key="k"))


def test_a_prefix_of_a_plan_is_the_plan_of_a_smaller_amount() -> None:
    """Edits and trace are cut after the same number of removals."""
    trace = tuple(Step(i, {}, str(b)) for i, b in enumerate((5, 3, 1)))
    plan = Plan((DropBlocks((5, 3)), DropSublayers(((1, "attn"),))), trace)

    assert plan.size == 3
    assert plan.prefix(1) == Plan((DropBlocks((5,)),), trace[:1])
    assert plan.prefix(3) == plan
    assert plan.prefix(0) == Plan()

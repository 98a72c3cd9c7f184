"""Files that mean harm: each is refused in one plain line, at once, and runs nothing."""

from __future__ import annotations

import base64
import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
from factories import accuracy, record
from msgspec.structs import replace

from prunebench import CaseError, DropBlocks, PrunebenchError, errors, reference
from prunebench.cases import loader
from prunebench.checkpoints import prune
from prunebench.data import hub, task_trust
from prunebench.data.model_config import shape_of
from prunebench.edits.refit_weights import RefitWeights
from prunebench.metrics.accuracy import Accuracy
from prunebench.models import plan_files, surgery
from prunebench.plan import Plan
from prunebench.reports.formats import lm_eval
from prunebench.results import lm_eval_files, readers
from prunebench.results.baselines import published
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.store import Store
from prunebench.system import files

BECAUSE = Accepted(by="someone", when="2026-11-22T00:00:00+00:00", because="first")
GOOD = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 8, seqlen: 64}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 64}
"""
SLEB = "method: {name: sleb}\nblocks: 2\n"


def nested(link: str, count: int = 9) -> str:
    """Lines of which each names the one before nine times."""
    first = link.format(0, "", ", ".join("x" * 9))
    return first + "".join(
        link.format(i, "", ", ".join([f"*a{i - 1}"] * 9)) for i in range(1, count)
    )


# --------------------------------------------------------------------------------- outputs


def test_a_device_or_a_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    """As root, a file renamed over ``/dev/null`` would take it from the whole machine.

    A pipe stands for all that is no regular file.
    """
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    files.write(pipe, b"{}")

    assert os.read(reader, 10) == b"{}"
    assert pipe.is_fifo()
    os.close(reader)
    with pytest.raises(PrunebenchError, match="cannot be written: No such device or address"):
        files.write(pipe, b"{}")  # nobody reads: one line, no wait


PRINTING = """\
import sys
from pathlib import Path
from prunebench.system import files
print("before")
print("aside", file=sys.stderr)
files.require_writable(Path(sys.argv[1]))
files.write(Path(sys.argv[1]), b"{}\\n")
print("after")
"""
OUT, SHELL = "before\n{}\nafter\n", 'exec "$@"'


def printed(shell: str, folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    """What PRINTING does with *path*, started by *shell* as ``"$@"``."""
    command = ["bash", "-c", shell, "bash", sys.executable, "-c", PRINTING, path]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    return subprocess.run(command, capture_output=True, text=True, cwd=folder, env=env, timeout=60)


@pytest.mark.slow
def test_standard_output_has_all_in_order(tmp_path: Path) -> None:
    """As ``cat`` would show it, whether it is a pipe or a file, new or appended to."""
    assert printed(SHELL, tmp_path, "/dev/stdout").stdout == OUT
    for before, way in (("", ">"), ("old\n", ">>")):
        (tmp_path / "out").write_text(before)
        shell = '{ echo first; "$@"; echo last; }' + f" {way} out"
        assert printed(shell, tmp_path, "/dev/stdout").returncode == 0
        assert (tmp_path / "out").read_text() == f"{before}first\n{OUT}last\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "path", "expected"),
    [
        ('"$@" 2> out', "/dev/stderr", "aside\n{}\n"),
        ('"$@" 7> out', "/dev/fd/7", "{}\n"),
        ('"${@:1:3}" >(cat > out); wait $!', "", "{}\n"),
    ],
)
def test_other_descriptors_are_written_to(
    shell: str, path: str, expected: str, tmp_path: Path
) -> None:
    """Whatever number the shell gave; no file is renamed over them."""
    done = printed(shell, tmp_path, path)

    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out").read_text() == expected


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "path"),
    [
        ('"$@" >&-', "/dev/stdout"),
        ('"$@"', "/dev/fd/77"),
        ('"$@" 7< .', "/dev/fd/7"),
        ('"$@"', "/dev/fd/99999999999999999999"),
    ],
)
def test_a_descriptor_that_cannot_be_written_is_one_line(
    shell: str, path: str, tmp_path: Path
) -> None:
    """Closed, absent, a folder, not a number: nothing else is written to instead."""
    done = printed(shell, tmp_path, path)

    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"prunebench.errors.PrunebenchError: {path}: cannot be written: "), last
    assert list(tmp_path.iterdir()) == []


def test_links_that_go_round_are_one_line(tmp_path: Path) -> None:
    """As a file and as a folder."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path in (tmp_path / "a" / "x", tmp_path / "a" / "x" / "y"):
        for told in (lambda path: files.write(path, b"{}"), files.require_writable):
            with pytest.raises(PrunebenchError, match="cannot be written: "):
                told(path)


# --------------------------------------------------------------------------------- case files

CASE_FILES = {
    "list bomb": (nested("a{0}: &a{0} [{2}]\n"), "more than 20000 values"),
    "list of itself": ("a: &a [*a]\n", "1:4: more than 20 levels"),
    "mapping of itself": ("model: &a {id: *a}\n", "more than 20 levels"),
    "a million brackets": ("model: " + "[" * 990_000, "1:29: more than 20 levels"),
    "a mapping in a mapping": ("model: " + "{a: " * 200_000, "1:89: more than 20 levels"),
    "deep by indentation": ("".join(" " * i + "a:\n" for i in range(1300)), "22:22: more than 20"),
    "too many keys": ("".join(f"k{i}: 1\n" for i in range(60_000)), "more than 20000 values"),
    "one key over and over": ("a: 1\n" * 5000, "2:1: duplicate key 'a'"),
    "code by a tag": ("model: !!python/object/apply:os.system [x]\n", "1:8: found the tag"),
    "code by a handle": (
        "%TAG ! tag:yaml.org,2002:python/\n---\nmodel: !object/apply:os.system [x]\n",
        "3:8: found the tag '!!python/object/apply:os.system'",
    ),
    "a tag of a key": ("!!python/name:os.system : 1\n", "1:1: found the tag"),
    "a tag on a mapping": (
        GOOD + "method: !x {name: sleb}\nblocks: 2\n",
        "5:9: found the tag '!x'",
    ),
    "a bad timestamp": (
        GOOD + "method: {name: sleb}\nblocks: !!timestamp x\n",
        "found 'x', expected",
    ),
    "merge keys": ("x: &x {name: sleb}\nmethod: {<<: *x}\n", "2:10: merge keys"),
    "a list as a key": (GOOD + "? [a, b]\n: 1\n", "5:3: found a key that is not text: a list"),
    "more digits than a number has": (GOOD + "blocks: " + "9" * 100_000, "5:9: found '9999"),
    "more than 64 bits": (GOOD + "blocks: 99999999999999999999\n", "a number of 20 digits"),
    "hexadecimal": (GOOD + "blocks: 0x" + "f" * 5000, "a whole number in decimal"),
    "base 60": (GOOD + "method: {name: sleb}\nblocks: 1:30\n", "6:9: found '1:30'"),
    "octal": (GOOD + "method: {name: sleb}\nblocks: 010\n", "6:9: found '010'"),
    "base 60 with a point": (GOOD + "sparsity: 1:30.5\n", "5:11: found '1:30.5'"),
    "not a number in exclude": (
        GOOD + "matrix: {method: [{name: sleb}], sparsity: [0.2]}\nexclude: [{sparsity: .nan}]\n",
        "6:12: found nan, expected a finite number",
    ),
    "no as a name": (GOOD + "method: {name: no}\n", "5:10: found False, expected the name"),
    "a null byte": (GOOD + "marks: [a\0b]\n", "5:10: not valid YAML: found the character '\\x00'"),
    "an escape": (GOOD + "marks: [a\x1bb]\n", "found the character '\\x1b'"),
    "a null byte in a path": (GOOD + 'extends: "./a\\0b"\n', "no such file: './a\\x00b'"),
    "a path that is too long": (GOOD + "extends: ./" + "a" * 5000, "no such file: './aaa"),
    "a model's path that is too long": (f"model: {{id: ./{'a' * 5000}}}\n", "no such model folder"),
    "a device": (GOOD + "extends: /dev/zero\n", "no such file: '/dev/zero'"),
    "a protocol elsewhere": (GOOD + "protocol: ../../x\n", "unknown protocol '../../x'"),
    "a name of a megabyte": (GOOD + f"method: {{name: {'x' * 900_000}}}\n", "unknown method"),
    "a tolerance below zero": (GOOD + SLEB + "tolerance: {accuracy: {abs: -1}}\n", "at least 0"),
    "a line end in a mark": (GOOD + SLEB + 'marks: ["a\\n"]\n', "found 'a\\n', expected text"),
    "an id that no file can have": (
        GOOD + SLEB + f"matrix: {{calibration: [{{join: {'x' * 3000}}}]}}\n",
        "a part of the case id has 3013 letters, at most 200",
    ),
    "too large": ("#" * 1_100_000, "1:1: 1,100,000 bytes, at most 1,000,000 are read"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASE_FILES)
def test_a_hostile_case_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    """A place, what was found, no control character, nothing endless."""
    text, says = CASE_FILES[name]
    path = tmp_path / "file.yaml"
    path.write_text(text)
    start = time.process_time()
    with pytest.raises(CaseError) as caught:
        loader.load([path])

    assert time.process_time() - start < 20  # a bomb would take minutes
    assert says in str(caught.value)
    assert len(caught.value.problems) <= 2 * 100
    for problem in caught.value.problems:
        assert problem.startswith(f"{path}:")
        assert len(problem) < 1200
        assert problem.isprintable()


def test_a_file_of_more_cases_than_anybody_runs_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Included cases and seeds count as those of a matrix do."""
    monkeypatch.setattr(loader, "MAX_CASES", 20)
    seeds = ", ".join(map(str, range(30)))
    path = tmp_path / "file.yaml"
    path.write_text(GOOD.replace("seqlen: 64}", f"seqlen: 64, seed: [{seeds}]}}", 1) + SLEB)
    with pytest.raises(CaseError, match="more than 20 cases"):
        loader.load([path])


def test_what_is_no_utf_8_names_the_place(tmp_path: Path) -> None:
    """Line and column of the first byte that is none."""
    path = tmp_path / "file.yaml"
    path.write_bytes(GOOD.encode() + b"# \xe9\n")
    with pytest.raises(CaseError, match=r":5:3: not UTF-8 text"):
        loader.load([path])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("marks=" + "[" * 2000, "more than 20 levels"),
        ("marks=[&a [x, x], &b [*a, *a], " + "&c [*b, *b], " * 3 + "x]", "second occurrence"),
        ("model.id=!!python/name:os.system", "found the tag"),
        (f"{'a.' * 500}b=1", "expected a.b.c"),
        ("method=true", "found True, expected a mapping"),
        ("model.id=\x1b[31mred", "\\x1b[31mred"),
    ],
)
def test_a_hostile_setting_is_plain_lines(text: str, says: str, tmp_path: Path) -> None:
    """What stands behind ``--set`` is read as a case file is."""
    path = tmp_path / "file.yaml"
    path.write_text(GOOD + SLEB)
    with pytest.raises(PrunebenchError) as caught:
        loader.load([path], [text])

    assert says in str(caught.value)
    assert str(caught.value).replace("\n", "").isprintable()


# --------------------------------------------------------------------------------- names and paths

NAMES = [
    *("../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "a/.", "a/..", "a\\b", "C:x", "a\0b"),
    *("a\nb", "con", "a/NUL.txt", "x" * 201, "a/ b", ".hidden", "-x", "\u202ex", "a/b/"),
]


@pytest.mark.parametrize("name", NAMES)
def test_no_name_leaves_its_folder(name: str, tmp_path: Path) -> None:
    """Neither of a case, nor in a record that somebody wrote by hand."""
    root = tmp_path / "root"
    foreign = record(accuracy(9, of=10), case_id=name, key="k")
    for use in (
        lambda: files.inside(root, name),
        lambda: Store(root).save(foreign),
        lambda: Store(root).find(name, "k"),
        lambda: Store(root).answers(name),
        lambda: Baselines(root).save(foreign, BECAUSE),
        lambda: Baselines(root).load(name, "cpu"),
    ):
        with pytest.raises(PrunebenchError, match="is not the name of a case"):
            use()

    assert list(tmp_path.rglob("*")) == []


def test_every_slug_is_a_name(tmp_path: Path) -> None:
    """What ids are made of can be no path, whatever it is made from."""
    for text in [*NAMES, "aux", "Aux.yaml", "..", "ünïcode", " "]:
        assert files.is_name(files.slug(text)[:200])
        assert files.inside(tmp_path, files.slug(text)[:200]).parent == tmp_path


def test_a_device_is_one_folder(tmp_path: Path) -> None:
    """Timings of a record whose device climbs stay below the baselines."""
    baselines = Baselines(tmp_path / "baselines")
    path = baselines.latency("a/b", "../../../x")

    assert path == tmp_path / "baselines/latency/x/a/b.json"


def test_the_store_passes_over_what_is_none_of_its_records(tmp_path: Path) -> None:
    """A folder, a pipe, a link to nowhere, another's record, an odd name: no hang, no error."""
    store = Store(tmp_path)
    store.save(own := record(accuracy(9, of=10), key="k" * 30))
    folder = tmp_path / "records/a/b"
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "link.json").symlink_to(tmp_path / "nowhere")
    files.write_json(folder / "other.json", replace(own, case_id="x/y"))
    (tmp_path / "records/odd\nname").mkdir()
    files.write_json(tmp_path / "records/odd\nname/x.json", own)

    assert store.answers("a/b") == [own]
    assert "a/b" in store.case_ids()
    assert all(map(files.is_name, store.case_ids()))


# --------------------------------------------------------------------------------- records

ASKED = [
    {"model": []},
    {"model": {"id": 3}},
    {"method": {"name": []}},
    {"metrics": 3},
    {"metrics": [{"name": None}]},
    {"metrics": ["x"]},
    {"protocol": ["x"]},
    {"amount": "x"},
]


@pytest.mark.parametrize("asked", ASKED)
def test_a_question_of_the_wrong_shape_is_a_damaged_record(asked: Any, tmp_path: Path, cli) -> None:
    """Found when it is read, in one line, and exit 2."""
    whole = msgspec.to_builtins(record(accuracy(9, of=10)))
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**whole, "asked": asked}))
    code, _, err = cli("compare", path, path)

    assert code == 2
    assert err.startswith(f"{path}: damaged: asked: ")
    assert err.count("\n") == 1


ONE = {"metric": "t", "value": 0.0, "unit": "acc", "better": "higher"}
CLUSTERED = {**ONE, "samples": [0, 0, 0], "clusters": [1, 1]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"dense_parameters": 0}, "impossible numbers of parameters"),
        ({"measurements": [CLUSTERED]}, "t: 2 samples are clustered of 3"),
        ({"measurements": [{**ONE, "value": -1e301}]}, r"t: found 1e\+301, at most 1e\+300"),
        ({"measurements": [{**ONE, "samples": [0, 1e301]}]}, r"t: found 1e\+301, at most"),
        ({"plan": [{"edit": "merge_blocks", "ranges": [[0, 10**15]]}]}, "has no block"),
        ({"plan": [{"edit": "drop_blocks", "blocks": [-1]}]}, "a plan has no block -1"),
        ({"plan": [{"edit": "slice_hidden", "widths": [0]}]}, "a plan has no width 0"),
        ({"cost": {"seconds": float("nan")}}, "not JSON compliant"),
        ({"cost": {"seconds": float("inf")}}, "not JSON compliant"),
    ],
)
def test_impossible_numbers_are_a_damaged_record(change: Any, says: str, tmp_path: Path) -> None:
    """Some would take all memory when they are read."""
    whole = msgspec.to_builtins(record(accuracy(9, of=10)))
    path = tmp_path / "record.json"
    path.write_text(json.dumps({**whole, **change}))
    with pytest.raises(PrunebenchError, match=says):
        readers.read(path)


def test_malformed_json_names_its_line_and_column(tmp_path: Path) -> None:
    """Columns count letters, and the mark that Windows puts before UTF-8 is none."""
    place = tmp_path / "ids.json"
    for text in ('[\n  ["\u00e9", ]\n]', '\ufeff[\n  ["\u00e9", ]\n]'):
        place.write_text(text, encoding="utf-8")
        with pytest.raises(PrunebenchError) as refused:
            files.read_json(place, list[list[str]])
        assert str(refused.value).startswith(f"{place}:2:9: damaged: JSON is malformed")

    place.write_text("\ufeff[[1, 2]]", encoding="utf-8")
    assert files.read_json(place, list[list[int]]) == [[1, 2]]


def test_a_mark_before_a_baseline_or_a_list_is_passed_over(tmp_path: Path) -> None:
    """Editors and spreadsheets on Windows put it there; it changes nothing."""
    shelf = Baselines(tmp_path)
    (path,) = shelf.save(record(accuracy(98)), BECAUSE)
    path.write_text("\ufeff" + path.read_text(), encoding="utf-8")
    assert shelf.load("a/b", "cpu") is not None

    removal = tmp_path / "removed.csv"
    removal.write_text("\ufeff3,5", encoding="utf-8")
    assert plan_files.imported(removal).edits == (DropBlocks((3, 5)),)
    removal.write_text('{"blocks":\n [3,}', encoding="utf-8")
    with pytest.raises(PrunebenchError, match=f"{removal}:2:5: damaged: not valid JSON"):
        plan_files.imported(removal)


def test_a_number_of_a_thousand_digits_is_one_line(tmp_path: Path) -> None:
    """Python's own message tells how to raise a limit of Python's."""
    shelf = Baselines(tmp_path)
    (path,) = shelf.save(record(accuracy(98)), BECAUSE)
    path.write_text(path.read_text().replace('"parameters": 80', f'"parameters": {"9" * 5000}'))

    with pytest.raises(PrunebenchError, match="damaged: Integer value out of range"):
        shelf.load("a/b", "cpu")


def test_deep_and_huge_json_is_one_line(tmp_path: Path, cli) -> None:
    """A million brackets, numbers of ten thousand digits, a file that is larger than any record."""
    path = tmp_path / "x.json"
    for content in ("[" * 1_000_000, "9" * 10_000, '{"a": ' * 100_000):
        path.write_text(content)
        code, _, err = cli("compare", path, path)
        assert (code, err.count("\n")) == (2, 1)
    with path.open("wb") as stream:
        stream.truncate(files.MAX_BYTES + 1)
    code, _, err = cli("compare", path, path)

    assert code == 2
    assert "at most 500,000,000 are read" in err


# --------------------------------------------------------------------------------- baselines


def spoil(path: Path, change: Any) -> None:
    """Rewrite the samples beside a baseline."""
    samples = path.with_name("b.samples.gz")
    samples.write_bytes(
        gzip.compress(change if isinstance(change, bytes) else json.dumps(change).encode())
    )


NAN = base64.b64encode(b"\x00\x00\xc0\x7f" * 4).decode()
SAMPLES = [
    ("bomb", b" " * 100_000_010, "more than 100000000 bytes when unpacked"),
    ("count", {"accuracy/t": {"bits": "f", "count": 10**12}}, "at most 10000000"),
    ("negative", {"accuracy/t": {"bits": "f", "count": -1}}, "samples damaged"),
    ("text", {"accuracy/t": {"bits": "f", "count": "9"}}, "samples damaged"),
    ("clusters", {"accuracy/t": {"clusters": [float("inf")]}}, "samples damaged"),
    ("list", [1], "samples damaged"),
    ("deep", b"[" * 200_000, "samples damaged"),
    ("not a number", {"accuracy/t": {"float32": NAN}}, "edited by hand"),
]


@pytest.mark.parametrize(("change", "says"), [s[1:] for s in SAMPLES], ids=[s[0] for s in SAMPLES])
def test_hostile_samples_are_one_line(change: Any, says: str, tmp_path: Path) -> None:
    """Bombs are not unpacked, counts are not believed."""
    baselines = Baselines(tmp_path)
    (path,) = baselines.save(record(accuracy(3, of=4)), BECAUSE)
    spoil(path, change)
    with pytest.raises(PrunebenchError, match=says) as caught:
        baselines.load("a/b", "cpu")

    assert str(caught.value).isprintable()


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000])
def test_a_baseline_has_finite_numbers(number: str, tmp_path: Path) -> None:
    """JSON of other programs may have others."""
    baselines = Baselines(tmp_path)
    (path,) = baselines.save(record(accuracy(3, of=4)), BECAUSE)
    path.write_text(path.read_text().replace('"value": 0.75', f'"value": {number}'))
    with pytest.raises(PrunebenchError, match="damaged"):
        baselines.load("a/b", "cpu")


def test_a_published_zero_is_told(tmp_path: Path, cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """A percentage of nothing is left out."""
    from prunebench.reports import sentences

    now = record(accuracy(9, of=10), asked={"method": {"name": "sleb"}, "protocol": "sleb@1"})
    row = published.Row("s", "t", "sleb@1", "m", {"name": "sleb"}, "latency/t", 0.0)
    timed = replace(now, measurements=(replace(now.measurements[0], metric="latency/t"),))

    assert sentences.published_lines(timed, [row]) == ["published latency/t 0 (s, t), ours 0.9000"]


# --------------------------------------------------------------------------------- plans

PLANS = [
    ('{"plan": [{"edit": "drop_blocks", "blocks": [-1]}]}', "has no block -1"),
    ('{"plan": [{"edit": "drop_blocks", "blocks": [1e3]}]}', "Expected `int`|has no block|no plan"),
    ('{"plan": [{"edit": "drop_blocks", "blocks": [true]}]}', "Expected `int`"),
    ('{"plan": [{"edit": "merge_blocks", "ranges": [[0, 999999999999]]}]}', "has no block"),
    ('{"plan": [{"edit": "refit_weights", "modules": [], "tensors": "../../x"}]}', "their sha256"),
    ('{"plan": [{"edit": "refit_weights", "modules": [], "tensors": "/etc/x"}]}', "their sha256"),
    ('{"plan": [{"edit": "refit_weights", "modules": []}]}', "found none"),
    ("9" * 5000, "no model has that many blocks"),
    ("[" + "9" * 4000 + "]", "no model has that many blocks"),
    ('{"drop_attn_list": 5}', "expected a list under drop_attn_list"),
    ('{"drop_mlp_list": "12"}', "expected a list under drop_mlp_list"),
    ("[" * 1_000_000, "not valid JSON"),
    ("\u0663", "found '\u0663'"),
]


@pytest.mark.parametrize(("text", "says"), PLANS)
def test_a_hostile_plan_is_one_line(text: str, says: str, tmp_path: Path, cli) -> None:
    """Refused before a model is loaded; nothing is written."""
    path = tmp_path / "plan.json"
    path.write_text(text)
    with pytest.raises(PrunebenchError, match=says):
        plan_files.imported(path)
    code, out, err = cli("import-plan", path, "--output", tmp_path / "out.json")

    assert (code, out, err.count("\n")) == (2, "", 1)
    assert not (tmp_path / "out.json").exists()


@pytest.mark.parametrize(
    ("name", "tensor", "says"),
    [
        ("model.layers.0.mlp.down_proj", torch.zeros(32, 48, dtype=torch.int32), "no floating"),
        ("model.layers.0.mlp.down_proj", torch.zeros(48, 32), "expected"),
        ("model.layers.0.mlp.act_fn", torch.zeros(1), "has no weight"),
        ("", torch.zeros(1), "has no weight"),
        ("model.nothing", torch.zeros(1), "is not there"),
    ],
)
def test_tensors_that_do_not_fit_leave_the_model(name: str, tensor: Any, says: str, tiny) -> None:
    """Types, shapes and names are checked before anything is changed."""
    from prunebench.models.tensors import Tensors

    lm, tensors = tiny("llama"), Tensors()
    before = {n: p.clone() for n, p in lm.hf.named_parameters()}
    plan = Plan((RefitWeights((name,), tensors.add({name or "x": tensor})),), tensors=tensors)
    with pytest.raises(PrunebenchError, match=says):
        surgery.apply(lm, plan)

    assert all(torch.equal(p, before[n]) for n, p in lm.hf.named_parameters())


def test_only_the_modules_that_a_plan_names_are_refitted(tiny) -> None:
    """Others in the same bundle are nobody's wish."""
    from prunebench.models.tensors import Tensors

    lm, tensors = tiny("llama"), Tensors()
    one, other = "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"
    kept = lm.hf.get_submodule(other).weight.clone()
    bundle = {n: torch.zeros_like(lm.hf.get_submodule(n).weight) for n in (one, other)}
    surgery.apply(lm, Plan((RefitWeights((one,), tensors.add(bundle)),), tensors=tensors))

    assert not lm.hf.get_submodule(one).weight.any()
    assert torch.equal(lm.hf.get_submodule(other).weight, kept)


@pytest.mark.parametrize(
    "ids", ["[[1, -2]]", "[[1, 99999999999999999999]]", "[[1, 2.5]]", "[[1], 2]", "[" * 10**6]
)
def test_hostile_token_ids_are_one_line(ids: str, tmp_path: Path) -> None:
    """Before the model is loaded."""
    path = tmp_path / "ids.json"
    path.write_text(ids)
    with pytest.raises(PrunebenchError, match=r"ids\.json: "):
        prune._read_ids(path)


# --------------------------------------------------------------------------------- models

EVIL = "import pathlib\npathlib.Path(__file__).with_name('ran').touch()\nclass C: pass\n"


def model_with(folder: Path, **changes: Any) -> Path:
    """The reference model with files of other content, beside Python that would leave a mark."""
    model = folder / "model"
    shutil.copytree(reference.MODEL, model)
    (model / "evil.py").write_text(EVIL)
    for name, content in changes.items():
        path = model / name.replace("__", ".")
        if isinstance(content, dict) and path.is_file():
            content = {**json.loads(path.read_text()), **content}
        if content is None:
            path.unlink()
        else:
            path.write_bytes(
                content if isinstance(content, bytes) else json.dumps(content).encode()
            )
    return model


AUTO = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.C"}
TOKENIZER = {"auto_map": {"AutoTokenizer": ["evil.C", "evil.C"]}, "tokenizer_class": "C"}


@pytest.mark.filterwarnings("ignore::prunebench.errors.PrunebenchWarning")
@pytest.mark.parametrize(
    "changes",
    [
        {"config__json": {"auto_map": AUTO}},
        {"config__json": {"auto_map": AUTO, "model_type": "evil"}},
        {"tokenizer_config__json": TOKENIZER},
        {"generation_config__json": {"custom_generate": "./", "trust_remote_code": True}},
    ],
)
def test_code_beside_a_model_never_runs(changes: Any, tmp_path: Path) -> None:
    """Whether the model can be loaded without it or not."""
    import prunebench

    model = model_with(tmp_path, **changes)
    try:
        lm = prunebench.load_model(model)
        assert len(lm.blocks) == 12
    except PrunebenchError as error:
        assert "remote code is never run" in str(error)  # noqa: PT017

    assert not (model / "ran").exists()


def index(name: str) -> dict[str, Any]:
    """Changes after which the weights are where an index says."""
    return {
        "model__safetensors": None,
        "pytorch_model__bin": b"\x80\x04.",
        "model__safetensors__index__json": {"metadata": {}, "weight_map": {"a": name}},
    }


MODELS = [
    (
        {"model__safetensors": None, "pytorch_model__bin": b"x"},
        "pickled weights only .*save_pretrained",
    ),
    (index("pytorch_model.bin"), "only safetensors files next to it are read"),
    (index("../other/model.safetensors"), "only safetensors files next to it are read"),
    (index("/etc/passwd"), "only safetensors files next to it are read"),
    ({"model__safetensors__index__json": b"[" * 200_000, "model__safetensors": None}, "is damaged"),
    ({"model__safetensors": b"\xff" * 64}, "cannot be loaded"),
    ({"config__json": b"[" * 200_000}, "damaged: not JSON"),
    ({"config__json": b"[]"}, "damaged: expected a mapping"),
    ({"config__json": {"attn_implementation": "evil/kernel"}}, "code from the hub"),
    ({"config__json": {"_attn_implementation": {"": "evil/kernel"}}}, "code from the hub"),
    ({"adapter_config__json": {"base_model_name_or_path": "/x"}}, "merge the adapter"),
    ({"config__json": {"num_hidden_layers": 10**9}}, "num_hidden_layers 1000000000, expected"),
    ({"config__json": {"hidden_size": -1}}, "hidden_size -1, expected"),
    ({"config__json": {"num_attention_heads": 0}}, "num_attention_heads 0, expected"),
    ({"config__json": {"vocab_size": "x"}}, "vocab_size x, expected"),
    ({"config__json": {"hidden_size": float("nan")}}, "hidden_size nan, expected"),
    ({"config__json": {"model_type": ["llama"]}}, "the model_type"),
    ({"config__json": {"architectures": 3}}, "cannot be loaded"),
    ({"config__json": {"quantization_config": 3}}, "cannot be loaded"),
]


@pytest.mark.parametrize(("changes", "says"), MODELS)
def test_a_hostile_model_folder_is_one_line(changes: Any, says: str, tmp_path: Path) -> None:
    """As the model of a case, and as somebody's checkpoint."""
    from prunebench.models.loading import load_model

    model = model_with(tmp_path, **changes)
    for known in (True, False):
        with pytest.raises(PrunebenchError, match=says) as caught:
            load_model(model, known=known)
        assert str(caught.value).isprintable()
        assert "nothing is downloaded" not in str(caught.value)  # of a folder, nothing ever is


@pytest.mark.filterwarnings("ignore::prunebench.errors.PrunebenchWarning")
@pytest.mark.parametrize("name", ["tokenizer__json", "tokenizer_config__json"])
@pytest.mark.parametrize("content", [b"[" * 100_000, b"[]", b"{}", b"\xff"])
def test_a_damaged_tokenizer_is_a_warning(name: str, content: bytes, tmp_path: Path) -> None:
    """Token ids can still be scored."""
    import prunebench

    assert prunebench.load_model(model_with(tmp_path, **{name: content})).num_parameters > 0


def test_a_size_that_is_none_is_one_line() -> None:
    """Also where only the shape is asked for."""
    config = hub.config(reference.MODEL_ID) or {}
    with pytest.raises(PrunebenchError, match="a missing or invalid size"):
        shape_of({**config, "num_attention_heads": 0, "head_dim": None})


# --------------------------------------------------------------------------------- tasks

TASK = """\
task: t
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: gold
"""
QUESTION = {"prompt": "a b", "choices": ["c", "d"], "gold": 0}
REACH = "{{{{ cycler.__init__.__globals__.os.mkdir('{mark}') }}}}"


def task_folder(folder: Path, line: str) -> Path:
    """A folder with one task, and Python beside it that would leave a mark."""
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "evil.py").write_text(EVIL + "def go(doc): return 'x'\n")
    (folder / "data.jsonl").write_text(json.dumps(QUESTION) + "\n")
    (tasks / "t.yaml").write_text(TASK.format(data=folder / "data.jsonl") + line + "\n")
    return tasks


CODE = [
    ("doc_to_text: !function evil.go", "t.yaml:8:14: !function evil.go can run code"),
    ("process_docs: !function evil.go", "!function evil.go can run code"),
    ("class: !function evil.C", "can run code"),
    ("metric_list: [{metric: ./evil.py}]", "the metric './evil.py'"),
    ("metric_list: [{metric: acc, hf_evaluate: true}]", "hf_evaluate: true can run code"),
    ("generation_kwargs: {custom_generate: ./x}", "custom_generate: ./x can run code"),
    ("generation_kwargs: {trust_remote_code: true}", "trust_remote_code: true can run code"),
    ("dataset_path: ./evil.py", "data set loader './evil.py'"),
    ("dataset_path: pandas", "data set loader 'pandas'"),
    ("use_prompt: evil.yaml:x", "use_prompt: evil.yaml:x can run code"),
    ("include: ../other", "other:1:1"),
    ("doc_to_text: !!python/name:os.system", "can run code"),
    ("doc_to_text: " + "[" * 100_000, "more than 20 levels"),
]


@pytest.mark.parametrize(("line", "says"), CODE)
def test_a_task_folder_that_could_run_code_is_refused(line: str, says: str, tmp_path: Path) -> None:
    """When a case names it, and when it is measured; with the way to trust it."""
    tasks = task_folder(tmp_path, line)
    (tmp_path / "other").write_text("!function evil.go\n")
    with pytest.raises(PrunebenchError) as caught:
        task_trust.check(tasks)
    assert says in str(caught.value)
    path = tmp_path / "case.yaml"
    path.write_text(
        "model: {id: prunebench/reference}\nmethod: {name: dense}\n"
        "metrics: [{name: accuracy, tasks: [t], tasks_folder: ./tasks}]\n"
    )
    with pytest.raises(CaseError) as refused:
        loader.load([path])
    assert refused.value.problems[0].startswith(f"{path}:3:")
    assert says in str(refused.value)

    assert not (tasks / "ran").exists()


def test_a_trusted_folder_runs_and_the_record_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same folder, after the user said so."""
    from prunebench.runs.worker import environment

    assert environment("cpu").trusted == ()
    monkeypatch.setenv(task_trust.VARIABLE, "1")
    task_trust.check(task_folder(tmp_path, "doc_to_text: !function evil.go"))

    assert environment("cpu").trusted == ("task folders",)


@pytest.fixture(scope="module")
def shipped() -> Any:
    import prunebench

    return prunebench.load_model(reference.MODEL_ID)


@pytest.mark.parametrize("trusts", [False, True])
def test_a_template_reaches_nothing_but_its_data(
    trusts: bool, tmp_path: Path, shipped: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """lm-eval's own environment would run it: the second half shows that the test can fail."""
    mark = tmp_path / "ran"
    tasks = task_folder(tmp_path, f'doc_to_text: "{REACH.format(mark=mark)}"')
    metric = Accuracy(tasks=("t",), tasks_folder=str(tasks))
    monkeypatch.setenv(task_trust.VARIABLE, "1" if trusts else "0")
    if trusts:
        with pytest.raises(FileExistsError):  # the second mkdir finds the first
            list(metric.measure(shipped, shipped))
    else:
        with pytest.raises(PrunebenchError, match="unsafe"):
            list(metric.measure(shipped, shipped))

    assert mark.exists() == trusts


# --------------------------------------------------------------------------------- lm-eval results

RESULTS = {
    "results": {"t": {"acc,none": 0.5, "acc_stderr,none": 0.1}},
    "versions": {"t": 1},
    "n-shot": {"t": 0},
    "n-samples": {"t": {"effective": 10}},
    "config": {"model": "m"},
}


@pytest.mark.parametrize(
    "change",
    [
        {"results": {"t": {"acc,none": 10**400}}},
        {"results": {"t": []}},
        {"results": {"../../x": {"acc,none": 0.5}}},
        {"results": {"a\0b": {"acc,none": 0.5}}},
        {"config": [1]},
        {"n-samples": {"t": {"effective": "many"}}},
        {"n-samples": {"t": {"effective": -3}}},
        {"n-samples": []},
        {"results": {"t": {"acc,none": 0.5, "acc_stderr,none": float("nan")}}},
        {"results": {"t": {"acc,none": 0.5, "acc_stderr,none": -1}}},
        {"configs": 3},
        {"group_subtasks": 3},
    ],
)
def test_hostile_results_of_lm_eval_are_compared_or_one_line(
    change: Any, tmp_path: Path, cli
) -> None:
    """Two folders of them: an exit code of the contract, no traceback."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "results_2026-01-01T00-00-00.000000.json"
        path.write_text(json.dumps({**RESULTS, **change}))
    (tmp_path / "a/results_2027-01-01T00-00-00.000000.json").mkdir()
    code, out, err = cli("compare", tmp_path / "a", tmp_path / "b")

    assert code in (0, 2, 5)
    assert (code == 2) == (err.count("\n") == 1 and "results" in err)
    assert out.replace("\n", "").isprintable()


def test_samples_that_are_no_numbers_are_one_line(tmp_path: Path) -> None:
    """NaN is neither right nor wrong."""
    path = tmp_path / "results_2026-01-01T00-00-00.000000.json"
    path.write_text(json.dumps(RESULTS))
    beside = tmp_path / "samples_t_2026-01-01T00-00-00.000000.jsonl"
    beside.write_text('{"doc_hash": "x", "prompt_hash": "y", "acc": NaN}\n')
    with pytest.raises(PrunebenchError, match="acc is nan"):
        lm_eval_files.load(path)


# --------------------------------------------------------------------------------- what is shown

STEERING = "\x1b[31mred\x1b]8;;http://x\x1b\\[bold]\r\n\u202e\x9b2J"


def test_text_from_files_is_only_shown(project: Path, cli) -> None:
    """Names, notes and units with escapes and markup: in tables, lines and messages."""
    named = replace(
        accuracy(9, of=10), metric=f"accuracy/{STEERING}", unit=STEERING, note=STEERING, value=None
    )
    one = record(named, model_hash=STEERING, key="k" * 30, cost={STEERING: 1.0})
    Store(project / "store").save(one)
    files.write_json(project / "record.json", one)
    for command in (
        ["show", "a/b", "--store", "store", "--explain"],
        ["history", "a/b", "--store", "store", "--all", "--metric", "*"],
        ["compare", "record.json", "record.json", "--all"],
        ["list", STEERING],
        ["list", "-k", f"({STEERING}"],
        ["show", STEERING, "--store", "store"],
    ):
        code, out, err = cli(*command)
        assert code in (0, 1, 2, 5), err
        assert (out + err).replace("\n", "").isprintable()
        assert command[0] == "list" or "[bold]" in out + err


def test_no_line_is_a_command_to_a_ci_server(project: Path, cli) -> None:
    """A case or record from a pull request, shown in a job's log.

    GitHub's runner obeys a line that begins with ``::`` after blanks, and ``##[`` anywhere in one;
    Azure's ``##vso[``.
    """
    command = "x\n::error::a ##[group]b ##vso[task.setvariable variable=c]d\n \t ::stop-commands::e"
    case = {"model": {"id": command}, "method": {"name": "dense"}}
    (project / "cases/evil.yaml").write_text(json.dumps({"protocol": "tinyworld@1", **case}))
    named = replace(
        accuracy(9, of=10), metric=f"accuracy/{command}", unit=command, note=command, value=None
    )
    asked = {"model": {"id": command}, "method": {"name": command}, "metrics": []}
    Store(project / "store").save(record(named, key="k" * 30, asked=asked))
    for arguments in (
        ["run", "cases/evil.yaml", "-q", "--store", "other"],
        ["show", "a/b", "--store", "store", "--explain"],
        ["history", "a/b", "--store", "store", "--all", "--metric", "*"],
        ["list", command],
        ["export", "store"],
    ):
        _, out, err = cli(*arguments)
        assert "error" in out + err
        for line in (out + err).splitlines():
            assert not line.lstrip().startswith("::")
            assert "##[" not in line
            assert "##vso[" not in line


def test_a_folder_for_lm_eval_has_a_name_that_can_be_written_and_shown() -> None:
    """Control characters of a model's name are left out of it, as lm-eval leaves slashes out."""
    for name in (STEERING, "a\0b", "org/model\n"):
        model = {"model": {"id": name}, "method": {"name": "dense"}, "metrics": []}
        (folder,) = {Path(p).parent.name for p in lm_eval.layout([record(asked=model)])}
        assert not any(ord(letter) < 32 or 126 < ord(letter) < 160 for letter in folder)
    plain = record(asked={**model, "model": {"id": "org/model"}})
    assert [Path(p).parent.name for p in lm_eval.layout([plain])] == ["org__model"]


def test_long_text_is_cut() -> None:
    """A message stays one that can be read."""
    error = PrunebenchError("x" * 10_000_000)

    assert len(str(error)) < 1200
    assert "10,000,000 letters" in str(error)
    assert errors.inert("a\tb") == "a\\tb"

"""What must hold of any input: mutated case files, plans, records, baselines, arguments.

``PRUNEBENCH_EXAMPLES`` sets how many mutated case files are tried (``nox -s fuzz``: 10,000); the
other properties take a share of it. All of it is the same in every run.
"""

from __future__ import annotations

import copy
import json
import math
import os
import re
import shutil
import string
import struct
import unicodedata
import warnings
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import msgspec
import pytest
import yaml
from factories import ROOT, accuracy, record
from hypothesis import strategies as st
from msgspec.structs import replace

from prunebench import CaseError, Measurement, PrunebenchError, Record, Step
from prunebench.cases import loader
from prunebench.edits.drop_blocks import DropBlocks
from prunebench.edits.drop_sublayers import DropSublayers
from prunebench.edits.load_checkpoint import LoadCheckpoint
from prunebench.edits.merge_blocks import MergeBlocks
from prunebench.edits.refit_weights import RefitWeights
from prunebench.edits.slice_hidden import SliceHidden
from prunebench.models import plan_files
from prunebench.plan import Plan
from prunebench.record import HUGE, Environment
from prunebench.results import readers
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.store import Store
from prunebench.system import files

EXAMPLES = int(os.environ.get("PRUNEBENCH_EXAMPLES", "300"))
CASES = ROOT / "cases"
#: Exit codes of the contract.
CODES = {0, 1, 2, 3, 4, 5, 6, 75, 130}

ODD: list[Any] = [
    *(None, True, False, 0, -1, 1.5, 1e308, math.inf, -math.inf, math.nan, 2**63, -(2**70)),
    *(
        "",
        " ",
        "x" * 300,
        "../..",
        "/etc/passwd",
        "a\nb",
        "\x1b[31mred",
        "[bold]",
        "\u202e",
        "1e999",
    ),
    *("2024-01-01", "yes", "0x10", "1:30", "\x00", "./\x00", "accuracy: now <", "random"),
    *([], {}, [[]], [None], {"name": None}, {"a": {"b": {}}}, [1, "a", {}], {"": ""}),
]
KEYS = [
    *("model", "id", "method", "name", "metrics", "matrix", "include", "exclude", "extends"),
    *("defaults", "protocol", "sparsity", "blocks", "calibration", "seed", "tolerance", "abs"),
    *("needs", "marks", "alpha", "published", "fail_on", "device_map", "tasks", "dataset", "plan"),
]
PIECES = [
    *(
        ": ",
        "- ",
        "{",
        "}",
        "[",
        "]",
        "&a ",
        "*a",
        "<<: *a",
        "!!python/name:os.system ",
        "!x ",
        "|\n",
    ),
    *(
        "? ",
        "#",
        "'",
        '"',
        "\t",
        "\n",
        "\r",
        "---\n",
        "...\n",
        "%YAML 9.9\n",
        "\x00",
        "\x1b",
        "\ufeff",
    ),
    *("\x85", "\u2028", "\U0001f600", "null", ".nan", "0b1", "1_0", "&a [*a]", "{" * 40, "\\ud800"),
]


def settings(share: float = 1.0) -> hypothesis.settings:
    """The same examples in every run, however slow the machine is."""
    return hypothesis.settings(
        max_examples=max(10, int(EXAMPLES * share)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


# ----------------------------------------------------------------------------------- mutations


@st.composite
def mutated_text(draw: st.DrawFn, text: str) -> bytes:
    """*text* with lines deleted, doubled, swapped or moved, and pieces and bytes put in."""
    lines = text.splitlines(keepends=True)
    for _ in range(draw(st.integers(1, 4))):
        if not lines:
            break
        i, j = (draw(st.integers(0, len(lines) - 1)) for _ in range(2))
        kind = draw(st.sampled_from(["delete", "double", "swap", "indent", "piece", "cut"]))
        if kind == "delete":
            del lines[i]
        elif kind == "double":
            lines.insert(j, lines[i])
        elif kind == "swap":
            lines[i], lines[j] = lines[j], lines[i]
        elif kind == "indent":
            lines[i] = draw(st.sampled_from(["  ", " ", "\t"])) + lines[i]
        elif kind == "piece":
            at = draw(st.integers(0, len(lines[i])))
            lines[i] = lines[i][:at] + draw(st.sampled_from(PIECES)) + lines[i][at:]
        else:
            lines[i] = lines[i][: draw(st.integers(0, len(lines[i])))]
    data = "".join(lines).encode("utf-8", "surrogatepass")
    if draw(st.integers(0, 9)) == 0:
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(min_size=1, max_size=4)) + data[at:]
    return data


def places(data: Any, where: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in plain data."""
    yield where
    if isinstance(data, dict | list):
        for key, item in data.items() if isinstance(data, dict) else enumerate(data):
            yield from places(item, (*where, key))


@st.composite
def mutated_data(draw: st.DrawFn, data: Any) -> Any:
    """*data* with values replaced, taken out, or put where none were."""
    data = copy.deepcopy(data)
    # A list of them may be put into itself.
    odd = st.sampled_from(ODD).map(copy.deepcopy)
    for _ in range(draw(st.integers(1, 3))):
        where = draw(st.sampled_from(list(places(data))))
        if not where:
            if isinstance(data, dict):
                data[draw(st.sampled_from(KEYS))] = draw(odd)
            continue
        inner = data
        for key in where[:-1]:
            inner = inner[key]
        kind = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        here = inner[where[-1]]
        if kind == "remove":
            del inner[where[-1]]
        elif kind == "add" and isinstance(here, dict):
            here[draw(st.sampled_from(KEYS))] = draw(odd)
        elif kind == "add" and isinstance(here, list):
            here.append(draw(odd))
        else:
            inner[where[-1]] = draw(odd)
    return data


def check_inert(*texts: str) -> None:
    """A terminal would only show each line of *texts*, by Unicode's own classes of characters."""
    for text in texts:
        for line in text.split("\n"):
            assert not any(unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") for c in line), line


def check_places(problems: tuple[str, ...]) -> None:
    """Each of *problems* is one inert line that begins with a place which its file has."""
    assert problems
    check_inert(*problems)
    for problem in problems:
        place = PLACE.match(problem)
        assert place, problem
        assert "\n" not in problem
        # YAML ends a line where Python's splitlines does, or at fewer characters.
        count = len(Path(place["file"]).read_bytes().decode("utf-8", "replace").splitlines())
        assert 1 <= int(place["line"]) <= count + 1, problem
        assert int(place["column"]) >= 1


# ----------------------------------------------------------------------------------- case files

SOURCES = sorted(CASES.rglob("*.yaml"))
TEXTS = {path: path.read_text() for path in SOURCES}


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of our own case files, in which mutants stand beside the file they come from."""
    folder = tmp_path_factory.mktemp("mutants") / "cases"
    shutil.copytree(CASES, folder)
    return folder


@st.composite
def mutants(draw: st.DrawFn) -> tuple[Path, bytes]:
    """A case file of ours, and what became of it."""
    path = draw(st.sampled_from(SOURCES))
    if draw(st.booleans()):
        return path, draw(mutated_text(TEXTS[path]))
    data = draw(mutated_data(yaml.safe_load(TEXTS[path])))
    return path, yaml.safe_dump(data, sort_keys=False).encode("utf-8", "surrogatepass")


PLACE = re.compile(r"(?P<file>[^\n]*?):(?P<line>\d+):(?P<column>\d+): \S")


@pytest.mark.slow
@hypothesis.given(mutant=mutants())
@settings()
def test_a_mutated_case_file_is_cases_or_lines_that_name_a_place(
    mutant: tuple[Path, bytes], copies: Path
) -> None:
    """No error but ours; each problem is one inert line with a place that the file has."""
    path, data = mutant
    file = copies / path.relative_to(CASES).with_name("mutant.yaml")
    file.write_bytes(data)
    try:
        cases = loader.load([file])
    except CaseError as error:
        check_places(error.problems)
    else:
        for case in cases:
            assert files.is_name(case.id)
            assert 1 <= case.line <= data.count(b"\n") + data.count(b"\r") + 1
    finally:
        file.unlink()


SETTING_KEYS = st.sampled_from(
    [
        "model.id",
        "sparsity",
        "metrics.0.seqlen",
        "metrics.9.x",
        "method",
        "a..b",
        "",
        "alpha",
        "x" * 99,
    ]
)
SETTING_VALUES = st.one_of(
    st.sampled_from([json.dumps(v) for v in ODD if v == v] + PIECES), st.text(max_size=20)
)


@pytest.mark.slow
@hypothesis.given(key=SETTING_KEYS, value=SETTING_VALUES)
@settings(0.3)
def test_any_setting_is_cases_or_plain_lines(key: str, value: str, copies: Path) -> None:
    """``--set`` texts, likewise."""
    try:
        loader.load([copies / "smoke/tinyworld.yaml"], [f"{key}={value}"])
    except PrunebenchError as error:
        check_inert(str(error))


# ----------------------------------------------------------------------------------- plans

BLOCKS = st.integers(0, 99)
NUMBERS = st.floats(-HUGE, HUGE)
SHA = st.text("0123456789abcdef", min_size=64, max_size=64)
WORDS = st.text(max_size=30)
EDITS = st.one_of(
    st.builds(DropBlocks, st.lists(BLOCKS, unique=True).map(tuple)),
    st.builds(
        DropSublayers,
        st.lists(st.tuples(BLOCKS, st.sampled_from(["attn", "mlp"])), unique=True).map(tuple),
        NUMBERS,
    ),
    st.builds(
        MergeBlocks,
        st.lists(st.tuples(BLOCKS, BLOCKS)).map(tuple),
        st.sampled_from(["as_released", "as_published"]),
    ),
    st.builds(LoadCheckpoint, WORDS, SHA),
)
NAMING = st.one_of(
    st.builds(SliceHidden, st.lists(st.integers(1, 9999)).map(tuple), tensors=SHA),
    st.builds(RefitWeights, st.lists(WORDS).map(tuple), SHA),
)
STEPS = st.builds(
    Step,
    st.integers(0, 99),
    st.dictionaries(WORDS, st.none() | NUMBERS, max_size=3),
    WORDS,
    margin=st.none() | NUMBERS,
    noise=NUMBERS,
    ranking=st.dictionaries(WORDS, NUMBERS, max_size=3),
)


@hypothesis.given(
    edits=st.lists(EDITS, min_size=1, max_size=4).map(tuple), trace=st.lists(STEPS).map(tuple)
)
@settings(0.2)
def test_a_plan_comes_back_from_its_file(
    edits: Any, trace: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Edits and trace, exactly, through ``prune --json`` and ``import-plan``."""
    file = tmp_path_factory.getbasetemp() / "plan.json"
    files.write_json(file, {"plan": edits, "trace": trace, "model": "x"})

    assert plan_files.read(file) == Plan(edits, trace)
    assert plan_files.imported(file).edits == edits


JUNK = st.recursive(
    st.sampled_from(ODD) | st.integers(-2, 2**64) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from([*plan_files.LISTS, "plan", "edit", "drop_attn_list"]), inner
        )
    ),
    max_leaves=8,
)


@hypothesis.given(
    content=st.one_of(
        st.binary(max_size=60),
        JUNK.map(lambda data: json.dumps(data).encode()),
        st.text("0123456789.,; \n-attnmlp[]\"'", max_size=40).map(str.encode),
    ),
    unit=st.sampled_from(["blocks", "sublayers"]),
    count=st.none() | st.integers(1, 5),
)
@settings(0.5)
def test_any_removal_list_is_a_plan_or_one_line(
    content: bytes, unit: str, count: int | None, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No other error, and a plan that came of it removes each unit once."""
    file = tmp_path_factory.getbasetemp() / "junk"
    file.write_bytes(content)
    for read in (lambda: plan_files.imported(file, unit, count), lambda: plan_files.read(file)):
        try:
            plan = read()
        except PrunebenchError as error:
            check_inert(str(error))
        else:
            assert all(
                0 <= number < 100_000
                for edit in plan.edits
                if isinstance(edit, DropBlocks)
                for number in edit.blocks
            )


# ----------------------------------------------------------------------------------- records

NAMES = st.text(string.ascii_letters + "/-.", min_size=1, max_size=12)


@st.composite
def measurements(draw: st.DrawFn, name: str) -> Measurement:
    """Of any kind: right or wrong, losses, timings, none finite."""
    count = draw(st.integers(0, 6))
    marks = st.sampled_from([0.0, 1.0])
    kind = draw(st.sampled_from([marks, NUMBERS, st.floats(0, 1, width=32)]))
    margins = draw(st.booleans())
    clustered = draw(st.booleans())
    many = {"min_size": count, "max_size": count}
    return Measurement(
        name,
        draw(st.none() | NUMBERS),
        draw(WORDS),
        draw(st.sampled_from(["lower", "higher"])),
        tuple(draw(st.lists(kind, **many))),
        paired=bool(count) and draw(st.booleans()),
        note=draw(st.sampled_from(["", "out of memory"])),
        margins=tuple(draw(st.lists(NUMBERS, **many))) if margins else (),
        clusters=tuple(draw(st.lists(st.integers(0, 99), **many))) if clustered else (),
        chance=draw(st.none() | st.floats(0, 1)),
    )


@st.composite
def records(draw: st.DrawFn) -> Record:
    """Any record that a run could write."""
    names = draw(st.lists(NAMES, unique=True, max_size=4))
    gone = draw(st.integers(0, 10**12))
    return Record(
        "a/b",
        {"method": {"name": draw(WORDS)}, "metrics": [{"name": n.split("/")[0]} for n in names]},
        tuple(draw(st.lists(EDITS | NAMING, max_size=3))),
        tuple(draw(st.lists(STEPS, max_size=3))),
        draw(st.integers(0, 10**12)),
        gone + 1,
        tuple(draw(measurements(name)) for name in names),
        draw(st.dictionaries(WORDS, NUMBERS, max_size=3)),
        Environment(draw(st.sampled_from(["cpu", "nvidia-h200"])), "3", "L", 1, {}, gpu={"a": 1}),
        draw(WORDS),
        draw(st.sampled_from(["2026-11-22T00:00:00+00:00", "2026-11-23T00:00:00+00:00"])),
        draw(SHA),
    )


@hypothesis.given(one=records())
@settings(0.2)
def test_a_record_comes_back_bit_for_bit(one: Record, tmp_path_factory: Any) -> None:
    """From JSON, and from the store."""
    assert msgspec.json.decode(msgspec.json.encode(one), type=Record) == one

    root = tmp_path_factory.getbasetemp() / "store"
    shutil.rmtree(root, ignore_errors=True)
    store = Store(root)
    store.save(one)
    assert store.find("a/b", one.key) == one
    assert store.answers("a/b") == [one]
    assert store.case_ids() == ["a/b"]


FORMATS = ("markdown", "csv", "latex", "json", "junit", "lm-eval", "bencher")


@pytest.mark.slow
@hypothesis.given(found=st.lists(records(), min_size=1, max_size=3))
@hypothesis.settings(
    settings(0.04), phases=[hypothesis.Phase.generate]
)  # one takes too long to shrink
def test_any_records_are_shown_by_every_report(
    found: list[Record], tmp_path_factory: Any, cli: Any
) -> None:
    """Terminal, files, boards and site: no traceback, and nothing but what can be shown."""
    root = tmp_path_factory.getbasetemp() / "shown"
    shutil.rmtree(root, ignore_errors=True)
    for number, one in enumerate(found):
        Store(root / "store").save(replace(one, case_id=f"a/b{number}"))
    commands = [["export", root / "store", "--format", name] for name in FORMATS]
    commands[FORMATS.index("lm-eval")] += ["--output", root / "out"]
    commands += [
        ["show", "a/b0", "--explain", "--provenance", "--store", root / "store"],
        ["history", "a/b0", "--store", root / "store"],
        ["leaderboard", root / "store"],
        ["leaderboard", root / "store", "--site", root / "site"],
    ]
    for command in commands:
        code, out, err = cli(*command)
        assert code == 0, (command, err)
        # These two keep every letter, for the programs that read them.
        check_inert("" if "csv" in command or "junit" in command else out, err)
    # Two cases that ask the same are one row.
    assert 1 <= len(list((root / "site" / "cases").iterdir())) <= len(found)


WHOLE = record(
    accuracy(37, of=90),
    Measurement("perplexity/t", 1.9, "ppl", "lower", (0.5, 1.25), paired=True, margins=(0.5, -1.0)),
    Measurement("latency/decode", 3.5, "ms", "lower", (3.0, 3.5, 4.5)),
    key="f" * 64,
    environment=Environment("nvidia-h200", "3", "L", 1, {"torch": "2"}),
)
WHO = Accepted(by="someone", when="2026-11-22T00:00:00+00:00", because="first")


@st.composite
def spoiled(draw: st.DrawFn, content: bytes) -> bytes:
    """A JSON file with bytes or values changed."""
    if draw(st.booleans()):
        return json.dumps(draw(mutated_data(json.loads(content)))).encode()
    at = draw(st.integers(0, len(content)))
    cut = draw(st.integers(0, 5))
    return content[:at] + draw(st.binary(max_size=5)) + content[at + cut :]


@hypothesis.given(data=st.data())
@settings(0.4)
def test_a_spoiled_record_is_absent_or_one_line(data: st.DataObject, tmp_path_factory: Any) -> None:
    """The store passes over it, ``compare`` says what is wrong; neither fails otherwise."""
    root = tmp_path_factory.getbasetemp() / "spoiled"
    store = Store(root)
    shutil.rmtree(root, ignore_errors=True)
    path = store.save(WHOLE)
    path.write_bytes(data.draw(spoiled(path.read_bytes())))

    assert store.case_ids() == ["a/b"]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        records = (store.find("a/b", WHOLE.key), store.latest("a/b"))
    check_inert(*(str(one.message) for one in said))
    for found in records:
        assert found is None or found.case_id == "a/b"
    try:
        readers.read(path)
        readers.read(root)
    except PrunebenchError as error:
        check_inert(str(error))


# ----------------------------------------------------------------------------------- baselines


def single(value: float) -> float:
    """The nearest float of 32 bits."""
    return float(array("f", [value])[0])


def half(value: float) -> float:
    """The nearest float of 16 bits; what is beyond is the largest."""
    kept = max(-65504.0, min(65504.0, value))
    return float(struct.unpack("<e", struct.pack("<e", kept))[0])


FITTING = st.floats(-3e38, 3e38)


@hypothesis.given(
    value=NUMBERS,
    samples=st.lists(FITTING, min_size=1, max_size=5) | st.lists(st.sampled_from([0.0, 1.0])),
    margins=st.booleans(),
    one=records(),
)
@settings(0.2)
def test_a_baseline_keeps_what_it_says_it_keeps(
    value: float, samples: list[float], margins: bool, one: Record, tmp_path_factory: Any
) -> None:
    """All of the record exactly, but samples in 32 bits and margins in 16."""
    root = tmp_path_factory.getbasetemp() / "baselines"
    shutil.rmtree(root, ignore_errors=True)
    kept = tuple(samples) if margins else ()
    given = Measurement("perplexity/t", value, "ppl", "lower", tuple(samples), bool(samples))
    one = replace(one, measurements=(replace(given, margins=kept),))
    Baselines(root).save(one, WHO)

    expected = replace(
        given,
        samples=tuple(map(single, samples)),
        margins=tuple(map(half, kept)),
    )
    assert Baselines(root).load("a/b", "cpu") == replace(one, measurements=(expected,))


@hypothesis.given(data=st.data(), beside=st.booleans())
@settings(0.4)
def test_a_spoiled_baseline_is_one_line(
    data: st.DataObject, beside: bool, tmp_path_factory: Any
) -> None:
    """Whatever was changed in one of its files, it is no baseline, or the same one."""
    root = tmp_path_factory.getbasetemp() / "spoiled-baselines"
    shutil.rmtree(root, ignore_errors=True)
    paths = Baselines(root).prepare(WHOLE, WHO)
    sound = dict(paths)
    for path, content in sound.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    whole = Baselines(root).load("a/b", "nvidia-h200")
    wanted = [p for p in sound if (p.suffix == ".gz") == beside]
    path = data.draw(st.sampled_from(wanted))
    if beside:
        at = data.draw(st.integers(0, len(sound[path])))
        content = sound[path][:at] + data.draw(st.binary(max_size=4)) + sound[path][at + 2 :]
    else:
        content = data.draw(spoiled(sound[path]))
    path.write_bytes(content)
    try:
        found = Baselines(root).load("a/b", "nvidia-h200")
        Baselines(root).accepted("a/b")
    except PrunebenchError as error:
        check_inert(str(error))
    else:
        assert found == whole or b'"accepted"' in content


# ----------------------------------------------------------------------------------- arguments

WORDS_OF_USERS = [
    *("cases", "cases/small.yaml", "nowhere", ".", "/etc/passwd", "store", "baselines", "a/b", "b"),
    *(
        "plan.json",
        "record.json",
        "--json",
        "-k",
        "sleb",
        "not (",
        "--set",
        "a=b",
        "sparsity=[",
        "--all",
    ),
    *(
        "--store",
        "--baselines",
        "--strict",
        "--fail-on",
        "worse",
        "x: now <",
        "--limit",
        "0",
        "-1",
        "2",
    ),
    *(
        "--device",
        "cpu",
        "cuda:99",
        "--alpha",
        "0.05",
        "nan",
        "--detect",
        "1pp",
        "--explain",
        "--last",
    ),
    *(
        "--metric",
        "accuracy/*",
        "--unit",
        "sublayers",
        "--count",
        "--orphaned",
        "--dry-run",
        "--schema",
    ),
    *("--format", "latex", "csv", "junit", "lm-eval", "--wide", "--title", "--link", "--keep-last"),
    *("--help", "", "\x1b[31m", "\u202e", "x" * 300, "--", "-", "--nonsense", "-v", "-q", "../.."),
]
COMMANDS = [
    *(["list"], ["check"], ["run", "--dry-run"], ["show"], ["compare"], ["history"], ["power"]),
    *(["baseline", "list"], ["baseline", "review"], ["baseline", "rm", "--dry-run"], ["baseline"]),
    *(["import-plan"], [], ["nonsense"], ["--version"]),
    *(["export"], ["cache", "info"], ["cache", "verify"], ["cache", "gc", "--dry-run"]),
    *(["leaderboard"], ["notify", "--dry-run"]),
]
#: Where ``--json`` names a file to write, which may well be one of the user's.
WRITING = ("leaderboard", "notify", "run")


@pytest.fixture
def furnished(project: Path) -> Path:
    """A user's folder with a case, a record, a baseline, a plan."""
    Store(project / "store").save(WHOLE)
    Baselines(project / "baselines").save(WHOLE, WHO)
    files.write_json(project / "record.json", WHOLE)
    (project / "plan.json").write_text("[5, 3]")
    return project


@pytest.mark.slow
@hypothesis.given(
    command=st.sampled_from(COMMANDS),
    words=st.lists(st.sampled_from(WORDS_OF_USERS), max_size=5),
)
@settings(0.3)
def test_any_arguments_end_with_a_code_of_the_contract(
    command: list[str], words: list[str], furnished: Path, cli: Any
) -> None:
    """No traceback (which would be no SystemExit), and nothing but what can be shown."""
    before = {p: p.read_bytes() for p in furnished.rglob("*") if p.is_file()}
    if command and command[0] in WRITING:
        words = [word for word in words if word != "--json"]
    code, out, err = cli(*command, *words)

    assert code in CODES
    check_inert(out, err)
    for path, content in before.items():
        assert path.read_bytes() == content

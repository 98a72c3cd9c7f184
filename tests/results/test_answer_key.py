"""What an answer is known by: content and code that matter, whatever it is called."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from prunebench import Method, PrunebenchError, progress, reference, registry
from prunebench.case import Case
from prunebench.cases import loader
from prunebench.results import answer_key, code_reach
from prunebench.system import hash_cache

CASE = """\
model: {{id: {model}}}
method: {{name: sleb{extra}}}
blocks: 1
calibration: {{dataset: {calibration}}}
metrics:
  - {{name: perplexity, dataset: {measured}, seqlen: 64}}
"""


@pytest.fixture(autouse=True)
def own_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(tmp_path / "cache"))


def key(
    folder: Path,
    model: str = "./one",
    calibration: str = "./one.txt",
    measured: str = "tinyworld",
    extra: str = "",
) -> str:
    path = folder / "case.yaml"
    path.write_text(
        CASE.format(model=model, calibration=calibration, measured=measured, extra=extra)
    )
    (case,) = loader.load([path])
    found = answer_key.key(case, "cpu")
    assert found is not None
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        shutil.copytree(reference.MODEL, tmp_path / name)
        (tmp_path / f"{name}.txt").write_text("some text\n")
    return tmp_path


def test_a_copy_under_another_name_is_the_same_question(place: Path) -> None:
    """A renamed checkpoint, a copy of it and another calibration file of the same text all hit."""
    first = key(place)

    assert key(place, model="./two", calibration="./two.txt") == first
    (place / "one").rename(place / "three")
    assert key(place, model="./three") == first
    # The file's name is in the measurement's.
    assert key(place, "./two", measured="./one.txt") != key(place, "./two", measured="./two.txt")


@pytest.mark.parametrize(
    "file", ["config.json", "tokenizer.json", "generation_config.json", "chat_template.jinja"]
)
def test_any_file_that_decides_a_number_is_in_the_key(place: Path, file: str) -> None:
    """Config, tokenizer, generation defaults, the template of chats."""
    first, path = key(place), place / "one" / file
    path.write_text((path.read_text() if path.is_file() else "{}") + "\n")

    assert key(place) != first


def test_text_options_and_settings_are_in_the_key(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data, which data is which, a method's option, TF32; threads are not."""
    first = key(place)
    assert key(place, extra=", keep_first: 2") != first
    (place / "two.txt").write_text("another text\n")
    assert key(place, calibration="./two.txt") != first

    shutil.copy(place / "one.txt", place / "a.txt")
    (place / "other").mkdir()
    (place / "other" / "a.txt").write_text("another text\n")
    one, other = "./a.txt", "./other/a.txt"
    assert key(place, calibration=one, measured=other) != key(
        place, calibration=other, measured=one
    )

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert key(place) == first
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    assert key(place) != first


def test_a_rewritten_checkpoint_misses_also_with_its_old_size_and_time(place: Path) -> None:
    """The time that no program can set tells."""
    weights = place / "one" / "model.safetensors"
    at_rest(weights)
    first, before = key(place), weights.stat()
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))

    after = weights.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert key(place) != first


# ------------------------------------------------------------------------------ our own code


def copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package's sources, which *reach* takes for the package."""
    package = tmp_path / "prunebench"
    shutil.copytree(code_reach.PACKAGE, package, ignore=lambda _, names: {*names} & {"_shipped"})
    monkeypatch.setattr(code_reach, "PACKAGE", package)
    return package


def codes(package: Path, *names: str) -> dict[str, str]:
    """The hash of each plug-in's code, as it would be in a new process."""
    code_reach.digest.cache_clear()
    starts = {name: package / f"{name}.py" for name in names}
    return {n: code_reach.digest(package / "runs/worker.py", start) for n, start in starts.items()}


def test_only_code_that_can_move_a_number_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Words and judgement do not; the model, the worker and what a plug-in imports do."""
    package = copied(tmp_path, monkeypatch)
    names = ("methods/sleb", "methods/slicegpt", "metrics/accuracy", "metrics/memory")
    before = codes(package, *names)

    def changed(module: str) -> set[str]:
        path = package / f"{module}.py"
        content = path.read_text()
        path.write_text(content + "# changed\n")
        after = codes(package, *names)
        path.write_text(content)
        return {name.split("/")[1] for name in names if after[name] != before[name]}

    judging = ("verdicts/verdict", "verdicts/significance", "results/judging", "results/store")
    wording = ("reports/sentences", "reports/explain", "cli/commands")
    for module in (*judging, *wording, "methods/sprint"):
        assert changed(module) == set(), module
    models = ("models/causal_lm", "models/surgery", "models/modeling")
    for module in (*models, "runs/worker", "case", "__init__"):
        assert len(changed(module)) == len(names), module
    assert changed("models/scoring") == {"accuracy"}
    assert changed("methods/sleb") == {"sleb"}
    assert changed("methods/_slicing") == {"slicegpt"}  # imported in a function
    assert changed("metrics/_peak") == {"memory"}  # named as the program of another process


@pytest.mark.slow
def test_a_new_import_is_followed_and_a_type_checkers_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the top, in a function, in a block for types."""
    package = copied(tmp_path, monkeypatch)
    start = package / "methods" / "sleb.py"
    content = start.read_text()
    report = package / "reports" / "sentences.py"
    assert report not in code_reach.reached(start)
    for new, follows in (
        ("from ..reports import sentences\n", True),
        ("def late():\n    from ..reports.sentences import console\n", True),
        ("import prunebench.reports.sentences\n", True),
        ("if TYPE_CHECKING:\n    from ..reports.sentences import console\n", False),
        ("if TYPE_CHECKING:\n    pass\nelse:\n    from ..reports.sentences import console\n", True),
    ):
        start.write_text(content + new)
        code_reach._imports.cache_clear()
        assert (report in code_reach.reached(start)) is follows, new


def test_nothing_that_is_reached_imports_by_a_computed_name() -> None:
    """What the sources do not say cannot be followed; edits are, without being said."""
    plugins = [p for k in ("methods", "metrics") for p in (code_reach.PACKAGE / k).glob("*.py")]
    finders = {code_reach.PACKAGE / f"{name}.py" for name in ("__init__", "discovery")}
    for file in code_reach.reached(code_reach.PACKAGE / "runs" / "worker.py", *plugins):
        if file not in finders:
            text = file.read_text()
            assert "import_module(" not in text, file
            assert "__import__(" not in text, file
            assert "spec_from_file" not in text, file


def test_the_code_that_runs_is_the_code_that_counts(tmp_path: Path) -> None:
    """Every file of ours with a line that runs while a case is answered is among those reached."""
    from prunebench.runs.worker import Worker

    text = CASE.format(
        model="prunebench/reference",
        extra="",
        calibration="tinyworld, nsamples: 2, seqlen: 64",
        measured="tinyworld, nsamples: 2",
    )
    path = tmp_path / "case.yaml"
    path.write_text(text + "  - {name: accuracy, tasks: [tinyworld_facts], limit: 4}\n")
    (case,) = loader.load([path])
    worker = Worker("cpu")
    worker.run(case)  # imports what it needs, which would take long while every call is traced
    ran: set[str] = set()
    before = sys.gettrace()
    sys.settrace(lambda frame, *_: ran.add(frame.f_code.co_filename))
    try:
        worker.run(case)
    finally:
        sys.settrace(before)
    ours = {file for name in ran if code_reach.PACKAGE in (file := Path(name)).parents}
    starts = [
        code_reach.PACKAGE / f"{n}.py"
        for n in ("runs/worker", "methods/sleb", "metrics/perplexity")
    ]
    counted = code_reach.reached(*starts, code_reach.PACKAGE / "metrics" / "accuracy.py")

    assert len(ours) > 10
    # Code of the tasks is in the key with their folder.
    assert {file for file in ours if reference.TASKS not in file.parents} <= set(counted)


def test_a_strangers_plugin_counts_with_what_it_imports(tmp_path: Path) -> None:
    """Its own neighbours, and what it takes from us; of installed packages its own alone."""
    project = tmp_path / "project"
    project.mkdir()
    (project / "mine.py").write_text(
        "import helper\nfrom prunebench import apply\nfrom prunebench.models.stream import Stream\n"
    )
    (project / "helper.py").write_text("")
    found = set(code_reach.reached(project / "mine.py"))
    ours = {
        p.relative_to(code_reach.PACKAGE).as_posix()
        for p in found
        if code_reach.PACKAGE in p.parents
    }
    assert project / "helper.py" in found
    assert {"models/stream.py", "runs/functional.py", "models/surgery.py"} <= ours
    assert "reports/sentences.py" not in ours

    installed = tmp_path / "site-packages"
    for name in ("plug", "other"):
        (installed / name).mkdir(parents=True)
        (installed / name / "__init__.py").write_text("")
        (installed / name / "part.py").write_text("")
    (installed / "plug" / "main.py").write_text("import plug.part, other.part\n")
    names = {
        p.relative_to(installed).as_posix() for p in code_reach.reached(installed / "plug/main.py")
    }
    assert names == {"plug/__init__.py", "plug/main.py", "plug/part.py"}


def test_a_method_of_no_file_is_known_by_its_source() -> None:
    """One that was typed in has its name at least."""
    namespace = {"Method": Method, "__name__": "nowhere"}
    exec("class Typed(Method, frozen=True, tag='typed'): pass", namespace)  # noqa: S102
    sleb = registry.method("sleb")
    assert answer_key.code_hash(namespace["Typed"]()) != answer_key.code_hash(sleb())  # type: ignore[operator]


# ------------------------------------------------------------------------------ the memory


def at_rest(path: Path) -> None:
    """As if the file had been written long ago; the change itself cannot be set back."""
    os.utime(path, (0, 0))


@pytest.fixture
def rested(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are at rest at once, and all are large enough to be remembered."""
    monkeypatch.setattr(hash_cache, "REST", -1)
    monkeypatch.setattr(hash_cache, "SMALL", 0)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files whose content was read, in a process that knows nothing yet."""
    monkeypatch.setattr(hash_cache, "_KNOWN", {})
    names: list[str] = []
    told = hash_cache._digest

    def counted(stream, entry):
        names.append(Path(entry.path).name)
        return told(stream, entry)

    monkeypatch.setattr(hash_cache, "_digest", counted)
    return names


@pytest.mark.slow
def test_a_file_is_read_once_for_all_processes(
    tmp_path: Path, rested: None, reads: list[str]
) -> None:
    """Remembered on disk; and it is the sha256, as coreutils has it."""
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 3_000_000)
    expected = subprocess.run(
        ["sha256sum", path], capture_output=True, text=True, check=True
    ).stdout.split()[0]

    assert hash_cache.sha256(path) == expected
    hash_cache._KNOWN.clear()
    assert hash_cache.sha256(path) == expected
    assert reads == ["weights"]


def test_touching_costs_one_reading_and_changes_nothing(
    tmp_path: Path, rested: None, reads: list[str]
) -> None:
    """Another time, the same content."""
    path = tmp_path / "weights"
    path.write_text("abc")
    first = hash_cache.sha256(path)
    os.utime(path, (1, 1))

    assert [hash_cache.sha256(path) for _ in range(3)] == [first] * 3
    assert reads == ["weights", "weights"]


def test_what_was_just_written_is_not_believed_next_time(tmp_path: Path, reads: list[str]) -> None:
    """Within the grain of the clock another content may have the same times."""
    path = tmp_path / "weights"
    path.write_bytes(b"x" * hash_cache.SMALL)
    hash_cache.sha256(path)
    hash_cache.sha256(path)

    assert reads == ["weights", "weights"]
    assert not hash_cache.memory().exists()


@pytest.mark.parametrize("damage", ["", "{", '{"path": 3}', "[" * 2000, '"'])
def test_a_damaged_memory_is_as_good_as_none(
    tmp_path: Path, rested: None, reads: list[str], damage: str
) -> None:
    """No error; the file is read again and the entry is whole afterwards."""
    path = tmp_path / "weights"
    path.write_text("abc")
    first = hash_cache.sha256(path)
    (entry,) = hash_cache.memory().iterdir()
    good = entry.read_bytes()
    entry.write_text(damage)
    hash_cache._KNOWN.clear()

    assert hash_cache.sha256(path) == first
    assert entry.read_bytes() == good
    assert reads == ["weights", "weights"]


def test_a_memory_that_cannot_be_written_is_done_without(
    tmp_path: Path, rested: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file where the folder should be."""
    (tmp_path / "taken").write_text("")
    monkeypatch.setenv("PRUNEBENCH_CACHE", str(tmp_path / "taken"))
    path = tmp_path / "weights"
    path.write_text("abc")

    assert len(hash_cache.sha256(path)) == 64


def test_the_hubs_own_hash_is_taken_without_reading(tmp_path: Path, reads: list[str]) -> None:
    """A blob named by a sha256; one named by git's hash is read."""
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "commit"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    large, small = "ab" * 32, "cd" * 20
    for name, blob in (("model.safetensors", large), ("config.json", small)):
        (blobs / blob).write_text(name)
        (snapshot / name).symlink_to(f"../../blobs/{blob}")

    assert hash_cache.sha256(snapshot / "model.safetensors") == large
    assert reads == []
    assert hash_cache.sha256(snapshot / "config.json") not in (small, large)
    assert reads == ["config.json"]


def test_several_large_files_are_hashed_side_by_side_and_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the order asked for, each once, with a word on how far it is."""
    monkeypatch.setattr(hash_cache, "LARGE", 1_000_000)
    paths = [tmp_path / name for name in "abc"]
    for path in paths:
        path.write_bytes(path.name.encode() * (10 if path.name == "b" else 1_500_000))
    told: list[str] = []
    with progress.watched(told.append):
        found = hash_cache.sha256s(paths)

    assert found == [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    assert {text.split(",")[0] for text in told} == {"hashing a", "hashing c"}


@pytest.mark.slow
def test_several_processes_hash_at_once(tmp_path: Path) -> None:
    """All get the same, and what is left is whole."""
    path = tmp_path / "weights"
    path.write_bytes(os.urandom(2_000_000))
    program = (
        "import sys\nfrom pathlib import Path\nfrom prunebench.system import hash_cache as hashes\n"
        "hashes.REST = -1\n"
        "for _ in range(50):\n    hashes._KNOWN.clear()\n"
        "    found = hashes.sha256(Path(sys.argv[1]))\nprint(found)"
    )
    running = [
        subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    found = {process.communicate()[0].strip() for process in running}

    assert len(found) == 1
    assert [entry.sha256 for _, entry in hash_cache.entries() if entry] == [*found]
    assert len(list(hash_cache.memory().iterdir())) == 1


def test_a_file_that_is_being_written_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one content and half of another is no content."""
    path = tmp_path / "weights"
    path.write_bytes(b"x" * 1000)
    told = hash_cache._digest

    def written(stream, entry):
        path.write_bytes(b"y" * 2000)
        return told(stream, entry)

    monkeypatch.setattr(hash_cache, "_digest", written)
    with pytest.raises(PrunebenchError, match="weights: was written to while it was read"):
        hash_cache.sha256(path)


# ------------------------------------------------------------------------------ whole runs

#: A case that needs no text and hardly any time.
COUNTED = """\
model: {{id: {model}}}
method: {{name: first}}
blocks: 2
metrics: [{{name: compute}}]
"""


@pytest.mark.slow
def test_a_renamed_checkpoint_is_reused_under_its_new_name(project: Path, cli) -> None:
    """One night, one record; it now answers the question as it is asked, and can be accepted."""
    shutil.copytree(reference.MODEL, project / "one")
    case = project / "cases" / "small.yaml"
    case.write_text(COUNTED.format(model="../one"))
    assert "reused" not in cli("run", "cases", "-q")[1]
    (project / "one").rename(project / "two")
    case.write_text(COUNTED.format(model="../two"))

    assert "1 reused" in cli("run", "cases", "-q")[1]
    (record,) = (project / ".prunebench" / "records").rglob("*.json")
    assert '"../two"' in record.read_text()
    assert cli("accept", "cases", "--because", "first")[0] == 0


def small_case(place: Path) -> Case:
    path = place / "case.yaml"
    path.write_text(COUNTED.format(model="./one"))
    return loader.load([path])[0]


def rewrite(place: Path) -> None:
    weights = place / "one" / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


@pytest.mark.slow
def test_a_checkpoint_rewritten_between_two_cases_is_loaded_anew(place: Path) -> None:
    """What lies in memory is not what the second case asks about."""
    from prunebench.runs.worker import Worker

    case, worker = small_case(place), Worker("cpu")
    first, model = worker.run(case), worker.dense(case.model)
    assert worker.dense(case.model) is model
    rewrite(place)
    second = worker.run(case)

    assert worker.dense(case.model) is not model
    assert first.model_hash != second.model_hash
    assert second.key == answer_key.key(case, "cpu") != first.key


def test_a_checkpoint_rewritten_while_it_is_loaded_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of one and half of another is neither."""
    from prunebench.runs import worker as runner

    real = runner.load_model
    monkeypatch.setattr(runner, "load_model", lambda *a, **k: (rewrite(place), real(*a, **k))[1])
    with pytest.raises(PrunebenchError, match="was changed while it was loaded"):
        runner.Worker("cpu").dense(small_case(place).model)


def test_a_checkpoint_rewritten_while_it_is_measured_gives_no_number(place: Path) -> None:
    """A metric may read it again."""
    from prunebench.runs.worker import Worker

    worker = Worker("cpu", lambda _, step: rewrite(place) if step == "compute" else None)
    with pytest.raises(PrunebenchError, match="was changed while it was measured"):
        worker.run(small_case(place))


@pytest.mark.slow
@pytest.mark.parametrize("front", ["run", "pytest"])
def test_an_unchanged_night_does_no_work(project: Path, cli, front: str) -> None:
    """With every answer stored, neither front end imports torch."""
    case = project / "cases" / "small.yaml"
    case.write_text(COUNTED.format(model="prunebench/reference"))
    (project / "pytest.ini").write_text("[pytest]\nprunebench_cases = cases\n")
    assert cli("run", "cases", "-q")[0] == 0
    calls = {
        "run": "from prunebench.cli import main\nmain()",
        "pytest": "import pytest\nsys.exit(pytest.main(['-q', '-p', 'no:cacheprovider', 'cases']))",
    }
    program = (
        "import sys\nsys.argv = ['prunebench', 'run', 'cases']\n"
        f"try:\n    {calls[front].replace(chr(10), chr(10) + '    ')}\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print('HEAVY', sorted({'torch', 'transformers', 'lm_eval'} & set(sys.modules)))"
    )
    # What xdist tells its own workers is not for this process.
    bare = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_XDIST")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, env=bare)

    assert done.returncode == 0, done.stderr + done.stdout
    assert "reused" in done.stdout or "1 passed" in done.stdout
    assert done.stdout.splitlines()[-1] == "HEAVY []"

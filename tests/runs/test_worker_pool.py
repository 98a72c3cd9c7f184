"""One store for several processes: claims, turns on a device, workers that die, jobs."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from factories import SMALL_CASE, accuracy, read
from factories import record as made
from msgspec.structs import replace

from prunebench.case import Case
from prunebench.cases import loader
from prunebench.errors import PrunebenchError
from prunebench.reports import sentences
from prunebench.results import gpu_time
from prunebench.results.store import Store
from prunebench.runs import execution, job_collect, job_submit, worker_pool
from prunebench.runs import gpu_slots as places
from prunebench.runs.gpu_slots import Slot
from prunebench.runs.result import Result
from prunebench.runs.worker_pool import Pool
from prunebench.system import locks, signals
from prunebench.system.locks import Claims, HeldError, turn
from prunebench.verdicts.verdict import Verdict

KEY = "0123456789abcdef0123456789abcdef"
KINDS = pytest.mark.parametrize("kind", ["native", "soft"])
SMALLER = (
    SMALL_CASE.replace("nsamples: 24", "nsamples: 8")
    .replace("len: 128", "len: 64")
    .replace("  - {name: accuracy, tasks: [tinyworld_facts, tinyworld_recall], limit: 40}\n", "")
)
SEVERAL = SMALLER.replace("windows}]", "windows}, {name: first}, {name: last}]").replace(
    "blocks: [2]", "blocks: [1, 2]"
)
FOUR = SEVERAL.replace(", {name: last}", "")


def other(program: str, *arguments: object, before: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Another Python, which has imported what claims need; its first line says it is there."""
    head = "import sys, time\nfrom pathlib import Path\nfrom prunebench.system.locks import *\n"
    command = [*before, sys.executable, "-u", "-c", head + program, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


HOLD = """
with Claims(Path(sys.argv[1]), print).hold(sys.argv[2], "a/b", print):
    print("held")
    time.sleep(60)
"""


@pytest.mark.slow
@KINDS
def test_a_claim_is_held_by_one_and_the_dead_ones_is_taken_over(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who holds it is told; killed, it is free at once, and a line says who left it."""
    monkeypatch.setenv(locks.KIND, kind)
    said: list[str] = []
    mine = Claims(tmp_path, said.append)
    with other(HOLD, tmp_path, KEY) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(HeldError, match=rf"process {holder.pid} on \S+ running a/b \(since "):
            mine.hold(KEY, "a/b", None).__enter__()
        holder.kill()
    assert not said
    with mine.hold(KEY, "a/b", None):
        pass

    (line,) = said
    assert f"a/b: process {holder.pid} on " in line
    assert "left it unfinished; it is taken over" in line
    assert not list((tmp_path / "locks").glob("*.owner"))
    with mine.hold(KEY, "a/b", None):
        assert len(said) == 1


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (json.dumps({"pid": 7, "host": "h\x1b[2J\n::error::", "case": "a/b", "since": "now"}), "7"),
        ("{}", ""),
        ("[" * 9000, ""),
        ("x" * 20_000, ""),
    ],
)
def test_a_planted_owner_steers_no_terminal(
    text: str, named: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """A holder with escape codes in its name: what a session prints while it waits is inert."""
    from prunebench.reports.progress_bar import Display
    from prunebench.results.baselines.files import Baselines
    from prunebench.runs.session import Session
    from prunebench.system.console import print_note

    monkeypatch.setattr(locks, "POLL", 0.01)
    (case,) = loader.load([Path("cases/small.yaml")])
    with Display(1) as display:
        session = Session([case], Store(Path("s")), Baselines(Path("b")), "cpu")
        key = session._key(case)
        assert key is not None
        other_claims = Claims(Path("s"), print_note)
        with other_claims.hold(key, case.id, None):
            owner = Path("s") / "locks" / f"{key[:20]}.owner"
            owner.write_text(text)

            def step(case: Case, what: str) -> None:
                display.step(case, what)
                if what.startswith("waiting"):
                    raise KeyboardInterrupt

            session.progress = step
            with pytest.raises(KeyboardInterrupt):
                session.answer(case)
            owner.write_text(text)
        # Left by a process that died, it is named once more when its claim is taken over.
        owner.write_text(text)
        with other_claims.hold(key, case.id, None):
            pass
    waited, taken = capsys.readouterr().err.splitlines()

    what = (
        "process 7 on h\\x1b[2J\\n::error:: running a/b (since now)"
        if named
        else "an unknown process"
    )
    assert waited == f"{case.label}: waiting for {what}"
    assert taken == f"{case.id}: {what} left it unfinished; it is taken over"


ELSEWHERE = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]


@pytest.mark.slow
def test_a_claim_from_another_host_is_free_once_nobody_renews_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that believes to be on another host: alive it keeps its claim, however long."""
    if shutil.which("unshare") is None or subprocess.run([*ELSEWHERE, "true"]).returncode:
        pytest.skip("no second host name here: unshare --uts needs Linux and root")
    monkeypatch.setenv(locks.KIND, "soft")
    monkeypatch.setattr(locks, "LEASE", 2.0)
    said: list[str] = []
    mine = Claims(tmp_path, said.append)
    program = f"import prunebench.system.locks as c\nc.LEASE = 2.0\n{HOLD}"
    with other(program, tmp_path, KEY, before=ELSEWHERE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        for _ in range(3):  # a lease and a half
            time.sleep(1)
            with pytest.raises(HeldError, match=" on elsewhere "):
                mine.hold(KEY, "a/b", None).__enter__()
        holder.kill()
    with pytest.raises(HeldError):
        mine.hold(KEY, "a/b", None).__enter__()  # nothing here tells that it is dead
    start = time.monotonic()
    with mine.hold(KEY, "a/b", lambda _: None):
        assert time.monotonic() - start < 30
    (line,) = said
    assert " on elsewhere " in line


COUNT = """
file = Path(sys.argv[1]) / "count"
for _ in range(20):
    with Claims(Path(sys.argv[1]), print).hold(sys.argv[2], "a/b", lambda _: None):
        before = int(file.read_text())
        time.sleep(0.001)
        file.write_text(str(before + 1))
"""


@pytest.mark.slow
@KINDS
def test_no_two_are_ever_inside(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three processes each add 1 twenty times to a number in a file: none is lost."""
    monkeypatch.setenv(locks.KIND, kind)
    monkeypatch.setattr(locks, "POLL", 0.001)
    (tmp_path / "count").write_text("0")
    program = COUNT.replace("file =", "import prunebench.system.locks as c\nc.POLL = 0.001\nfile =")
    counters = [other(program, tmp_path, KEY) for _ in range(3)]

    assert [counter.wait(30) for counter in counters] == [0, 0, 0]
    assert (tmp_path / "count").read_text() == "60"
    for counter in counters:
        assert counter.communicate()[0] == ""


def test_without_flock_files_are_the_locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found out once, told in a line, and noted for those whose mount could do better."""

    def refused(*_: object) -> None:
        raise OSError(38, "Function not implemented")

    said: list[str] = []
    mine = Claims(tmp_path, said.append)
    with monkeypatch.context() as patched:
        patched.setattr(fcntl, "flock", refused)
        for _ in range(2):
            with mine.hold(KEY, "a/b", None):
                # filelock's marker names the holder, which an empty file that is flocked does not.
                assert str(os.getpid()) in (tmp_path / "locks" / f"{KEY[:20]}.lock").read_text()
    assert said == [f"{tmp_path}/locks: no flock on this filesystem, locking by existing files"]

    with Claims(tmp_path, said.append).hold(KEY, "a/b", None):
        assert str(os.getpid()) in (tmp_path / "locks" / f"{KEY[:20]}.lock").read_text()


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    """One line that names the lock."""
    (tmp_path / "locks").write_text("a file where the folder should be")

    with pytest.raises(PrunebenchError, match=r"locks/\w+\.lock: cannot be locked: File exists"):
        Claims(tmp_path, print).hold(KEY, "a/b", None).__enter__()


TURN = """
with turn([sys.argv[1]], alone=sys.argv[2] == "alone", waiting=lambda _: None):
    start = time.monotonic()
    time.sleep(0.4)
    print(start, time.monotonic())
"""


@pytest.mark.slow
def test_who_times_is_alone_on_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of six at once, the spans of two that want to be alone overlap with nobody's."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    kinds = ["beside", "alone", "beside", "beside", "alone", "beside"]
    running = [other(TURN, "gpu0", kind) for kind in kinds]
    elsewhere = other(TURN, "gpu1", "alone")
    spans = [tuple(map(float, p.communicate(timeout=40)[0].split())) for p in running]
    beside = sorted(s for s, kind in zip(spans, kinds, strict=True) if kind == "beside")

    assert elsewhere.communicate(timeout=20)[0]
    for span, kind in zip(spans, kinds, strict=True):
        if kind == "alone":
            others = [s for s in spans if s is not span]
            assert all(end <= span[0] or start >= span[1] for start, end in others)
    assert len(beside) == 4


GO_IN = """
def waits(text):
    print("waits", flush=True)
    sys.exit()

with turn(["gpu0"], alone=sys.argv[1] == "alone", waiting=waits):
    print("goes in")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "says"),
    [
        ("beside", "beside", "goes in"),
        ("beside", "alone", "waits"),
        ("alone", "beside", "waits"),
        ("alone", "alone", "waits"),
    ],
)
def test_whoever_comes_second_goes_in_only_beside(
    first: str, second: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One is inside and stays there: only two of whom neither times share a device."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)  # it remembers the last one
    with turn(["gpu0"], alone=first == "alone", waiting=lambda _: None):
        assert other(GO_IN, second).communicate(timeout=20)[0].strip() == says


# ------------------------------------------------------------------ workers, without any model


def cases_of(folder: Path, text: str = SEVERAL) -> list[Case]:
    folder.mkdir(exist_ok=True)
    (folder / "small.yaml").write_text(text)
    return loader.load([folder / "small.yaml"])


class FakeRecipe:
    """Makes sessions that answer by a table: case label to what happens."""

    def __init__(self, folder: Path, plan: dict[str, str]) -> None:
        self.folder = folder
        self.plan = plan

    def session(self, _: Any, progress: Any) -> FakeSession:
        if self.plan.get("session"):
            raise PrunebenchError(self.plan["session"])
        return FakeSession(self, progress)


class FakeSession:
    def __init__(self, recipe: FakeRecipe, progress: Any) -> None:
        self.recipe = recipe
        self.progress = progress

    def attempt(self, case: Case, *, wait: bool = False) -> Result | None:
        self.progress(case, "loading")
        first = self.recipe.folder / f"{case.label}.tried"
        what = self.recipe.plan.get(case.label, "")
        if what == "held" and not wait:
            return None
        if what == "kill" or (what == "kill once" and not first.exists()):
            first.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "exit":
            os._exit(7)
        if what == "child":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
            (self.recipe.folder / "child").write_text(str(child.pid))
            time.sleep(60)
        gpus, threads = os.environ.get("CUDA_VISIBLE_DEVICES"), os.environ["OMP_NUM_THREADS"]
        told = f"{os.getpid()} {time.monotonic()} {gpus} {threads}"
        return Result(case, Verdict(case.id, ok=True, skipped=told))

    def answer(self, case: Case) -> Result | None:
        return self.attempt(case, wait=True)


def answered(
    cases: list[Case], plan: dict[str, str], folder: Path, places: list[Slot] | None = None
) -> dict[str, Verdict]:
    pool = Pool(
        cases,
        FakeRecipe(folder, plan),  # type: ignore[arg-type]
        places or [Slot(None, 1)] * 2,
        lambda *_: None,
    )
    found = list(pool.answers(range(len(cases))))
    assert sorted(result.case.id for result in found) == sorted(case.id for case in cases)
    return {result.case.label: result.verdict for result in found}


@pytest.mark.slow
def test_a_worker_that_dies_loses_its_case_and_no_other(tmp_path: Path) -> None:
    """Killed once: done by a fresh worker. Twice: told, with the signal. The rest is done."""
    plan = {"first-1blocks": "kill", "last-1blocks": "kill once", "last-2blocks": "exit"}
    found = answered(cases_of(tmp_path / "cases"), plan, tmp_path)

    assert found["first-1blocks"].error == (
        "the worker died with signal 9 (killed, perhaps out of memory), twice"
    )
    assert found["last-2blocks"].error == "the worker ended with exit code 7, twice"
    done = {label for label, verdict in found.items() if verdict.ok}
    assert done == {
        "sleb-windows-1blocks",
        "sleb-windows-2blocks",
        "first-2blocks",
        "last-1blocks",
    }


@pytest.mark.slow
def test_cases_of_one_search_stay_together_and_held_ones_come_last(tmp_path: Path) -> None:
    """Both amounts of SLEB by one process, in order; what others hold is asked for at the end."""
    text = SEVERAL.replace("blocks: [1, 2]", "blocks: [2, 1, 3]")
    found = answered(cases_of(tmp_path / "cases", text), {"first-2blocks": "held"}, tmp_path)
    told = {label: verdict.skipped.split() for label, verdict in found.items()}
    sleb = [told[f"sleb-windows-{n}blocks"] for n in (2, 1, 3)]

    assert len({pid for pid, *_ in sleb}) == 1
    assert sorted(sleb, key=lambda t: float(t[1])) == sleb
    held = float(told["first-2blocks"][1])
    assert held > max(float(told[f"first-{n}blocks"][1]) for n in (1, 3))
    assert held > min(float(told[f"last-{n}blocks"][1]) for n in (1, 2, 3))


@pytest.mark.slow
def test_each_worker_has_its_gpus_and_threads(tmp_path: Path) -> None:
    """A model that is spread over GPUs gets all of them, once the others are done."""
    cases = cases_of(tmp_path / "cases")
    spread = replace(cases[0].model, device_map="auto")
    cases[0] = replace(cases[0], model=spread)
    found = answered(cases, {}, tmp_path, [Slot("3", 2), Slot("5", 2)])
    told = {label: verdict.skipped.split() for label, verdict in found.items()}
    last = told.pop("sleb-windows-1blocks")

    assert last[2] == "3,5"
    assert {t[2] for t in told.values()} <= {"3", "5"}
    assert {t[3] for t in told.values()} == {"2"}
    assert float(last[1]) == max(float(t[1]) for t in [last, *told.values()])


@pytest.mark.slow
def test_what_fails_every_case_fails_the_run(tmp_path: Path) -> None:
    """A device that is not there is one line, not one per case."""
    with pytest.raises(PrunebenchError, match="no such device"):
        answered(cases_of(tmp_path / "cases"), {"session": "no such device"}, tmp_path)


@pytest.mark.slow
def test_stopping_leaves_no_process(tmp_path: Path) -> None:
    """Neither workers nor what they started."""
    cases = cases_of(tmp_path / "cases")
    plan = {"sleb-windows-1blocks": "child"}
    recipe: Any = FakeRecipe(tmp_path, plan)
    pool = Pool(cases, recipe, [Slot(None, 1)] * 2, lambda *_: None)
    results = pool.answers(range(len(cases)))
    next(results)
    file, end = tmp_path / "child", time.monotonic() + 20
    while not (file.exists() and file.read_text()) and time.monotonic() < end:
        time.sleep(0.05)
    pids = [int(file.read_text()), *(worker.process.pid for worker in pool._workers)]
    results.close()  # what an interrupt does to it

    for pid in pids:
        assert not alive(pid), f"{pid} is still there"


def alive(pid: int) -> bool:
    try:
        # A zombie, whose parent was killed, is init's to bury, if there is an init.
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_latency_comes_last_and_is_timed(tmp_path: Path) -> None:
    """Cases that time are told by their metrics, and by a method that measures latencies."""
    timing = SMALLER.replace("- {name: perplexity", "- {name: latency}\n  - {name: perplexity")
    both = cases_of(tmp_path / "a", timing) + cases_of(tmp_path / "b")
    sprint = "{name: sprint, candidates: 2}"
    text = SMALLER.replace("{name: sleb, calibration_unit: windows}", sprint)
    given = text.replace("candidates: 2", "attn_latency: 1, mlp_latency: 2")
    text, given = (t.replace("blocks: [2]", "sublayers: [2]") for t in (text, given))

    groups = worker_pool.groups(both, range(len(both)))
    assert [0 in group for group in groups] == [False, False, True]
    assert [c.times for c in both] == [True] + [False] * 6
    assert [c.times for c in cases_of(tmp_path / "c", text)] == [True]
    assert [c.times for c in cases_of(tmp_path / "d", given)] == [False]


def test_slots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads are shared out; a GPU each, more with --per-gpu; nonsense is one line."""
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    assert places.slots("auto", "cpu") == [Slot(None, 2)] * 4
    assert places.slots("3", "cpu") == [Slot(None, 2)] * 3
    monkeypatch.setattr(places, "visible_gpus", lambda _: ["0", "1"])
    assert places.slots("auto", None) == [Slot("0", 4), Slot("1", 4)]
    assert [s.gpus for s in places.slots("auto", None, 2)] == ["0", "1", "0", "1"]
    with pytest.raises(PrunebenchError, match="-n 3: there are 2 GPUs for 1 workers each"):
        places.slots("3", None)
    for text in ("0", "many", "-1"):
        with pytest.raises(PrunebenchError, match=f"-n {text}: expected a number from 1, or auto"):
            places.slots(text, "cpu")


# ------------------------------------------------------------------ real runs on the shipped model


def start(*arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", *arguments],
        cwd=cwd,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def runs(store: Path) -> list[str]:
    """The case of every run that there was: the store overwrites none, it keeps both."""
    files = (store / "records").rglob("*.json")
    return sorted(read(file)["case_id"] for file in files)


@pytest.mark.slow
def test_a_cli_workers_and_pytest_share_a_store(project: Path) -> None:
    """Started together on four cases, every case is run once, and all have the same records."""
    (project / "cases" / "small.yaml").write_text(FOUR)
    (project / "pytest.ini").write_text("[pytest]\nprunebench_cases = cases\n")
    started = [
        start("prunebench", "run", "cases", "--json", "a.json", cwd=project),
        start("prunebench", "run", "cases", "-n", "2", "--json", "b.json", cwd=project),
        start("pytest", "cases", "-n", "2", "-p", "no:cacheprovider", "-q", cwd=project),
    ]
    said = [process.communicate(timeout=120) for process in started]
    a, b = (read(project / name)["records"] for name in ("a.json", "b.json"))
    ids = [c.id for c in loader.load([Path("cases/small.yaml")])]

    assert [process.returncode for process in started] == [0, 0, 0], said
    assert "4 passed" in said[2][0]
    assert runs(project / ".prunebench") == sorted(ids)
    assert a == b
    assert [r["case_id"] for r in a] == ids  # in the order of the cases, however they came
    assert not list((project / ".prunebench" / "locks").iterdir())


def test_who_has_workers_waits_for_their_last_words() -> None:
    """All within the 30 s that Slurm and Kubernetes give before they kill; else a pod would end."""
    last_of_worker = signals.PATIENCE + signals.LAST_WORDS
    parents = execution.ExecutionOptions(workers="2").patience

    assert last_of_worker < worker_pool.PATIENCE < parents < 30
    assert execution.ExecutionOptions().patience == signals.PATIENCE > signals.SAVING


@pytest.mark.slow
def test_interrupted_workers_go_on_with_equal_numbers(project: Path, cli: Any) -> None:
    """Ctrl-C: 130, nothing left running, what is done is kept; then as one process would have."""
    (project / "cases" / "small.yaml").write_text(FOUR)
    process = start("prunebench", "run", "cases", "-n", "2", cwd=project)
    assert process.stderr is not None
    assert any(
        ": new" in line for line in process.stderr
    )  # some may wait for others' timings first
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    kept = runs(project / ".prunebench")

    assert process.returncode == 130
    assert "run the same command to resume" in errors
    assert len(children) >= 2
    gone = time.monotonic() + 20
    while (left := [pid for pid in children if alive(int(pid))]) and time.monotonic() < gone:
        time.sleep(0.1)
    assert not left
    assert 1 <= len(kept) < 4

    code, _, errors = cli("run", "cases", "--device", "cpu", "-q", "--json", "a.json")
    assert code == 0
    assert "taken over" not in errors  # they let go of their cases as they went
    assert cli("run", "cases", "--store", "b", "-q", "--json", "b.json")[0] == 0
    for mine, theirs in zip(
        read(project / "a.json")["records"], read(project / "b.json")["records"], strict=True
    ):
        for part in ("plan", "trace", "measurements", "parameters"):
            assert mine[part] == theirs[part]


@pytest.fixture
def jobs_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs are processes of this machine, through submitit's local executor."""
    submitit = pytest.importorskip("submitit")

    class Here(submitit.LocalExecutor):  # type: ignore[misc]
        def __init__(self, folder: Path, max_num_timeout: int) -> None:
            super().__init__(folder, max_num_timeout=max_num_timeout)
            super().update_parameters(timeout_min=60)

        def update_parameters(self, **given: object) -> None:
            """Options of Slurm."""

    library = SimpleNamespace(core=submitit.core, SlurmExecutor=Here)
    monkeypatch.setattr(job_submit, "library", lambda: library)
    monkeypatch.setattr(job_collect, "library", lambda: library)
    monkeypatch.setattr(job_collect, "POLL", 0.1)


@pytest.mark.slow
@pytest.mark.usefixtures("jobs_here")
def test_jobs_fill_the_store(project: Path, cli: Any) -> None:
    """What jobs saved serves the next command; a failed case's verdict comes from its job."""
    (project / "cases" / "small.yaml").write_text(
        SMALLER.replace("sleb", "first").replace(", calibration_unit: windows", "")
    )
    code, out, _ = cli("run", "cases", "--executor", "slurm", "--json", "a.json", "-q")
    assert code == 0, out
    assert "1 case: 1 new" in out
    assert "reused" not in out
    assert "1 reused" in cli("run", "cases", "-q", "--json", "b.json")[1]
    assert read(project / "a.json")["records"] == read(project / "b.json")["records"]

    code, out, _ = cli("run", "cases", "--executor", "slurm", "-q", "--set", "blocks=60")
    assert code == 3
    assert "of 12 blocks are to go" in out
    logs = "".join(f.read_text() for f in (project / ".prunebench" / "slurm").glob("*_log.*"))
    assert "small/first-2blocks: new" in logs
    assert "small/first-2blocks: loading" in logs


# ------------------------------------------------------------------ jobs, with a scheduler of straw

SBATCH = '#!/bin/sh\ncp "$1" {folder}/sbatch.sh\necho "Submitted batch job 7"\n'
SQUEUE = '#!/bin/sh\necho "7_0|7_0"\necho "7_1|7_1"\necho "7_2|7_2"\n'


@pytest.fixture
def scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("submitit")
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in {"srun": "#!/bin/sh\n", "sbatch": SBATCH, "squeue": SQUEUE}.items():
        (folder / name).write_text(text.format(folder=folder))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    return folder


def test_an_array_of_jobs_is_submitted_once(project: Path, cli: Any, scheduler: Path) -> None:
    """What sbatch is given; the same command again sees that all is on its way."""
    (project / "cases" / "small.yaml").write_text(SEVERAL)
    given = ("partition=gpu", "time=1-02", "nice=9", "account=007")
    options = [word for option in given for word in ("--slurm", option)]
    command = ["run", "cases", "--executor", "slurm", "--detach", "-n", "4", *options]
    code, _, errors = cli(*command)
    script = (scheduler / "sbatch.sh").read_text()
    lines = {line.removeprefix("#SBATCH --") for line in script.splitlines()}

    assert code == 0
    assert {"partition=gpu", "time=1560", "nice=9", "requeue", "signal=USR1@90"} <= lines
    assert "account=007" in lines
    assert "array=0-2%3" in lines  # the two amounts of a method share a search
    assert "small/sleb-windows-1blocks and 1 more" in errors
    assert "6 cases are submitted; to collect them, run the same command again" in errors

    (scheduler / "sbatch.sh").unlink()
    assert "6 cases are submitted" in cli(*command)[2]
    assert not (scheduler / "sbatch.sh").exists()

    # Two of them have left the queue without an answer: only theirs are submitted again.
    (scheduler / "squeue").write_text("#!/bin/sh\necho '7_0|7_0'\n")
    cli(*command)
    assert "array=0-1%2" in (scheduler / "sbatch.sh").read_text()


def test_a_queue_that_does_not_answer_is_no_empty_one(
    project: Path, cli: Any, scheduler: Path
) -> None:
    """What may be on its way is not submitted a second time; what was never submitted is."""
    (scheduler / "squeue").write_text("#!/bin/sh\necho 'Socket timed out' >&2\nexit 1\n")
    command = ["run", "cases", "--executor", "slurm", "--detach"]
    assert cli(*command)[0] == 0
    (scheduler / "sbatch.sh").unlink()

    code, _, errors = cli(*command)
    assert code == 2
    assert errors.startswith("--executor slurm: squeue does not answer, and job 7 of an earlier")
    assert not (scheduler / "sbatch.sh").exists()
    assert cli(*command, "--set", "blocks=3")[0] == 0
    assert (scheduler / "sbatch.sh").exists()


@pytest.mark.slow
def test_a_job_that_is_told_to_go_comes_back_as_it_was(project: Path) -> None:
    """Submitit asks for a checkpoint: the same task, for the store has what is done."""
    pytest.importorskip("submitit")
    cases = cases_of(project / "cases")
    task = job_submit.Task(cases, FakeRecipe(project, {}), [0, 2])  # type: ignore[arg-type]
    again = task.checkpoint()

    assert again.function is task
    assert not again.args
    assert not again.kwargs


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 90), ("1:30", 2), ("12:00:00", 720), ("1-02", 1560), ("2-03:04:05", 3065)],
)
def test_slurms_times(text: str, expected: int) -> None:
    """The forms of man sbatch: minutes, minutes:seconds, hours:minutes:seconds, days-hours, ..."""
    assert job_submit.minutes(text) == expected


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-n", "none"], "-n none: expected a number from 1, or auto"),
        (["--executor", "ray"], "--executor ray: unknown; allowed: slurm; -n N runs workers"),
        (["--executor", "local"], "--executor local: unknown; allowed: slurm; -n N runs workers"),
        (["--slurm", "time=3"], "--slurm goes with --executor slurm"),
        (["--detach"], "--detach goes with --executor slurm"),
        (["--executor", "slurm", "--slurm", "x"], "--slurm x: expected KEY=VALUE"),
        (["--executor", "slurm", "--slurm", "time=x"], "--slurm time=x: expected minutes"),
        (["--per-gpu", "2"], "--per-gpu goes with -n"),
        (["--detach", "--accept", "--because", "x"], "--accept and --detach exclude each other"),
    ],
)
def test_bad_options_are_plain_lines(
    arguments: list[str], says: str, project: Path, cli: Any
) -> None:
    """One line, exit 2, nothing done."""
    code, _, errors = cli("run", "cases", *arguments)

    assert code == 2
    assert says in errors
    assert not (project / ".prunebench").exists()


def test_without_submitit_the_extra_is_named(
    project: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line."""
    monkeypatch.setitem(sys.modules, "submitit", None)

    code, _, errors = cli("run", "cases", "--executor", "slurm")
    assert code == 2
    assert errors == "--executor needs submitit: pip install 'prunebench[slurm]'\n"


# ------------------------------------------------------------------ GPU time


def test_gpu_time_is_told_apart_by_steps(tmp_path: Path) -> None:
    """A case that loads 3 s, searches 2 + 5 s and measures 4 s, on two GPUs; then one of 1 s."""
    (case, *_) = cases_of(tmp_path / "cases")
    now = [100.0]
    clock = gpu_time.Clock(lambda *_: None, lambda: now[0])

    def step(seconds: float, what: str) -> None:
        clock.step(case, what)
        now[0] += seconds

    step(50, "loading")  # another case's
    clock.restart()
    for seconds, what in [(3, "loading"), (2, "searching"), (5, "searching, removal 1 of 2")]:
        step(seconds, what)
    step(4, "perplexity")
    assert clock.cost(2) == {"gpu_time": 28.0, "gpu_load_time": 6.0, "gpu_search_time": 14.0}
    assert clock.cost(0) == {}
    clock.restart()
    step(1, "perplexity")
    held = clock.cost()
    assert held == {"gpu_time": 1.0, "gpu_load_time": 0.0, "gpu_search_time": 0.0}

    # A second look at timings is of the same night, which holds the card for longer by that.
    first = made(accuracy(80), cost={"search_time": 9.0, "gpu_time": 28.0})
    second = replace(first, again=first.measurements, cost=gpu_time.added(first.cost, held))
    assert second.cost["gpu_time"] == 29.0
    assert second.cost["search_time"] == 9.0
    store = Store(tmp_path / "store")
    for record in (first, second):
        store.save(record)
    assert store.answers(first.case_id) == [second]


def test_a_runs_gpu_time_is_the_sum_of_what_it_measured(tmp_path: Path) -> None:
    """Reused records cost nothing tonight; without a GPU there is no line."""
    case, *_ = cases_of(tmp_path / "cases")
    costs = [(7200.0, 1000.0, 3000.0), (4320.0, 440.0, 0.0), (9999.0, 0.0, 0.0)]
    records = [made(accuracy(80), cost=dict(zip(gpu_time.KINDS, c, strict=True))) for c in costs]
    verdict = Verdict(case.id, ok=True)
    results = [Result(case, verdict, r, cached=i == 2) for i, r in enumerate(records)]

    assert sentences.gpu_lines(results) == ["GPU time: 3.2 h (model loads 24 min, searches 50 min)"]
    assert sentences.gpu_lines([Result(case, verdict, made(accuracy(80)))]) == []


def test_fresh_means_not_from_before_the_run(
    project: Path, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record made since the run began serves one that asks for fresh ones; an older one not."""
    from prunebench.results.baselines.files import Baselines
    from prunebench.runs.session import Session

    (case,) = loader.load([Path("cases/small.yaml")])
    session = Session([case], Store(Path("s")), Baselines(Path("b")), "cpu")
    key = session._key(case)
    assert key is not None
    old = made(accuracy(1), case_id=case.id, key=key, created="2026-01-01T00:00:01+00:00")
    session.store.save(replace(old, asked=json.loads(json.dumps(case.asked))))
    for since, found in [("2026-01-01T00:00:00+00:00", True), ("2026-01-01T00:00:01+00:00", False)]:
        fresh = Session(
            [case], Store(Path("s")), Baselines(Path("b")), "cpu", fresh=True, since=since
        )
        assert (fresh.reused(case) is not None) is found
    assert session.reused(case) is not None

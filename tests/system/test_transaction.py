"""Changes of many files, cut off at every step: old or new, or told and ended by the next one."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from factories import CASES, CPU, GPU, ROOT, answer, speedup
from msgspec.structs import replace

from prunebench import PrunebenchError, Record
from prunebench.case import Case
from prunebench.cases import loader
from prunebench.leaderboard import site
from prunebench.results import answer_key
from prunebench.results.baselines import accept as accepting
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.store import Store
from prunebench.system import files, transaction

#: What changes a file system, or waits for it.
CHANGING = ("mkdir", "rename", "replace", "unlink", "rmdir", "fsync")
STAMP = Accepted(by="Ada", when="2026-11-22T10:00:00+00:00", because="so")
Tree = dict[str, bytes]


class KilledError(BaseException):
    """The process is no more: nothing that would tidy up may catch it."""


@contextmanager
def cut(monkeypatch: pytest.MonkeyPatch, at: int, kill: bool = True) -> Iterator[list[str]]:
    """Within the block change number *at* of the file system fails.

    A *kill* lets no later one happen either, as no later one of a dead process does; otherwise the
    disk is full once. The list grows by each change that is asked for.
    """
    asked: list[str] = []

    def step(name: str) -> None:
        asked.append(name)
        if kill and len(asked) >= at:
            raise KilledError
        if len(asked) == at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def failing(name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **more: Any) -> Any:
            step(name)
            return real(*arguments, **more)

        return call

    class Stream:
        """An open file, of which half is written when the disk is full."""

        def __init__(self, stream: Any) -> None:
            self.stream = stream

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: object) -> None:
            self.stream.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.stream, name)

        def write(self, data: bytes) -> None:
            try:
                step("write")
            except BaseException:
                self.stream.write(data[: len(data) // 2])
                raise
            self.stream.write(data)

    def opened(file: Any, mode: str = "r", *arguments: Any, **more: Any) -> Any:
        stream = real_open(file, mode, *arguments, **more)
        return Stream(stream) if set(mode) & set("wxa") else stream

    real_open = io.open
    with monkeypatch.context() as patch:
        for name in CHANGING:
            patch.setattr(os, name, failing(name, getattr(os, name)))
        patch.setattr(io, "open", opened)
        yield asked


def tree(root: Path) -> Tree:
    """What is at *root*, but for what is hidden."""
    found = [p for p in root.rglob("*") if p.is_file() and ".prunebench" not in str(p)]
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in found}


def hidden(root: Path) -> list[str]:
    return [p.name for p in root.iterdir() if p.name.startswith(".")]


@pytest.fixture
def cases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Case]:
    """A user's folder with a matrix of cases; whoever accepts is always Ada at one time."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "m.yaml").write_text(CASES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(accepting, "accepted", lambda because: replace(STAMP, because=because))
    return loader.load([Path("cases")])


def accept(cases: list[Case], root: Path, ppl: float) -> Tree:
    """Accept these numbers, of two cases on a GPU, with timings; what is there then."""
    records = [
        timed(answer(case, ppl), ppl) if i < 2 else answer(case, ppl)
        for i, case in enumerate(cases)
    ]
    store = Store(Path(".prunebench"))
    accepting.accept(records, cases, "so", store, Baselines(root), force=True)
    return tree(root)


def timed(one: Record, by: float) -> Record:
    return replace(one, measurements=(*one.measurements, speedup(by)), environment=GPU)


Change = Callable[[Path], Tree]


def site_of(version: str, pages: int) -> Tree:
    built = {f"cases/{n}.html": f"{version} {n}".encode() for n in range(pages)}
    return {"index.html": version.encode(), "static/site.css": b"", **built}


@pytest.fixture(params=["accept", "site"])
def changes(request: pytest.FixtureRequest, cases: list[Case]) -> tuple[Change, Change]:
    """How to make the old state of a folder, and how the new."""
    if request.param == "accept":
        # The last case is new to the shelf.
        return lambda r: accept(cases[:-1], r, 2.41), lambda r: accept(cases, r, 2.4)

    def write(root: Path, built: Tree) -> Tree:
        site.write(root, built)
        return tree(root)

    return lambda r: write(r, site_of("old", 5)), lambda r: write(r, site_of("new", 3))


@pytest.mark.slow
@pytest.mark.parametrize("kill", [True, False], ids=["killed", "full"])
def test_cut_off_at_any_step_it_is_old_or_new_or_ended_by_the_next(
    changes: tuple[Change, Change],
    kill: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Byte by byte as without a fault, files of the user's stay, and nothing hidden is left."""
    make_old, make_new = changes
    start, undisturbed = tmp_path / "start", tmp_path / "undisturbed"
    old = make_old(start)
    shutil.copytree(start, undisturbed)
    (start / "CNAME").write_text("a.b")
    old["CNAME"] = b"a.b"
    new = make_new(undisturbed) | {"CNAME": b"a.b"}
    assert old != new
    seen = []
    for at in range(1, 1000):
        root = tmp_path / f"cut-{at}"
        shutil.copytree(start, root)
        said = ""
        with cut(monkeypatch, at, kill) as asked:
            try:
                make_new(root)
            except KilledError:
                pass
            except PrunebenchError as error:
                said = str(error)
                assert "No space left on device" in said
                assert "\n" not in said
        if len(asked) < at:
            break
        whole = tree(root)
        if transaction.unfinished(root):
            seen.append("cut off")
            assert kill or "the change counts" in said
        else:
            assert whole in (old, new), at
            seen.append("old" if whole == old else "new")
            assert kill or ("nothing was changed" in said) == (whole == old)
            assert kill or whole == new or not hidden(root)
        expected = old if seen[-1] == "old" else new
        # However often the ending is cut off itself, it comes to its end; tried out on a few.
        for again in range(1 if at % 20 == 0 else 999, 1000):
            with cut(monkeypatch, again, kill) as asked:
                try:
                    with transaction.turn(root):
                        pass
                except (KilledError, PrunebenchError):
                    continue
            break
        assert not transaction.unfinished(root)
        assert tree(root) == expected, at
        assert make_new(root) | {"CNAME": b"a.b"} == new
        assert hidden(root) == []
        shutil.rmtree(root)

    assert set(seen) == {"old", "cut off", "new"}
    # Once it counts it is never taken back.
    assert not kill or seen == sorted(seen, key=["old", "cut off", "new"].index)
    assert "cases/4.html" not in new


KILLED = """
import os, signal, sys
from pathlib import Path
import test_transaction as here
from prunebench.results.baselines import accept as accepting
from prunebench.cases import loader as casefile

accepting.accepted = lambda because: here.STAMP
replace, left = os.replace, int(sys.argv[1])


def dying(*arguments, **more):
    global left
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    left -= 1
    return replace(*arguments, **more)


os.replace = dying
here.accept(casefile.load([Path("cases")]), Path("baselines"), 2.4)
"""


@pytest.mark.slow
@pytest.mark.parametrize("after", [0, 5])
def test_an_accept_that_sigkill_ends_is_told_and_ended(
    cases: list[Case], after: int, cli: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    """A real process, killed as it puts files into place: all counts, `accept` does the rest."""
    new = accept(cases, tmp_path / "elsewhere", 2.4)
    root = Path("baselines")
    old = accept(cases, root, 2.41)
    paths = [str(ROOT / "tests"), str(ROOT / "tests" / "system"), *sys.path]
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(after)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        check=False,
    )

    assert done.returncode == -signal.SIGKILL
    assert sum(old[name] != data for name, data in tree(root).items()) == after
    assert cli("baseline", "list")[2] == f"{Baselines(root).cut_off}\n"
    code, _, err = cli("accept", "--because", "so")
    assert err.splitlines()[0] == "baselines: an accept that was cut off is ended"
    assert code == 2  # the store has no record, but what was cut off is whole
    assert tree(root) == new


def halfway(root: Path, monkeypatch: pytest.MonkeyPatch, change: Callable[[], object]) -> None:
    """Cut *change* off as the third file is put into its place."""
    count = 0
    real = os.replace

    def dying(*arguments: Any, **more: Any) -> None:
        nonlocal count
        count += 1
        if count == 3:
            raise KilledError
        real(*arguments, **more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying)
        with pytest.raises(KilledError):
            change()
    assert transaction.unfinished(root)


READERS = {
    "check": ("check",),
    "run": ("run", "cases", "-q", "--device", "cpu"),
    "compare": ("compare", "baselines", "."),
    "compare a file": ("compare", "baselines/quality/m/dense.json", "baselines"),
    "list": ("baseline", "list"),
    "review": ("baseline", "review", "cases"),
    "show": ("show", "m/dense"),
    "power": ("power", "cases"),
    "export": ("export", "--format", "csv"),
    "leaderboard": ("leaderboard",),
    "verify": ("cache", "verify"),
    "gc": ("cache", "gc"),
    "rm": ("baseline", "rm", "m/dense"),
}


@pytest.mark.parametrize("name", READERS)
def test_who_reads_tells_and_never_writes(
    name: str,
    cases: list[Case],
    cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line with the command that ends it; `rm` does nothing else, for it could be undone."""
    root = Path("baselines")
    for case in cases:
        one = replace(answer(case), key=answer_key.key(case, "cpu") or "", environment=CPU)
        Store(Path(".prunebench")).save(one)
    accept(cases, root, 2.41)
    halfway(root, monkeypatch, lambda: accept(cases, root, 2.4))
    before = {p: p.read_bytes() for p in root.rglob("*") if p.is_file()}
    code, out, err = cli(*READERS[name])

    line = "baselines: an accept was cut off in the middle, some baselines are new and some old; "
    assert [e for e in err.splitlines() if "cut off" in e] == [
        f"{line}the next prunebench accept ends it"
    ]
    assert "Traceback" not in out + err
    assert (code == 2) == (name == "rm") or name == "compare"
    assert {p: p.read_bytes() for p in root.rglob("*") if p.is_file()} == before


def test_run_accept_judges_by_baselines_that_are_whole(
    cases: list[Case],
    cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It ends what was cut off before it compares: no case is said to differ from an older one."""
    root = Path("baselines")
    cpu = [
        replace(answer(c, 2.4), key=answer_key.key(c, "cpu") or "", environment=CPU) for c in cases
    ]
    store = Store(Path(".prunebench"))
    for one in cpu:
        store.save(one)
    baselines = Baselines(root)
    worse = [replace(answer(c, 2.2), environment=CPU) for c in cases]
    accepting.accept(worse, cases, "so", store, baselines, force=True)
    halfway(
        root,
        monkeypatch,
        lambda: accepting.accept(cpu, cases, "so", store, baselines, force=True),
    )
    wanted = ("run", "cases", "-q", "--device", "cpu", "--accept", "--because", "so")
    code, out, err = cli(*wanted)

    assert code == 0, err
    assert "5 cases: 5 same" in out
    assert err.splitlines()[0] == "baselines: an accept that was cut off is ended"
    assert hidden(root) == []


def test_two_who_accept_at_once_do_so_in_turn(cases: list[Case], tmp_path: Path) -> None:
    """While one is at work the other writes nothing; afterwards all is of the one or the other."""
    if sys.platform == "win32":
        pytest.skip("folders cannot be locked there")
    root = Path("baselines")
    first = accept(cases, tmp_path / "first", 2.41)
    second = accept(cases, tmp_path / "second", 2.4)
    with transaction.turn(root):
        other = threading.Thread(target=accept, args=(cases, root, 2.4))
        other.start()
        other.join(0.3)
        assert other.is_alive()
        assert tree(root) == {}
        transaction.write(root, first)
        assert tree(root) == first
    other.join(30)

    assert tree(root) == second


def test_without_locks_the_rename_keeps_two_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who finds another's change that counts ends it; a young draft may be somebody's and stays."""
    root = tmp_path / "r"
    monkeypatch.setattr(transaction, "_locked", lambda r: r.mkdir(exist_ok=True))
    with transaction.turn(root):
        count = transaction._count

        def late(draft: Path, to: Path) -> None:
            monkeypatch.setattr(transaction, "_count", count)
            with transaction.turn(root):  # another, while the draft of the first is ready
                halfway(root, monkeypatch, lambda: transaction.write(root, dict(FOUR)))
            count(draft, to)

        monkeypatch.setattr(transaction, "_count", late)
        transaction.write(root, {"a": b"1", "e": b"1"})

    assert tree(root) == {**FOUR, "a": b"1", "e": b"1"}
    young, old = (root / f"{transaction.DRAFT}{name}" for name in ("young", "old"))
    young.mkdir()
    old.mkdir()
    os.utime(old, (0, 0))
    with transaction.turn(root):
        assert hidden(root) == [young.name]


FOUR = {"a": b"2", "b": b"2", "c/d": b"2", "c/e": b"2"}


def test_a_refused_accept_leaves_no_folder(cases: list[Case]) -> None:
    """An empty baselines/ would be used in place of those that come with us."""
    with pytest.raises(accepting.RefusedError):
        accepting.accept([], cases, "so", Store(Path("s")), Baselines(Path("baselines")))

    assert not Path("baselines").exists()


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda r: (r / "x.json").mkdir(), "x.json is a folder; nothing was changed"),
        (lambda r: (r / "c").write_text(""), "c is not a folder; nothing was changed"),
    ],
)
def test_what_could_not_be_put_in_place_never_counts(
    spoil: Callable[[Path], object], says: str, tmp_path: Path
) -> None:
    """It is found out before: a change that counts must be able to end."""
    spoil(tmp_path)
    before = tree(tmp_path)
    with pytest.raises(PrunebenchError) as error, transaction.turn(tmp_path):
        transaction.write(tmp_path, {"a": b"1", "x.json": b"1", "c/d": b"1"})

    assert str(error.value).endswith(says)
    assert tree(tmp_path) == before
    assert hidden(tmp_path) == []


def test_another_file_system_below_the_root_is_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a file cannot be moved, it is copied."""
    real = os.replace

    def elsewhere(source: Any, target: Any) -> None:
        if transaction.COUNTED in str(source):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        real(source, target)

    monkeypatch.setattr(os, "replace", elsewhere)
    with transaction.turn(tmp_path):
        transaction.write(tmp_path, FOUR)

    assert tree(tmp_path) == FOUR
    assert hidden(tmp_path) == []


def counted(root: Path, put: list[str], gone: tuple[str, ...] = (), **more: object) -> Path:
    """A change that counts, as somebody else may have put it there."""
    folder = root / transaction.COUNTED
    folder.mkdir()
    (folder / "x.json").write_text(json.dumps({"put": put, "gone": gone, **more}))
    for number in range(len(put)):
        (folder / f"x.{number}").write_text("evil")
    return folder


def _link(name: str) -> Callable[[Path], Path]:
    def spoil(root: Path) -> Path:
        (root / "out").symlink_to(root.parent / "outside")
        return counted(root, ["a", name])

    return spoil


def _linked_part(root: Path) -> Path:
    folder = counted(root, ["a", "b"])
    (folder / "x.1").unlink()
    (folder / "x.1").symlink_to(root.parent / "outside" / "secret")
    return folder


def _linked(root: Path) -> Path:
    folder = counted(root.parent / "outside", ["a"])
    (root / transaction.COUNTED).symlink_to(folder)
    return folder


def _two(root: Path) -> Path:
    folder = counted(root, ["a"])
    (folder / "y.json").write_text("{}")
    return folder


def _no_list(root: Path) -> Path:
    folder = counted(root, ["a"])
    (folder / "x.json").write_text("[" * 100_000)
    return folder


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    "climbs": (lambda r: counted(r, ["a", "../outside/secret"]), "is not a file name"),
    "absolute": (lambda r: counted(r, ["a", "/etc/secret"]), "is not a file name"),
    "hidden": (lambda r: counted(r, ["a", ".git/hooks/pre-commit"]), "is not a file name"),
    "removes": (lambda r: counted(r, ["a"], ("../outside/secret",)), "is not a file name"),
    "a null": (lambda r: counted(r, ["a", "b\0"]), "is not a file name"),
    "a link": (_link("out/secret"), "leads out of"),
    "a linked part": (_linked_part, "is not a regular file"),
    "a linked folder": (_linked, "not a folder"),
    "a file": (lambda r: (r / transaction.COUNTED).write_text(""), "not a folder"),
    "two lists": (_two, "more than one list"),
    "deep": (_no_list, "damaged"),
    "another key": (lambda r: counted(r, ["a"], run="rm -rf /"), "damaged"),
    "no names": (lambda r: counted(r, [1, 2]), "damaged"),  # type: ignore[list-item]
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_change_is_one_line_and_nothing_moves(name: str, tmp_path: Path) -> None:
    """It may come with a repository; nothing outside is touched, nor anything inside."""
    root, outside = tmp_path / "root", tmp_path / "outside"
    root.mkdir()
    outside.mkdir()
    (outside / "secret").write_text("mine")
    spoil, says = HOSTILE[name]
    spoil(root)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    with pytest.raises(PrunebenchError) as error, transaction.turn(root):
        pass

    assert says in str(error.value)
    assert str(error.value).endswith("remove .prunebench-counted to give that change up")
    assert "\n" not in str(error.value)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_a_link_of_the_users_own_is_followed(tmp_path: Path) -> None:
    """Whose accept it is may keep a tree of baselines elsewhere; names may be long."""
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    root.mkdir()
    elsewhere.mkdir()
    (root / "latency").symlink_to(elsewhere)
    long = f"latency/{'x' * files.MAX_PART}.samples.gz"
    with transaction.turn(root):
        transaction.write(root, {long: b"1"})

    assert tree(elsewhere) == {long.removeprefix("latency/"): b"1"}

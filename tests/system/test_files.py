"""A folder that cannot be listed is told and refused: its files are not simply absent."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from factories import CASES, CPU, answer
from msgspec.structs import replace

from prunebench import PrunebenchError
from prunebench.cases import loader
from prunebench.data import fingerprints, task_trust
from prunebench.results import answer_key
from prunebench.results.baselines.files import Accepted, Baselines
from prunebench.results.resume.folders import Partials
from prunebench.results.store import Store
from prunebench.system import files

BECAUSE = Accepted(by="Ada", when="2026-11-22T10:00:00+00:00", because="first")


def close(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let *folder* be of somebody else: the root user of a test machine may list any."""
    real = os.scandir

    def scandir(path: Any = ".") -> Any:
        if isinstance(path, str | Path) and Path(path).absolute() == folder.absolute():
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cases in two folders, each with a stored record and a baseline."""
    monkeypatch.chdir(tmp_path)
    for name in ("cases/m.yaml", "cases/sub/n.yaml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(CASES)
    for case in loader.load([Path("cases")]):
        one = replace(answer(case), key=answer_key.key(case, "cpu") or "", environment=CPU)
        Store(Path(".prunebench")).save(one)
        Baselines(Path("baselines")).save(one, BECAUSE)
    Path("baselines/latency").mkdir()


CASES_OF_SUB = "cases/sub"
QUALITY = "baselines/quality/sub"
NIGHTS = ".prunebench/records/sub/n/dense"


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        (CASES_OF_SUB, "list cases"),
        (CASES_OF_SUB, "check cases"),
        (CASES_OF_SUB, "run cases -q --device cpu"),
        (QUALITY, "baseline list"),
        (QUALITY, "baseline review cases"),
        (QUALITY, "baseline rm --orphaned"),
        (QUALITY, "leaderboard"),
        (QUALITY, "export"),
        (QUALITY, "compare baselines baselines"),
        (QUALITY, "cache verify"),
        (QUALITY, "cache gc"),
        ("baselines/latency", "baseline list"),
        (NIGHTS, "show sub/n/dense"),
        (NIGHTS, "history sub/n/dense"),
        (NIGHTS, "accept cases --because so"),
        (NIGHTS, "compare .prunebench .prunebench"),
        (NIGHTS, "leaderboard"),
        (NIGHTS, "cache info"),
        (NIGHTS, "cache verify"),
        (NIGHTS, "cache gc --keep-last 1"),
        (".prunebench/records", "show sub/n/dense"),
    ],
)
def test_what_cannot_be_listed_is_one_line(
    folder: str,
    command: str,
    project: None,
    cli: Callable[..., tuple[int, str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It names the folder and exits 2; no command goes on with the files that it can see."""
    words = command.split()
    assert cli(*words)[0] == 0  # while it can be listed
    close(monkeypatch, Path(folder))
    code, out, err = cli(*words)

    assert (code, err) == (2, f"{folder}: cannot be listed: Permission denied\n"), out


def test_what_a_run_goes_by_is_listed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hours that were kept, tasks that could run code, and the content of a task folder."""
    kept = tmp_path / "partial" / "key"
    kept.mkdir(parents=True)
    (kept / "1-x.jsonl").write_text("")
    (tmp_path / "tasks" / "sub").mkdir(parents=True)
    (tmp_path / "tasks" / "a.yaml").write_text("task: a\n")
    close(monkeypatch, kept)
    partials = Partials(tmp_path)

    with pytest.raises(PrunebenchError, match="key: cannot be listed"):
        partials.case_ids()
    close(monkeypatch, tmp_path / "tasks" / "sub")
    with pytest.raises(PrunebenchError, match="sub: cannot be listed"):
        list(task_trust.problems(tmp_path / "tasks"))
    with pytest.raises(PrunebenchError, match="sub: cannot be listed"):
        fingerprints.folder_hash(str(tmp_path / "tasks"))


@contextlib.contextmanager
def somebody() -> Iterator[None]:
    """As a user without rights, where the test is run by root."""
    if os.geteuid():
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no users there")
def test_the_kernel_says_so_too() -> None:
    """A real folder without rights; one that is not there, or is a file, has no files."""
    top = Path(tempfile.mkdtemp())
    top.chmod(0o755)
    closed = top / "a" / "closed"
    closed.mkdir(parents=True)
    (top / "a" / "x.json").write_text("")
    (closed / "y.json").write_text("")
    try:
        assert [p.name for p in files.below(top, ".json")] == ["y.json", "x.json"]
        closed.chmod(0)
        with somebody():
            for listing in (lambda: files.below(top, ".json"), lambda: files.listed(closed)):
                with pytest.raises(PrunebenchError) as error:
                    listing()
                assert str(error.value) == f"{closed}: cannot be listed: Permission denied"
        for nothing in (top / "nowhere", top / "a" / "x.json"):
            assert files.below(nothing) == files.listed(nothing) == []
    finally:
        closed.chmod(0o755)
        shutil.rmtree(top)

"""`prunebench init`: what it writes can be used as it is, and it overwrites nothing."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml

from prunebench.cases import loader
from prunebench.cli import scaffold

Cli = Callable[..., tuple[int, str, str]]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder, as the working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_project_passes_its_own_check(empty: Path, cli: Cli) -> None:
    """The first case is sound, dense is among its methods, and the next steps are said."""
    code, out, err = cli("init")
    assert (code, err) == (0, "")
    assert sorted(p.name for p in empty.rglob("*") if p.is_file()) == [".gitignore", "first.yaml"]
    assert "4 cases in cases: ok" in out
    assert "prunebench run" in out

    assert cli("check", "cases")[0] == 0
    found = loader.load([Path("cases")])
    assert {case.dense for case in found} == {True, False}
    assert {case.id.split("/")[1] for case in found} == {"first"}
    assert {case.model.id for case in found} == {"prunebench/reference"}


@pytest.mark.slow
def test_the_last_step_adds_all_that_was_written(empty: Path, cli: Cli) -> None:
    """The printed `git add` leaves nothing untracked but what git is to leave out."""
    git = ("git", "-C", str(empty))
    subprocess.run([*git, "init", "--quiet"], check=True)
    (line,) = re.findall(r"^  (git add .*)$", cli("init", "--ci", "--nightly")[1], re.MULTILINE)
    (empty / "baselines").mkdir()
    (empty / "baselines/first.json").write_text("{}")
    subprocess.run([*git, *shlex.split(line)[1:]], check=True)
    status = subprocess.run([*git, "status", "--porcelain"], check=True, capture_output=True)

    assert b"A  nightly.sh" in status.stdout
    assert b"??" not in status.stdout


def test_nothing_is_overwritten(empty: Path, cli: Cli) -> None:
    """All that is in the way is named and nothing is written; --force overwrites, keeping git's."""
    (empty / "nightly.sh").write_text("mine")
    (empty / ".gitignore").write_text("mine\n.prunebench/")
    code, _, err = cli("init", "--nightly", "--ci")
    assert code == 2
    assert err == "already there, and not overwritten without --force: nightly.sh\n"
    assert (empty / "nightly.sh").read_text() == "mine"
    assert not (empty / "cases").exists()

    assert cli("init", "--nightly", "--ci", "--force")[0] == 0
    assert (empty / "nightly.sh").read_text().startswith("#!/bin/sh")
    ignored = (empty / ".gitignore").read_text().splitlines()
    assert ignored[:2] == ["mine", ".prunebench/"]
    assert ignored.count(".prunebench/") == 1
    code, out, _ = cli("init", "--nightly", "--ci")  # again: all is as it should be
    assert code == 0
    assert "wrote" not in out


def test_a_project_with_cases_keeps_to_them(empty: Path, cli: Cli) -> None:
    """No example among somebody's own cases."""
    assert cli("init", "p")[0] == 0
    (empty / "p/cases/smoke/first.yaml").rename(empty / "p/cases/smoke/own.yaml")
    code, out, _ = cli("init", "p", "--ci")

    assert code == 0
    assert [p.name for p in (empty / "p/cases/smoke").iterdir()] == ["own.yaml"]
    assert "  cd p\n" in out


@pytest.mark.parametrize("model", ["org/name", "prunebench/reference"])
def test_a_model_of_the_hub(
    empty: Path, cli: Cli, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its id stands in the case, which is sound before anything is downloaded."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert cli("init", "--model", model)[0] == 0

    assert {case.model.id for case in loader.load([Path("cases")])} == {model}


def test_a_model_folder_is_relative_to_the_case(
    empty: Path, cli: Cli, tiny: Callable[..., Any]
) -> None:
    """However odd its name; one that is none is refused before anything is written."""
    odd = 'm "x": {y} #'
    tiny("llama").hf.save_pretrained(empty / odd)
    code, _, err = cli("init", "p", "--model", f"./{odd}")
    assert (code, err) == (0, "")
    (case, *_) = loader.load([Path("p/cases")])
    assert Path(case.model.id).resolve() == empty / odd

    code, _, err = cli("init", "q", "--model", "./absent")
    assert code == 2
    assert len(err.splitlines()) == 1
    assert not (empty / "q").exists()


@pytest.mark.parametrize("runner", ["", "a b", "${{ secrets.X }}", "a,,b", "x]\nevil: true"])
def test_runner_labels_are_labels(empty: Path, cli: Cli, runner: str) -> None:
    """Nothing else comes into the workflow."""
    assert cli("init", "--ci", f"--runner={runner}")[0] == 2
    assert list(empty.iterdir()) == []


# --------------------------------------------------------------------------------- workflows


def workflows(folder: Path) -> dict[str, Any]:
    found = (folder / ".github/workflows").glob("*.yml")
    return {path.name: yaml.safe_load(path.read_text()) for path in found}


@pytest.fixture
def made(empty: Path, cli: Cli) -> Path:
    assert cli("init", "--ci", "--nightly", "--runner", "self-hosted,gpu")[0] == 0
    return empty


def test_workflows_are_as_github_reads_them(made: Path) -> None:
    """Known keys, pinned actions, least rights, and no text of an event in any command."""
    found = workflows(made)
    assert set(found) == {"prunebench.yml", "prunebench-nightly.yml"}
    for flow in found.values():
        assert flow["permissions"] == {}
        assert flow[True]  # YAML 1.1 reads the key `on` as true
        assert set(flow) == {"name", True, "permissions", "concurrency", "jobs"}
        for job in flow["jobs"].values():
            known = {"runs-on", "timeout-minutes", "permissions", "steps"}
            assert known <= set(job) <= known | {"env", "if", "needs", "environment"}
            assert set(job.get("needs", "").split()) <= set(flow["jobs"])
            writes = {k for k, v in job["permissions"].items() if v == "write"}
            assert writes <= {"pull-requests", "pages", "id-token"}
            for step in job["steps"]:
                assert ("uses" in step) != ("run" in step)
                assert set(step) <= {"uses", "run", "with", "if", "env", "id"}
                assert re.fullmatch(r"actions/[\w./-]+@v\d+", step.get("uses", "actions/x@v1"))
                assert "${{" not in step.get("run", "")
                assert step.get("with", {}).get("persist-credentials", False) is False
    # What measures may only read; what may write runs no code of the project.
    for name, job in (("prunebench.yml", "gate"), ("prunebench-nightly.yml", "nightly")):
        measuring = found[name]["jobs"].pop(job)
        assert measuring["permissions"] == {"contents": "read"}
        assert measuring["runs-on"] == ["self-hosted", "gpu"]
        for other in found[name]["jobs"].values():
            lines = [line for s in other["steps"] for line in s.get("run", "").splitlines()]
            assert not any(line.startswith("prunebench ") for line in lines)
            assert not any("checkout" in step.get("uses", "") for step in other["steps"])


def test_what_was_told_is_kept_after_it_was_told(made: Path) -> None:
    """The cache is saved whatever happened, and after notify, whose memory is in it."""
    steps = workflows(made)["prunebench-nightly.yml"]["jobs"]["nightly"]["steps"]
    names = [step.get("uses", step.get("run", "")) for step in steps]
    places = [
        next(i for i, name in enumerate(names) if what in name)
        for what in ("cache/restore", "prunebench run", "prunebench notify", "cache/save")
    ]

    assert places == sorted(places)
    assert steps[places[-1]]["if"] == "always()"
    restored, saved = steps[places[0]]["with"], steps[places[-1]]["with"]
    assert restored["path"] == saved["path"] == ".prunebench"
    assert saved["key"].startswith(restored["restore-keys"].strip())


@pytest.mark.slow
def test_there_is_one_comment_which_is_rewritten(made: Path) -> None:
    """The job's own shell text, with a stand-in for gh: it posts, or else edits."""
    (step,) = (
        s for s in workflows(made)["prunebench.yml"]["jobs"]["comment"]["steps"] if "run" in s
    )
    (made / "gh").write_text(
        '#!/bin/sh\necho "$*" >>calls\ncase $* in *--jq*) printf "%s" "$FOUND";; esac\n'
    )
    (made / "gh").chmod(0o755)
    (made / "prunebench.md").write_text("## a | b\n$(touch evil)\n")
    path = f"{made}:{os.environ['PATH']}"
    for found, asked in (("", "POST repos/o/r/issues/7/"), ("41\n42", "PATCH repos/o/r/issues/")):
        env = {"PATH": path, "NUMBER": "7", "REPOSITORY": "o/r", "FOUND": found}
        subprocess.run(["bash", "-e", "-c", step["run"]], env=env, cwd=made, check=True)
        sent = (made / "calls").read_text().splitlines()[-1]
        assert f"--method {asked}comments" in sent
        assert sent.endswith("-F body=@comment.md")
    assert "comments/41 " in sent
    body = (made / "comment.md").read_text()
    assert body == "<!-- prunebench -->\n## a | b\n$(touch evil)\n"
    assert not (made / "evil").exists()


def commands(folder: Path) -> Iterator[list[str]]:
    """Every prunebench command of the workflows and the script, as words."""
    for flow in workflows(folder).values():
        for job in flow["jobs"].values():
            lines = [line for s in job["steps"] for line in s.get("run", "").splitlines()]
            yield from (shlex.split(w)[1:] for w in lines if w.startswith("prunebench "))
    script = (folder / "nightly.sh").read_text()
    for line in script.splitlines():
        if '"$prunebench" ' in line:
            words = shlex.split(re.sub(r"\$\{\w+:[+-](\w*).*?\}+", r"\1", line).rstrip("& "))
            yield words[words.index("$prunebench") + 1 :]


def test_the_commands_in_them_exist(made: Path) -> None:
    """Each is parsed by our own command line, options and all."""
    from prunebench.cli import app

    known = typer.main.get_command(app)
    assert isinstance(known, click.Group) or hasattr(known, "commands")
    unknown = set()
    seen = []
    for name, *words in commands(made):
        seen.append(name)
        if name not in known.commands:  # type: ignore[attr-defined]
            unknown.add(name)
            continue
        command = known.commands[name]  # type: ignore[attr-defined]
        options = {o for p in command.params for o in [*p.opts, *p.secondary_opts]}
        unknown |= {w for w in words if w.startswith("-") and w not in options}

    assert {"run", "check", "notify", "compare", "leaderboard"} == set(seen)
    assert not unknown


# --------------------------------------------------------------------------------- the script


class Cron:
    """The script beside a stand-in for prunebench that notes what it is asked."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.command = folder / "fake"
        self.command.write_text(
            "#!/bin/sh\n"
            'echo "$*" >>"$CALLS"\n'
            'slow() { sleep 20 & trap "kill $!; exit 75" TERM; wait; }\n'
            'case $1 in run) [ -z "${SLOW:-}" ] || slow\n'
            'echo "{}" >logs/nightly.json; exit "${CODE:-0}";; esac\n'
            'exit "${LATER:-0}"\n'
        )
        self.command.chmod(0o755)
        self.calls = folder / "calls"

    def start(self, **settings: object) -> subprocess.Popen[bytes]:
        self.calls.write_text("")
        given = {k: str(v) for k, v in settings.items()}
        kept = {k: v for k, v in os.environ.items() if not k.startswith("PRUNEBENCH")}
        env = {**kept, "PRUNEBENCH": str(self.command), "CALLS": str(self.calls), **given}
        return subprocess.Popen(
            ["/bin/sh", str(self.folder / "nightly.sh")],
            env=env,
            cwd="/",
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def night(self, **settings: object) -> tuple[int, list[str]]:
        """The exit code, and the commands that were run."""
        code = self.start(**settings).wait(20)
        return code, [line.split(" ")[0] for line in self.calls.read_text().splitlines()]

    def log(self) -> str:
        return "".join(p.read_text() for p in (self.folder / "logs").glob("*.log"))


@pytest.fixture
def cron(made: Path) -> Cron:
    assert (made / "nightly.sh").stat().st_mode & stat.S_IXUSR
    return Cron(made)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "after"),
    [
        *((c, ["leaderboard"]) for c in (0, 1, 3, 4, 6)),
        *((c, []) for c in (2, 5, 75, 130)),
    ],
)
def test_the_exit_code_of_the_run_is_kept(cron: Cron, code: int, after: list[str]) -> None:
    """What was stopped, or measured nothing, is neither published nor told."""
    assert cron.night(CODE=code) == (code, ["run", *after])


@pytest.mark.slow
def test_a_second_night_is_compared_and_told(cron: Cron) -> None:
    """The night before is beside it, and the address is not among the words of any command."""
    cron.night()
    code, ran = cron.night(PRUNEBENCH_WEBHOOK="https://h/secret", PRUNEBENCH_LINK="https://e.x/a b")

    assert (code, ran) == (0, ["run", "compare", "leaderboard", "notify"])
    calls = cron.calls.read_text()
    assert "run cases --json logs/nightly.json\n" in calls
    assert "compare logs/previous.json logs/nightly.json\n" in calls
    assert "notify logs/nightly.json --link https://e.x/a b\n" in calls
    assert "secret" not in calls + cron.log()


@pytest.mark.slow
def test_settings_come_from_a_file_too(cron: Cron) -> None:
    (cron.folder / "nightly.env").write_text(
        'PRUNEBENCH_ARGS="--device cuda --fresh"\nPRUNEBENCH_CASES="cases/a cases/b"\n'
        "PRUNEBENCH_WEBHOOK=https://h/s\n"
    )
    assert cron.night()[1] == ["run", "leaderboard", "notify"]

    first = cron.calls.read_text().splitlines()[0]
    assert first == "run cases/a cases/b --json logs/nightly.json --device cuda --fresh"


@pytest.mark.slow
def test_a_later_step_that_fails_is_seen_unless_the_run_failed(cron: Cron) -> None:
    assert cron.night(LATER=3)[0] == 3
    assert cron.night(LATER=3, CODE=1)[0] == 1
    assert "failed with 3: leaderboard" in cron.log()


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["flock", "mkdir"])
def test_one_night_at_a_time(
    cron: Cron, tool: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A second night gives way with 75; one that was killed leaves no lock that lasts.

    A signal to the script stops the run, which saves what it has and ends with 75.
    """
    settings: dict[str, object] = {}
    if tool == "mkdir":  # a system without flock
        tools = tmp_path_factory.mktemp("tools")
        for name in ("dirname", "mkdir", "date", "cat", "rm", "cp", "sleep"):
            (tools / name).symlink_to(str(shutil.which(name)))
        settings["PATH"] = tools
    elif shutil.which("flock") is None:
        pytest.skip("this system has no flock")
    first = cron.start(SLOW=1, **settings)
    until = time.monotonic() + 60
    while "run" not in cron.calls.read_text() and time.monotonic() < until:
        time.sleep(0.02)
    other = Cron(cron.folder)
    other.calls = cron.folder / "calls2"
    assert other.night(**settings) == (75, [])
    assert "another nightly run has not ended" in cron.log()

    first.send_signal(signal.SIGTERM)
    assert first.wait(10) == 75
    assert other.night(**settings)[0] == 0
    if tool == "mkdir":
        (cron.folder / ".prunebench/nightly.lock.d").mkdir()
        gone = subprocess.Popen(["/bin/true"])
        gone.wait()
        (cron.folder / ".prunebench/nightly.lock.d/pid").write_text(str(gone.pid))
        assert other.night(**settings)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["dash", "bash", "sh", "busybox"])
def test_the_script_is_read_by_every_shell(made: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    words = [shell, "sh", "-n"] if shell == "busybox" else [shell, "-n"]

    assert subprocess.run([*words, "nightly.sh"], check=False).returncode == 0


def test_the_wheel_would_carry_the_templates() -> None:
    """They lie in the package, and every one is used."""
    names = {path.name for path in scaffold.TEMPLATES.iterdir()}

    assert names == {"reference.yaml", "model.yaml", "prunebench.yml", "nightly.yml", "nightly.sh"}
    assert scaffold.TEMPLATES.parent == Path(scaffold.__file__).parents[1]

"""Sessions for people and CI: `nox -l` lists them."""

from __future__ import annotations

from pathlib import Path

import nox

nox.options.sessions = ["lint", "types", "tests"]
nox.options.default_venv_backend = "venv"

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PROJECT)
DEV = PROJECT["project"]["optional-dependencies"]["dev"]
PINNED = ("-c", "constraints.txt")


def tools(*names: str) -> list[str]:
    """The requirements of these tools, as pyproject.toml states them."""
    return [need for need in DEV if need.split(">")[0] in names]


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely mistakes."""
    session.install(*PINNED, *tools("ruff"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types of the package."""
    session.install(*PINNED, "-e", ".[dev]")
    session.run("mypy")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """The test suite; arguments go to pytest."""
    session.install(*PINNED, "-e", ".[test]")
    session.run("pytest", "-n", "auto", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """10,000 mutated case files, and a share of that for plans, records, baselines, arguments."""
    session.install(*PINNED, "-e", ".[test]")
    many = {"PRUNEBENCH_EXAMPLES": "10000"}
    session.run("pytest", "tests/test_properties.py", *session.posargs, env=many)


@nox.session
def smoke(session: nox.Session) -> None:
    """The main job, as pytest items."""
    session.install(*PINNED, "-e", ".[test]")
    session.run("pytest", "cases/smoke", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """How fast our own code is, as ratios within one run."""
    session.install(*PINNED, "-e", ".[test]")
    session.run("pytest", "bench", "--benchmark-enable", "--benchmark-only", *session.posargs)
    session.run("python", "bench/search.py")


@nox.session
def faults(session: nox.Session) -> None:
    """Kill -9 at random points of a real run, resume, and print what was lost."""
    session.install(*PINNED, "-e", ".")
    session.run("python", "bench/faults.py", *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Latency of the papers' shapes on a GPU, next to the ideal ones.

    Arguments go to `prunebench run`: `-- -k llama-2-7b`; `-- --accept --because TEXT` puts the
    timings into baselines/latency/<device>/.
    """
    session.install(*PINNED, "-e", ".[gpu]")
    result = str(Path(session.create_tmp()) / "latency.json")
    command = ("prunebench", "run", "cases/latency", "--device", "cuda", "--json", result)
    # bench/ideal.py exits 1 for a regression or a crash, after it has printed its table.
    session.run(*command, "-k", "not tiny", *session.posargs, success_codes=[0, 1, 3])
    session.run("python", "bench/ideal.py", result)


@nox.session
def wheel(session: nox.Session) -> None:
    """The built wheel runs the main job in an empty folder."""
    session.install(*PINNED, "build", "hatchling")
    folder = session.create_tmp()
    session.run("python", "-m", "build", "--wheel", "--no-isolation", "--outdir", folder)
    session.install(*PINNED, "--find-links", folder, "--no-index", "--no-deps", "prunebench")
    session.install(*PINNED, "prunebench[test]")
    session.chdir(folder)
    session.run("prunebench", "run", "--store", "store")


@nox.session
def picture(session: nox.Session) -> None:
    """Draw docs/run.svg from a real run of the main job."""
    session.install(*PINNED, "-e", ".")
    session.run("python", "docs/picture.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation into site/; `-- serve` shows it while you write."""
    session.install(*PINNED, "-e", ".[docs]")
    quiet = {"NO_MKDOCS_2_WARNING": "1"}
    session.run("mkdocs", *(session.posargs or ["build", "--strict"]), env=quiet)


@nox.session
def replay(session: nox.Session) -> None:
    """Run the commands on the pages given and show what they printed; by default the tutorial's."""
    session.install(*PINNED, "-e", ".[test]")
    session.run("python", "docs/replay.py", *(session.posargs or ["docs/tutorial.md"]))

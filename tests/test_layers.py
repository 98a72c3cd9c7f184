from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import prunebench
from prunebench.results.store import Store

PACKAGE = Path(prunebench.__file__).parent

#: Who may import whom at module level: strictly downwards.
LAYERS = (
    ("errors", "nvml", "outcomes", "packing", "plan", "signals", "stats", "steps", "watching"),
    ("record", "schema", "screen", "strips", "files", "loglines", "standing"),
    (
        *("evidence", "massed", "conditions", "drawing", "kept", "hashes", "promises", "source"),
        "together",
    ),
    ("journal",),
    ("api", "contest", "verdict", "reach", "select", "texts", "hub", "shape", "trust"),
    (
        "registry",
        "tournament",
        "gating",
        "lm_results",
        "nights",
        "noise",
        "seeds",
        "store",
        "baseline",
        "planfile",
    ),
    ("case", "claims", "figures", "lm_pairing", "partial"),
    ("grammar", "cache", "gputime", "machine"),
    ("layers", "places", "provenance", "published"),
    ("cells",),
    ("casefile",),
    ("estimate", "scaffold"),
    ("comparing", "completing", "explain", "gates", "session", "outlook"),
    ("archive",),
    ("report", "options", "gathering", "timeleft", "ranking"),
    ("reports",),
    ("summary",),
    ("board",),
    ("leaderboard",),
    ("site",),
    ("progress", "card", "notices", "outputs", "showing", "tables", "webhook"),
    ("card_data", "dense_card"),
    ("card_text",),
    ("guards", "workers"),
    ("accepting", "shelf", "submitting"),
    ("upkeep",),
    ("removal",),
    ("doctor", "slurm"),
    ("execution", "cli_checkpoint"),
    (
        "cli_baseline",
        "cli_cache",
        "cli_doctor",
        "cli_export",
        "cli_history",
        "cli_init",
        "cli_leaderboard",
        "cli_notify",
        "cli_prune",
        "cli_show",
    ),
    # ------------------------------------------------- torch below this line
    ("modeling", "tensors"),
    ("families",),
    ("models",),
    ("loading",),
    ("calibration", "scoring", "stream", "timing", "rotation"),
    ("width",),
    ("surgery",),
    ("tools", "runner", "export", "conformance"),
    ("pruning", "publishing", "testing"),
    # ------------------------------------------------- front ends
    ("cli_calibrate",),
    ("cli", "plugin"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
TORCH_LINE = RANK["modeling"]
HEAVY = (
    *("torch", "transformers", "lm_eval", "datasets", "pandas", "scipy", "numpy"),
    *("matplotlib", "jinja2"),
)


def module_level_imports(file: Path) -> list[tuple[int, str]]:
    """(relative level, module) of every import that runs when *file* is imported."""
    found = []
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.ImportFrom):
            names = [node.module] if node.module else [a.name for a in node.names]
            found += [(node.level, name or "") for name in names]
        elif isinstance(node, ast.Import):
            found += [(0, alias.name) for alias in node.names]
    return found


def files_of(name: str) -> list[tuple[int, Path]]:
    """The files of a layer's member, each with the level at which it sees the others."""
    if (PACKAGE / name).is_dir():
        return [(2, file) for file in (PACKAGE / name).glob("*.py")]
    return [(1, PACKAGE / f"{name}.py")]


@pytest.mark.parametrize("name", sorted(RANK))
def test_imports_go_strictly_down(name: str) -> None:
    """A module imports only from lower layers, so cycles cannot exist."""
    for up, file in files_of(name):
        for level, module in module_level_imports(file):
            other = module.split(".")[0]
            if level != up or other not in RANK:
                continue
            front_end = name.split("_")[0] in ("cli", "plugin") and RANK[other] < TORCH_LINE
            assert front_end or RANK[other] < RANK[name], f"{name} imports {other}"


def test_every_module_has_a_layer() -> None:
    """A new module is given its place on purpose."""
    modules = {p.stem for p in PACKAGE.glob("*.py")} - {"__init__", "__main__"}

    assert modules | {"reports", "site"} == set(RANK)


def test_above_the_line_nothing_heavy_is_imported() -> None:
    """Modules above the torch line, methods and metrics name no heavy library at the top."""
    files = [f for n, rank in RANK.items() if rank < TORCH_LINE for _, f in files_of(n)]
    files += [*PACKAGE.glob("cli*.py"), PACKAGE / "plugin.py"]
    files += [p for k in ("methods", "metrics") for p in (PACKAGE / k).glob("[!_]*.py")]
    for file in files:
        for level, module in module_level_imports(file):
            assert level or module.split(".")[0] not in HEAVY, f"{file.name} imports {module}"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["list"],
        ["check"],
        ["run", "--dry-run"],
        ["cache", "info"],
        ["history", "a/b", "--store"],
        ["export", "--schema"],
    ],
)
def test_commands_that_measure_nothing_start_light(arguments: list[str], tmp_path: Path) -> None:
    """Help, listing, checking, estimates and history import no torch, lm_eval, datasets, pandas."""
    if arguments[-1] == "--store":
        from factories import accuracy, record

        for day in range(1, 9):
            Store(tmp_path).save(record(accuracy(80 + day // 5), created=f"2026-11-0{day}"))
        arguments = [*arguments, str(tmp_path)]
    program = (
        "import sys\nsys.argv = ['prunebench', *sys.argv[1:]]\n"
        "from prunebench.cli import main\n"
        "try:\n    main()\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        f"print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    root = PACKAGE.parent
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=root if (root / "cases").is_dir() else None,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"

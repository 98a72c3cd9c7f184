from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from factories import ROOT, accuracy, record

import prunebench
from prunebench.results.store import Store

PACKAGE = Path(prunebench.__file__).parent

#: The rooms, top to bottom: a room may import rooms on lower lines, never its own line's others.
ROOMS = (
    ("__main__",),
    ("cli",),
    ("plugin", "testing", "__init__"),
    ("leaderboard", "checkpoints"),
    ("reports",),
    ("runs",),
    ("results",),
    ("cases",),
    ("methods", "metrics"),
    ("registry", "case"),
    ("api",),
    ("calibration", "search"),
    ("edits",),
    ("models",),
    ("formatting",),
    ("data", "verdicts"),
    ("system", "resume", "record"),
    ("plan",),
    ("discovery",),
    ("specs", "progress", "errors", "version", "reference"),
)
RANK = {name: rank for rank, names in enumerate(ROOMS) for name in names}

HEAVY = (
    *("torch", "transformers", "lm_eval", "datasets", "pandas", "scipy", "numpy"),
    "jinja2",
)
#: The only places that may import what is heavy when they are imported.
TORCH = (
    *("models", "methods", "metrics", "testing", "calibration"),
    *("runs.worker", "runs.conformance", "runs.functional"),
    *("checkpoints.prune", "checkpoints.publish"),
)

#: A module, what it imports, and whether that happens when it is imported.
Import = tuple[str, str, bool]


def name_of(file: Path) -> str:
    """``models.stream`` for its file; a package by the name of its folder."""
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


@cache
def modules() -> dict[str, Path]:
    """Every module of the package."""
    own = PACKAGE.rglob("*.py")
    return {name_of(f): f for f in own if not {"tasks", "_shipped"} & set(f.parts)}


def room(module: str) -> str:
    return module.split(".")[0]


@cache
def imports() -> tuple[Import, ...]:
    """Every import of a module of ours by another, wherever it stands."""
    return tuple(each for module, file in modules().items() for each in _imports_of(module, file))


def _imports_of(module: str, file: Path) -> Iterator[Import]:
    package = [] if module == "__init__" else module.split(".")
    if file.name != "__init__.py":
        package = package[:-1]
    for node, at_once in statements(ast.parse(file.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base += node.module.split(".") if node.module else []
            for alias in node.names:
                full = ".".join([*base, alias.name])
                yield module, full if full in modules() else ".".join(base) or "__init__", at_once


def statements(body: list[ast.stmt], at_once: bool = True) -> Iterator[tuple[ast.stmt, bool]]:
    """Every statement, and whether it runs when the module is imported."""
    for node in body:
        yield node, at_once
        later = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) or (
            isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        )
        for part in ("body", "orelse", "finalbody", "handlers"):
            yield from statements(getattr(node, part, []), at_once and not later)


def test_every_module_has_a_room() -> None:
    """A new module at the top is given its line on purpose; about a dozen are public."""
    assert {room(module) for module in modules()} == set(RANK)
    assert len([m for m in modules() if "." not in m and (PACKAGE / f"{m}.py").exists()]) <= 20


@pytest.mark.parametrize("name", sorted(RANK))
def test_imports_go_strictly_down(name: str) -> None:
    """A room imports lower rooms only, at the top of a module and inside functions alike.

    What a type checker alone sees may name a higher room; the package's own lazy names are those.
    """
    for module, other, _ in imports():
        if room(module) == name != room(other) and name != "__init__":
            assert RANK[room(other)] > RANK[name], f"{module} imports {other}"


def test_no_import_circle_anywhere() -> None:
    """Every module can be read before those that import it, also where an import waits."""
    left = {module: set() for module in modules()}
    for module, other, _ in imports():
        if other != module and "__init__" not in (module, other):
            left[module].add(other)
    while leaves := {module for module, others in left.items() if not others}:
        left = {m: others - leaves for m, others in left.items() if m not in leaves}

    assert not left, f"in or above a circle: {sorted(left)}"


def heavy(module: str) -> bool:
    """Whether a module may take seconds to import."""
    named = any(f"{module}.".startswith(f"{place}.") for place in TORCH)
    # A method's or metric's own file is read to list it, and so are the options that two share;
    # its other helpers come when it is used.
    own = "._" not in module or module == "metrics._tasks"
    listed = module.startswith(("methods.", "metrics.")) and own
    return named and not listed and module != "models"


@pytest.mark.parametrize("name", sorted(RANK))
def test_torch_is_where_the_page_says(name: str) -> None:
    """Elsewhere no module names a heavy library at its top, nor a module of ours that does."""
    for module, file in modules().items():
        if room(module) != name or heavy(module):
            continue
        for node, at_once in statements(ast.parse(file.read_text(encoding="utf-8")).body):
            if at_once and isinstance(node, ast.Import | ast.ImportFrom):
                outside = isinstance(node, ast.Import) or not node.level
                named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                named += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                for library in named if outside else ():
                    assert library.split(".")[0] not in HEAVY, f"{module} imports {library}"
    for module, other, at_once in imports():
        if at_once and room(module) == name and not heavy(module):
            assert not heavy(other), f"{module} imports {other}"


def test_every_package_says_what_it_is_for() -> None:
    """The first lines of a room: what it is for, what does not belong there, what it may use."""
    for module, file in modules().items():
        if file.name == "__init__.py" and module != "__init__":
            text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            assert len(text.splitlines()) >= 3 or "." in module, f"{module} says too little"


@pytest.mark.slow
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
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "HEAVY []"

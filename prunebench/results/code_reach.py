"""Which source files can bear on a number: all that are reached by import from where it is made.

Read from the sources themselves, so that no list has to be maintained: an import counts wherever it
is, at the top or inside a function, but for those that only a type checker sees. So does the
full name of a module in a text, which is how another process is given what to run. Only files of
this package are followed, and for a plug-in those of its own package or project. What a module
imports by a name it computes is not seen; of what is reached only ``plan.py`` does that, for the
kind of an edit in a file, and so all files of ``edits`` count as imported by it.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..system import hash_cache

PACKAGE = Path(__file__).resolve().parents[1]
#: The full name of a module of ours, as a text.
_NAMED = re.compile(rf"""["']({PACKAGE.name}(?:\.\w+)+)["']""")


def reached(*starts: Path) -> list[Path]:
    """*starts* and all source files that they import, directly or not; sorted."""
    found: set[Path] = set()
    waiting = [start.resolve() for start in starts]
    while waiting:
        if (file := waiting.pop()) not in found:
            found.add(file)
            waiting += _imports(file)
    return sorted(found)


@cache
def digest(*starts: Path) -> str:
    """A hash of all source files that are reached from *starts*."""
    # Of this process's own code, which stays what it was when it was imported.
    found = hashlib.sha256()
    for file in reached(*starts):
        name = file.relative_to(_root(file))
        found.update(f"{name.as_posix()}:{hash_cache.sha256(file)}\n".encode())
    return found.hexdigest()


def _packages(file: Path) -> Iterator[Path]:
    """The folders of the packages that *file* is in, innermost first."""
    for folder in file.parents:
        if not (folder / "__init__.py").is_file():
            return
        yield folder


def _root(file: Path) -> Path:
    """The folder that the package of *file* lies in; that of *file* if it is in none."""
    return next((folder.parent for folder in reversed([*_packages(file)])), file.parent)


@cache
def _imports(file: Path) -> frozenset[Path]:
    """The files that *file* imports itself, and the ``__init__`` of every package on the way."""
    try:
        text = file.read_text(encoding="utf-8")
        tree = ast.parse(text)
    except (OSError, SyntaxError, ValueError):
        return frozenset()
    found = {f for folder in _packages(file) if (f := folder / "__init__.py").is_file()}
    if file == PACKAGE / "plan.py":
        found.update((PACKAGE / "edits").glob("*.py"))
    for name in _NAMED.findall(text):
        found.update(_absolute(file, name, []))
    for node in _run(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found.update(_absolute(file, alias.name, []))
        elif isinstance(node, ast.ImportFrom) and node.level:
            base = file.parents[node.level - 1]
            found.update(_below(base, (node.module or "").split("."), node.names))
        elif isinstance(node, ast.ImportFrom):
            found.update(_absolute(file, node.module or "", node.names))
    if not file.is_relative_to(PACKAGE) and PACKAGE / "__init__.py" in found:
        # What it may take from the package itself comes late, by name; the type checker knows.
        found.update(_offered())
    return frozenset(found - {file})


@cache
def _offered() -> frozenset[Path]:
    """The modules that the package's own names come from, also those that arrive when asked for."""
    tree = ast.parse((PACKAGE / "__init__.py").read_bytes())
    imports = [n for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and n.level]
    return frozenset(f for n in imports for f in _below(PACKAGE, (n.module or "").split("."), []))


def _run(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement of a tree that can run: what only a type checker sees is left out."""
    yield node
    checking = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    for part in ("body", "orelse", "handlers", "finalbody", "cases")[checking:]:
        statements = getattr(node, part, ())
        for statement in statements if isinstance(statements, list) else ():
            yield from _run(statement)


def _absolute(file: Path, module: str, names: list[ast.alias]) -> set[Path]:
    """The files of ``import module``, or ``from module import names``, in *file*."""
    parts = module.split(".")
    if parts[0] == PACKAGE.name:
        return _below(PACKAGE, parts[1:], names)
    root = _root(file)
    # Among installed packages, a neighbour is no part of a plug-in.
    installed = {"site-packages", "dist-packages"} & {*root.parts}
    if installed and root / parts[0] not in file.parents:
        return set()
    return _below(root, parts, names)


def _below(base: Path, parts: list[str], names: list[ast.alias]) -> set[Path]:
    """The files of the module *parts* below the folder *base*, and of *names* that are modules."""
    found = {base / "__init__.py"}
    for part in filter(None, parts):
        base /= part
        found |= {base / "__init__.py", base.with_name(f"{part}.py")}
    for alias in names:
        found |= {base / alias.name / "__init__.py", base / f"{alias.name}.py"}
    return {file.resolve() for file in found if file.is_file()}

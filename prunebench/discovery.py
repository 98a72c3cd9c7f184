"""Plugin discovery: finds a class by its tag, from a file name or an entry point. No list to edit.

Kinds are ``methods``, ``metrics`` and ``edits``: the folder of this package and the entry point
group ``prunebench.<kind>``. A class that somebody imported (a ``conftest.py``) is found as a
subclass of its kind's base class.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from typing import TypeVar

from msgspec import Struct

from .errors import PrunebenchError, did_you_mean

T = TypeVar("T", bound=Struct)


def find(base: type[T], kind: str, name: str) -> type[T]:
    """The subclass of *base* whose tag is *name*; its file is imported if need be.

    Raises:
        PrunebenchError: if there is none, or its file cannot be imported.
    """
    point = None
    if name in files(kind):
        home = f"{__package__}.{kind}.{name}"
        _loaded(lambda: import_module(home), f"{kind[:-1]} {name!r} ({home})")
    elif (point := installed(kind).get(name)) is not None:
        _loaded(point.load, f"{kind[:-1]} {name!r} ({_origin(point)})")
    for cls in _subclasses(base):
        if tag(cls) == name:
            return cls
    if name in files(kind) or point is not None:
        where = _origin(point) if point else f"{__package__}.{kind}.{name}"
        raise PrunebenchError(f"{kind[:-1]} {name!r}: {where} has no class with that tag")
    raise PrunebenchError(f"unknown {kind[:-1]} {name!r}; {did_you_mean(name, names(base, kind))}")


def names(base: type[Struct], kind: str) -> list[str]:
    """All known tags of a kind."""
    return sorted({*files(kind), *installed(kind), *(tag(c) for c in _subclasses(base))})


def tag(plugin: Struct | type[Struct]) -> str:
    """The public name of a method, metric or edit."""
    return str(plugin.__struct_config__.tag)


@cache
def files(kind: str) -> tuple[str, ...]:
    """The names that come with the package."""
    folder = Path(__file__).parent / kind
    return tuple(sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")))


@cache
def installed(kind: str) -> dict[str, EntryPoint]:
    """The entry points of installed packages, by name."""
    return {point.name: point for point in entry_points(group=f"prunebench.{kind}")}


def _loaded(load: Callable[[], object], what: str) -> None:
    """Import somebody's file; whatever is wrong with it is one line that names it."""
    try:
        load()
    except Exception as error:  # code of others fails as it likes
        frames = [f for f in extract_tb(error.__traceback__) if not f.filename.startswith("<")]
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{error.filename}:{error.lineno}"
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PrunebenchError(f"{what} cannot be loaded: {message} (at {place})") from error


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name}" if point.dist else point.value


def _subclasses(base: type[T]) -> Iterator[type[T]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)

"""Name to class, by file name or entry point: no list to edit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from typing import TypeVar

from .api import Method, Metric, tag
from .errors import PrunebenchError, did_you_mean

Plugin = TypeVar("Plugin", type[Method], type[Metric])


def method(name: str) -> type[Method]:
    """The method class called *name*."""
    return _find(Method, "methods", name)


def metric(name: str) -> type[Metric]:
    """The metric class called *name*."""
    return _find(Metric, "metrics", name)


def names(kind: str) -> list[str]:
    """All known names of a kind: ``methods`` or ``metrics``."""
    base: type[Method] | type[Metric] = Method if kind == "methods" else Metric
    return sorted({*files(kind), *_entry_points(kind), *(tag(c) for c in _subclasses(base))})


def _find(base: Plugin, kind: str, name: str) -> Plugin:
    point = None
    if name in files(kind):
        home = f"{__package__}.{kind}.{name}"
        _loaded(lambda: import_module(home), f"{kind[:-1]} {name!r} ({home})")
    elif (point := _entry_points(kind).get(name)) is not None:
        _loaded(point.load, f"{kind[:-1]} {name!r} ({_origin(point)})")
    for cls in _subclasses(base):
        if tag(cls) == name:
            return cls  # type: ignore[return-value]
    if name in files(kind) or point is not None:
        where = _origin(point) if point else f"{__package__}.{kind}.{name}"
        raise PrunebenchError(f"{kind[:-1]} {name!r}: {where} has no class with that tag")
    raise PrunebenchError(f"unknown {kind[:-1]} {name!r}; {did_you_mean(name, names(kind))}")


def _loaded(load: Callable[[], object], what: str) -> None:
    """Import a plug-in's file; any error becomes one line that names it."""
    try:
        load()
    except Exception as error:  # a plug-in may raise anything
        frames = [f for f in extract_tb(error.__traceback__) if not f.filename.startswith("<")]
        place = f"{frames[-1].filename}:{frames[-1].lineno}"
        if isinstance(error, SyntaxError) and error.filename:
            place = f"{error.filename}:{error.lineno}"
        message = f"{type(error).__name__}: {error}".splitlines()[0]
        raise PrunebenchError(f"{what} cannot be loaded: {message} (at {place})") from error


def _origin(point: EntryPoint) -> str:
    return f"{point.value} of {point.dist.name}" if point.dist else point.value


@cache
def files(kind: str) -> tuple[str, ...]:
    """The names that come with the package."""
    folder = Path(__file__).parent / kind
    return tuple(sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_")))


@cache
def _entry_points(kind: str) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"prunebench.{kind}")}


def _subclasses(base: type[Method] | type[Metric]) -> Iterator[type[Method | Metric]]:
    for cls in base.__subclasses__():
        yield cls
        yield from _subclasses(cls)

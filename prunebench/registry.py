"""Name to class, by file name or entry point: no list to edit."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
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
    if name in files(kind):
        import_module(f".{kind}.{name}", __package__)
    elif name in _entry_points(kind):
        _entry_points(kind)[name].load()
    for cls in _subclasses(base):
        if tag(cls) == name:
            return cls  # type: ignore[return-value]
    raise PrunebenchError(f"unknown {kind[:-1]} {name!r}; {did_you_mean(name, names(kind))}")


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

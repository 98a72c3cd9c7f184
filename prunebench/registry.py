"""Name to class of methods and metrics."""

from __future__ import annotations

from . import discovery
from .api import Method, Metric
from .discovery import files

__all__ = ["files", "method", "metric", "names"]


def method(name: str) -> type[Method]:
    """The method class called *name*."""
    return discovery.find(Method, "methods", name)


def metric(name: str) -> type[Metric]:
    """The metric class called *name*."""
    return discovery.find(Metric, "metrics", name)


def names(kind: str) -> list[str]:
    """All known names of a kind: ``methods`` or ``metrics``."""
    return discovery.names(Method if kind == "methods" else Metric, kind)

"""Lets long work say how far it is, to whoever is watching this thread of control."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WATCHER: ContextVar[Callable[[str], None] | None] = ContextVar("watcher", default=None)


def say(text: str) -> None:
    """Tell the watcher, if there is one: ``say("removal 2 of 7")``. Cheap enough for any loop."""
    if (watcher := _WATCHER.get()) is not None:
        watcher(text)


@contextmanager
def watched(watcher: Callable[[str], None]) -> Iterator[None]:
    """Within the block, *watcher* is told what the work says."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)

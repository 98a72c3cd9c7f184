"""Progress messages of long work, passed to the watcher of the current context."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_WATCHER: ContextVar[Callable[[str], None] | None] = ContextVar("watcher", default=None)


def say(text: str) -> None:
    """Report progress to the watcher, if any: ``say("removal 2 of 7")``. Cheap in any loop."""
    if (watcher := _WATCHER.get()) is not None:
        watcher(text)


@contextmanager
def watched(watcher: Callable[[str], None]) -> Iterator[None]:
    """Within the block, *watcher* receives the messages of ``say``."""
    token = _WATCHER.set(watcher)
    try:
        yield
    finally:
        _WATCHER.reset(token)

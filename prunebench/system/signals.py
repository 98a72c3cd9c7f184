"""Signals that stop a run: Ctrl-C, and those that schedulers send before they kill.

The first signal raises an exception in the main thread, which abandons the current batch and closes
everything on its way out. A second Ctrl-C kills at once. Where a scheduler's signal finds the main
thread deep in a library, where Python cannot raise, a second thread calls *last_words* within the
time that schedulers allow (Slurm's KillWait and Kubernetes' grace period are 30 s); a main thread
that returns meanwhile lets it finish. Code that saves state on the way out asks *time_left* whether
it still may.
"""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

#: Exit code: killed by the second Ctrl-C, by a shell's rule (128 + SIGINT).
KILLED = 130

#: Seconds in which a second Ctrl-C counts as the first: a wrapper and the terminal both send it.
TWICE = 0.1

#: Exit code: stopped by a scheduler, saved, run again (``EX_TEMPFAIL`` of sysexits.h).
STOPPED = 75

#: Seconds that the main thread has to end by itself.
PATIENCE = 20.0

#: Seconds after a scheduler's signal in which the main thread may save its state.
SAVING = 18.0

#: Seconds that the last words may take.
LAST_WORDS = 6.0

#: Held during the last words, which end the process. Reentrant: a signal's handler may interrupt
#: the thread that holds it.
_SPEAKING = threading.RLock()

#: When a scheduler's signal arrived, by *time.monotonic*.
_asked: float | None = None

#: The handlers that ours replace, by signal.
_BEFORE: dict[signal.Signals, Any] = {}

#: The signals that schedulers send; Windows has only one of them.
NAMES = ("SIGTERM", "SIGUSR1")
STOPS = [s for s in signal.Signals if s.name in NAMES]


class StopRequest(KeyboardInterrupt):
    """A scheduler's signal, by its name."""


@contextmanager
def handled(last_words: Callable[[], None], patience: float = PATIENCE) -> Iterator[None]:
    """Within the block, SIGINT raises KeyboardInterrupt and a scheduler's signal StopRequest.

    Does nothing in any thread but the main one. An ignored signal, as SIGINT is under ``nohup``,
    stays ignored.

    If the block has not ended *patience* seconds after a scheduler's signal, *last_words* is called
    from another thread, for at most *LAST_WORDS* seconds, and the process exits with 75.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    found = {number: signal.getsignal(number) for number in (signal.SIGINT, *STOPS)}
    before = {n: handler for n, handler in found.items() if handler is not signal.SIG_IGN}
    ended = threading.Event()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    _ask(None)
    former = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    watch = (reading, set(STOPS) & set(before), ended, last_words, patience)
    threading.Thread(target=_watch, args=watch, daemon=True, name="signals").start()
    _BEFORE.update(before)
    try:
        for number in before:
            signal.signal(number, _interrupt if number == signal.SIGINT else _stop)
        yield
    finally:
        # Last words that have begun end the process; no others may begin.
        silent = _SPEAKING.acquire(timeout=LAST_WORDS)
        ended.set()
        _ask(None)
        if silent:
            _SPEAKING.release()
        for number, handler in before.items():
            signal.signal(number, handler)
        _BEFORE.clear()
        signal.set_wakeup_fd(former)
        os.close(writing)  # ends the thread, which closes the other end


def time_left() -> float:
    """Seconds in which the main thread may save state; infinite before a scheduler's signal."""
    return math.inf if _asked is None else _asked + SAVING - time.monotonic()


def _ask(when: float | None) -> None:
    global _asked  # signals belong to the whole process
    _asked = when


def _interrupt(number: int, frame: FrameType | None) -> None:
    del frame
    signal.signal(number, lambda *_: None)  # the other thread handles the second one
    raise KeyboardInterrupt


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    if _asked is None:
        _ask(time.monotonic())
    for other in STOPS:  # some schedulers send theirs several times
        signal.signal(other, signal.SIG_IGN)
    if _SPEAKING.acquire(timeout=LAST_WORDS):  # not during another thread's last words
        _SPEAKING.release()
    raise StopRequest(signal.Signals(number).name)


def _forked() -> None:
    """Restore the handlers in a forked child; the pipe that it inherits belongs to its parent."""
    if _BEFORE:
        signal.set_wakeup_fd(-1)
        for number, handler in _BEFORE.items():
            signal.signal(number, handler)
        _BEFORE.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _watch(
    reading: int,
    stops: set[Any],
    ended: threading.Event,
    last_words: Callable[[], None],
    patience: float,
) -> None:
    """Read the signal numbers that Python's C handler writes to the pipe, whatever code runs."""
    pressed = math.inf
    try:
        while byte := os.read(reading, 1):
            now = time.monotonic()
            if byte[0] == signal.SIGINT:
                if now - pressed > TWICE:  # whatever the main thread does
                    os._exit(KILLED)
                pressed = min(pressed, now)
            elif byte[0] in stops:
                with _SPEAKING:
                    if _asked is None and not ended.is_set():  # the main thread may see it later
                        _ask(now)
                speaker = threading.Timer(patience, _speak, (ended, last_words))
                speaker.daemon = True
                speaker.start()
    finally:
        os.close(reading)


def _speak(ended: threading.Event, last_words: Callable[[], None]) -> None:
    with _SPEAKING:
        if ended.is_set():
            return
        try:
            last_words()
        finally:
            os._exit(STOPPED)

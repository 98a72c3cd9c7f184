"""What a format of ``prunebench export`` is: a file in this folder that has ``FORMATS``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path

from msgspec import Struct

from ...record import Record
from .grid import Grid
from .items import Judged


class Export(Struct, frozen=True):
    """The records to write, and what a format may ask of them.

    *metrics* are names or patterns of columns, empty for the usual ones; *wide* wants a line per
    case. *grid* makes the table of records and columns, *judged* the verdicts.
    """

    records: Sequence[Record]
    metrics: Sequence[str]
    wide: bool
    grid: Callable[[], Grid]
    judged: Callable[[], Judged]


class Format(Struct, frozen=True):
    """A format of a single file: its name, the file's suffix, and how its text is made."""

    name: str
    suffix: str
    text: Callable[[Export], str]


@cache
def formats() -> dict[str, Format]:
    """Every format by name, in the order of the files' names."""
    names = sorted(path.stem for path in Path(__file__).parent.glob("[!_]*.py"))
    modules = (import_module(f"{__package__}.{name}") for name in names)
    return {one.name: one for module in modules for one in getattr(module, "FORMATS", ())}

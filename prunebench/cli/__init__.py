"""The command line: the Typer app, its shared options, one file per command.

A command reads options, calls one function of a lower room and prints what it returns; decisions,
file formats and numbers do not belong here. May import every other package; nothing imports it.
"""

from __future__ import annotations

from .commands import app, main

__all__ = ["app", "main"]

"""Distinguishes paths from names, where a case may give either."""

from __future__ import annotations


def is_path(text: object) -> bool:
    """Whether *text* is a path: it starts with ``.`` or ``/``. All other texts are names."""
    return isinstance(text, str) and text.startswith((".", "/"))

"""The errors a user can act on; front ends print them as one plain line, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class PrunebenchError(Exception):
    """Something the user can put right: a case, an argument, a file, a model that does not fit."""


class SearchError(PrunebenchError):
    """A method looked and found nothing that can be done: the request was sound, the model is not
    or has no such size.
    """


class PrunebenchWarning(UserWarning):
    """Something a user should know that is no mistake; front ends print it as one plain line."""


class CaseError(PrunebenchError):
    """One or more problems in case files, found before anything was loaded.

    Args:
        problems: one line each, as ``file:line:column: what was found, what is allowed``.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence that names the nearest known word, and all of them if there are few."""
    known = sorted(known)
    near = get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}allowed: {', '.join(known)}" if known else hint.strip()

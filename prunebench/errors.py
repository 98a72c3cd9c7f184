"""Errors that a user can act on, printed as plain lines without a traceback."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from difflib import get_close_matches

#: A longer line of a message is cut in its middle.
MAX_LINE = 1000
#: Up to so many known words are listed in a message.
MANY = 40

#: Unicode's categories of characters that print nothing and yet do something, such as to turn the
#: direction of a line or to end it: control, format, lone surrogate, line and paragraph separator.
_ACTIVE = ("Cc", "Cf", "Cs", "Zl", "Zp")


def inert(text: str, limit: int = MAX_LINE) -> str:
    """*text* from outside as one line that no terminal or CI server obeys.

    Control characters, line ends, marks that reverse the direction of writing, lone surrogates and
    logging commands of CI servers are escaped; text longer than *limit* loses its middle.
    """
    if len(text) > limit:
        text = f"{text[: limit * 2 // 3]}... {len(text):,} letters ...{text[-limit // 4 :]}"
    return _OBEYED.sub(r"\\x23", "".join(_escaped(letter) for letter in text))


def inert_lines(text: str) -> str:
    """*text* with each line made inert, also to a CI server that reads it as a log."""
    return "\n".join(disarmed(inert(line)) for line in text.split("\n"))


def disarmed(line: str) -> str:
    """*line* with a leading command of GitHub Actions (``::error::``) escaped."""
    return _COMMAND.sub(r"\1\\x3a:", line)


def _escaped(letter: str) -> str:
    active = unicodedata.category(letter) in _ACTIVE
    return letter.encode("unicode_escape").decode() if active else letter


#: What GitHub's runner takes for a command at the start of a line, and what it and Azure's do
#: anywhere in one.
_COMMAND = re.compile(r"^(\s*)::")
_OBEYED = re.compile(r"#(?=#(?:\[|vso\[))")


class PrunebenchError(Exception):
    """Something the user can correct: a case, an argument, a file, a model that does not fit.

    Its text may quote input, so ``str`` makes it inert.
    """

    def __str__(self) -> str:
        return inert_lines(super().__str__())


class SearchError(PrunebenchError):
    """A valid request that the search of a method cannot satisfy on this model."""


class PrunebenchWarning(UserWarning):
    """Something that a user should know but that is not an error; printed as one plain line."""


class CaseError(PrunebenchError):
    """One or more problems in case files, found before anything was loaded.

    Args:
        problems: one line each, as ``file:line:column: what was found, what is allowed``.
    """

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(map(inert, problems))
        super().__init__("\n".join(self.problems))


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A sentence with the nearest known word, and all of them if they are few."""
    known = sorted(known)
    word = word[:80]  # a longer one matches nothing, and comparing is slow
    near = get_close_matches(word, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    if len(known) > MANY:
        return f"{hint}there are {len(known):,}, such as {known[0]!r}"
    return f"{hint}allowed: {', '.join(known)}" if known else hint.strip()

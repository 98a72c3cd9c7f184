"""``-k`` expressions: words joined by and, or, not and brackets, matched inside case ids."""

from __future__ import annotations

import re
from collections.abc import Callable

from ..errors import PrunebenchError

_TOKEN = re.compile(r"\s*(\(|\)|[^\s()]+)")

Matcher = Callable[[str], bool]


def matcher(expression: str) -> Matcher:
    """A predicate on case ids, as pytest's ``-k`` reads them (case does not matter).

    Raises:
        PrunebenchError: if the expression cannot be read.
    """
    tokens = _TOKEN.findall(expression)
    if not tokens:
        return lambda _: True
    parsed, rest = _either(tokens, expression)
    if rest:
        raise PrunebenchError(f"-k {expression!r}: unexpected {rest[0]!r}")
    return parsed


def _either(tokens: list[str], whole: str) -> tuple[Matcher, list[str]]:
    left, tokens = _both(tokens, whole)
    while tokens and tokens[0] == "or":
        right, tokens = _both(tokens[1:], whole)
        left = _or(left, right)
    return left, tokens


def _both(tokens: list[str], whole: str) -> tuple[Matcher, list[str]]:
    left, tokens = _one(tokens, whole)
    while tokens and tokens[0] == "and":
        right, tokens = _one(tokens[1:], whole)
        left = _and(left, right)
    return left, tokens


def _one(tokens: list[str], whole: str) -> tuple[Matcher, list[str]]:
    if not tokens or tokens[0] in ("and", "or", ")"):
        raise PrunebenchError(f"-k {whole!r}: expected a word, 'not' or '('")
    head, rest = tokens[0], tokens[1:]
    if head == "not":
        inner, rest = _one(rest, whole)
        return (lambda text: not inner(text)), rest
    if head == "(":
        inner, rest = _either(rest, whole)
        if not rest or rest[0] != ")":
            raise PrunebenchError(f"-k {whole!r}: missing ')'")
        return inner, rest[1:]
    return (lambda text: head.lower() in text.lower()), rest


def _or(left: Matcher, right: Matcher) -> Matcher:
    return lambda text: left(text) or right(text)


def _and(left: Matcher, right: Matcher) -> Matcher:
    return lambda text: left(text) and right(text)

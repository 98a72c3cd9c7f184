"""Conditions that fail a run, as text: ``accuracy/mean: drop > 1pp and p < 0.01``.

Every number, in a condition or measured, is taken as the decimal number it is written as (a float's
shortest form) and computed with exactly: no rounding slack, and 0.90 less 0.89 is 0.01.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Iterator
from decimal import Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Literal, NamedTuple

from msgspec import Struct

from ..errors import PrunebenchError, did_you_mean
from ..record import Direction

#: The pattern of conditions about the achieved sparsity, which is no measurement.
SPARSITY = "sparsity"

#: What a condition can speak of: its meaning, for the documentation and for messages.
QUANTITIES = {
    "now": "the value",
    "was": "the baseline's value",
    "drop": "was - now",
    "rise": "now - was",
    "loss": "drop where higher is better, rise where lower is",
    "gain": "-loss",
    "p": "one-sided p that it got worse",
}
DIFFERENCES = ("drop", "rise", "loss", "gain")

OPERATORS = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
}
UNITS = {"pp": Fraction(1, 100), "%": Fraction(1, 100), "x": Fraction(1)}

MAX_LENGTH = 1000
MAX_DEPTH = 20

# Metric names have no separators of a list, no brackets and no comparisons in them.
_PATTERN = re.compile(r"(?:(?!!=)[^\s:,;()<>=])+")
_COLON = re.compile(r"\s*:")
_TOKEN = re.compile(r"[()]|[<>=!]+|[^\s()<>=!]+")
_NUMBER = re.compile(r"[+-]?[0-9._]+(?:[eE][+-]?[0-9_]+)?")


class Facts(Struct, frozen=True):
    """What a condition is judged by; None is what is not known.

    *p* is the one-sided p-value that *now* is worse than *was*.
    """

    now: float | None = None
    was: float | None = None
    better: Direction = "higher"
    p: float | None = None


class Comparison(Struct, frozen=True):
    """*quantity* against *number* (a decimal in its one written form) of *unit*."""

    quantity: str
    comparator: str
    number: str
    unit: str = ""

    def __str__(self) -> str:
        return f"{self.quantity} {self.comparator} {self.number}{self.unit}"

    def holds(self, facts: Facts) -> bool | None:
        """Whether the comparison is true, or None where a number is missing."""
        found, limit = quantity(self.quantity, facts), self.limit(facts)
        if found is None or limit is None:
            return None
        return bool(OPERATORS[self.comparator](found, limit))

    def limit(self, facts: Facts) -> Fraction | None:
        """The threshold in the metric's unit; per cent of a difference are of the baseline."""
        limit = Fraction(self.number) * UNITS.get(self.unit, 1)
        if self.unit == "%" and self.quantity in DIFFERENCES:
            was = exact(facts.was)
            return None if was is None else limit * abs(was)
        return limit


class Negation(Struct, frozen=True):
    """True where *part* is false."""

    part: Expression

    def __str__(self) -> str:
        inner = f"({self.part})" if isinstance(self.part, Combination) else str(self.part)
        return f"not {inner}"

    def holds(self, facts: Facts) -> bool | None:
        """Kleene's not: what is unknown stays so."""
        found = self.part.holds(facts)
        return None if found is None else not found


class Combination(Struct, frozen=True):
    """Two or more *parts*, none of them a combination by the same *word*."""

    word: Literal["and", "or"]
    parts: tuple[Expression, ...]

    def __str__(self) -> str:
        # An "and" inside an "or" needs no brackets; the other way round it does.
        bracket = self.word == "and"
        return f" {self.word} ".join(
            f"({part})" if bracket and isinstance(part, Combination) else str(part)
            for part in self.parts
        )

    def holds(self, facts: Facts) -> bool | None:
        """Kleene's and, or: unknown unless the known parts decide alone."""
        deciding = self.word == "or"
        found = [part.holds(facts) for part in self.parts]
        if deciding in found:
            return deciding
        return None if None in found else not deciding


Expression = Comparison | Negation | Combination


class Condition(Struct, frozen=True):
    """Fails a run where *expression* holds of a measurement whose name fits *pattern*."""

    pattern: str
    expression: Expression

    @property
    def text(self) -> str:
        """The canonical text, which reads back as the same condition."""
        return f"{self.pattern}: {self.expression}"

    @property
    def head(self) -> str:
        """The pattern up to its first ``/`` or wildcard: a metric's name, or its beginning."""
        return re.split(r"[/*?\[]", self.pattern, maxsplit=1)[0]

    @property
    def quantities(self) -> frozenset[str]:
        """The quantities it speaks of."""
        return frozenset(_quantities(self.expression))

    def matches(self, metric: str) -> bool:
        """Whether it is about the measurement called *metric*."""
        return fnmatchcase(metric, self.pattern)

    def fits(self, family: str) -> bool:
        """Whether a metric called *family* can have measurements that it matches."""
        open_ended = self.pattern[len(self.head) :][:1] not in ("", "/")
        return family.startswith(self.head) if open_ended else family == self.head

    def holds(self, facts: Facts) -> bool | None:
        """Whether it holds; None where a missing number leaves that open (Kleene's logic)."""
        return self.expression.holds(facts)

    def limit(self, facts: Facts) -> float | None:
        """The threshold in the metric's unit, of a single comparison; else None."""
        if not isinstance(self.expression, Comparison):
            return None
        limit = self.expression.limit(facts)
        return None if limit is None else float(limit)


def quantity(name: str, facts: Facts) -> Fraction | None:
    """The value of a quantity, or None where what it takes is missing or not finite."""
    if name == "p":
        return exact(facts.p)
    now, was = exact(facts.now), exact(facts.was)
    if name in ("now", "was"):
        return now if name == "now" else was
    if now is None or was is None:
        return None
    falls = name == "drop" or (name in ("loss", "gain") and facts.better == "higher")
    difference = was - now if falls else now - was
    return -difference if name == "gain" else difference


def exact(value: float | None) -> Fraction | None:
    """The decimal number that *value* is written as; None for what is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return Fraction(repr(float(value)))


def unfit(condition: Condition, families: Iterable[str]) -> str | None:
    """What is wrong with a condition that is about no metric of *families*, or None."""
    names = set(families)
    if condition.pattern == SPARSITY or any(map(condition.fits, names)):
        return None
    hint = did_you_mean(condition.head, {*names, SPARSITY})
    return f"{_short(condition.text)}: no metric {condition.head!r} is measured; {hint}"


def parse_list(text: str) -> tuple[str, ...]:
    """The items of a ``--fail-on`` text, split at ``,`` and ``;`` outside brackets."""
    items, depth = [""], 0
    for letter in text:
        depth += (letter == "(") - (letter == ")")
        if letter in ",;" and depth <= 0:
            items.append("")
        else:
            items[-1] += letter
    return tuple(item.strip() for item in items)


def parse(text: str) -> Condition:
    """The condition that *text* says.

    Raises:
        PrunebenchError: one line with the item, the column, what was found and what is allowed.
    """
    if len(text) > MAX_LENGTH:
        raise PrunebenchError(f"{_short(text)}: found {len(text)} letters, at most {MAX_LENGTH}")
    start = len(text) - len(text.lstrip())
    pattern = _PATTERN.match(text, start)
    reader = _Reader(text, pattern.end() if pattern else start)
    if pattern is None:
        raise reader.error("expected a metric or a pattern such as accuracy/*")
    if colon := _COLON.match(text, pattern.end()):
        reader = _Reader(text, colon.end())
    return Condition(pattern.group(), reader.whole())


class _Token(NamedTuple):
    text: str
    at: int


class _Reader:
    """Recursive descent over the tokens of *text* from *start* on."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.tokens = [_Token(m.group(), m.start()) for m in _TOKEN.finditer(text, start)]
        self.tokens.append(_Token("", len(text)))
        self.next = 0
        self.depth = 0

    @property
    def token(self) -> _Token:
        return self.tokens[self.next]

    def take(self) -> str:
        self.next += 1
        return self.tokens[self.next - 1].text

    def error(self, expected: str) -> PrunebenchError:
        found = _short(self.token.text) if self.token.text else "the end"
        place = f"{_short(self.text)}, column {self.token.at + 1}"
        return PrunebenchError(f"{place}: found {found}; {expected}")

    def unknown(self, known: Iterable[str]) -> PrunebenchError:
        return self.error(did_you_mean(self.token.text, known))

    def whole(self) -> Expression:
        # Right behind the metric, a comparison speaks of the value now.
        if self.token.text.startswith(tuple("<>=!")):
            self.tokens.insert(self.next, _Token("now", self.token.at))
        expression = self.combined("or")
        if self.token.text:
            raise self.unknown(["and", "or"])
        return expression

    def combined(self, word: Literal["or", "and"]) -> Expression:
        parts: list[Expression] = []
        while True:
            part = self.combined("and") if word == "or" else self.single()
            same = isinstance(part, Combination) and part.word == word
            parts += part.parts if isinstance(part, Combination) and same else [part]
            if self.token.text != word:
                return parts[0] if len(parts) == 1 else Combination(word, tuple(parts))
            self.take()

    def single(self) -> Expression:
        if self.token.text not in ("not", "("):
            return self.comparison()
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} deep")
        if self.take() == "not":
            inner: Expression = Negation(self.single())
        else:
            inner = self.combined("or")
            if self.token.text != ")":
                raise self.unknown([")", "and", "or"])
            self.take()
        self.depth -= 1
        return inner

    def comparison(self) -> Comparison:
        if self.token.text not in QUANTITIES:
            raise self.unknown([*QUANTITIES, "not"])
        name = self.take()
        if self.token.text not in OPERATORS:
            raise self.error(f"the comparisons are {', '.join(OPERATORS)}")
        comparator = self.take()
        number, unit = self.amount()
        return Comparison(name, comparator, number, unit)

    def amount(self) -> tuple[str, str]:
        allowed = "expected a finite number: 0.95, 1pp, 5% or 1.2x"
        found = _NUMBER.match(self.token.text)
        number = _canonical(found.group()) if found else None
        if found is None or number is None:
            raise self.error(allowed)
        unit = self.token.text[found.end() :]
        if unit and unit not in UNITS:
            raise self.error(f"the units are {', '.join(UNITS)} or none")
        self.take()
        if not unit and self.token.text in UNITS:
            unit = self.take()
        return number, unit


def _canonical(text: str) -> str | None:
    """A number in its one written form, or None where it is none or no float comes near it."""
    try:
        size = abs(float(text))
    except ValueError:
        return None
    if size == 0 and not re.search("[1-9]", re.split("[eE]", text)[0]):
        return "0"
    # Beyond the range of floats nothing is measured, and exact arithmetic would take for ever.
    if not 0 < size < math.inf:
        return None
    sign, digits, exponent = Decimal(text).as_tuple()
    kept = "".join(map(str, digits)).rstrip("0")
    short = Decimal(f"{'-' * sign}{kept}e{int(exponent) + len(digits) - len(kept)}")
    return f"{short:f}" if -7 < short.adjusted() < 16 else str(short)


def _quantities(expression: Expression) -> Iterator[str]:
    if isinstance(expression, Comparison):
        yield expression.quantity
    elif isinstance(expression, Negation):
        yield from _quantities(expression.part)
    else:
        for part in expression.parts:
            yield from _quantities(part)


def _short(text: str) -> str:
    """*text* quoted on one line, the middle left out of a long one."""
    return repr(text if len(text) <= 80 else f"{text[:50]}...{text[-20:]}")

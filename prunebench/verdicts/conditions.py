"""Conditions that fail a run, as text: ``accuracy/mean: drop > 1pp and p < 0.01``.

Every number, in a condition or measured, is taken as the decimal number it is written as (a float's
shortest form) and computed with exactly: no rounding slack, and 0.90 less 0.89 is 0.01.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable
from decimal import Context, Decimal
from fnmatch import fnmatchcase
from fractions import Fraction
from typing import Literal

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
_TOKEN = re.compile(r"[()]|[<>=!]+|[^\s()<>=!]+|\Z")
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
        return frozenset(re.findall(r"[a-z]+", str(self.expression))) & QUANTITIES.keys()

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
    return Condition(pattern.group(), reader.condition())


class _Reader:
    """Parses the tokens of *text* from *start* on, by recursive descent."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        # The last match is empty: the end.
        self.rest = list(_TOKEN.finditer(text, start))[::-1]
        self.count = len(self.rest)

    @property
    def word(self) -> str:
        return self.rest[-1].group()

    def take(self) -> str:
        return self.rest.pop().group()

    def error(self, expected: str) -> PrunebenchError:
        found = _short(self.word) if self.word else "the end"
        place = f"{_short(self.text)}, column {self.rest[-1].start() + 1}"
        return PrunebenchError(f"{place}: found {found}; {expected}")

    def condition(self) -> Expression:
        """The whole of the text that is left."""
        found = self.expression()
        if self.word:
            raise self.error(did_you_mean(self.word, ["and", "or"]))
        return found

    def expression(self, depth: int = 0) -> Expression:
        """Conjunctions joined by *or*."""
        return self.joined("or", lambda: self.joined("and", lambda: self.operand(depth)))

    def joined(self, word: Literal["and", "or"], operand: Callable[[], Expression]) -> Expression:
        parts: list[Expression] = []
        while True:
            part = operand()
            same = isinstance(part, Combination) and part.word == word
            parts += part.parts if isinstance(part, Combination) and same else [part]
            if self.word != word:
                return part if len(parts) == 1 else Combination(word, tuple(parts))
            self.take()

    def operand(self, depth: int) -> Expression:
        if self.word not in ("not", "("):
            return self.comparison(first=len(self.rest) == self.count)
        if depth == MAX_DEPTH:
            raise self.error(f"nested more than {MAX_DEPTH} deep")
        if self.take() == "not":
            return Negation(self.operand(depth + 1))
        found = self.expression(depth + 1)
        if self.word != ")":
            raise self.error(did_you_mean(self.word, [")", "and", "or"]))
        self.take()
        return found

    def comparison(self, *, first: bool) -> Comparison:
        # Directly after the metric, a comparison is about the current value.
        if first and self.word.startswith(tuple("<>=!")):
            name = "now"
        elif self.word in QUANTITIES:
            name = self.take()
        else:
            raise self.error(did_you_mean(self.word, [*QUANTITIES, "not"]))
        if self.word not in OPERATORS:
            raise self.error(f"the comparisons are {', '.join(OPERATORS)}")
        return Comparison(name, self.take(), *self.amount())

    def amount(self) -> tuple[str, str]:
        found = _NUMBER.match(self.word)
        number = _canonical(found.group()) if found else None
        if found is None or number is None:
            raise self.error("expected a finite number: 0.95, 1pp, 5% or 1.2x")
        unit = self.word[found.end() :]
        if unit and unit not in UNITS:
            raise self.error(f"the units are {', '.join(UNITS)} or none")
        self.take()
        return number, unit or (self.take() if self.word in UNITS else "")


def _canonical(text: str) -> str | None:
    """A number in its canonical form, or None for what is not a number in the range of floats."""
    try:
        size = abs(float(text))
    except ValueError:
        return None
    if size == 0 and not re.search("[1-9]", re.split("[eE]", text)[0]):
        return "0"
    # Beyond the range of floats nothing is measured, and exact arithmetic would take for ever.
    if not 0 < size < math.inf:
        return None
    short = Decimal(text).normalize(Context(prec=MAX_LENGTH))
    return f"{short:f}" if -7 < short.adjusted() < 16 else str(short)


def _short(text: str) -> str:
    """*text* quoted on one line, the middle left out of a long one."""
    return repr(text if len(text) <= 80 else f"{text[:50]}...{text[-20:]}")

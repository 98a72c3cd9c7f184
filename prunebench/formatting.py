"""Numbers as text: digits, units, durations, sizes, p-values."""

from __future__ import annotations

import math

from .record import Measurement
from .verdicts.significance import NEVER

#: Units of parts of a whole, whose differences are percentage points.
FRACTIONS = ("acc", "match", "of dense", "of answers", "of n-grams")
#: The smallest p-value that is told: nobody's decision hangs on a smaller one.
LEAST = 0.0001


def duration(seconds: float) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``2.5 h``."""
    if seconds < 90:
        return f"{seconds:.1f} s" if seconds < 1 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size(count: int) -> str:
    """Bytes as ``12 MiB`` or ``13.5 GiB``."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def number(value: float) -> str:
    """A number with as many digits as a reader can use."""
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.4g}"


def amount(value: float, unit: str, was: float | None = None) -> str:
    """A difference in words: points for fractions, per cent of the older value elsewhere."""
    if unit in FRACTIONS:
        return f"{value * 100:.2f} pp"
    text = f"{value:.3g} {unit}".strip()
    return f"{text} ({value / abs(was):.2%})" if was else text


def p_text(p: float, name: str = "p = ") -> str:
    """A p-value in words; what is less than any number that can be meant is told as that."""
    return f"{name}{p:.2g}" if p >= NEVER else f"{name.replace('=', '<') or '< '}{NEVER:g}"


def value_text(measurement: Measurement | None) -> str:
    """``92.2%``, ``1.43x``, ``2.502``, ``4.7 ms``, or why there is no value."""
    if measurement is None:
        return ""
    if measurement.value is None:
        return measurement.note.split(" at ")[0] or "not finite"
    return as_unit(measurement.value, measurement.unit)


def as_unit(value: float, unit: str) -> str:
    """A value as it is written in a table."""
    if unit in ("acc", "match", "of dense"):
        return f"{value:.1%}"
    if unit == "x":
        return f"{value:.2f}x"
    if unit == "ppl":
        return f"{value:.3f}" if value < 100 else f"{value:.0f}"
    return f"{value:.1f} {unit}"


def change_text(now: float, was: float, unit: str) -> str:
    """By how much a value moved, signed: ``-38.8`` (points), ``+17.6``, ``-0.12x``."""
    moved = now - was
    if unit in ("acc", "match", "of dense"):
        return f"{moved * 100:+.1f}"
    if unit == "x":
        return f"{moved:+.2f}x"
    if unit == "ppl":
        return f"{moved:+.3f}" if abs(moved) < 10 else f"{moved:+.1f}"
    return f"{moved:+.1f}"


def error_text(error: float, unit: str, value: float | None = None) -> str:
    """An uncertainty in two digits that count, but no finer than the value; nothing for none."""
    error = error * 100 if unit in ("acc", "match", "of dense") else error
    if not error or not math.isfinite(error):
        return ""
    finest = {"x": 2, "ppl": 3 if value is None or abs(value) < 100 else 0}.get(unit, 1)
    places = min(finest, 1 - math.floor(math.log10(error)))
    text = f"{round(error, places):.{max(0, places)}f}"
    return text if float(text) else ""


def short_duration(seconds: float) -> str:
    """``0.4s``, ``12s``, ``3m``, ``2.5h``: narrow, for a column."""
    if seconds < 90:
        return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"
    return f"{seconds / 60:.0f}m" if seconds < 5400 else f"{seconds / 3600:.1f}h"


def value(amount: float | None, unit: str) -> str:
    """``96.8 %``, ``2.393``, ``1.24x``, ``12.3 ms``; an empty text for nothing."""
    if amount is None:
        return ""
    if unit in FRACTIONS:
        return f"{amount * 100:.1f} %"
    if unit == "x":
        return f"{amount:.2f}x"
    text = bare(amount, unit)
    return text if unit in ("", "ppl") else f"{text} {unit}"


def bare(amount: float, unit: str) -> str:
    """The number alone, a fraction in per cent."""
    if unit in FRACTIONS:
        return f"{amount * 100:.1f}"
    if unit == "ppl":
        return f"{amount:.3f}" if amount < 100 else f"{amount:.4g}"
    return f"{amount:.2f}" if unit == "x" else number(amount)


def difference(amount: float, unit: str) -> str:
    """A signed difference: percentage points for fractions."""
    if unit in FRACTIONS:
        return f"{amount * 100:+.1f} pp"
    return f"{amount:+.4g}"


def room(amount: float | None, unit: str) -> str:
    """How much may be lost."""
    if amount is None:
        return ""
    return f"{amount * 100:.2g} pp" if unit in FRACTIONS else f"{amount:.3g}"

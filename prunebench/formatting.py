"""Numbers as text, in as many digits as a reader can use: values, differences, errors, times."""

from __future__ import annotations

import math

from .verdicts.significance import NEVER

#: Units of fractions, which are shown in per cent and differ by percentage points.
FRACTIONS = ("acc", "match", "of dense", "of answers", "of n-grams")


def number(value: float) -> str:
    """A number whose unit the reader knows: four digits."""
    return f"{value:.4f}" if 0.001 <= abs(value) < 10 else f"{value:.4g}"


def value(amount: float | None, unit: str) -> str:
    """A value with its unit: ``96.8%``, ``2.393`` (ppl), ``1.24x``, ``12.3 ms``; '' for None."""
    if amount is None:
        return ""
    text = bare(amount, unit)
    if unit in FRACTIONS:
        return f"{text}%"
    return text if unit == "ppl" else f"{text}{_named(unit)}"


def bare(amount: float, unit: str) -> str:
    """A value without its unit; a fraction in per cent."""
    if unit in FRACTIONS:
        return f"{amount * 100:.1f}"
    places = _places(amount, unit)
    return number(amount) if places is None else f"{amount:.{places}f}"


def difference(amount: float, unit: str) -> str:
    """A signed difference: ``+17.6 pp``, ``+0.107`` (ppl), ``-0.12x``, ``+0.4 ms``."""
    shown = amount * 100 if unit in FRACTIONS else amount
    places = {"x": 2, "ppl": 3 if abs(amount) < 10 else 1}.get(unit, 1)
    text = f"{shown:+.{places}f}" if unit else f"{shown:+.4g}"
    if shown and not float(text):
        text = f"{shown:+.2g}"
    return text if unit == "ppl" else f"{text}{_named(unit)}"


def moved(now: float, was: float) -> str:
    """A signed change of a number whose unit the reader knows; ``0`` for none."""
    return f"{now - was:+.4g}" if now != was else "0"


def amount(value: float, unit: str, was: float | None = None) -> str:
    """A loss or an allowance: ``0.53 pp``, ``0.107 ppl (4.47%)``, relative to *was* if given."""
    if unit in FRACTIONS:
        return f"{value * 100:.2f} pp"
    text = f"{value:.3g}{_named(unit)}"
    return f"{text} ({value / abs(was):.2%})" if was else text


def error(amount: float, unit: str, value: float) -> str:
    """An uncertainty in two significant digits, but no finer than *value*; '' for zero."""
    shown = amount * 100 if unit in FRACTIONS else amount
    if not shown or not math.isfinite(shown):
        return ""
    finest = _places(value, unit)
    places = 1 - math.floor(math.log10(shown))
    if finest is None and places > 4:
        return f"{shown:.2g}"
    places = places if finest is None else min(finest, places)
    text = f"{round(shown, places):.{max(0, places)}f}"
    return text if float(text) else ""


def duration(seconds: float, *, short: bool = False) -> str:
    """``0.4 s``, ``12 s``, ``3 min``, ``2.5 h``; *short* for a column: ``0.4s``, ``3m``."""
    if seconds < 90:
        decimals = 1 if seconds < (9.95 if short else 1) else 0
        digits, unit = f"{seconds:.{decimals}f}", "s"
    elif seconds < 5400:
        digits, unit = f"{seconds / 60:.0f}", "m" if short else "min"
    else:
        digits, unit = f"{seconds / 3600:.1f}", "h"
    return f"{digits}{unit}" if short else f"{digits} {unit}"


def size(count: int) -> str:
    """Bytes as ``12 MiB`` or ``13.5 GiB``."""
    return f"{count / 2**20:.0f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"


def counted(count: int, noun: str) -> str:
    """``1 case``, ``1,200 cases``."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def p_text(p: float, name: str = "p = ") -> str:
    """A p-value; below *NEVER*, where digits mean nothing, as ``p < 1e-60``."""
    return f"{name}{p:.2g}" if p >= NEVER else f"{name.replace('=', '<') or '< '}{NEVER:g}"


def _named(unit: str) -> str:
    """What follows a number: ``x`` without a blank, points and other units with one."""
    if unit in FRACTIONS:
        return " pp"
    return unit if unit in ("", "x") else f" {unit}"


def _places(amount: float, unit: str) -> int | None:
    """Decimals of a value as it is shown, or None where ``number`` decides."""
    if unit in FRACTIONS:
        return 1
    if unit == "x":
        return 2
    if unit == "ppl":
        return 3 if abs(amount) < 100 else None
    return 1 if unit and 1 <= abs(amount) < 1000 else None

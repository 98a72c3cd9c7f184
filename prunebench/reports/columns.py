"""Measured values and their uncertainty, in as many digits as a reader can use."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from fnmatch import fnmatchcase

from ..record import Measurement, Record
from ..verdicts import seeds

#: A median of independent normal samples strays by so much more than their mean.
MEDIAN = math.sqrt(math.pi / 2)


def uncertainty(measurement: Measurement, record: Record) -> float:
    """One standard error of a measurement, in its unit; 0 where nothing says.

    Over questions and windows of the mean (see ``seeds``); over rounds of the median, as if they
    were normal and independent.
    """
    value, samples = measurement.value, measurement.samples
    if value is None or not math.isfinite(value):
        return 0.0
    error = seeds.standard_error(measurement, record)
    if not measurement.varies:
        return error
    if len(samples) < 2 or not math.isclose(statistics.median(samples), value, rel_tol=1e-6):
        return 0.0  # samples in another unit, or of something else
    return MEDIAN * error


def pick(record: Record | None, patterns: Sequence[str]) -> Measurement | None:
    """The first measurement that fits, of the first pattern that any fits."""
    for pattern in patterns if record else ():
        for measurement in record.measurements if record else ():
            if fnmatchcase(measurement.metric, pattern):
                return measurement
    return None


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

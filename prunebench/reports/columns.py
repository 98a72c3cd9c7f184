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

"""What a column of a table shows: which measurement, its value, its uncertainty."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from fnmatch import fnmatchcase

from .. import formatting
from ..record import Measurement, Record
from ..verdicts import seeds

#: Standard error of a median over that of a mean, for many independent normal samples.
MEDIAN = math.sqrt(math.pi / 2)


def uncertainty(measurement: Measurement, record: Record) -> float:
    """One standard error of a measurement, in its unit; 0 where there are no samples.

    For questions and windows that of the mean (see ``seeds``); for rounds that of the median, if
    they were normal and independent.
    """
    value, samples = measurement.value, measurement.samples
    if value is None or not math.isfinite(value):
        return 0.0
    error = seeds.standard_error(measurement, record)
    if not measurement.varies:
        return error
    if len(samples) < 2 or not math.isclose(statistics.median(samples), value, rel_tol=1e-6):
        return 0.0  # samples in another unit, or of another quantity
    return MEDIAN * error


def text(measurement: Measurement) -> str:
    """``92.2%``, ``1.43x``, ``2.502``, ``4.7 ms``, or why there is no value."""
    if measurement.value is None:
        return measurement.note.split(" at ")[0] or "not finite"
    return formatting.value(measurement.value, measurement.unit)


def pick(record: Record, patterns: Sequence[str]) -> Measurement | None:
    """The first measurement that matches the first pattern which any matches."""
    for pattern in patterns:
        for measurement in record.measurements:
            if fnmatchcase(measurement.metric, pattern):
                return measurement
    return None

"""What a method gives over several calibration seeds: an interval, which no verdict reads."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import NormalDist, fmean, stdev

from msgspec import Struct

from ..record import Measurement, Record
from .evidence import averaged
from .significance import together

CONFIDENCE = 0.95


class Interval(Struct, frozen=True):
    """A measurement over calibration seeds: their *mean*, and where the method's own lies.

    From *low* to *high* with a confidence of 95 %: Student's interval over the seeds, widened by
    how far the questions could mislead (in quadrature; they are the same for every seed).
    *over_seeds* is the standard deviation from seed to seed alone, *over_questions* the standard
    error that the questions leave.
    """

    case_id: str
    metric: str
    seeds: int
    mean: float
    low: float
    high: float
    unit: str
    over_seeds: float
    over_questions: float


def intervals(groups: dict[str, list[Record]]) -> list[Interval]:
    """An interval per case id and primary measurement, of the records of its seeds."""
    return [
        interval
        for case_id, records in groups.items()
        if len(records) > 1
        for first in records[0].measurements
        if not first.varies and not first.instead
        for interval in _interval(case_id, first, records)
    ]


def _interval(case_id: str, first: Measurement, records: list[Record]) -> Iterable[Interval]:
    from scipy import stats

    found = [record.find(first.metric) for record in records]
    values = [m.value for m in found if m is not None and m.value is not None]
    if len(values) != len(records):
        return
    mean, apart = fmean(values), stdev(values)
    asked = standard_error(first, records[0])
    student = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1))
    seeds = student * apart / math.sqrt(len(values))
    half = math.hypot(seeds, NormalDist().inv_cdf((1 + CONFIDENCE) / 2) * asked)
    low, high = mean - half, mean + half
    yield Interval(case_id, first.metric, len(values), mean, low, high, first.unit, apart, asked)


def standard_error(measurement: Measurement, record: Record) -> float:
    """How far other questions of the same kind would move a measurement.

    0 without samples, and where they are so large that floats hold no square of them.
    """
    samples, clusters = measurement.samples, measurement.clusters
    try:
        if tasks := averaged(measurement, record):
            return math.sqrt(math.fsum(standard_error(t, record) ** 2 for t in tasks)) / len(tasks)
        groups = len({*clusters}) or len(samples)
        if groups < 2:
            return 0.0
        mean = fmean(samples)
        apart = together([sample - mean for sample in samples], clusters)
        squares = math.fsum(off**2 for off in apart)
    except OverflowError:
        return 0.0
    error = math.sqrt(squares * groups / (groups - 1)) / len(samples)
    return error * (measurement.value or 0.0) if measurement.unit == "ppl" else error

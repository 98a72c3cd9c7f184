"""The values of a row over its seeds, each with an interval, and its timings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from statistics import NormalDist, fmean

from msgspec import Struct
from msgspec.structs import replace

from ..formatting import FRACTIONS
from ..record import Direction, Measurement, Record
from ..reports.formats.rows import standard_error
from ..verdicts import seeds

#: A normal interval of 95 %.
_REACH = NormalDist().inv_cdf(0.975)


class Value(Struct, frozen=True):
    """A measurement of a row: over its seeds, with an interval of 95 % where one is known."""

    value: float
    unit: str
    better: Direction
    low: float | None = None
    high: float | None = None
    note: str = ""

    @property
    def arm(self) -> float | None:
        """The longer arm of the interval; the other may be clipped, as at zero."""
        if self.low is None or self.high is None:
            return None
        return max(self.high - self.value, self.value - self.low)


class Timing(Struct, frozen=True):
    """Speedups of one shape on one backend of one device."""

    device: str
    backend: str
    shape: str
    prefill: Value | None = None
    decode: Value | None = None
    whole: Value | None = None


def values(records: Sequence[Record]) -> Iterator[tuple[str, Value]]:
    """Each measurement that is equal in identical runs, by its name, over the seeds."""
    over_seeds = {i.metric: i for i in seeds.intervals({"": list(records)})}
    for first in records[0].measurements:
        if first.varies:
            continue
        own = [m for r in records if (m := r.find(first.metric)) is not None]
        if (one := value(own, records)) is None:
            continue
        if (spread := over_seeds.get(first.metric)) is not None:
            one = Value(spread.mean, one.unit, one.better, spread.low, spread.high, one.note)
        yield first.metric, _clipped(one)


def value(own: Sequence[Measurement], records: Sequence[Record]) -> Value | None:
    """One value, with the interval that its own questions leave; of several seeds the mean."""
    found = [m.value for m in own if m.value is not None]
    if len(found) != len(records) or not own:
        return None
    first = own[0]
    if len(found) > 1:
        return Value(fmean(found), first.unit, first.better, note=first.note)
    error = standard_error(first, records[0])
    low = high = None
    if error is not None and error > 0:
        low, high = found[0] - _REACH * error, found[0] + _REACH * error
    elif error is None and first.varies:
        low, high = _median_interval(first.samples)
    return Value(found[0], first.unit, first.better, low, high, first.note)


def _clipped(one: Value) -> Value:
    """The value with its interval clipped to the possible range."""
    least, most = possible(one.unit)
    low = None if one.low is None else max(least, one.low)
    high = None if one.high is None else min(most, one.high)
    return replace(one, low=low, high=high)


def possible(unit: str) -> tuple[float, float]:
    """The lower and upper bound of values of *unit*."""
    if unit in FRACTIONS and unit != "of dense":  # a recovery may exceed one
        return 0.0, 1.0
    return (0.0 if unit == "ppl" else -math.inf), math.inf


def _median_interval(samples: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the median by order statistics; (None, None) below six rounds."""
    n = len(samples)
    tail, cut = 0.0, 0
    while cut < n // 2 and tail + math.comb(n, cut) / 2**n <= 0.025:
        tail += math.comb(n, cut) / 2**n
        cut += 1
    if cut == 0:
        return None, None
    ordered = sorted(samples)
    return ordered[cut - 1], ordered[n - cut]


def timings(records: Iterable[Record]) -> Iterator[Timing]:
    """The newest speedups of every shape on each device; *records* newest first."""
    seen = set()
    for record in records:
        found: dict[str, dict[str, Value]] = {}
        for m in record.measurements:
            parts = m.metric.split("/")
            if len(parts) != 3 or parts[0] != "latency" or not parts[2].startswith("speedup-"):
                continue
            if (one := value([m], [record])) is not None:
                found.setdefault(parts[1], {})[parts[2].removeprefix("speedup-")] = one
        if found and record.environment.device not in seen:
            seen.add(record.environment.device)
            for how, own in found.items():
                backend, _, shape = how.rpartition("-")
                sides = (own.get(k) for k in ("prefill", "decode", "end-to-end"))
                yield Timing(record.environment.device, backend or how, shape, *sides)

"""Pairs the samples of two measurements and tests them against each other."""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence

from msgspec.structs import replace

from ..record import Measurement, Record
from . import significance
from .significance import Evidence, Stratum

#: The largest number of half precision.
MAX_HALF = 65504.0


def evidence(
    now: Measurement, was: Measurement, tasks: Sequence[tuple[Measurement, Measurement]] = ()
) -> Evidence | None:
    """What the samples say of *now* being worse than *was*; None without samples.

    Answers to the same questions and windows of the same text are paired, timings are not. Where
    only one of the two has all of them there is no evidence either (``unpairable``).
    """
    if not now.samples or not was.samples or unpairable(now, was):
        return None
    sign = 1 if now.better == "lower" else -1
    # Baselines keep samples in single precision: what rounds to the same there has not moved.
    ours, theirs = (array("f", m.samples) for m in (now, was))
    if not all(map(math.isfinite, [*ours, *theirs])):
        return None  # somebody else's record: what is no number has no test
    if not (now.paired and was.paired and len(ours) == len(theirs)):
        return significance.rounds([sign * s for s in ours], [sign * s for s in theirs])
    if full := _full_mark(ours, theirs):
        seen = significance.answers([_stratum(*task, full=full) for task in tasks or [(now, was)]])
        return _scaled(seen, full)
    lost = [sign * (n - w) for n, w in zip(ours, theirs, strict=True)]
    seen = significance.graded(lost, now.clusters)
    if now.unit == "ppl" and was.value is not None:
        return _in_perplexity(seen, was.value)
    return seen


def unpairable(now: Measurement, was: Measurement) -> str:
    """Why paired samples have no partners, or an empty text.

    Data that grew or shrank under an unchanged name asks other questions. Taken as unpaired, right
    and wrong answers would be compared by their medians, which do not move while most are right.
    """
    mine, theirs = len(now.samples), len(was.samples)
    if not (now.paired and was.paired and mine and theirs) or mine == theirs:
        return ""
    return f"{mine:,} questions or windows, the baseline has {theirs:,}"


def averaged(mean: Measurement, record: Record) -> list[Measurement]:
    """The measurements of tasks whose mean this is, as far as they have samples."""
    return [
        task
        for task in record.measurements
        if task.instead == mean.metric and task.unit == mean.unit and task.samples
    ]


def tasks_of(mean: Measurement, now: Record, was: Record) -> list[tuple[Measurement, Measurement]]:
    """The tasks whose mean this is, where both records have all of them with their samples."""
    tasks = [(task, was.find(task.metric)) for task in averaged(mean, now)]
    both = [(task, old) for task, old in tasks if old and len(task.samples) == len(old.samples)]
    whole = sum(len(task.samples) for task, _ in both) == len(mean.samples)
    return both if whole and len(both) == len(tasks) else []


def p_among(
    ours: Measurement, theirs: Measurement, now: Record, was: Record | None
) -> float | None:
    """The p-value that judges a measurement of *now* against one of *was*, over all its tasks."""
    seen = evidence(ours, theirs, tasks_of(ours, now, was) if was else ())
    return None if seen is None else seen.p


def _stratum(now: Measurement, was: Measurement, full: float) -> Stratum:
    sign = 1 if now.better == "lower" else -1
    margins = len(now.margins) == len(was.margins) == len(now.samples)
    return Stratum(
        [sign * round((n - w) / full) for n, w in zip(now.samples, was.samples, strict=True)],
        # Baselines keep margins in half precision.
        [_half(w) - _half(n) for n, w in zip(now.margins, was.margins, strict=True)]
        if margins
        else (),
        now.clusters,
    )


def _half(value: float) -> float:
    fitting = max(-MAX_HALF, min(MAX_HALF, value))
    return float(struct.unpack("e", struct.pack("e", fitting))[0])


def _full_mark(ours: array[float], theirs: array[float]) -> float | None:
    """What a right answer counts, where all are right or wrong: 1, or a part of a dense score."""
    values = {*ours, *theirs} - {0.0}
    return values.pop() if len(values) == 1 else None if values else 1.0


def _scaled(seen: Evidence, full: float) -> Evidence:
    if full == 1:
        return seen
    scale = {k: getattr(seen, k) * full for k in ("loss", "low", "high", "spread")}
    return replace(seen, **scale, effective=None, disagreement=None)


def _in_perplexity(seen: Evidence, was: float) -> Evidence:
    """From nats per token to perplexity, its exponential."""

    def grown(nats: float) -> float:
        return was * math.expm1(nats) if nats < 700 else math.inf

    ends = {k: grown(getattr(seen, k)) for k in ("loss", "low", "high")}
    return replace(seen, **ends, spread=was * seen.spread)

"""Records as rows, one per measurement: what tables and data frames are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from statistics import fmean
from typing import Any

from msgspec import Struct

from ...record import Direction, Measurement, Record
from ...specs import CalibrationSpec
from ...verdicts import seeds
from ...verdicts.evidence import averaged

_USUAL = CalibrationSpec()


class Row(Struct, frozen=True):
    """One measurement and what it is of.

    *options* are those of the method that are not its defaults, as JSON. *amount* is what was asked
    for, in *amount_unit* (blocks, sublayers, sparsity, slicing), *sparsity* the achieved fraction
    of parameters removed. *n* counts the samples, and *standard_error* is that of
    the value; None if unknown. *primary* ones are judged, the others are diagnostic.
    """

    case_id: str
    model: str
    protocol: str
    method: str
    options: str
    amount: float | None
    amount_unit: str
    sparsity: float
    parameters: int
    dense_parameters: int
    metric: str
    value: float | None
    unit: str
    better: Direction
    n: int
    standard_error: float | None
    chance: float | None
    primary: bool
    note: str
    calibration: str
    seed: int | None
    device: str
    dtype: str
    created: str
    commit: str
    prunebench: str
    model_hash: str


def rows(records: Iterable[Record]) -> Iterator[Row]:
    """The measurements of *records*, in their order."""
    for record in records:
        common = about(record)
        for measurement in record.measurements:
            yield Row(
                **common,
                metric=measurement.metric,
                value=measurement.value,
                unit=measurement.unit,
                better=measurement.better,
                n=len(measurement.samples),
                standard_error=standard_error(measurement, record),
                chance=measurement.chance,
                primary=not measurement.instead,
                note=measurement.note,
            )


def options(asked: dict[str, Any]) -> dict[str, Any]:
    """The method's options, as far as they are not its defaults."""
    return {k: v for k, v in (asked.get("method") or {}).items() if k != "name"}


def standard_error(measurement: Measurement, record: Record) -> float | None:
    """How far other questions, windows or rounds of the same kind would move a value.

    None if no samples were stored, or the value is not their mean (as a median is not).
    """
    averages = averaged(measurement, record) or _is_mean(measurement)
    if measurement.value is None or not averages:
        return None
    error = seeds.standard_error(measurement, record)
    return error if math.isfinite(error) else None


def _is_mean(measurement: Measurement) -> bool:
    samples, value = measurement.samples, measurement.value
    if len(samples) < 2 or value is None:
        return False
    mean = fmean(samples)
    if measurement.unit == "ppl":
        mean = math.exp(mean) if mean < 700 else math.inf
    # Baselines store samples in single precision.
    return math.isclose(mean, value, rel_tol=1e-5, abs_tol=1e-9)


def about(record: Record) -> dict[str, Any]:
    """The columns of a row that all measurements of a record share."""
    asked = record.asked
    amounts = asked.get("amount") or {}
    unit, amount = next(iter(amounts.items()), ("", None))
    calibration = asked.get("calibration") or {}
    own = options(asked)
    seed = calibration.get("seed", _USUAL.seed) if calibration else None
    return {
        "case_id": record.case_id,
        "model": record.model_id,
        "protocol": asked.get("protocol") or "",
        "method": str((asked.get("method") or {}).get("name", "")),
        "options": json.dumps(own, sort_keys=True) if own else "",
        "amount": amount if isinstance(amount, int | float) else None,
        "amount_unit": unit,
        "sparsity": record.sparsity,
        "parameters": record.parameters,
        "dense_parameters": record.dense_parameters,
        "calibration": str(calibration.get("dataset", _USUAL.dataset)) if calibration else "",
        "seed": seed if isinstance(seed, int) else None,
        "device": record.environment.device,
        "dtype": record.provenance.dtype or str((asked.get("model") or {}).get("dtype", "auto")),
        "created": record.created,
        "commit": record.environment.commit or "",
        "prunebench": record.environment.packages.get("prunebench", ""),
        "model_hash": record.model_hash,
    }

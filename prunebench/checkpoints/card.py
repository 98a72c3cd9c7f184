"""The model card of a pruned checkpoint as plain data; ``card_text`` renders it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

from msgspec import Struct

from ..case import AMOUNTS
from ..formatting import number
from ..plan import Edit
from ..record import Measurement, Record
from ..results import provenance
from ..results.baselines import published
from ..verdicts import seeds


class Base(Struct, frozen=True):
    """The dense model: name to show, id on the hub if it has one, and licence."""

    shown: str
    hub_id: str = ""
    revision: str = ""
    licence: Mapping[str, str] = {}


class Score(Struct, frozen=True):
    """A line of the table of numbers, as texts; *half* is half of a 95 % interval."""

    metric: str
    dense: str
    pruned: str
    half: str = ""
    over: str = ""


class Paper(Struct, frozen=True):
    """A published number next to ours."""

    metric: str
    theirs: str
    ours: str
    source: str


class Card(Struct, frozen=True):
    """The contents of a model card.

    *case* is the question as a case file has it, *about* are sentences on how the numbers were
    made, *facts* lines of provenance. *code*: the checkpoint has a model file of its own.
    """

    base: Base
    method: str
    plan: tuple[Edit, ...]
    parameters: int
    dense_parameters: int
    case: Mapping[str, Any]
    command: str
    code: bool
    dtype: str
    scores: Sequence[Score] = ()
    papers: Sequence[Paper] = ()
    about: Sequence[str] = ()
    facts: Sequence[str] = ()
    record: Record | None = None

    @property
    def sparsity(self) -> float:
        """The fraction of the dense model's parameters that was removed."""
        return (self.dense_parameters - self.parameters) / self.dense_parameters

    @property
    def title(self) -> str:
        """``org/model pruned by sleb, 20.1% of its parameters removed``."""
        removed = f"{self.sparsity:.1%} of its parameters removed"
        return f"{self.base.shown} pruned by {self.method}, {removed}"


def of_record(
    record: Record,
    base: Base,
    *,
    code: bool,
    dense: Record | None = None,
    rows: Sequence[published.Row] = (),
    dtype: str = "",
) -> Card:
    """The card of what *record* measured of a pruned model.

    *dense* is the dense model's record by the same protocol, *rows* are the papers' numbers about
    *record*, and *dtype* is what the checkpoint's weights are saved in.
    """
    asked = record.asked
    amount = asked.get("amount") or {}
    parts: dict[str, Any] = {key: asked.get(key) for key in ("protocol", "model", "method")}
    parts |= {key: amount.get(key) for key in AMOUNTS}
    parts |= {key: asked.get(key) for key in ("calibration", "metrics")}
    case = {key: value for key, value in parts.items() if value is not None}
    if isinstance(model := case.get("model"), dict) and not base.hub_id:
        case["model"] = {**model, "id": base.shown}  # a folder's name without its path
    return Card(
        base=base,
        method=str((asked.get("method") or {}).get("name", "")),
        plan=record.plan,
        parameters=record.parameters,
        dense_parameters=record.dense_parameters,
        case=case,
        command="prunebench run case.yaml  # the above",
        code=code,
        dtype=dtype or record.provenance.dtype,
        scores=tuple(_scores(record, dense)),
        papers=tuple(_papers(record, rows)),
        about=tuple(_about(record, dense, dtype or record.provenance.dtype)),
        facts=tuple(_facts(record)),
        record=record,
    )


def half_width(measurement: Measurement, record: Record) -> float:
    """Half of a 95 % interval over questions or windows; 0 if unknown."""
    if measurement.varies:
        return 0.0  # its samples are rounds, not questions
    return NormalDist().inv_cdf(0.975) * seeds.standard_error(measurement, record)


def _scores(record: Record, dense: Record | None) -> Iterator[Score]:
    for m in record.measurements:
        other = dense.find(m.metric) if dense else None
        half = half_width(m, record)
        yield Score(
            metric=f"{m.metric} ({m.unit})" if m.unit else m.metric,
            dense=_value(other) if other else "",
            pruned=_value(m),
            half=number(half) if half else "",
            over=f"{len(m.samples):,} {_samples(m)}" if m.samples else "",
        )


def _value(measurement: Measurement) -> str:
    if measurement.value is None:
        return measurement.note or "not finite"
    return number(measurement.value)


def _samples(measurement: Measurement) -> str:
    if measurement.varies:
        return "rounds"
    kinds = {"perplexity": "windows", "divergence": "windows", "repetition": "prompts"}
    return kinds.get(measurement.family, "questions")


def _papers(record: Record, rows: Sequence[published.Row]) -> Iterator[Paper]:
    for row in published.compared(record, rows):
        ours = record.find(row.metric)
        if ours is not None:
            source = f"{row.credit}, {row.where}"
            if ours.varies and row.hardware:
                source += f", on {row.hardware}"
            yield Paper(row.metric, number(row.value), _value(ours), source)


def _about(record: Record, dense: Record | None, dtype: str) -> Iterator[str]:
    protocol = record.asked.get("protocol")
    yield f"Protocol: {protocol}." if protocol else "No named protocol: see the case."
    weights = f", weights in {dtype}" if dtype else ""
    yield f"Measured on {record.environment.device}{weights}."
    if any(half_width(m, record) for m in record.measurements):
        yield "± is half of a 95 % interval over questions or windows."
    if any(len(set(m.samples)) == 1 and not m.varies for m in record.measurements):
        yield "Where all answers are the same, they give no interval."
    if dense is None:
        yield "No record of the dense model by the same protocol was available."
    elif dense.environment.device != record.environment.device:
        yield f"The dense model was measured on {dense.environment.device}."
    if any(m.varies for m in record.measurements):
        yield "Times and memory are this device's; a speedup is dense time / pruned time."


def _facts(record: Record) -> Iterator[str]:
    """Provenance without what is private: command line, host, settings and model path."""
    private = ("command:", "host:", "settings:", "model:")
    yield from (f for f in provenance.lines(record) if not f.startswith(private))
    yield f"dense weights: {record.model_hash}"

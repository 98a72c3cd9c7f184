"""What one run produced: measurements, the plan, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct
from msgspec.structs import replace

from .errors import inert
from .plan import AnyEdit, Step, decode_edits, implausible

Direction = Literal["lower", "higher"]

#: A metric whose value varies between identical runs has one of these words in its name.
VARYING = (
    "latency",
    "prefill",
    "decode",
    "throughput",
    "speedup",
    "memory",
    "time",
    "ttft",
    "tpot",
    "energy",
)

SCHEMA = 1
#: A value beyond this is as good as none; sums of fewer are within what floats hold.
HUGE = 1e300


def too_new(schema: object) -> str:
    """What a reader says of a record of that *schema* if it is later than ours; else nothing."""
    if not isinstance(schema, int) or schema <= SCHEMA:
        return ""
    known = f"schema {schema}, this one reads up to {SCHEMA}"
    return f"written by a newer prunebench ({known}); update prunebench"


class Measurement(Struct, frozen=True, omit_defaults=True):
    """One number of one metric.

    *samples* are what the value is the mean of: right (1) or wrong (0) per question, nats per
    window, seconds per round. With *paired*, sample i is the same question in every run.
    *value* is None where the number is not finite: a broken model has no perplexity. *note* says
    why there is no value, or why the value is compared with nothing.

    *margins* are, for each right-or-wrong sample, by how much the right choice led the best wrong
    one. *clusters* number the samples that belong together, questions about one passage, say.
    *instead* names the measurement that is judged in place of this one, which then only diagnoses.
    *chance* is what guessing gives.
    """

    metric: str
    value: float | None
    unit: str
    better: Direction
    samples: tuple[float, ...] = ()
    paired: bool = False
    note: str = ""
    margins: tuple[float, ...] = ()
    clusters: tuple[int, ...] = ()
    instead: str = ""
    chance: float | None = None

    @property
    def family(self) -> str:
        """The metric that it is a measurement of."""
        return self.metric.split("/")[0]

    @property
    def varies(self) -> bool:
        """Whether identical runs give other values (timings, memory)."""
        return any(word in self.metric for word in VARYING)


def storable(measurement: Measurement) -> Measurement:
    """*measurement*, without samples where one is not finite: JSON has no room for it.

    What is too large to be averaged with others is as good as not finite.
    """
    if measurement.value is not None and abs(measurement.value) > HUGE:
        measurement = replace(measurement, value=math.copysign(math.inf, measurement.value))
    numbers = (*measurement.samples, *measurement.margins)
    if all(abs(number) <= HUGE for number in numbers):
        return measurement
    return replace(measurement, samples=(), margins=(), clusters=(), paired=False)


def _largest(measurement: Measurement) -> float:
    """The largest finite magnitude of its value and samples."""
    value, samples = measurement.value or 0.0, measurement.samples
    found = (value, max(samples, default=0.0), min(samples, default=0.0))
    return max(abs(number) if math.isfinite(number) else 0.0 for number in found)


class Environment(Struct, frozen=True, omit_defaults=True):
    """Where a record was made.

    *gpu* is what the driver says of the card, *trusted* what the user let run code (see ``trust``).
    """

    device: str
    python: str
    platform: str
    threads: int
    packages: dict[str, str]
    commit: str | None = None
    gpu: dict[str, Any] = {}
    trusted: tuple[str, ...] = ()


class Provenance(Struct, frozen=True, omit_defaults=True):
    """What it takes to make a record again, in addition to its question and environment.

    *branch* and *dirty* are of the project that it was made in. *dtype* is what the weights were
    loaded in, *model_source* where from: a folder or the hub, there with the *model_commit* that a
    branch or tag stood for. *checkpoint* is the commit or content hash of an external result.
    *data* maps texts and task folders to hashes or commits, *settings* are variables of the user's.
    """

    branch: str = ""
    dirty: bool | None = None
    command: str = ""
    host: str = ""
    cpu: str = ""
    dtype: str = ""
    seeds: dict[str, int] = {}
    model_source: str = ""
    model_commit: str = ""
    data: dict[str, str] = {}
    checkpoint: str = ""
    settings: dict[str, str] = {}


class Record(Struct, frozen=True):
    """The answer to a case.

    *asked* is the question itself as plain JSON data; *model_hash* names the exact weights. *cost*
    is what the search took (seconds, peak bytes, block-forwards, calibration tokens), and the
    seconds that loading the model took, and the whole case when run alone. *again* are timings that
    looked worse than their baseline and were measured a second time.
    """

    case_id: str
    asked: dict[str, Any]
    plan: tuple[AnyEdit, ...]
    trace: tuple[Step, ...]
    parameters: int
    dense_parameters: int
    measurements: tuple[Measurement, ...]
    cost: dict[str, float]
    environment: Environment
    model_hash: str
    created: str
    key: str = ""
    again: tuple[Measurement, ...] = ()
    provenance: Provenance = Provenance()
    schema: int = SCHEMA

    def __post_init__(self) -> None:
        """Refuse what no run writes; a reader of files reports it as damage."""
        decode_edits(self, "plan")
        if self.dense_parameters < 1 or self.parameters < 0:
            counts = f"{self.parameters} of {self.dense_parameters}"
            raise ValueError(f"impossible numbers of parameters: {counts}")
        if wrong := implausible(self.plan) or _misshapen(self.asked):
            raise ValueError(wrong)
        for m in self.measurements:
            if len(m.clusters) not in (0, len(m.samples)):
                counts = f"{len(m.clusters)} samples are clustered of {len(m.samples)}"
                raise ValueError(f"{inert(m.metric, 80)}: {counts}")
            if (most := _largest(m)) > HUGE:
                raise ValueError(f"{inert(m.metric, 80)}: found {most:g}, at most {HUGE:g}")

    @property
    def model_id(self) -> str:
        """The model that was asked about, empty where a question names none."""
        return str((self.asked.get("model") or {}).get("id", ""))

    @property
    def sparsity(self) -> float:
        """The achieved fraction of the dense model's parameters that was removed."""
        # One division: 1 - 80 / 100 is 0.19999999999999996.
        return (self.dense_parameters - self.parameters) / self.dense_parameters

    def find(self, metric: str) -> Measurement | None:
        """The measurement of that name, if there is one."""
        return next((m for m in self.measurements if m.metric == metric), None)


def _misshapen(asked: Mapping[str, Any]) -> str:
    """What is wrong with the parts of a question, as far as it has them; or an empty text."""
    for key, name in (("model", "id"), ("method", "name"), ("amount", ""), ("calibration", "")):
        part = asked.get(key)
        named = isinstance(part, dict) and isinstance(part.get(name, ""), str)
        if part is not None and not named:
            return f"asked: {key} is not as a question has it"
    metrics = asked.get("metrics") or ()
    listed = isinstance(metrics, list | tuple)
    if not listed or not all(isinstance(_name(metric), str) for metric in metrics):
        return "asked: metrics are not as a question has them"
    if not isinstance(asked.get("protocol"), str | None):
        return "asked: protocol is no text"
    return ""


def _name(metric: object) -> object:
    return metric.get("name") if isinstance(metric, dict) else None


class Tolerance(Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """How much worse than the baseline is still fine: ``max(abs, rel * |baseline|)``."""

    abs: Annotated[float, Meta(ge=0)] = 0.0
    rel: Annotated[float, Meta(ge=0)] = 0.0

    def allowed(self, was: float) -> float:
        """The largest loss that passes, in the metric's unit."""
        return max(self.abs, self.rel * abs(was))

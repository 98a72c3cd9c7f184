"""Case: one question to a pruned model, as frozen data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import FieldInfo

from .api import Method, Metric, Target, tag
from .data.datasets import RANDOM
from .record import Tolerance
from .specs import CalibrationSpec, ModelSpec, Needs
from .system.files import slug
from .verdicts.conditions import Condition
from .verdicts.outcomes import ALPHA, NIGHTLY_ALPHA, Outcome, Rules

AMOUNTS = ("sparsity", "blocks", "sublayers", "slicing")


class Case(Struct, frozen=True):
    """One method at one amount on one model, with what is to be measured.

    *asked* is the question as plain JSON, with paths as the user wrote them; a baseline answers
    exactly this. Tolerances and what fails, outcomes and *conditions*, are policy and not part of
    the question. *settings* are the overrides it was loaded with. With *published* it is also
    judged by the papers' numbers, to that tolerance. *alpha* is the level of its tests, *seed_of*
    the case whose interval over calibration seeds it is one of; only the first seed is compared
    with a baseline.
    """

    id: str
    file: Path
    line: int
    asked: dict[str, Any]
    model: ModelSpec
    method: Method
    target: Target
    calibration: CalibrationSpec
    metrics: tuple[Metric, ...]
    tolerance: dict[str, Tolerance]
    fail_on: tuple[Outcome, ...]
    marks: tuple[str, ...] = ()
    needs: Needs = Needs()
    published: Tolerance | None = None
    settings: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    alpha: float | None = None
    seed_of: str = ""

    @property
    def dense(self) -> bool:
        """Whether nothing is removed."""
        return self.method.unit == "none"

    @property
    def times(self) -> bool:
        """Whether something is timed, which other work on the same device would spoil."""
        return self.method.times or any(metric.times for metric in self.metrics)

    @property
    def families(self) -> tuple[str, ...]:
        """The names of its metrics, with which those of their measurements begin."""
        return tuple(map(tag, self.metrics))

    @property
    def datasets(self) -> list[str]:
        """The texts that it reads, by name or path: for calibration, then those of its metrics."""
        names = [self.calibration.dataset] if self.method.calibrated else []
        return names + [d for m in self.metrics if (d := getattr(m, "dataset", None))]

    @property
    def reproduce(self) -> str:
        """The command that runs this case alone."""
        settings = "".join(f" --set {shlex.quote(text)}" for text in self.settings)
        file = shlex.quote(str(self.file))
        return f"prunebench run {file} -k '{self.label}'{settings}"

    @property
    def label(self) -> str:
        """The id without its folder and file."""
        return self.id.rsplit("/", 1)[-1]

    @property
    def for_interval(self) -> bool:
        """Whether it is measured for an interval over calibration seeds alone."""
        return self.seed_of not in ("", self.id)

    def rules(
        self, alpha: float | None = None, family: int = 1, noise: Mapping[str, float] | None = None
    ) -> Rules:
        """How it is judged; *alpha* in place of its own level, stricter for nightly cases."""
        own = self.alpha or (NIGHTLY_ALPHA if "nightly" in self.marks else ALPHA)
        named = tuple(name for name in self.tolerance if "/" in name)
        return Rules(alpha or own, family, named, noise or {})

    def tolerance_for(self, metric: str) -> Tolerance:
        """The tolerance of a measurement: its own name's, its family's, or the metric's default."""
        family = metric.split("/")[0]
        for name in (metric, family):
            if name in self.tolerance:
                return self.tolerance[name]
        for own in self.metrics:
            if tag(own) == family:
                return own.tolerance
        return Tolerance()


def question(
    protocol: str | None,
    model: ModelSpec,
    method: Method,
    target: Target,
    calibration: CalibrationSpec,
    metrics: tuple[Metric, ...],
) -> dict[str, Any]:
    """The question as plain JSON data, round-tripped so that a stored one compares equal."""
    parts = {
        "protocol": protocol,
        "model": _spoken(model),
        "method": _spoken(method),
        "amount": target,
        "calibration": _spoken(calibration) if method.calibrated else None,
        "metrics": [_spoken(metric) for metric in metrics],
    }
    return json.loads(msgspec.json.encode(parts))  # type: ignore[no-any-return]


def _spoken(value: Struct) -> dict[str, Any]:
    """What differs from the defaults: one that is written out is no other question.

    msgspec leaves defaults out by identity, which a number above 256 does not have.
    """
    fields = _fields(type(value))
    return {
        key: given
        for key, given in msgspec.to_builtins(value).items()
        if key not in fields or fields[key].required or getattr(value, key) != fields[key].default
    }


@cache
def _fields(kind: type[Struct]) -> dict[str, FieldInfo]:
    # Asking msgspec evaluates every annotation: a few hundred microseconds each time.
    return {field.name: field for field in msgspec.structs.fields(kind)}


def method_label(method: Method, target: Target) -> str:
    """``<method>[-<non-default options>]-<amount>``."""
    options = msgspec.to_builtins(method)
    parts = [tag(method)]
    for key, value in options.items():
        if key != "name":
            parts.append(_option_label(key, value))
    amounts = {"sparsity": "{:g}", "blocks": "{}blocks", "sublayers": "{}sublayers"}
    for key in AMOUNTS:
        value = getattr(target, key)
        if value is not None:
            parts.append(amounts.get(key, "slicing{:g}").format(value))
    return "-".join(parts)


def _option_label(key: str, value: object) -> str:
    if isinstance(value, bool):
        return key if value else f"no-{key}"
    if isinstance(value, str):
        return slug(value)
    return slug(f"{key}{value:g}" if isinstance(value, float) else f"{key}{value}")


def axis_label(key: str, value: object) -> str:
    """What a matrix axis other than method and amount adds to the id."""
    if isinstance(value, dict):
        return "-".join(axis_label(str(k), v) for k, v in value.items())
    if isinstance(value, list):
        return "-".join(axis_label(key, item) for item in value)
    return _option_label(key, value)


def unanswerable(case: Case) -> str:
    """Why *case* has no answer whatever the machine, or an empty text."""
    if case.model.weights is None:
        return ""
    reading = [tag(m) for m in case.metrics if getattr(m, "dataset", None) or hasattr(m, "tasks")]
    if reading:
        return (
            f"a model of random weights has no meaningful {reading[0]}; measure latency, memory or "
            f"compute"
        )
    if case.method.calibrated and case.calibration.dataset != RANDOM:
        return (
            f"a model of random weights reads no text: calibrate {tag(case.method)} on "
            f"{{dataset: {RANDOM}}}, not on {case.calibration.dataset!r}"
        )
    return ""


#: Called with what is being done: the case, and the step in words.
Progress = Callable[[Case, str], None]


def silent(case: Case, step: str) -> None:
    """No progress display."""
    del case, step


def serves_all_amounts(method: Method) -> bool:
    """Whether one search of *method* serves all amounts."""
    return method.nested and not method.sized and method.unit in ("blocks", "sublayers")


def search_key(case: Case) -> object:
    """The search key: cases with the same one share a search.

    Where one search serves all amounts, the amount is no part of it.
    """
    target = None if serves_all_amounts(case.method) else case.target
    return (case.model, case.method, case.calibration, target)

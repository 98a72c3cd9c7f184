"""The keys of a case file, their checks, and the JSON Schema for editors."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import islice
from operator import or_
from pathlib import Path
from typing import Annotated, Any, cast

import msgspec
from msgspec import Meta, Struct

from .. import registry
from ..api import Method
from ..data import datasets, task_trust
from ..data.paths import is_path
from ..errors import PrunebenchError, did_you_mean
from ..record import Tolerance
from ..specs import CalibrationSpec, Count, Fraction, ModelSpec, Needs
from ..verdicts import fail_on as fail_rules
from . import validation
from .validation import Problem, Where, found

Seed = Annotated[int, Meta(ge=0)]


class CalibrationKeys(CalibrationSpec, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Calibration as a case file has it: several seeds make a case each, and an interval."""

    seed: Seed | Annotated[list[Seed], Meta(min_length=1)] = 0  # type: ignore[assignment]


#: Keys that shape the file and are not part of a single case.
SHAPING = ("extends", "defaults", "matrix", "include", "exclude")

Data = dict[str, Any]

FailOn = Annotated[
    str,
    Meta(
        description="An outcome, or a condition that fails the run where it holds.",
        examples=["worse", "accuracy/recovery < 0.95", "accuracy/mean: drop > 1pp and p < 0.01"],
    ),
]


class CaseFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The keys of a case file. Only ``model``, ``method`` and ``metrics`` must end up given."""

    protocol: str | None = None
    extends: str | None = None
    defaults: dict[str, Any] | None = None
    model: ModelSpec | None = None
    method: dict[str, Any] | None = None
    sparsity: Fraction | None = None
    blocks: Count | None = None
    sublayers: Count | None = None
    slicing: Fraction | None = None
    calibration: CalibrationKeys | None = None
    metrics: list[dict[str, Any]] | None = None
    tolerance: dict[str, Tolerance] | None = None
    published: Tolerance | None = None
    alpha: Annotated[float, Meta(gt=0, le=0.5)] | None = None
    fail_on: list[FailOn] | None = None
    marks: list[Annotated[str, Meta(pattern=r"^[A-Za-z_]\w*$")]] | None = None
    needs: Needs | None = None
    matrix: dict[str, list[Any]] | None = None
    include: list[dict[str, Any]] | None = None
    exclude: list[dict[str, Any]] | None = None


def check_keys(data: Data, where: Where) -> Iterator[Problem]:
    """Every problem of the keys of a case file, or of a part of one."""
    plain = {k: v for k, v in data.items() if k not in ("method", "metrics", "fail_on", "_label")}
    yield from validation.problems(plain, CaseFile, where)
    yield from _check_fail_on(data.get("fail_on"), (*where, "fail_on"))
    if data.get("method") is not None:
        yield from _check_plugin(data["method"], "method", (*where, "method"))
    metrics = data.get("metrics")
    if isinstance(metrics, list):
        for i, item in enumerate(metrics):
            yield from _check_plugin(item, "metric", (*where, "metrics", i))
        if not metrics:
            yield (*where, "metrics"), "found an empty list, expected at least one metric"
    elif metrics is not None:
        yield (*where, "metrics"), f"found {found(metrics)}, expected a list"
    yield from _check_parts(data, where)


def _check_parts(data: Data, where: Where) -> Iterator[Problem]:
    """The keys inside matrix, include, exclude and defaults are case keys again."""
    axes = data["matrix"] if isinstance(data.get("matrix"), dict) else {}
    for key, values in axes.items():
        yield from _check_axis(key, values, (*where, "matrix", key))
    for part in ("include", "exclude"):
        items = data.get(part)
        for i, item in enumerate(items if isinstance(items, list) else ()):
            if not isinstance(item, dict):
                continue
            spot = (*where, part, i)
            yield from _forbidden(item, SHAPING, part, spot)
            if part == "include":
                yield from check_keys({k: v for k, v in item.items() if k not in SHAPING}, spot)
            else:
                yield from _check_excluded(item, axes, spot)
    if isinstance(defaults := data.get("defaults"), dict):
        spot = (*where, "defaults")
        yield from _forbidden(defaults, ("extends", "defaults"), "defaults", spot)
        yield from check_keys(defaults, spot)


def _check_axis(key: str, values: object, where: Where) -> Iterator[Problem]:
    if key in SHAPING:
        yield where, f"{key!r} cannot vary; a matrix takes keys of a single case"
    elif key not in CaseFile.__struct_fields__:
        known = set(CaseFile.__struct_fields__) - set(SHAPING)
        yield where, f"unknown key {key!r}; {did_you_mean(key, known)}"
    elif isinstance(values, list):
        if not values:
            yield where, "found an empty list, expected at least one value"
        for i, value in enumerate(values):
            for inner, message in check_keys({key: value}, ()):
                yield (*where, i, *inner[1:]), message


def _check_excluded(item: Data, axes: Data, where: Where) -> Iterator[Problem]:
    for key in item:
        if key not in axes:
            yield (*where, key), f"{key!r} is no axis of the matrix; {did_you_mean(str(key), axes)}"
    for inner, leaf in _leaves(item, ()):
        if isinstance(leaf, float) and not math.isfinite(leaf):
            yield (*where, *inner), f"found {leaf}, expected a finite number"


def _forbidden(data: Data, keys: Sequence[str], part: str, where: Where) -> Iterator[Problem]:
    for key in keys:
        if key in data:
            yield (*where, key), f"{key!r} cannot stand inside {part!r}"


def _check_fail_on(items: Any, where: Where) -> Iterator[Problem]:
    if items is None:
        return
    if not isinstance(items, list):
        yield where, f"found {found(items)}, expected a list"
        return
    for i, item in enumerate(items):
        if isinstance(item, dict):
            # YAML's reading of a colon and a blank, which a condition may have.
            yield (*where, i), "found a mapping, expected text: put the condition in quotes"
        elif not isinstance(item, str):
            yield (*where, i), f"found {found(item)}, expected text"
        else:
            try:
                fail_rules.read(item)
            except PrunebenchError as error:
                yield (*where, i), str(error)


def _check_plugin(data: Any, kind: str, where: Where) -> Iterator[Problem]:
    if not isinstance(data, dict):
        yield where, f"found {found(data)}, expected a mapping with 'name'"
        return
    name = data.get("name")
    if not isinstance(name, str) and name is not None:
        # YAML 1.1 reads no, off, yes and on as truth values.
        yield (*where, "name"), f"found {found(name)}, expected the name of a {kind}"
        return
    if name is None:
        known = ", ".join(registry.names(f"{kind}s"))
        yield where, f"missing key 'name' of a {kind}; allowed: {known}"
        return
    try:
        cls = registry.method(name) if kind == "method" else registry.metric(name)
    except PrunebenchError as error:
        yield (*where, "name"), str(error)
        return
    yield from validation.problems(data, cls, where)


def _leaves(value: Any, where: Where) -> Iterator[tuple[Where, Any]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _leaves(item, (*where, key))
    elif where:
        yield where, value


def check_names(data: Data, folder: Path) -> Iterator[Problem]:
    """Every folder, text and data set that is named but missing; paths relative to *folder*."""
    for where, text in _leaves(data, ()):
        check = _NAMED.get(where[-2:]) or _NAMED.get(where[-1:])
        if check and isinstance(text, str):
            yield from ((where, message) for message in check(text, folder, where))


def _model(text: str, folder: Path, where: Where) -> Iterator[str]:
    if not text.strip():
        yield "found an empty text, expected a model's folder or hub id"
    yield from _checkpoint(text, folder, where)


def _checkpoint(text: str, folder: Path, _: Where) -> Iterator[str]:
    if not is_path(text):
        return
    if not holds(Path.is_dir, folder / text):
        yield f"no such model folder: {text!r}"
    elif not holds(Path.is_file, folder / text / "config.json"):
        yield f"model folder {text!r} has no config.json"


def _plan(text: str, folder: Path, _: Where) -> Iterator[str]:
    if not holds(Path.is_file, folder / text):
        yield f"no such plan file: {text!r}"


def _dataset(text: str, folder: Path, where: Where) -> Iterator[str]:
    if is_path(text):
        if not holds(Path.is_file, folder / text):
            yield f"no such text file: {text!r}"
    elif text == datasets.RANDOM and "calibration" not in where:
        yield f"found {text!r}, which is for calibration: nothing can be scored on it"
    elif text not in datasets.NAMES:
        hint = did_you_mean(text, datasets.NAMES)
        yield f"unknown dataset {text!r}; {hint}, or a path that starts with . or /"


def _tasks_folder(text: str, folder: Path, _: Where) -> Iterator[str]:
    if holds(Path.is_dir, folder / text):
        yield from islice(task_trust.problems(folder / text), 3)
    else:
        yield f"no such task folder: {text!r}"


#: What is checked of a text, by the last keys of its place.
_NAMED: dict[Where, Callable[[str, Path, Where], Iterator[str]]] = {
    ("model", "id"): _model,
    ("method", "checkpoint"): _checkpoint,
    ("method", "plan"): _plan,
    ("dataset",): _dataset,
    ("tasks_folder",): _tasks_folder,
}


def holds(test: Callable[[Path], bool], path: Path) -> bool:
    """Whether *test* holds of *path*; false for a name that no file can have.

    Such a name is too long, or has a null byte.
    """
    try:
        return test(path)
    except (OSError, ValueError):
        return False


def build_method(name: str, options: Data) -> Method:
    """The method called *name* with *options*, checked as in a case file.

    Raises:
        PrunebenchError: with every problem, a line each.
    """
    cls = registry.method(name)
    if "name" in options:
        raise PrunebenchError(f"{name}: name: found {options['name']!r}; a name is no option")
    data = {"name": name, **options}
    lines = [f"{name}: {'.'.join(map(str, w))}: {m}" for w, m in validation.problems(data, cls)]
    if lines:
        raise PrunebenchError("\n".join(lines))
    try:
        return msgspec.convert(data, cls)
    except msgspec.ValidationError as error:
        raise PrunebenchError(str(error)) from None


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a case file with the built-in methods and metrics, for editors."""
    methods = reduce(or_, map(registry.method, registry.files("methods")))
    metrics = reduce(or_, map(registry.metric, registry.files("metrics")))
    (top, method, metric), parts = msgspec.json.schema_components(
        [CaseFile, methods, metrics], ref_template="#/$defs/{name}"
    )
    keys = parts[top["$ref"].rpartition("/")[2]]["properties"]
    keys["method"] = method
    keys["metrics"] = {"type": "array", "items": metric, "minItems": 1}
    draft = "https://json-schema.org/draft/2020-12/schema"
    whole = {"$schema": draft, "title": "prunebench case file", **top, "$defs": parts}
    return cast("dict[str, Any]", json.loads(msgspec.json.encode(whole)))

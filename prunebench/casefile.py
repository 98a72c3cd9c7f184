"""Reads case files: checks every key, lays protocols under them, expands the matrix."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Any, cast

import msgspec
import yaml

from . import registry, schema, texts
from .api import Method, Metric, Target
from .case import (
    AMOUNTS,
    CalibrationSpec,
    Case,
    CaseFile,
    ModelSpec,
    Needs,
    axis_label,
    method_label,
    question,
    slug,
)
from .errors import CaseError, PrunebenchError, did_you_mean
from .record import Tolerance
from .schema import found
from .source import Source, Where
from .verdict import FAILING, Outcome

PROTOCOLS = Path(__file__).parent / "protocols"
SUFFIXES = (".yaml", ".yml")
MAX_CASES = 10_000

#: Keys that shape the file and stand in no single case.
SHAPING = ("extends", "defaults", "matrix", "include", "exclude")

Data = dict[str, Any]


def load(
    paths: Iterable[Path], overrides: Sequence[str] = (), limit: int | None = None
) -> list[Case]:
    """All cases of the files and folders *paths*, dense ones first within a file.

    Args:
        paths: case files, or folders searched for ``*.yaml``.
        overrides: ``key=value`` texts that replace any case key and give the id a suffix.
        limit: at most so many questions per task.

    Raises:
        CaseError: with every problem of every file.
    """
    cases: list[Case] = []
    problems: list[str] = []
    settings = [_override(text) for text in overrides]
    for path in find(paths):
        try:
            cases += CaseReader(path, settings, limit).cases()
        except CaseError as error:
            problems += error.problems
    seen: dict[str, Case] = {}
    for case in cases:
        first = seen.setdefault(case.id, case)
        if first is not case:
            other = f"{first.file}:{first.line}"
            problems.append(
                f"{case.file}:{case.line}:1: duplicate case id {case.id!r}, also {other}"
            )
    if problems:
        raise CaseError(dict.fromkeys(problems))
    return cases


def find(paths: Iterable[Path]) -> list[Path]:
    """The case files below *paths*, sorted, each once."""
    files: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            found_here = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
            files.update(dict.fromkeys(found_here))
        elif path.is_file():
            files[path] = None
        else:
            raise CaseError([f"{path}: no such case file or folder"])
    return list(files)


def case_prefix(path: Path) -> str:
    """The part of a case id that its file gives: the path below the nearest ``cases`` folder."""
    absolute = path.absolute()
    for folder in absolute.parents:
        if folder.name == "cases":
            return "/".join(slug(p) for p in absolute.relative_to(folder).with_suffix("").parts)
    return slug(absolute.stem)


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


def default_tolerance(metric: str) -> Tolerance:
    """The tolerance that a metric's class states, for a measurement of it."""
    family = metric.split("/")[0]
    return registry.metric(family).tolerance if family in registry.names("metrics") else Tolerance()


class CaseReader:
    """Turns one file into cases.

    Args:
        path: the case file.
        settings: parsed overrides, as (dotted key, value).
        limit: at most so many questions per task.
    """

    def __init__(
        self, path: Path, settings: Sequence[tuple[str, Any]] = (), limit: int | None = None
    ) -> None:
        self.path = path
        self.settings = settings
        self.limit = limit
        self.source = Source(path)
        self.problems: list[str] = []

    def cases(self) -> list[Case]:
        """All cases of the file, dense ones first.

        Raises:
            CaseError: with every problem found.
        """
        self._check_shape(self.source)
        base = self._layers(self.source, ())
        if self.problems:
            raise CaseError(self.problems)
        cases = [case for where, data in self._expand(base) if (case := self._case(where, data))]
        if self.problems:
            raise CaseError(self.problems)
        return sorted(cases, key=lambda case: not case.dense)

    # ------------------------------------------------------------------ layers

    def _layers(self, source: Source, seen: tuple[Path, ...]) -> Data:
        """The file's own keys over its defaults, its parent and its protocol."""
        data = source.data
        lower: Data = {}
        if isinstance(name := data.get("protocol"), str):
            lower = self._protocol(source, name)
        if isinstance(parent := data.get("extends"), str):
            file = (source.path.parent / parent).resolve()
            if file in seen or len(seen) > 10:
                self._problem(source, ("extends",), f"{parent!r} extends itself")
            elif not file.is_file():
                self._problem(source, ("extends",), f"no such file: {parent!r}")
            else:
                above = Source(file)
                self._check_shape(above)
                lower = merge(
                    lower, _rebased(self._layers(above, (*seen, file)), file, source.path)
                )
        own = {k: v for k, v in data.items() if k not in ("extends", "defaults")}
        return merge(merge(lower, data.get("defaults") or {}), own)

    def _protocol(self, source: Source, name: str) -> Data:
        file = PROTOCOLS / f"{name}.yaml"
        known = [p.stem for p in PROTOCOLS.glob("*.yaml")]
        if name not in known:
            hint = did_you_mean(name, known)
            self._problem(source, ("protocol",), f"unknown protocol {name!r}; {hint}")
            return {}
        protocol = Source(file)
        self._check_shape(protocol)
        return protocol.data

    # ------------------------------------------------------------------ checks

    def _problem(self, source: Source, where: Where, message: str) -> None:
        self.problems.append(f"{source.at(where)}: {message}")

    def _check_shape(self, source: Source) -> None:
        for where, message in check_keys(source.data, ()):
            self._problem(source, where, message)
        for where, text in _texts_in(source.data):
            if where[-2:] == ("model", "id") and _is_path(text):
                self._check_folder(source, where, text)
            elif where[-1] == "dataset":
                self._check_dataset(source, where, text)
            elif where[-1] == "tasks_folder" and not (source.path.parent / text).is_dir():
                self._problem(source, where, f"no such task folder: {text!r}")

    def _check_folder(self, source: Source, where: Where, text: str) -> None:
        folder = (source.path.parent / text).resolve()
        if not folder.is_dir():
            self._problem(source, where, f"no such model folder: {text!r}")
        elif not (folder / "config.json").is_file():
            self._problem(source, where, f"model folder {text!r} has no config.json")

    def _check_dataset(self, source: Source, where: Where, text: str) -> None:
        if _is_path(text):
            if not (source.path.parent / text).is_file():
                self._problem(source, where, f"no such text file: {text!r}")
        elif text not in texts.NAMES:
            hint = did_you_mean(text, texts.NAMES)
            message = f"unknown dataset {text!r}; {hint}, or a path that starts with . or /"
            self._problem(source, where, message)

    # --------------------------------------------------------------- expansion

    def _expand(self, base: Data) -> Iterator[tuple[Where, Data]]:
        """Every combination of the matrix, less the excluded, plus the included, with settings."""
        base = dict(base)
        matrix: dict[str, list[Any]] = dict(base.get("matrix") or {})
        single = {k: v for k, v in base.items() if k not in SHAPING}
        for key, value in self.settings:
            if key in matrix:
                matrix[key] = [value]
        size = 1
        for values in matrix.values():
            size *= len(values)
        if size > MAX_CASES:
            self._problem(self.source, ("matrix",), f"{size} combinations, at most {MAX_CASES}")
            return
        combinations = list(itertools.product(*(range(len(v)) for v in matrix.values())))
        for indices in combinations if matrix else [()]:
            cell = {k: matrix[k][i] for k, i in zip(matrix, indices, strict=True)}
            if any(_matches(cell, pattern) for pattern in base.get("exclude") or []):
                continue
            if not matrix and base.get("include"):
                continue  # a file that lists its cases has no further one
            where = self._cell_place(matrix, indices)
            yield where, self._labelled(merge(single, cell), cell)
        for i, extra in enumerate(base.get("include") or []):
            yield ("include", i), self._labelled(merge(single, extra), extra)

    def _cell_place(self, matrix: Mapping[str, Any], indices: tuple[int, ...]) -> Where:
        for key, i in zip(matrix, indices, strict=True):
            if key == "method":
                return ("matrix", "method", i)
        return ("matrix",) if matrix else ("method",)

    def _labelled(self, data: Data, cell: Data) -> Data:
        """*data* with the settings applied; ``_label`` carries what the cell adds to the id."""
        extra = [axis_label(k, v) for k, v in cell.items() if k not in ("method", *AMOUNTS)]
        for key, value in self.settings:
            data = _set(data, key, value)
        return {**data, "_label": "-".join(extra)}

    # ------------------------------------------------------------------- cases

    def _case(self, where: Where, data: Data) -> Case | None:
        label = data.pop("_label")
        before = len(self.problems)
        if self.settings:
            for at, message in check_keys(data, ()):
                key = ".".join(map(str, at))
                self.problems.append(f"--set {self._setting_of(key)}: {message}")
        for key in ("model", "method", "metrics"):
            if data.get(key) is None:
                self._problem(self.source, where, f"missing key {key!r}")
        amounts = [k for k in AMOUNTS if data.get(k) is not None]
        if len(self.problems) > before:
            return None
        raw = json.loads(json.dumps(data))
        try:
            method = _method(raw["method"])
            self._check_amount(where, method, amounts)
            resolved = cast("Data", _resolved(raw, self.path.parent))
            model = msgspec.convert(resolved["model"], ModelSpec)
            calibration = msgspec.convert(resolved.get("calibration") or {}, CalibrationSpec)
            metrics = self._metrics(resolved["metrics"])
            asked = question(
                raw.get("protocol"),
                msgspec.convert(raw["model"], ModelSpec),
                method,
                target := Target(**{k: raw[k] for k in amounts}),
                msgspec.convert(raw.get("calibration") or {}, CalibrationSpec),
                self._metrics(raw["metrics"]),
            )
            policy = msgspec.convert(raw.get("tolerance") or {}, dict[str, Tolerance])
            fail_on = msgspec.convert(raw.get("fail_on") or FAILING, tuple[Outcome, ...])
            needs = msgspec.convert(raw.get("needs") or {}, Needs)
        except (msgspec.ValidationError, PrunebenchError) as error:
            self._problem(self.source, where, str(error))
            return None
        if len(self.problems) > before:
            return None
        name = "-".join(p for p in (method_label(method, target), label) if p)
        suffix = "".join(f"@{slug(f'{k}={v}')}" for k, v in self.settings)
        return Case(
            id=f"{case_prefix(self.path)}/{name}{suffix}",
            file=self.path,
            line=int(self.source.at(where).rsplit(":", 2)[1]),
            asked=asked,
            model=model,
            method=method,
            target=target,
            calibration=calibration,
            metrics=metrics,
            tolerance=policy,
            fail_on=fail_on,
            marks=tuple(raw.get("marks") or ()),
            needs=needs,
        )

    def _setting_of(self, key: str) -> str:
        for name, value in self.settings:
            if key.startswith(name) or name.startswith(key):
                return f"{name}={value}"
        return key

    def _metrics(self, items: list[Data]) -> tuple[Metric, ...]:
        metrics = tuple(_metric(item) for item in items)
        return metrics if self.limit is None else tuple(m.limited(self.limit) for m in metrics)

    def _check_amount(self, where: Where, method: Method, amounts: list[str]) -> None:
        allowed = {
            "none": (),
            "blocks": ("sparsity", "blocks"),
            "sublayers": ("sparsity", "sublayers"),
            "width": ("sparsity", "slicing"),
        }[method.unit]
        name = method.__struct_config__.tag
        wrong = [a for a in amounts if a not in allowed]
        if wrong and not allowed:
            self._problem(self.source, where, f"{name} removes nothing; leave out {wrong[0]!r}")
        elif wrong:
            hint = " or ".join(map(repr, allowed))
            self._problem(self.source, where, f"{name} takes {hint}, not {wrong[0]!r}")
        elif allowed and len(amounts) != 1:
            had = ", ".join(amounts) or "none"
            hint = ", ".join(allowed)
            self._problem(self.source, where, f"give exactly one of {hint} for {name}; found {had}")


def check_keys(data: Data, where: Where) -> Iterator[tuple[Where, str]]:
    """Every problem of the keys of a case file, or of a part of one."""
    plain = {k: v for k, v in data.items() if k not in ("method", "metrics", "_label")}
    yield from schema.problems(plain, CaseFile, where)
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


def _check_parts(data: Data, where: Where) -> Iterator[tuple[Where, str]]:
    """The keys inside matrix, include, exclude and defaults are case keys again."""
    matrix = data.get("matrix")
    for key, values in matrix.items() if isinstance(matrix, dict) else ():
        spot = (*where, "matrix", key)
        if key in SHAPING:
            yield spot, f"{key!r} cannot vary; a matrix takes keys of a single case"
        elif key not in CaseFile.__struct_fields__:
            known = set(CaseFile.__struct_fields__) - set(SHAPING)
            yield spot, f"unknown key {key!r}; {did_you_mean(key, known)}"
        elif isinstance(values, list):
            if not values:
                yield spot, "found an empty list, expected at least one value"
            for i, value in enumerate(values):
                for inner, message in check_keys({key: value}, ()):
                    yield (*spot, i, *inner[1:]), message
    for part in ("include", "exclude"):
        items = data.get(part)
        for i, item in enumerate(items if isinstance(items, list) else ()):
            if not isinstance(item, dict):
                continue
            spot = (*where, part, i)
            for key in SHAPING:
                if key in item:
                    yield (*spot, key), f"{key!r} cannot stand inside {part!r}"
            if part == "include":
                yield from check_keys({k: v for k, v in item.items() if k not in SHAPING}, spot)
    if isinstance(data.get("defaults"), dict):
        yield from check_keys(data["defaults"], (*where, "defaults"))


def _check_plugin(data: Any, kind: str, where: Where) -> Iterator[tuple[Where, str]]:
    if not isinstance(data, dict):
        yield where, f"found {found(data)}, expected a mapping with 'name'"
        return
    name = data.get("name")
    if not isinstance(name, str):
        known = ", ".join(registry.names(f"{kind}s"))
        yield where, f"missing key 'name' of a {kind}; allowed: {known}"
        return
    try:
        cls = registry.method(name) if kind == "method" else registry.metric(name)
    except PrunebenchError as error:
        yield (*where, "name"), str(error)
        return
    yield from schema.problems(data, cls, where)


def _method(data: Data) -> Method:
    return msgspec.convert(data, registry.method(data["name"]))


def _metric(data: Data) -> Metric:
    return msgspec.convert(data, registry.metric(data["name"]))


def merge(lower: Data, upper: Data) -> Data:
    """*upper* laid over *lower*: mappings merge, everything else replaces.

    A method of another name replaces the one below it, options and all.
    """
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        other = key == "method" and isinstance(value, dict) and value.get("name") is not None
        if (
            isinstance(below, dict)
            and isinstance(value, dict)
            and not (other and below.get("name") != value.get("name"))
        ):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def _matches(cell: Data, pattern: Data) -> bool:
    return all(
        _matches(cell.get(k) or {}, v) if isinstance(v, dict) else cell.get(k) == v
        for k, v in pattern.items()
    )


def _override(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise PrunebenchError(f"--set {text}: found no '=', expected KEY=VALUE")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise PrunebenchError(f"--set {text}: the value is not valid YAML") from None


def _set(data: Data, key: str, value: Any) -> Data:
    """*data* with the value at a dotted key replaced; numbers index lists."""
    head, _, rest = key.partition(".")
    new: Any = value
    if rest:
        inner = data.get(head)
        if isinstance(inner, list) and rest.partition(".")[0].isdigit():
            items = {str(i): item for i, item in enumerate(inner)}
            index = rest.partition(".")[0]
            if index not in items:
                raise PrunebenchError(f"--set {key}: {head} has {len(inner)} items")
            new = list(_set(items, rest, value).values())
        else:
            new = _set(inner if isinstance(inner, dict) else {}, rest, value)
    dropped = set(AMOUNTS) - {head} if head in AMOUNTS else set()  # one amount replaces another
    return {**{k: v for k, v in data.items() if k not in dropped}, head: new}


def _is_path(text: object) -> bool:
    return isinstance(text, str) and text.startswith((".", "/"))


def _texts_in(value: Any, where: Where = ()) -> Iterator[tuple[Where, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts_in(item, (*where, key))
    elif isinstance(value, list):
        for i, item in enumerate(value):
            yield from _texts_in(item, (*where, i))
    elif isinstance(value, str) and where:
        yield where, value


def _rebased(value: Any, file: Path, reader: Path) -> Any:
    """*value* with paths relative to *file* rewritten relative to *reader*, which extends it."""
    if isinstance(value, dict):
        return {key: _rebased(item, file, reader) for key, item in value.items()}
    if isinstance(value, list):
        return [_rebased(item, file, reader) for item in value]
    if not _is_path(value) or value.startswith("/"):
        return value
    moved = os.path.relpath(file.parent / value, reader.resolve().parent)
    return moved if moved.startswith(".") else f"./{moved}"


def _resolved(value: Any, folder: Path) -> Any:
    """*value* with every relative path in it made absolute against the case file's folder."""
    if isinstance(value, dict):
        return {key: _resolved(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [_resolved(item, folder) for item in value]
    return str((folder / value).resolve()) if _is_path(value) else value

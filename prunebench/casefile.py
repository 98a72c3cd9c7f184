"""Reads case files: checks every key, lays protocols under them, expands the matrix."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec

from . import registry, texts
from .api import Method, Metric, Target
from .case import (
    AMOUNTS,
    CalibrationSpec,
    Case,
    ModelSpec,
    Needs,
    axis_label,
    method_label,
    question,
    slug,
)
from .errors import CaseError, PrunebenchError, did_you_mean
from .grammar import SHAPING, Data, amount_problem, check_keys
from .layers import is_path, matches, merge, override, rebased, resolved, texts_in, with_setting
from .record import Tolerance
from .source import Source, Where
from .verdict import FAILING, Outcome

PROTOCOLS = Path(__file__).parent / "protocols"
SUFFIXES = (".yaml", ".yml")
MAX_CASES = 10_000


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
    settings = [override(text) for text in overrides]
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
                lower = merge(lower, rebased(self._layers(above, (*seen, file)), file, source.path))
        own = {k: v for k, v in data.items() if k not in ("extends", "defaults")}
        defaults = data.get("defaults")
        return merge(merge(lower, defaults if isinstance(defaults, dict) else {}), own)

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
        for where, text in texts_in(source.data):
            if where[-2:] == ("model", "id") and is_path(text):
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
        if is_path(text):
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
            if any(matches(cell, pattern) for pattern in base.get("exclude") or []):
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
            data = with_setting(data, key, value)
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
            if problem := amount_problem(method, amounts):
                self._problem(self.source, where, problem)
            paths = cast("Data", resolved(raw, self.path.parent))
            model = msgspec.convert(paths["model"], ModelSpec)
            calibration = msgspec.convert(paths.get("calibration") or {}, CalibrationSpec)
            metrics = self._metrics(paths["metrics"])
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
            settings=tuple(f"{k}={v}" for k, v in self.settings),
        )

    def _setting_of(self, key: str) -> str:
        for name, value in self.settings:
            if key.startswith(name) or name.startswith(key):
                return f"{name}={value}"
        return key

    def _metrics(self, items: list[Data]) -> tuple[Metric, ...]:
        metrics = tuple(_metric(item) for item in items)
        return metrics if self.limit is None else tuple(m.limited(self.limit) for m in metrics)


def _method(data: Data) -> Method:
    return msgspec.convert(data, registry.method(data["name"]))


def _metric(data: Data) -> Metric:
    return msgspec.convert(data, registry.metric(data["name"]))

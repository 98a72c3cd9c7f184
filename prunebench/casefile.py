"""Reads case files: checks every key, lays protocols under them, expands the matrix."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
from msgspec.structs import replace

from . import gating, registry
from .api import Method, Metric, Target, tag
from .case import (
    AMOUNTS,
    CalibrationSpec,
    Case,
    ModelSpec,
    Needs,
    axis_label,
    method_label,
    question,
)
from .conditions import Condition, unfit
from .errors import CaseError, PrunebenchError, did_you_mean
from .files import MAX_PART, is_name, slug
from .grammar import SHAPING, Data, amount_problem, check_keys, check_names
from .layers import Setting, matches, merge, rebased, resolved, with_setting
from .record import Tolerance
from .select import Matcher
from .source import MAX_PROBLEMS, Source, Where
from .verdict import FAILING

PROTOCOLS = Path(__file__).parent / "protocols"
SUFFIXES = (".yaml", ".yml")
MAX_CASES = 10_000
_LEFT_EDGE = re.compile(r"""^["']?([a-z_]+)["']? *:""", re.MULTILINE)
#: Keys that tell a task of lm-eval, and those that it has not.
_OF_TASKS = {"task", "group", "dataset_path", "output_type", "doc_to_text", "doc_to_target"}
_OF_CASES = {"model", "method", "metrics", "matrix", "protocol", "extends", "defaults"}
#: Files that extend one another in a row.
MAX_PARENTS = 10


def load(
    paths: Iterable[Path],
    overrides: Sequence[str] = (),
    limit: int | None = None,
    select: Matcher = lambda _: True,
) -> list[Case]:
    """The cases of the files and folders *paths*, dense ones first within a file.

    Args:
        paths: case files, or folders searched for ``*.yaml``.
        overrides: ``key=value`` texts that replace any case key and give the id a suffix.
        limit: at most so many questions per task.
        select: which ids are wanted; an override that does not fit another case is no problem.

    Raises:
        CaseError: with every problem of every file.
    """
    cases: list[Case] = []
    problems: list[str] = []
    settings = [Setting.parse(text) for text in overrides]
    for path in find(paths):
        try:
            cases += CaseReader(path, settings, limit, select).cases()
        except CaseError as error:
            problems += error.problems
    seen: dict[str, Case] = {}
    for case in cases:
        first = seen.setdefault(case.id, case)
        if first is not case:
            other = f"{first.file}:{first.line}"
            place = f"{case.file}:{case.line}:1"
            problems.append(f"{place}: duplicate case id {case.id!r}, also {other}")
    if problems:
        raise CaseError(dict.fromkeys(problems))
    return [case for case in cases if select(case.id)]


def find(paths: Iterable[Path]) -> list[Path]:
    """The case files below *paths*, sorted, each once; tasks of lm-eval in a folder are none."""
    files: dict[Path, None] = {}
    for path in paths:
        if _is(Path.is_dir, path):
            here = sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES and p.is_file())
            files.update(dict.fromkeys(file for file in here if not is_task(file)))
        elif _is(Path.is_file, path):
            files[path] = None
        else:
            raise CaseError([f"{path}: no such case file or folder"])
    return list(files)


def is_task(path: Path) -> bool:
    """Whether a YAML file is a task of lm-eval, or a part of one, that lies among case files.

    Told by the keys at its left edge, so that one with a mistake in it is told too.
    """
    try:
        keys = set(_LEFT_EDGE.findall(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False  # whoever reads it as a case file says what is wrong
    return bool(keys & _OF_TASKS) and not keys & _OF_CASES


def _is(test: Callable[[Path], bool], path: Path) -> bool:
    try:
        return test(path)
    except (OSError, ValueError):  # a name that no file can have
        return False


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


class Cell(NamedTuple):
    """One case to be: its place in the file, its data, and what other axes add to its id."""

    where: Where
    data: Data
    label: str


#: Keys that are in the id otherwise, or are no part of the question.
_UNLABELLED = ("method", *AMOUNTS, "needs", "marks", "tolerance", "fail_on", "published", "alpha")


def _axes_label(cell: Data) -> str:
    return "-".join(axis_label(k, v) for k, v in cell.items() if k not in _UNLABELLED)


def _resolved(path: Path) -> Path | None:
    """The file at *path*, or None where there is none."""
    try:
        file = path.resolve()
        return file if file.is_file() else None
    except (OSError, ValueError, RuntimeError):  # too long, a null byte, a loop of links
        return None


def _once(cases: Iterable[Case]) -> list[Case]:
    """Cases that are equal in all but their place, once."""
    first: dict[str, Case] = {}
    return [
        case
        for case in cases
        if (known := first.setdefault(case.id, case)) is case
        or replace(case, line=known.line) != known
    ]


class CaseReader:
    """Turns one file into cases.

    Args:
        path: the case file.
        settings: overrides of case keys.
        limit: at most so many questions per task.
        select: which ids are wanted.
    """

    def __init__(
        self, path: Path, settings: Sequence[Setting], limit: int | None, select: Matcher
    ) -> None:
        self.path = path
        # A path on the command line is relative to where the command is given.
        self.settings = [s.rebased(Path.cwd() / "command", path) for s in settings]
        self.limit = limit
        self.select = select
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
            raise CaseError(self.problems[:MAX_PROBLEMS])
        cases: list[Case] = []
        for cell in self._expand(base):
            try:
                cases += self._seeded(cell, self._fitting(cell))
                if len(cases) > MAX_CASES:
                    raise CaseError([f"{self.source.at(cell.where)}: more than {MAX_CASES} cases"])
            except CaseError as error:
                if not self.settings or self._wanted(cell):
                    self.problems += error.problems
            if len(self.problems) >= MAX_PROBLEMS or len(cases) > MAX_CASES:
                break
        if self.problems:
            raise CaseError(self.problems[:MAX_PROBLEMS])
        # `--set sparsity=0.5` makes one case of two that differed in their sparsity.
        cases = _once(cases) if self.settings else cases
        return sorted(cases, key=lambda case: not case.dense)

    def _seeded(self, cell: Cell, settings: Sequence[Setting]) -> Iterator[Case]:
        """A case for each calibration seed; just one where nothing is calibrated."""
        data = cell.data
        for setting in settings:
            data = with_setting(data, setting.key, setting.value)
        calibration = data.get("calibration")
        seeds = calibration.get("seed") if isinstance(calibration, dict) else None
        if not isinstance(seeds, list):
            yield self._case(cell, settings)
            return
        first = self._case(cell, settings, seeds[0])
        if not first.method.calibrated or len(seeds) == 1:
            yield first
            return
        yield replace(first, seed_of=first.id)
        for seed in dict.fromkeys(seeds[1:]):
            case = self._case(cell, settings, seed)
            yield replace(case, id=f"{case.id}-seed{seed}", seed_of=first.id)

    def _fitting(self, cell: Cell) -> list[Setting]:
        """The settings without amounts where the method removes nothing."""
        method = cell.data.get("method")
        name = method.get("name") if isinstance(method, dict) else None
        dense = name in registry.names("methods") and registry.method(name).unit == "none"
        return [s for s in self.settings if not (dense and s.key in AMOUNTS)]

    def _wanted(self, cell: Cell) -> bool:
        """Whether a case that its settings do not fit was asked for."""
        try:
            # A setting that replaces an axis is in the cell, and may be what is wrong.
            if any(check_keys(cell.data, ())):
                return True
            return self.select(self._case(cell, []).id)
        except CaseError:
            return True

    # ------------------------------------------------------------------ layers

    def _layers(self, source: Source, seen: tuple[Path, ...]) -> Data:
        """The file's own keys over its defaults, its parent and its protocol."""
        data = dict(source.data)
        for setting in self.settings if source is self.source else ():
            if setting.key == "protocol":
                data["protocol"] = setting.value
        lower: Data = {}
        if isinstance(name := data.get("protocol"), str):
            lower = self._protocol(source, name)
        if isinstance(parent := data.get("extends"), str):
            file = _resolved(source.path.parent / parent)
            if file in seen:
                self._problem(source, ("extends",), f"{parent!r} extends itself")
            elif len(seen) >= MAX_PARENTS:
                message = f"more than {MAX_PARENTS} files extend one another"
                self._problem(source, ("extends",), message)
            elif file is None:
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
        # It says how any model is measured, so it has no id of one.
        self._check_shape(protocol, whole=False)
        return protocol.data

    # ------------------------------------------------------------------ checks

    def _problem(self, source: Source, where: Where, message: str) -> None:
        self.problems.append(f"{source.at(where)}: {message}")

    def _check_shape(self, source: Source, *, whole: bool = True) -> None:
        found = (
            *islice(check_keys(source.data, ()), MAX_PROBLEMS),
            *islice(check_names(source.data, source.path.parent), MAX_PROBLEMS),
        )
        for where, message in found:
            if whole or not message.startswith("missing key"):
                self._problem(source, where, message)

    # --------------------------------------------------------------- expansion

    def _expand(self, base: Data) -> Iterator[Cell]:
        """Every combination of the matrix, less the excluded, plus the included."""
        matrix = self._axes(base)
        single = {k: v for k, v in base.items() if k not in SHAPING}
        included = base.get("include") or []
        size = math.prod(map(len, matrix.values()))
        if size > MAX_CASES:
            self._problem(self.source, ("matrix",), f"{size} combinations, at most {MAX_CASES}")
            return
        # A file that only lists its cases has no further one.
        combinations = itertools.product(*(range(len(v)) for v in matrix.values()))
        for indices in combinations if matrix or not included else ():
            cell = {k: matrix[k][i] for k, i in zip(matrix, indices, strict=True)}
            if not any(matches(cell, pattern) for pattern in base.get("exclude") or []):
                yield Cell(self._place(matrix, indices), merge(single, cell), _axes_label(cell))
        for i, extra in enumerate(included):
            yield Cell(("include", i), merge(single, extra), _axes_label(extra))

    def _axes(self, base: Data) -> dict[str, list[Any]]:
        """The matrix, with the axes that settings replace."""
        matrix: dict[str, list[Any]] = dict(base.get("matrix") or {})
        for setting in self.settings:
            if setting.key in matrix or (setting.key in AMOUNTS and set(AMOUNTS) & set(matrix)):
                rivals = AMOUNTS if setting.key in AMOUNTS else ()
                matrix = {k: v for k, v in matrix.items() if k not in rivals}
                matrix[setting.key] = [setting.value]
        return matrix

    def _place(self, matrix: Mapping[str, Any], indices: tuple[int, ...]) -> Where:
        for key, i in zip(matrix, indices, strict=True):
            if key == "method":
                return ("matrix", "method", i)
        return ("matrix",) if matrix else ("method",)

    # ------------------------------------------------------------------- cases

    def _case(self, cell: Cell, settings: Sequence[Setting], seed: int | None = None) -> Case:
        data = cell.data
        for setting in settings:
            data = with_setting(data, setting.key, setting.value)
        self._check(cell, data, settings)
        if seed is not None:
            data = with_setting(data, "calibration.seed", seed)
        raw: Data = json.loads(json.dumps(data))
        amounts = [k for k in AMOUNTS if raw.get(k) is not None]
        outcomes, conditions = gating.parted(raw.get("fail_on") or FAILING)
        paths = cast("Data", resolved(raw, self.path.parent))
        try:
            method = _method(raw["method"])
            own = _method(paths["method"])
            target = Target(**{k: raw[k] for k in amounts})
            metrics = self._metrics(raw["metrics"])
            alike = paths["metrics"] == raw["metrics"]
            asked = question(
                raw.get("protocol"),
                msgspec.convert(raw["model"], ModelSpec),
                method,
                target,
                msgspec.convert(raw.get("calibration") or {}, CalibrationSpec),
                metrics,
            )
            name = "-".join(p for p in (method_label(method, target), cell.label) if p)
            return Case(
                id=self._id(f"{name}{''.join(s.suffix for s in settings)}"),
                file=self.path,
                line=int(self.source.at(cell.where).rsplit(":", 2)[1]),
                asked=asked,
                model=msgspec.convert(paths["model"], ModelSpec),
                method=own,
                target=target,
                calibration=msgspec.convert(paths.get("calibration") or {}, CalibrationSpec),
                metrics=metrics if alike else self._metrics(paths["metrics"]),
                tolerance=msgspec.convert(raw.get("tolerance") or {}, dict[str, Tolerance]),
                fail_on=outcomes,
                conditions=conditions,
                published=msgspec.convert(raw.get("published"), Tolerance | None),
                marks=tuple(raw.get("marks") or ()),
                needs=msgspec.convert(raw.get("needs") or {}, Needs),
                settings=tuple(setting.text for setting in settings),
                alpha=raw.get("alpha"),
            )
        except (msgspec.ValidationError, PrunebenchError) as error:
            raise CaseError([f"{self.source.at(cell.where)}: {error}"]) from None

    def _id(self, label: str) -> str:
        """The id of a case: a path of the results and baselines folders."""
        case_id = f"{case_prefix(self.path)}/{label}"
        if not is_name(case_id):
            longest = max(case_id.split("/"), key=len)
            size = f"{len(longest)} letters, at most {MAX_PART}"
            raise PrunebenchError(f"a part of the case id has {size}: {longest[:60]}...")
        return case_id

    def _check(self, cell: Cell, data: Data, settings: Sequence[Setting]) -> None:
        """Refuse a case that is not whole, or that its settings broke."""
        lines = []
        for where, message in (
            [*check_keys(data, ()), *check_names(data, self.path.parent)] if settings else ()
        ):
            key = ".".join(map(str, where))
            given = [s for s in settings if key.startswith(s.key) or s.key.startswith(key)]
            lines.append(f"--set {given[0].text if given else key}: {message}")
        place = self.source.at(cell.where)
        for key in ("model", "method", "metrics"):
            if data.get(key) is None or (key == "model" and "id" not in data[key]):
                lines.append(f"{place}: missing key {key!r}")
        if not lines:
            amounts = [k for k in AMOUNTS if data.get(k) is not None]
            problem = amount_problem(_method(data["method"]), amounts)
            lines += [f"{place}: {problem}"] if problem else []
            lines += self._unfit(data, settings, place)
        if lines:
            raise CaseError(lines)

    def _unfit(self, data: Data, settings: Sequence[Setting], place: str) -> Iterator[str]:
        """A line for each condition about a metric that the case does not have."""
        items = [(i, gating.read(item)) for i, item in enumerate(data.get("fail_on") or ())]
        conditions = [(i, item) for i, item in items if isinstance(item, Condition)]
        families = [metric["name"] for metric in data["metrics"]]
        given = next((f"--set {s.text}" for s in settings if s.key == "fail_on"), "")
        for i, condition in conditions:
            if message := unfit(condition, families):
                # Another file's list has no place in this one.
                own = data["fail_on"] == self.source.data.get("fail_on")
                where = self.source.at(("fail_on", i)) if own else place
                yield f"{given or where}: {message}"

    def _metrics(self, items: list[Data]) -> tuple[Metric, ...]:
        metrics = tuple(_metric(item) for item in items)
        seen = set()
        for i, metric in enumerate(metrics):
            if (named := (tag(metric), metric.names())) in seen:
                raise PrunebenchError(
                    f"metrics[{i}]: another {tag(metric)!r} has measurements of the same names"
                )
            seen.add(named)
        return metrics if self.limit is None else tuple(m.limited(self.limit) for m in metrics)


def _method(data: Data) -> Method:
    return msgspec.convert(data, registry.method(data["name"]))


def _metric(data: Data) -> Metric:
    return msgspec.convert(data, registry.metric(data["name"]))

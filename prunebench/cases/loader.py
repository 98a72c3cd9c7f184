"""Reads case files: finds them, checks every key, lays protocols under, expands the matrix."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from .. import registry
from ..case import AMOUNTS, Case
from ..data.yaml_source import MAX_PROBLEMS, Source, Where
from ..errors import CaseError, did_you_mean
from ..record import Tolerance
from ..system import files
from ..system.files import slug
from .keys import SHAPING, Data, check_keys, check_names, holds
from .keyword import Matcher
from .matrix import Cell, Maker, axes_label
from .overlay import Setting, matches, merge, rebased

PROTOCOLS = Path(__file__).parents[1] / "protocols"
SUFFIXES = (".yaml", ".yml")
MAX_CASES = 10_000
_LEFT_EDGE = re.compile(r"""^["']?([a-z_]+)["']? *:""", re.MULTILINE)
#: Keys that identify a task of lm-eval, and keys that it never has.
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
    """The case files below *paths*, sorted, each once; tasks of lm-eval in a folder are skipped."""
    found: dict[Path, None] = {}
    for path in paths:
        if holds(Path.is_dir, path):
            here = [p for p in files.below(path) if p.suffix in SUFFIXES and p.is_file()]
            found.update(dict.fromkeys(file for file in here if not is_task(file)))
        elif holds(Path.is_file, path):
            found[path] = None
        else:
            raise CaseError([f"{path}: no such case file or folder"])
    return list(found)


def is_task(path: Path) -> bool:
    """Whether a YAML file is a task of lm-eval, or a part of one, that lies among case files.

    Recognised by the keys at its left edge, so that one with a mistake in it is too.
    """
    try:
        keys = set(_LEFT_EDGE.findall(path.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return False  # whoever reads it as a case file says what is wrong
    return bool(keys & _OF_TASKS) and not keys & _OF_CASES


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
        self.select = select
        self.source = Source(path)
        self._maker = Maker(self.source, case_prefix(path), limit)
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
                cases += self._maker.cases(cell, self._fitting(cell))
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
            return self.select(self._maker.case(cell, []).id)
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
                yield Cell(self._place(matrix, indices), merge(single, cell), axes_label(cell))
        for i, extra in enumerate(included):
            yield Cell(("include", i), merge(single, extra), axes_label(extra))

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

"""The papers' numbers: read from ``baselines/published``, found for the records they speak of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict

from ... import registry
from ...api import Method
from ...case import AMOUNTS
from ...cases import validation
from ...cases.validation import Problem
from ...data.yaml_source import Source, Where
from ...errors import CaseError, PrunebenchError, did_you_mean
from ...record import Record, Tolerance
from ...specs import CalibrationSpec
from ...system import files
from ...verdicts.verdict import Finding, Outcome, exceeds

PROTOCOLS = Path(__file__).parents[2] / "protocols"


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """A row of a table: a value, or nothing, for each of its columns.

    *method* is a name, with options where they matter; *amount* is in a method's own unit, one for
    all columns or one for each; *sparsity* is the fraction of all parameters that it takes, where
    known, likewise; *label* is what the source calls it.
    """

    method: str | dict[str, Any]
    values: list[float | None]
    amount: dict[str, float | list[float]] = {}
    sparsity: float | list[float | None] | None = None
    label: str = ""
    calibration: dict[str, Any] = {}


class Table(Struct, frozen=True, forbid_unknown_fields=True):
    """A table as it is written: of one metric over several *models*, or one *model*, many metrics.

    *where* is its place in the source, *by* who measured it where that is not the authors.
    *scale* turns the printed values into ours (0.01 for per cent, 3600 for hours); *uncertainty* is
    in printed units, for values read off a plot.
    """

    where: str
    protocol: str
    rows: list[Line]
    metric: str | None = None
    models: list[str] | None = None
    model: str | None = None
    metrics: list[str] | None = None
    by: str = ""
    calibration: dict[str, Any] = {}
    hardware: str = ""
    scale: Annotated[float, Meta(gt=0)] = 1.0
    uncertainty: Annotated[float, Meta(ge=0)] = 0.0


class Ranking(Struct, frozen=True, forbid_unknown_fields=True):
    """Blocks in a published order of removal, as numbered in the dense model."""

    where: str
    model: str
    method: dict[str, Any]
    blocks: list[int]


class File(Struct, frozen=True, forbid_unknown_fields=True):
    """A file of tables of one source; *aliases* are other ids of the same weights."""

    source: str
    tables: list[Table]
    aliases: dict[str, list[str]] = {}
    rankings: list[Ranking] = []


class Row(Struct, frozen=True, omit_defaults=True):
    """One published number, in the units of our measurement of the same name.

    *sparsity* is negative where shortcut matrices and an untied head add more than is cut.
    """

    source: str
    where: str
    protocol: str
    model: str
    method: dict[str, Any]
    metric: str
    value: float
    amount: dict[str, float] = {}
    sparsity: float | None = None
    label: str = ""
    by: str = ""
    calibration: dict[str, Any] = {}
    hardware: str = ""
    uncertainty: float = 0.0
    aliases: tuple[str, ...] = ()

    @property
    def credit(self) -> str:
        """Who says so."""
        return f"{self.source}, as measured by {self.by}" if self.by else self.source


@cache
def rows(folder: Path, models: frozenset[str] = frozenset()) -> tuple[Row, ...]:
    """All published numbers in the files of *folder*.

    Files that name none of *models* (hub ids or folders) are not parsed, which takes a quarter of a
    second for those that come with us.

    Raises:
        CaseError: with every problem, as ``file:line:column``.
    """
    named = frozenset(map(_name, models))
    return tuple(row for file in _files(folder, named) for row in _rows(file))


def matching(record: Record, published: Iterable[Row]) -> list[Row]:
    """The rows about *record*'s model, method, amount and calibration, for what it measured.

    Their protocol may be another; such rows are shown and not compared. A row whose source does not
    say how much was removed is about no record.
    """
    asked = record.asked
    if asked.get("method", {}).get("name") not in registry.names("methods"):
        return []
    try:
        method = _built(asked["method"])
    except msgspec.ValidationError:
        return []  # a record of a version with other options
    return [
        row
        for row in published
        if row.method["name"] == asked["method"]["name"]
        and all(getattr(method, k, None) == v for k, v in row.method.items() if k != "name")
        and _is_model(asked.get("model", {}).get("id", ""), row)
        and row.amount == (asked.get("amount") or {})
        # It says how much of the model is removed, by an amount or by an option.
        and (method.unit in ("none", "given") or row.amount or method.sizing in row.method)
        and _agrees(asked.get("calibration"), row.calibration)
        and record.find(row.metric) is not None
    ]


def compared(record: Record, matched: Sequence[Row]) -> list[Row]:
    """Of *matched* rows those of the record's own protocol, where it measured as that says."""
    own = record.asked.get("protocol")
    return [
        row for row in matched if row.protocol == own and _by_protocol(record.asked, row.metric)
    ]


def judged(record: Record, matched: Sequence[Row]) -> list[Row]:
    """Of *matched* rows those to judge by: the authors' own, or else the first of the others'.

    Only those of the record's own protocol.
    """
    own = compared(record, matched)
    first = {row.metric: row for row in reversed(own)}
    authors = {row.metric for row in own if not row.by}
    return [
        row for row in own if not row.by or (row.metric not in authors and row is first[row.metric])
    ]


def findings(record: Record, matched: Sequence[Row], allowed: Tolerance) -> list[Finding]:
    """Judge a record by published numbers of its own protocol, either way.

    *Same* is within what is allowed and what the source itself leaves open. Timings are not judged:
    they are another machine's.
    """
    found = []
    for row in judged(record, matched):
        now = record.find(row.metric)
        if now is None or now.varies:
            continue
        room = allowed.allowed(row.value) + row.uncertainty
        outcome, note = Outcome.SAME, f"{row.credit}, {row.where}"
        if now.value is None:
            outcome, note = Outcome.WORSE, now.note or f"not a finite number; {note}"
        elif exceeds(abs(now.value - row.value), room, now.value, row.value):
            worse = (now.value > row.value) == (now.better == "lower")
            outcome = Outcome.WORSE if worse else Outcome.BETTER
        what = f"published/{row.metric}"
        found.append(Finding(what, outcome, now.value, row.value, room, note=note))
    return found


def _is_model(asked: str, row: Row) -> bool:
    return _name(asked) in map(_name, (row.model, *row.aliases))


def _name(model: str) -> str:
    """What is left of a hub id or a folder where accounts and places differ."""
    return model.rsplit("/", 1)[-1].lower()


def _by_protocol(asked: dict[str, Any], metric: str) -> bool:
    """Whether the case measures *metric* as its protocol does: not on fewer questions, say."""
    family, _, what = metric.partition("/")
    if family not in ("accuracy", "perplexity"):
        return True  # a timing carries its shape in its name
    theirs = list(_measuring(_metrics(asked["protocol"]), family, what))
    try:
        return all(own in theirs for own in _measuring(asked.get("metrics", ()), family, what))
    except msgspec.ValidationError:
        return False  # by a version with other options


@cache
def _metrics(protocol: str) -> tuple[dict[str, Any], ...]:
    return tuple(Source(PROTOCOLS / f"{protocol}.yaml").data["metrics"])


def _measuring(
    metrics: Iterable[dict[str, Any]], family: str, what: str
) -> Iterator[dict[str, Any]]:
    """What the metrics of a *family* say that bears on their measurement *what*."""
    for data in metrics:
        if data["name"] != family:
            continue
        # With every default: one may be written out on one side and left out on the other.
        own = asdict(msgspec.convert(data, registry.metric(family)))
        del own["batch_size"]  # changes the last bits alone
        if family == "accuracy":
            tasks, norm = set(own.pop("tasks")), set(own.pop("acc_norm"))
            yield {**own, "scored": (tasks, norm) if what == "mean" else what in norm}
        elif own["dataset"] == what.removesuffix("-bos"):
            yield own


def _agrees(asked: dict[str, Any] | None, stated: dict[str, Any]) -> bool:
    # A method that reads no data was asked nothing about it.
    if asked is None:
        return True
    try:
        spec = msgspec.convert(asked, CalibrationSpec)
    except msgspec.ValidationError:
        return False  # by a version with other options
    return all(getattr(spec, key, None) == value for key, value in stated.items())


@cache
def _files(folder: Path, named: frozenset[str] = frozenset()) -> tuple[File, ...]:
    found: list[File] = []
    problems: list[str] = []
    for path in files.listed(folder, ".yaml"):
        if named and not any(
            name in files.read(path).decode(errors="replace").lower() for name in named
        ):
            continue
        try:
            found.append(_read(path))
        except CaseError as error:
            problems += error.problems
    if problems:
        raise CaseError(problems)
    return tuple(found)


def _read(path: Path) -> File:
    source = Source(path)
    # Problems of the file's shape, or else of its content.
    wrong = list(validation.problems(source.data, File)) or list(_problems(source.data))
    if wrong:
        raise CaseError(f"{source.at(where)}: {message}" for where, message in wrong)
    return msgspec.convert(source.data, File)


def _problems(data: dict[str, Any]) -> Iterator[Problem]:
    """Every mistake in a file of the right shape: a number nobody would ever find is one too."""
    file = msgspec.convert(data, File)
    for i, table in enumerate(file.tables):
        yield from _table_problems(table, ("tables", i))
    for i, ranking in enumerate(file.rankings):
        where = ("rankings", i)
        yield from _method_problems(ranking.method, (*where, "method"))
        if len(set(ranking.blocks)) != len(ranking.blocks):
            yield (*where, "blocks"), "found a block twice; an order of removal has each once"
    models = {model for table in file.tables for model, _ in _columns(table) or ()}
    models |= {ranking.model for ranking in file.rankings}
    for model in file.aliases:
        if model not in models:
            yield ("aliases", model), f"no table has {model!r}; {did_you_mean(model, models)}"


def _table_problems(table: Table, where: Where) -> Iterator[Problem]:
    known = [p.stem for p in PROTOCOLS.glob("*.yaml")]
    if table.protocol not in known and "(" not in table.protocol:
        hint = did_you_mean(table.protocol, known)
        message = f"unknown protocol {table.protocol!r}; {hint}, or another's (with what it is)"
        yield (*where, "protocol"), message
    yield from validation.problems(table.calibration, CalibrationSpec, (*where, "calibration"))
    columns = _columns(table)
    if columns is None:
        yield where, "give metric and models, or model and metrics"
        return
    for j, line in enumerate(table.rows):
        yield from _line_problems(line, len(columns), (*where, "rows", j))


def _line_problems(line: Line, columns: int, where: Where) -> Iterator[Problem]:
    if len(line.values) != columns:
        yield where, f"{len(line.values)} values for {columns} columns"
    for key, amounts in line.amount.items():
        if key not in AMOUNTS:
            yield (*where, "amount", key), f"unknown amount {key!r}; {did_you_mean(key, AMOUNTS)}"
        if isinstance(amounts, list) and len(amounts) != columns:
            yield (*where, "amount", key), f"{len(amounts)} amounts for {columns} columns"
    if isinstance(line.sparsity, list) and len(line.sparsity) != columns:
        yield (*where, "sparsity"), f"{len(line.sparsity)} sparsities for {columns} columns"
    yield from validation.problems(line.calibration, CalibrationSpec, (*where, "calibration"))
    wrong = list(_method_problems(_named(line), (*where, "method")))
    yield from wrong
    if not wrong and line.amount and _named(line)["name"] in registry.names("methods"):
        try:
            if set(line.amount) <= set(AMOUNTS):
                _built(_named(line)).amount(line.amount)
        except PrunebenchError as error:
            yield (*where, "amount"), str(error)


def _method_problems(data: dict[str, Any], where: Where) -> Iterator[Problem]:
    """What is wrong with a method; one that is not ours may have any options."""
    if not isinstance(name := data.get("name"), str):
        yield where, "missing key 'name' of a method"
    elif name in registry.names("methods"):
        yield from validation.problems(data, registry.method(name), where)


def _named(line: Line) -> dict[str, Any]:
    return {"name": line.method} if isinstance(line.method, str) else line.method


def _built(data: dict[str, Any]) -> Method:
    return msgspec.convert(data, registry.method(data["name"]))


def _columns(table: Table) -> list[tuple[str, str]] | None:
    """Model and metric of each column."""
    if table.metric and table.models and not (table.model or table.metrics):
        return [(model, table.metric) for model in table.models]
    if table.model and table.metrics and not (table.metric or table.models):
        return [(table.model, metric) for metric in table.metrics]
    return None


def _rows(file: File) -> Iterator[Row]:
    for table in file.tables:
        columns = _columns(table) or []
        for line in table.rows:
            for at, ((model, metric), value) in enumerate(zip(columns, line.values, strict=True)):
                if value is not None:
                    yield _row(file, table, line, at, model, metric, value)


def _row(
    file: File, table: Table, line: Line, at: int, model: str, metric: str, value: float
) -> Row:
    return Row(
        source=file.source,
        where=table.where,
        protocol=table.protocol,
        model=model,
        method=_named(line),
        metric=metric,
        value=round(value * table.scale, 12),  # 63.25 % is 0.6325, not 0.6325000000000001
        amount={k: v[at] if isinstance(v, list) else v for k, v in line.amount.items()},
        sparsity=line.sparsity[at] if isinstance(line.sparsity, list) else line.sparsity,
        label=line.label,
        by=table.by,
        calibration={**table.calibration, **line.calibration},
        hardware=table.hardware,
        uncertainty=table.uncertainty * table.scale,
        aliases=tuple(file.aliases.get(model, ())),
    )

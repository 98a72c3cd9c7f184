"""The papers' numbers: read from ``baselines/published``, found for the records they speak of."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct
from msgspec.structs import asdict

from . import registry, schema
from .api import Method
from .errors import CaseError
from .record import Record, Tolerance
from .source import Source
from .verdict import Finding, Outcome


class Table(Struct, frozen=True, forbid_unknown_fields=True):
    """A table as it is written: of one metric over several *models*, or one *model*, many metrics.

    *where* is its place in the source, *by* who measured it where that is not the authors.
    *scale* turns the printed values into ours (0.01 for per cent, 3600 for hours); *uncertainty* is
    in printed units, for values read off a plot.
    """

    where: str
    protocol: str
    rows: list[dict[str, Any]]
    metric: str | None = None
    models: list[str] | None = None
    model: str | None = None
    metrics: list[str] | None = None
    by: str = ""
    calibration: dict[str, Any] = {}
    hardware: str = ""
    scale: Annotated[float, Meta(gt=0)] = 1.0
    uncertainty: Annotated[float, Meta(ge=0)] = 0.0


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """A row of a table: a value, or nothing, for each of its columns.

    *method* is a name, with options where they matter; *amount* is in a method's own unit, one for
    all columns or one for each; *label* is what the source calls it.
    """

    method: str | dict[str, Any]
    values: list[float | None]
    amount: dict[str, float | list[float]] = {}
    label: str = ""
    calibration: dict[str, Any] = {}


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
    """One published number, in the units of our measurement of the same name."""

    source: str
    where: str
    protocol: str
    model: str
    method: dict[str, Any]
    metric: str
    value: float
    amount: dict[str, float] = {}
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
def rows(folder: Path) -> tuple[Row, ...]:
    """All published numbers in the files of *folder*.

    Raises:
        CaseError: with every problem, as ``file:line:column``.
    """
    found: list[Row] = []
    problems: list[str] = []
    for path in sorted(folder.glob("*.yaml")):
        try:
            found += _read(path)
        except CaseError as error:
            problems += error.problems
    if problems:
        raise CaseError(problems)
    return tuple(found)


def rankings(folder: Path) -> list[Ranking]:
    """All published orders of removal in the files of *folder*.

    Raises:
        CaseError: if a file is not as it should be.
    """
    rows(folder)
    files = (msgspec.convert(Source(path).data, File) for path in sorted(folder.glob("*.yaml")))
    return [ranking for file in files for ranking in file.rankings]


def matching(record: Record, published: Iterable[Row]) -> list[Row]:
    """The rows about *record*'s model, method, amount and calibration, for what it measured.

    Their protocol may be another; such rows are told and not compared. A row whose source does not
    say how much was removed is about no record.
    """
    asked = record.asked
    if asked.get("method", {}).get("name") not in registry.names("methods"):
        return []
    method = msgspec.convert(asked["method"], registry.method(asked["method"]["name"]))
    return [
        row
        for row in published
        if row.method["name"] == asked["method"]["name"]
        and all(getattr(method, k, None) == v for k, v in row.method.items() if k != "name")
        and _is_model(asked.get("model", {}).get("id", ""), row)
        and row.amount == _amount(asked)
        and _is_sized(method, row)
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
        elif abs(now.value - row.value) > room:
            worse = (now.value > row.value) == (now.better == "lower")
            outcome = Outcome.WORSE if worse else Outcome.BETTER
        what = f"published/{row.metric}"
        found.append(Finding(what, outcome, now.value, row.value, room, note=note))
    return found


def _is_model(asked: str, row: Row) -> bool:
    name = asked.rsplit("/", 1)[-1].lower()
    return name in {other.rsplit("/", 1)[-1].lower() for other in (row.model, *row.aliases)}


def _amount(asked: dict[str, Any]) -> dict[str, float]:
    return dict(asked.get("amount") or {})


def _is_sized(method: Method, row: Row) -> bool:
    """Whether *row* says how much of the model is gone, by an amount or by an option."""
    return method.unit in ("none", "given") or bool(row.amount) or method.sizing in row.method


def _by_protocol(asked: dict[str, Any], metric: str) -> bool:
    """Whether the case measures *metric* as its protocol does: not on fewer questions, say."""
    family, _, what = metric.partition("/")
    if family not in ("accuracy", "perplexity"):
        return True  # a timing carries its shape in its name
    theirs = list(_measuring(_metrics(asked["protocol"]), family, what))
    return all(own in theirs for own in _measuring(asked.get("metrics", ()), family, what))


@cache
def _metrics(protocol: str) -> tuple[dict[str, Any], ...]:
    return tuple(Source(Path(__file__).parent / "protocols" / f"{protocol}.yaml").data["metrics"])


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
    from .case import CalibrationSpec

    spec = msgspec.convert(asked, CalibrationSpec)
    return all(getattr(spec, key, None) == value for key, value in stated.items())


def _read(path: Path) -> list[Row]:
    source = Source(path)
    problems = [f"{source.at(w)}: {m}" for w, m in schema.problems(source.data, File)]
    if problems:
        raise CaseError(problems)
    file = msgspec.convert(source.data, File)
    found: list[Row] = []
    for i, table in enumerate(file.tables):
        columns = _columns(table)
        if columns is None:
            place = source.at(("tables", i))
            problems.append(f"{place}: give metric and models, or model and metrics")
            continue
        for j, data in enumerate(table.rows):
            where = ("tables", i, "rows", j)
            wrong = [f"{source.at(w)}: {m}" for w, m in schema.problems(data, Line, where)]
            line = None if wrong else msgspec.convert(data, Line)
            if line is not None and len(line.values) != len(columns):
                counts = f"{len(line.values)} values for {len(columns)} columns"
                wrong = [f"{source.at(where)}: {counts}"]
            problems += wrong
            if line is not None and not wrong:
                found += _rows(file, table, columns, line)
    if problems:
        raise CaseError(problems)
    return found


def _columns(table: Table) -> list[tuple[str, str]] | None:
    """Model and metric of each column."""
    if table.metric and table.models and not (table.model or table.metrics):
        return [(model, table.metric) for model in table.models]
    if table.model and table.metrics and not (table.metric or table.models):
        return [(table.model, metric) for metric in table.metrics]
    return None


def _rows(
    file: File, table: Table, columns: Sequence[tuple[str, str]], line: Line
) -> Iterator[Row]:
    method = {"name": line.method} if isinstance(line.method, str) else line.method
    for at, ((model, metric), value) in enumerate(zip(columns, line.values, strict=True)):
        if value is None:
            continue
        yield Row(
            source=file.source,
            where=table.where,
            protocol=table.protocol,
            model=model,
            method=method,
            metric=metric,
            value=round(value * table.scale, 12),  # 63.25 % is 0.6325, not 0.6325000000000001
            amount={k: v[at] if isinstance(v, list) else v for k, v in line.amount.items()},
            label=line.label,
            by=table.by,
            calibration={**table.calibration, **line.calibration},
            hardware=table.hardware,
            uncertainty=table.uncertainty * table.scale,
            aliases=tuple(file.aliases.get(model, ())),
        )

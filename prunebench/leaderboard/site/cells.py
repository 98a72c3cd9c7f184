"""The columns of a board's table, and what stands in each cell."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from msgspec import Struct

from ... import formatting
from ...formatting import duration, number, size
from ..board import Board, Row
from ..row_values import Timing, Value


class Cell(Struct, frozen=True):
    """*text* with a *small* one after it; *sort* is what a column is sorted by."""

    text: str = ""
    small: str = ""
    sort: float | str | None = None

    @property
    def key(self) -> str:
        """What it is sorted by, with as many digits as tell values apart."""
        return self.sort if isinstance(self.sort, str) else f"{self.sort or 0:.7g}"


class Column(Struct, frozen=True):
    """*head* with a *small* line below it; *set* names the columns that are shown together."""

    key: str
    head: str
    small: str
    cell: Callable[[Row], Cell]
    set: str = ""
    numeric: bool = True


def columns(board: Board) -> list[Column]:
    """All columns after the method."""
    return [*_front(board), *_timings(board), *_costs(board), *_tasks(board), *_published(board)]


def rank_cell(row: Row, name: str) -> Cell:
    """The rank of a row by a measurement; none where nothing is ranked with it."""
    place = row.places.get(name)
    if place is None or row.dense:
        return Cell()
    return Cell(place.text, sort=place.rank + place.last / 1000)


def _front(board: Board) -> Iterator[Column]:
    yield Column("amount", "Asked", "", lambda row: Cell(row.amount, sort=row.sparsity), "asked")
    yield Column("sparsity", "Gone", "of parameters", _gone)
    for i, name in enumerate(board.rank_by):
        family, _, what = name.partition("/")
        if i:
            yield Column(f"rank{i}", "Rank", f"by {family}", _rank(name))
        head = {"accuracy": "Accuracy", "perplexity": "Perplexity"}.get(family, "Generation")
        yield Column(f"value{i}", head, what, _valued(name))
        if family == "accuracy" and "accuracy/recovery" in board.measured("accuracy"):
            yield Column("recovery", "Recovery", "of dense", _recovery)
    for name in [n for n in board.measured("generation") if n not in board.rank_by]:
        yield Column(name, "Generation", name.partition("/")[2], _valued(name))


def _rank(name: str) -> Callable[[Row], Cell]:
    return lambda row: rank_cell(row, name)


def _recovery(row: Row) -> Cell:
    # Its interval is that of the accuracy beside it, divided by the same number.
    value = row.values.get("accuracy/recovery")
    return (
        Cell()
        if value is None
        else Cell(formatting.value(value.value, value.unit), sort=value.value)
    )


def _gone(row: Row) -> Cell:
    return Cell(f"{row.sparsity * 100:.1f} %", sort=row.sparsity)


def _valued(name: str) -> Callable[[Row], Cell]:
    return lambda row: told(row.values.get(name))


def told(value: Value | None) -> Cell:
    """A value and the longer arm of its interval."""
    if value is None:
        return Cell()
    small = value.note
    if (arm := value.arm) is not None:
        small = f"±{formatting.bare(arm, value.unit)}"
    unit = "" if value.unit == "MiB" else value.unit
    return Cell(formatting.value(value.value, unit), small, value.value)


def _timings(board: Board) -> Iterator[Column]:
    if any(row.timings for row in board.rows):
        for part in ("prefill", "decode"):
            yield Column(part, part.capitalize(), "speedup", _timed(part))
        yield Column("device", "Timed on", "", _device, numeric=False)
    if any(row.memory for row in board.rows):
        yield Column("memory", "Memory", "peak, MiB", lambda row: told(row.memory))


def _timed(part: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        found = [(t, value) for t in row.timings if (value := getattr(t, part)) is not None]
        if not found:
            return Cell()
        (shown, value), *others = found
        first = told(value)
        more = (f"{formatting.value(v.value, v.unit)} {_unlike(t, shown)}" for t, v in others)
        return Cell(first.text, "; ".join(filter(None, (first.small, *more))), first.sort)

    return cell


def _unlike(timing: Timing, shown: Timing) -> str:
    """In what a timing was taken otherwise than the one that is shown: device, backend, shape."""
    pairs = ((getattr(timing, key), getattr(shown, key)) for key in ("device", "backend", "shape"))
    return "on " + " ".join(own for own, other in pairs if own != other)


def _device(row: Row) -> Cell:
    names = dict.fromkeys(t.device for t in row.timings)
    how = dict.fromkeys(f"{t.backend} {t.shape}" for t in row.timings)
    return Cell(", ".join(names), ", ".join(how), ", ".join(names))


def _costs(board: Board) -> Iterator[Column]:
    units: dict[str, tuple[str, str, Callable[[float], str]]] = {
        "search_time": ("Search", "time", duration),
        "block_forwards": ("Search", "block forwards", lambda n: f"{n:,.0f}"),
        "calibration_tokens": ("Calibration", "tokens", lambda n: f"{n:,.0f}"),
        "search_memory": ("Search", "peak memory", lambda n: size(int(n))),
    }
    for key, (head, small, tell) in units.items():
        if any(row.record.cost.get(key) for row in board.rows):
            cell = _cost(key, tell)
            yield Column(key, head, small, cell, "" if key == "search_time" else "cost")


def _cost(key: str, tell: Callable[[float], str]) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        amount = row.record.cost.get(key)
        return Cell() if amount is None else Cell(tell(amount), sort=amount)

    return cell


def _tasks(board: Board) -> Iterator[Column]:
    for name in board.measured("accuracy"):
        what = name.partition("/")[2]
        if name not in board.rank_by and what not in ("mean", "recovery"):
            yield Column(name, what, "", _valued(name), "tasks")


def _published(board: Board) -> Iterator[Column]:
    if any(row.published for row in board.rows):
        yield Column("published", "Published", "same protocol", _papers, numeric=False)


def _papers(row: Row) -> Cell:
    found = [f"{p.metric} {number(p.value)} ({p.credit})" for p in row.published]
    return Cell("; ".join(found), sort=len(found) or None)

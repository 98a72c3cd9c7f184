"""The columns of a board's table, and the text of their cells."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from msgspec import Struct
from msgspec.structs import replace

from ... import formatting
from ...formatting import duration, number, size
from ..board import Board, Row
from ..row_values import Timing, Value


class Cell(Struct, frozen=True):
    """*text* with *small* text after it; *sort* is the value to sort by."""

    text: str = ""
    small: str = ""
    sort: float | str | None = None

    @property
    def key(self) -> str:
        """The value to sort by, as text; numbers with seven digits."""
        return self.sort if isinstance(self.sort, str) else f"{self.sort or 0:.7g}"


class Column(Struct, frozen=True):
    """*head* with a *small* line below it; columns of one *set* are shown and hidden together."""

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
    """The rank of a row by a measurement; empty for the dense model and without a rank."""
    place = row.places.get(name)
    if place is None or row.dense:
        return Cell()
    return Cell(place.text, sort=place.rank + place.last / 1000)


def _front(board: Board) -> Iterator[Column]:
    yield Column("amount", "Asked", "", lambda row: Cell(row.amount, sort=row.sparsity), "asked")
    yield Column("sparsity", "Removed", "of parameters", _sparsity)
    for i, name in enumerate(board.rank_by):
        family, _, what = name.partition("/")
        if i:
            yield Column(f"rank{i}", "Rank", f"by {family}", partial(rank_cell, name=name))
        head = {"accuracy": "Accuracy", "perplexity": "Perplexity"}.get(family, "Generation")
        yield Column(f"value{i}", head, what, _valued(name))
        if family == "accuracy" and "accuracy/recovery" in board.measured("accuracy"):
            yield Column("recovery", "Recovery", "of dense", _recovery)
    for name in [n for n in board.measured("generation") if n not in board.rank_by]:
        yield Column(name, "Generation", name.partition("/")[2], _valued(name))


def _recovery(row: Row) -> Cell:
    # No interval: it is that of the accuracy next to it, divided by the same number.
    return replace(value_cell(row.values.get("accuracy/recovery")), small="")


def _sparsity(row: Row) -> Cell:
    return Cell(f"{row.sparsity * 100:.1f}%", sort=row.sparsity)


def _valued(name: str) -> Callable[[Row], Cell]:
    return lambda row: value_cell(row.values.get(name))


def value_cell(value: Value | None) -> Cell:
    """A value with the longer arm of its interval, or with its note."""
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
        yield Column("memory", "Memory", "peak, MiB", lambda row: value_cell(row.memory))


def _timed(part: str) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        found = [(t, value) for t in row.timings if (value := getattr(t, part)) is not None]
        if not found:
            return Cell()
        (shown, value), *others = found
        first = value_cell(value)
        more = (f"{formatting.value(v.value, v.unit)} {_difference(t, shown)}" for t, v in others)
        return Cell(first.text, "; ".join(filter(None, (first.small, *more))), first.sort)

    return cell


def _difference(timing: Timing, shown: Timing) -> str:
    """Where a timing differs from the one shown: device, backend, shape."""
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
    for key, (head, small, text) in units.items():
        if any(row.record.cost.get(key) for row in board.rows):
            cell = _cost(key, text)
            yield Column(key, head, small, cell, "" if key == "search_time" else "cost")


def _cost(key: str, text: Callable[[float], str]) -> Callable[[Row], Cell]:
    def cell(row: Row) -> Cell:
        amount = row.record.cost.get(key)
        return Cell() if amount is None else Cell(text(amount), sort=amount)

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

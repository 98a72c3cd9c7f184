"""Scatter plots in pixels; ``templates/plot.html`` writes them as SVG in the page's colours."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from msgspec import Struct

#: CSS pixels: the size of a plot, and the ends of its axes apart from the left one.
WIDTH, HEIGHT = 400, 330
RIGHT, TOP, BOTTOM = 394, 8, 288
#: How many hues the style sheet has; more methods differ by their marks alone.
HUES = 8
#: The marks of methods, as SVG paths around the origin.
MARKS = (
    "M-3.6 0a3.6 3.6 0 1 0 7.2 0a3.6 3.6 0 1 0-7.2 0z",
    "M-3.2-3.2h6.4v6.4h-6.4z",
    "M0-4.8L4.8 0 0 4.8-4.8 0z",
    "M0-4.2L4.2 3.4h-8.4z",
    "M0 4.2L4.2-3.4h-8.4z",
    "M-1.4-4.2h2.8v2.8h2.8v2.8h-2.8v2.8h-2.8v-2.8h-2.8v-2.8h2.8z",
    "M-4-2l2-2 2 2 2-2 2 2-2 2 2 2-2 2-2-2-2 2-2-2 2-2z",
    "M0-5l1.3 3.4 3.6.1-2.8 2.3.9 3.5-3-2-3 2 .9-3.5-2.8-2.3 3.6-.1z",
    "M-4.2 0L3.4-4.2v8.4z",
    "M4.2 0L-3.4-4.2v8.4z",
    "M0-4.2L4-1.3 2.5 3.4h-5L-4-1.3z",
    "M0-4.4L3.8-2.2v4.4L0 4.4-3.8 2.2v-4.4z",
)


class Point(Struct, frozen=True):
    """One row: *x*, *y* with the ends of its interval, *method*, and *text* for a tooltip."""

    x: float
    y: float
    method: str
    text: str
    low: float | None = None
    high: float | None = None


class Plot(Struct, frozen=True):
    """A scatter plot; *front* are the indices of the points on the Pareto front."""

    ident: str
    title: str
    description: str
    x: str
    y: str
    points: tuple[Point, ...]
    front: tuple[int, ...]
    log: bool = False


class Mark(Struct, frozen=True):
    """A point in pixels; *method* is its method's number, *bar* the path of its interval."""

    x: float
    y: float
    method: int
    front: bool
    bar: str
    text: str


class Drawing(Struct, frozen=True):
    """A plot in pixels: *left* is where its x axis begins; *grid* and *front* are SVG paths."""

    plot: Plot
    left: float
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]
    grid: str
    front: str
    marks: list[Mark]


def draw(plot: Plot, methods: Sequence[str]) -> Drawing:
    """Place the points of *plot*, which are finite and below 1e100 (if ``log``, above 1e-100).

    Args:
        plot: what to draw.
        methods: all methods of the page, so that a mark means one method in every plot.
    """
    bars = [_bar(point, _least(plot)) for point in plot.points]
    ends = [end for bar in bars for end in bar]
    place_y, y_ticks = _axis(ends, BOTTOM, TOP, log=plot.log)
    left = 26 + 6 * max(len(text) for _, text in y_ticks)
    place_x, x_ticks = _axis([p.x for p in plot.points], left, RIGHT)
    marks = []
    for i, (point, (low, high)) in enumerate(zip(plot.points, bars, strict=True)):
        x, number = place_x(point.x), methods.index(point.method)
        bar = f"M{x:g} {place_y(low):g}L{x:g} {place_y(high):g}" if low < high else ""
        marks.append(Mark(x, place_y(point.y), number, i in plot.front, bar, point.text))
    rules = [f"M{x:g} {TOP}V{BOTTOM}" for x, _ in x_ticks]
    rules += [f"M{left} {y:g}H{RIGHT}" for y, _ in y_ticks]
    front = "L".join(f"{marks[i].x:g} {marks[i].y:g}" for i in plot.front)
    return Drawing(plot, left, x_ticks, y_ticks, "".join(rules), f"M{front}", marks)


def _least(plot: Plot) -> float:
    """The lower end of the bars: a logarithmic scale has no zero."""
    if not plot.log:
        return -1e100
    lowest = min(p.y for p in plot.points)
    ends = (p.low for p in plot.points if p.low is not None and p.low > 0)
    return max(lowest / 2, min(lowest, *ends) / 1.1)


def _bar(point: Point, least: float) -> tuple[float, float]:
    """The interval of *point*, which contains it; without one the point itself."""
    if point.low is None or point.high is None:
        return point.y, point.y
    return max(least, min(point.y, point.low)), min(1e100, max(point.y, point.high))


def _axis(
    values: Sequence[float], start: float, end: float, *, log: bool = False
) -> tuple[Callable[[float], float], list[tuple[float, str]]]:
    """The pixel of a value between *start* and *end*, and the pixels and texts of the ticks."""
    scale = math.log10 if log else float
    low, high = scale(min(values)), scale(max(values))
    size = max(1.0, abs(low), abs(high))
    margin = 0.05 * (high - low if high - low > 1e-9 * size else 10 * size)
    low, high = low - margin, high + margin

    def pixel(value: float) -> float:
        return round(start + (end - start) * (scale(value) - low) / (high - low), 1)

    ticks = _log_ticks(low, high) if log else _ticks(low, high)
    return pixel, [(pixel(tick), f"{tick:g}") for tick in ticks]


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers from *low* to *high*, about seven."""
    rough = (high - low) / 7
    power = 10.0 ** math.floor(math.log10(rough))
    step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - rough))
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between powers of ten: 1, 2, 3, 5, 10, ..., or powers alone if many."""
    factors = (1, 2, 3, 5) if high - low < 3 else (1,)
    apart = math.ceil((high - low) / 8)
    powers = (10.0**n for n in range(math.floor(low), math.ceil(high)) if n % apart == 0)
    ticks = [factor * power for power in powers for factor in factors]
    return [tick for tick in ticks if low <= math.log10(tick) <= high]

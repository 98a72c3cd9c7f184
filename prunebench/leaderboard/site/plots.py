"""Scatter plots as inline SVG whose colours are the page's, so that they work light and dark."""

from __future__ import annotations

import io
import math
import re
import unicodedata
import warnings
from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree as ET

from msgspec import Struct

from ...errors import inert

SVG = "http://www.w3.org/2000/svg"
XLINK = "http://www.w3.org/1999/xlink"
#: Placeholder colours that the page's style sheet replaces.
INK, RULE, FRONT = "#010101", "#020202", "#040404"
_CLASSES = {INK: "ink", RULE: "rule", FRONT: "front"}
#: How many hues the style sheet has; more methods differ by their marks alone.
HUES = 8
#: How many methods a legend names.
NAMED = 45
#: Inches; a plot is scaled to its column, and taller where its legend is.
WIDE, TALL = 5.6, 5.0
#: Inches of a letter of the legend, and of a mark with the space around it.
LETTER, MARK = 0.083, 0.36
MARKS = "osD^vPX*<>ph"
#: The style properties that become presentation attributes.
_PRESENTATION = {
    *("fill", "stroke", "stroke-width", "stroke-dasharray", "stroke-linecap"),
    *("fill-opacity", "stroke-opacity", "opacity", "text-anchor"),
}


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


def svg(plot: Plot, methods: Sequence[str]) -> str:
    """The plot as an ``<svg>`` element for an HTML page; the same plot gives the same text.

    Args:
        plot: what to draw.
        methods: all methods of the page, so that a mark means one method in every plot.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    styles: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "prunebench",
        "font.size": 11,
        "axes.edgecolor": RULE,
        "axes.labelcolor": INK,
        "text.color": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "grid.color": RULE,
        "path.simplify": False,
        "text.parse_math": False,
    }
    with mpl.rc_context(styles), warnings.catch_warnings():
        # Text stays text: the reader's fonts have the glyphs that matplotlib's lacks.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        warnings.filterwarnings("ignore", "overflow", RuntimeWarning)  # somebody's 1e300
        figure = Figure(figsize=(WIDE, TALL))
        axes = figure.add_subplot()
        _draw(axes, plot, methods)
        stream = io.StringIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None})
    return _page_svg(stream.getvalue(), plot)


def _draw(axes: Any, plot: Plot, methods: Sequence[str]) -> None:
    _style(axes, plot)
    ends = [(plot.points[i].x, plot.points[i].y) for i in plot.front]
    axes.plot(*zip(*ends, strict=True), color=FRONT, linewidth=1.4, dashes=(5, 3), zorder=1)
    numbers = {name: at for at, name in enumerate(methods)}
    least = _least(plot)
    _bars(axes, plot, numbers, least)
    _markers(axes, plot, numbers)
    if plot.log:
        axes.set_ylim(bottom=least)
    present = {point.method for point in plot.points}
    _margins(axes, _legend(axes, [(at, name) for name, at in numbers.items() if name in present]))


def _style(axes: Any, plot: Plot) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, linewidth=0.5, alpha=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel(plot.x)
    axes.set_ylabel(plot.y)
    if plot.log:
        from matplotlib.ticker import FormatStrFormatter, LogLocator

        axes.set_yscale("log")
        # 2, 5, 10, 20, ...: powers of ten alone are too few, and nobody reads 2 x 10^0.
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 3, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))
        axes.yaxis.set_minor_formatter("")


def _markers(axes: Any, plot: Plot, numbers: Mapping[str, int]) -> None:
    for i, point in enumerate(plot.points):
        at = numbers[point.method]
        axes.scatter(
            [point.x],
            [point.y],
            s=46,
            marker=MARKS[at % len(MARKS)],
            c=_hue(at),
            edgecolors=FRONT if i in plot.front else _hue(at),
            linewidths=1.3 if i in plot.front else 0.6,
            gid=f"point{i}",
            zorder=3,
        )


def _legend(axes: Any, methods: Sequence[tuple[int, str]]) -> int:
    """Draw the legend of *methods* with their numbers; returns how many lines it has."""
    marks, names = [_mark(at) for at, _ in methods], [_shown(name) for _, name in methods]
    if len(names) > NAMED:
        others = f"and {len(names) - NAMED + 1} more, by their tooltips"
        marks, names = [*marks[: NAMED - 1], _mark(0, "none")], [*names[: NAMED - 1], others]
    columns = _legend_columns(names)
    axes.figure.legend(
        marks,
        names,
        frameon=False,
        fontsize=10,
        ncols=columns,
        columnspacing=1.0,
        handletextpad=0.2,
        loc="lower center",
        bbox_to_anchor=(0.5, 0.0),
    )
    return -(-len(names) // columns)


def _margins(axes: Any, lines: int) -> None:
    """Margins in inches, with room for a legend of *lines*.

    To lay out by measuring texts takes three times as long.
    """
    below = 0.72 + 0.235 * lines
    height = max(TALL, below + 2.5)
    axes.figure.set_size_inches(WIDE, height)
    low, high = sorted(axes.get_ylim())
    letters = max(
        len(f"{tick:g}") for tick in (0, *axes.get_yticks()) if low <= tick <= high or not tick
    )
    axes.figure.subplots_adjust(
        left=(0.335 + 0.097 * max(letters, 4)) / WIDE,
        right=0.985,
        top=0.985,
        bottom=below / height,
    )


def _least(plot: Plot) -> float:
    """The lower end of the y axis and of its bars: a logarithmic scale has no zero."""
    if not plot.log:
        return -math.inf
    lowest = min(p.y for p in plot.points)
    ends = (p.low for p in plot.points if p.low is not None and p.low > 0)
    return max(lowest / 2, min(lowest, *ends) / 1.1)


def _bars(axes: Any, plot: Plot, numbers: Mapping[str, int], least: float) -> None:
    """The intervals, all of a hue at once: one by one is several times slower."""
    bars: dict[int, list[tuple[float, float, float]]] = {}
    for p in plot.points:
        if p.low is not None and p.high is not None:
            ends = (p.x, max(least, min(p.y, p.low)), max(p.y, p.high))
            bars.setdefault(numbers[p.method] % HUES, []).append(ends)
    for hue, own in bars.items():
        axes.vlines(*zip(*own, strict=True), colors=_hue(hue), linewidth=1)


def _hue(at: int) -> str:
    """The colour of a method's number, which the style sheet replaces."""
    return f"#0300{at % HUES:02x}"


def _mark(at: int, shape: str = "") -> Any:
    from matplotlib.lines import Line2D

    style: dict[str, Any] = {"marker": shape or MARKS[at % len(MARKS)], "color": _hue(at)}
    return Line2D([], [], linestyle="none", markersize=6.5, **style)


def _shown(name: str) -> str:
    """A shortened name; a leading underscore would hide it from matplotlib's legend."""
    text = inert(name, 80)
    text = f"{text[:25]}..." if len(text) > 28 else text
    return f" {text}" if text.startswith("_") else text


def _legend_columns(names: Sequence[str]) -> int:
    """How many columns of a legend, filled column by column, fit *names*."""
    for columns in (3, 2):
        lines = -(-len(names) // columns)
        own = [names[i : i + lines] for i in range(0, len(names), lines)]
        letters = sum(max(map(_letters, column)) for column in own)
        if LETTER * letters + MARK * len(own) <= WIDE:
            return columns
    return 1


def _letters(name: str) -> int:
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in name)


def _page_svg(text: str, plot: Plot) -> str:
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(text)  # noqa: S314  # matplotlib wrote it just now
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{{{SVG}}}metadata", f"{{{SVG}}}style"):
                parent.remove(child)
    for element in root.iter():
        _plain(element)
    _add_tooltips(root, plot)
    _own_ids(root, plot.ident)
    _slim(root)
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "role": "img",
        "aria-labelledby": f"{plot.ident}-t {plot.ident}-d",
        "class": "plot",
    }
    for name, text_, end in (("desc", plot.description, "d"), ("title", plot.title, "t")):
        element = ET.Element(f"{{{SVG}}}{name}", id=f"{plot.ident}-{end}")
        element.text = text_
        root.insert(0, element)
    return ET.tostring(root, encoding="unicode")


def _plain(element: ET.Element) -> None:
    """Styles to attributes, which a strict policy allows; placeholder colours to classes."""
    style = element.attrib.pop("style", "")
    pairs = (part.split(":", 1) for part in style.split(";") if ":" in part)
    for name, value in ((n.strip(), v.strip()) for n, v in pairs):
        if name == "font":
            if "text-anchor: middle" in style:
                element.set("text-anchor", "middle")
        elif name in _PRESENTATION:
            element.set(name, value)
    classes = []
    for name in ("fill", "stroke"):
        value = element.get(name, "")
        own = _CLASSES.get(value) or (f"s{int(value[5:], 16)}" if value.startswith("#0300") else "")
        if own:
            del element.attrib[name]
            classes.append(f"{name[0]}-{own}")
    if classes:
        element.set("class", " ".join(classes))


def _slim(root: ET.Element) -> None:
    """Remove what draws nothing, and round numbers to a tenth of a pixel."""
    for element in root.iter():
        element.tail = None
        if element.text and not element.text.strip():
            element.text = None
        element.attrib.pop("clip-path", None)  # the axes hold every point
        for name in ("d", "x", "y", "transform", "stroke-width"):
            if value := element.get(name):
                element.set(name, _rounded(value))
        if element.get("transform", "").startswith("rotate(-0 "):
            del element.attrib["transform"]
    for parent in list(root.iter()):
        parent[:] = [left for child in list(parent) for left in _unwrapped(child)]


def _unwrapped(element: ET.Element) -> list[ET.Element]:
    """The children of a group without attributes, [] for what is invisible, else the element."""
    invisible = element.get("fill") == "none" and not {"stroke", "class"} & set(element.attrib)
    if element.tag == f"{{{SVG}}}path" and invisible:
        return []
    if element.tag in (f"{{{SVG}}}g", f"{{{SVG}}}defs"):
        inner = [left for child in element for left in _unwrapped(child)]
        if element.tag.endswith("}g") and not element.attrib and not _titled(inner):
            return inner
        element[:] = inner
        return [element] if inner else []
    return [element]


def _titled(elements: list[ET.Element]) -> bool:
    return any(element.tag == f"{{{SVG}}}title" for element in elements)


def _rounded(text: str) -> str:
    short = re.sub(r"-?\d+\.\d+", lambda found: f"{float(found[0]):.1f}".removesuffix(".0"), text)
    return re.sub(r" *([A-Za-z]) *", r"\1", short).strip() if text[:1] == "M" else short


def _add_tooltips(root: ET.Element, plot: Plot) -> None:
    """Give each point a ``<title>``, which browsers show as a tooltip."""
    for element in root.iter():
        name = element.get("id", "")
        if name.startswith("point") and name[5:].isdecimal():
            tooltip = ET.Element(f"{{{SVG}}}title")
            tooltip.text = plot.points[int(name[5:])].text
            element.insert(0, tooltip)


def _own_ids(root: ET.Element, ident: str) -> None:
    """Keep only ids that something refers to, prefixed with the plot's name."""
    used = set()
    for element in root.iter():
        for name, value in list(element.attrib.items()):
            if name == f"{{{XLINK}}}href" and value.startswith("#"):
                used.add(value[1:])
                del element.attrib[name]
                element.set("href", f"#{ident}-{value[1:]}")
            elif found := re.fullmatch(r"url\(#(.+)\)", value):
                used.add(found[1])
                element.set(name, f"url(#{ident}-{found[1]})")
    for element in root.iter():
        own = element.attrib.pop("id", None)
        if own in used:
            element.set("id", f"{ident}-{own}")

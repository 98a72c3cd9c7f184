"""The pages of the site: an index, a page per board and a page per case."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from msgspec import Struct

from ... import formatting, plan
from ...errors import PrunebenchError, inert, inert_lines
from ...formatting import duration, number, size
from ...record import Measurement, Record
from ...reports.formats.rows import standard_error
from ...reports.sentences import table_metrics
from ...results import provenance
from ...system.files import slug
from ...verdicts import history
from .. import ranking
from ..board import Board, Row
from ..row_values import Value, possible
from . import block_map_svg, cells, plots
from .block_map_svg import Drawing

#: The most steps of a search that a page lists; the record has all.
MOST_STEPS = 200


class Position(Struct, frozen=True):
    """The board and row of a case, and its strip there."""

    board: Board
    row: Row
    strip: Drawing


class Curve(Struct, frozen=True):
    """The history of a metric as a polyline in a box of 300 by 60; *rows* has a run each."""

    metric: str
    line: str
    first: str
    last: str
    low: str
    high: str
    rows: tuple[tuple[str, str, str], ...]
    steps: tuple[str, ...]


def pages(boards: Sequence[Board], records: Sequence[Record], title: str) -> dict[str, str]:
    """Every HTML page by its path."""
    env = _environment(title)
    older: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda r: (r.created, r.key), reverse=True):
        older.setdefault(record.case_id, []).append(record)
    positions = {}
    built = {"index.html": env.get_template("index.html").render(root="", boards=boards)}
    template = env.get_template("board.html")
    for board in boards:
        stream = block_map_svg.widest([r.plan for row in board.rows for r in row.records])
        drawn = {}
        for row in board.rows:
            for record in row.records:
                drawn[record.case_id] = block_map_svg.draw(record.plan, board.blocks, stream)
                positions[record.case_id] = Position(board, row, drawn[record.case_id])
        built[f"boards/{board.name}.html"] = template.render(
            root="../",
            board=board,
            columns=cells.columns(board),
            strips=[drawn[row.record.case_id] for row in board.rows],
            figures=list(_figures(board)),
            methods=sorted({row.method for row in board.rows}),
            devices=sorted({t.device for row in board.rows for t in row.timings}),
        )
    template = env.get_template("case.html")
    for case_id, position in positions.items():
        record = next(r for r in position.row.records if r.case_id == case_id)
        built[case_path(case_id)] = template.render(
            root="../", record=record, position=position, **_case(record, position, older[case_id])
        )
    return built


def case_path(case_id: str) -> str:
    """The page of a case."""
    digest = hashlib.sha256(case_id.encode("utf-8", "backslashreplace")).hexdigest()[:6]
    return f"cases/{slug(case_id)[:120]}-{digest}.html"


def _environment(title: str) -> Any:
    import jinja2

    def shown(value: object) -> object:
        """Numbers unchanged, text without control characters and direction marks."""
        made_here = hasattr(value, "__html__")  # markup, from escaped text
        return inert_lines(value) if isinstance(value, str) and not made_here else value

    env = jinja2.Environment(
        loader=jinja2.PackageLoader("prunebench.leaderboard.site"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    env.globals |= {
        "site_title": title,
        "case_path": case_path,
        "rank_cell": cells.rank_cell,
        "number": number,
        "plots": plots,
        "percent": _percent,
        "span": _span,
    }
    return env


def _percent(fraction: float) -> str:
    return f"{fraction * 100:.1f}%"


def _span(low: float, high: float) -> str:
    """``16.4 - 18.9 %``."""
    same = _percent(low) == _percent(high)
    return _percent(low) if same else f"{low * 100:.1f}\N{EN DASH}{_percent(high)}"


# ------------------------------------------------------------------------------------- plots


def _figures(board: Board) -> Iterator[dict[str, Any]]:
    """Each plot with its caption, if it has two points or more."""
    methods = sorted({row.method for row in board.rows})
    for plot, caption in _plots(board):
        if len(plot.points) > 1:
            front = [plot.points[i].text for i in plot.front]
            yield {"drawing": plots.draw(plot, methods), "caption": caption, "front": front}


def _plots(board: Board) -> Iterator[tuple[plots.Plot, str]]:
    quality = next((n for n in board.rank_by if n.split("/")[0] == "accuracy"), None)
    how = _most_timed(board)
    if quality and how:
        timed = [
            (row, s) for row in board.rows if (s := _speed(row, how)) and quality in row.values
        ]
        points = [_point(row, s, row.values[quality], 100) for row, s in timed]
        device, backend, shape, part = how
        yield (
            _plot("speed", points, (1, 1), f"{part} speedup, x", "accuracy, %", board),
            f"Accuracy against {part} speedup on {device}, {backend}, {shape}. "
            "Up and to the right is better.",
        )
    name = next((n for n in board.rank_by if n.split("/")[0] == "perplexity"), None)
    if name:
        rows = [row for row in board.rows if name in row.values and row.values[name].value > 1e-100]
        points = [_point(row, row.sparsity * 100, row.values[name], 1) for row in rows]
        yield (
            _plot("ppl", points, (1, -1), "parameters removed, %", "perplexity", board),
            "Perplexity against achieved sparsity. Down and to the right is better.",
        )


def _plot(
    kind: str, points: list[plots.Point], sides: tuple[int, int], x: str, y: str, board: Board
) -> plots.Plot:
    # A record from elsewhere may have any number.
    points = [p for p in points if abs(p.x) < 1e100 and abs(p.y) < 1e100]
    front = ranking.front([(sides[0] * p.x, sides[1] * p.y) for p in points])
    heights = [p.y for p in points]
    log = y == "perplexity" and bool(points) and max(heights) > 4 * min(heights)
    best = "; ".join(points[i].text for i in front)
    return plots.Plot(
        ident=f"p-{kind}",
        title=f"{y} against {x} of {inert(board.model, 100)}",
        description=f"{len(points)} points. On the Pareto front: {best}.",
        x=x,
        y=f"{y} (log)" if log else y,
        points=tuple(points),
        front=tuple(front),
        log=log,
    )


def _point(row: Row, x: float, value: Value, scale: float) -> plots.Point:
    low, high = (None if end is None else end * scale for end in (value.low, value.high))
    shown = formatting.value(value.value, value.unit)
    text = f"{inert(row.label, 200)}, {row.sparsity * 100:.1f}% removed: {shown}"
    return plots.Point(x, value.value * scale, row.method, text, low, high)


def _most_timed(board: Board) -> tuple[str, str, str, str] | None:
    """Device, backend, shape and part of the speedups that most rows have."""
    counts = Counter(
        (t.device, t.backend, t.shape, part)
        for row in board.rows
        for t in row.timings
        for part in ("decode", "prefill")
        if getattr(t, part) is not None
    )
    return max(counts, key=lambda key: (counts[key], key[3] == "decode", key), default=None)


def _speed(row: Row, how: tuple[str, str, str, str]) -> float | None:
    for t in row.timings:
        if (t.device, t.backend, t.shape) == how[:3] and (value := getattr(t, how[3])):
            return float(value.value)
    return 1.0 if row.dense else None


# ------------------------------------------------------------------------------------- a case


def _case(record: Record, position: Position, older: Sequence[Record]) -> dict[str, Any]:
    """The values of a case's page, apart from its record and position."""
    return {
        "ranks": list(_ranks(position)),
        "measured": [_measured(m, record) for m in record.measurements],
        "facts": [tuple(line.split(": ", 1)) for line in provenance.lines(record)],
        "asked": json.dumps(record.asked, indent=2, sort_keys=True, ensure_ascii=False),
        "hashes": sorted(record.provenance.data.items()),
        "steps": record.trace[:MOST_STEPS],
        "cost": ", ".join(_costs(record)),
        "edits": plan.describe(record.plan),
        "curves": list(_curves(older)),
        "seeds": [r for r in position.row.records if r is not record],
    }


def _costs(record: Record) -> Iterator[str]:
    for name, amount in record.cost.items():
        if name.endswith("_time"):
            text = duration(amount)
        else:
            text = size(int(amount)) if name.endswith("_memory") else f"{amount:,.0f}"
        yield f"{name.replace('_', ' ')} {text}"


def _ranks(position: Position) -> Iterator[str]:
    """A sentence per rank, with the methods that are significantly better and worse."""
    row, board = position.row, position.board
    if row.dense:
        yield "The dense model, which the others are compared with."
        return
    for name, place in row.places.items():
        better, worse = (
            ", ".join(dict.fromkeys(board.rows[i].label for i in rows))
            for rows in (place.better, place.worse)
        )
        among = f"of {place.of} at {_span(*board.groups[row.group])} removed"
        text = f"Rank {place.text} {among} by {name}."
        text += f" Significantly better: {better}." if better else ""
        yield text + (f" Significantly worse: {worse}." if worse else "")


def _measured(m: Measurement, record: Record) -> dict[str, str]:
    error = standard_error(m, record)
    interval = ""
    if error and m.value is not None:
        least, most = possible(m.unit)
        ends = (max(least, min(most, m.value + sign * 1.96 * error)) for sign in (-1, 1))
        interval = " to ".join(formatting.bare(end, m.unit) for end in ends)
    return {
        "metric": m.metric,
        "value": formatting.value(m.value, m.unit) or m.note or "not finite",
        "interval": interval,
        "count": f"{len(m.samples):,}" if m.samples else "",
        "better": m.better,
        "note": m.note if m.value is not None else "",
    }


def _curves(older: Sequence[Record]) -> Iterator[Curve]:
    """The history of the first metrics, where there is more than one run."""
    if len(older) < 2:
        return

    try:
        past = history.history(older, table_metrics)
    except (PrunebenchError, KeyError, TypeError):
        return  # a record from elsewhere, of an unknown question
    for series in past.series:
        values = [(i, n.value) for i, n in enumerate(series.points) if n.value is not None]
        if len(values) < 2:
            continue
        low, high = min(v for _, v in values), max(v for _, v in values)
        step = 300 / max(len(series.points) - 1, 1)
        # Equal texts are drawn at equal heights: a baseline has fewer digits than a result.
        spread = high - low if number(low) != number(high) else 0.0
        heights = (58 - 56 * (v - low) / spread if spread else 30.0 for _, v in values)
        line = " ".join(
            f"{i * step:.1f},{y:.1f}" for (i, _), y in zip(values, heights, strict=True)
        )
        yield Curve(
            metric=f"{series.metric} ({series.better} is better)",
            line=line,
            first=series.points[0].created[:10],
            last=series.points[-1].created[:10],
            low=number(low),
            high=number(high),
            rows=tuple(
                (
                    n.created[:16].replace("T", " "),
                    (n.commit or "")[:7],
                    "not finite" if n.value is None else number(n.value),
                )
                for n in series.points
            ),
            steps=tuple(
                f"{number(s.before)} to {number(s.after)} on {series.points[s.at].created[:10]}, "
                f"for the {'worse' if s.worse else 'better'}"
                for s in series.steps
            ),
        )

"""One case in depth: the question, what was removed, every number, and the verdict."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any, Literal

import msgspec
from msgspec import Struct
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from .. import formatting
from ..case import Case
from ..data import hub
from ..data.model_config import shape_of
from ..errors import PrunebenchError
from ..formatting import duration, moved, number
from ..plan import describe
from ..record import Measurement, Record
from ..results.baselines.files import Accepted, Baselines
from ..results.baselines.published import Row
from ..results.store import Store
from ..specs import CalibrationSpec
from ..system import console as screen
from ..system.console import Signs
from ..verdicts import seeds
from ..verdicts.verdict import Finding, Verdict
from . import block_map, columns, sentences
from .block_map_text import drawing


class Shown(Struct, frozen=True):
    """What `show` prints of a case.

    *blocks* is how many the dense model has, if its config is on this machine. *count* is of the
    stored records, *intervals* are over the calibration seeds of the case, and *reproduce* is the
    command that runs it again.
    """

    record: Record
    verdict: Verdict
    accepted: Accepted | None = None
    rows: Sequence[Row] = ()
    blocks: int | None = None
    count: int = 1
    intervals: Sequence[seeds.Interval] = ()
    reproduce: str = ""


def gathered(
    record: Record,
    verdict: Verdict,
    store: Store,
    roots: Baselines,
    rows: Sequence[Row],
    cases: Sequence[Case],
) -> Shown:
    """*record* and its *verdict* with what the folders hold about the case.

    *rows* are published numbers, *cases* those of its case file, with other calibration seeds.
    """
    case = next((c for c in cases if c.id == record.case_id), None)
    seeded = [c for c in cases if case and case.seed_of and c.seed_of == case.seed_of]
    found = [r for c in seeded if (r := store.latest(c.id, c.asked)) is not None]
    accepted = None
    with suppress(PrunebenchError):  # the verdict reports what is wrong with a baseline
        accepted = roots.accepted(record.case_id)
    return Shown(
        record,
        verdict,
        accepted,
        rows,
        _blocks(case.model.id if case else record.model_id, record.asked.get("model") or {}),
        len(store.answers(record.case_id)),
        seeds.intervals({case.seed_of: found}) if case and len(found) > 1 else (),
        case.reproduce if case else "",
    )


def _blocks(model: str, asked: dict[str, Any]) -> int | None:
    """How many blocks the model has, if its config is on this machine."""
    with suppress(PrunebenchError):
        config = hub.config(model, asked.get("revision"))
        return None if config is None else shape_of(config).blocks
    return None


def show(shown: Shown, console: Console, *, trace: bool = False) -> None:
    """Print the page; with *trace* also how each choice was made."""
    record, verdict = shown.record, shown.verdict
    signs = screen.signs(console)
    title = Text(record.case_id, style="bold").append("  ")
    console.print(title.append_text(screen.outcome(verdict.outcome, signs)))
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, text in _facts(shown, signs):
        grid.add_row(f"  {name}", text)
    console.print(grid)
    _print_strip(shown, console, signs)
    if trace and record.trace:
        console.print()
        console.print(_trace(record, console.width, signs))
    console.print()
    console.print(_measurements(record, verdict, console.width, signs))
    screen.findings(console, record.case_id, sentences.lines(verdict))
    for line in sentences.published_lines(record, shown.rows):
        screen.print_wrapped(console, line)
    for line in _more(shown):
        console.print(Text(line, style="dim"), soft_wrap=True)


def _facts(shown: Shown, signs: Signs) -> Iterator[tuple[str, str]]:
    record = shown.record
    asked = record.asked
    model = asked.get("model") or {}
    more = [f"{k} {v}" for k, v in model.items() if k != "id"]
    yield "model", ", ".join([record.model_id or "unknown", *more])
    yield "method", _method(asked, signs)
    amount = asked.get("amount") or {}
    wanted = ", ".join(f"{k} {v}" for k, v in amount.items() if v is not None)
    removed = record.dense_parameters - record.parameters
    achieved = f"{removed:,} of {record.dense_parameters:,} parameters removed"
    asked_for = f" (asked for {wanted})" if wanted else ""
    yield "amount", f"sparsity {record.sparsity:.2%}{asked_for}, {achieved}"
    yield "plan", describe(record.plan)
    yield "protocol", asked.get("protocol") or "own settings"
    when = record.created
    if when.endswith("+00:00"):
        when = f"{when[:16].replace('T', ' ')} UTC"
    yield "measured", f"{when} on {record.environment.device}"
    if record.cost:
        yield "cost", _cost(record.cost)
    if (accepted := shown.accepted) is not None:
        yield "baseline", f"accepted {accepted.when[:10]} by {accepted.by}: {accepted.because}"


def _method(asked: dict[str, Any], signs: Signs) -> str:
    method = asked.get("method") or {}
    parts = [str(method.get("name", "unknown"))]
    parts += [f"{k} {v}" for k, v in method.items() if k != "name"]
    spec = None
    with suppress(msgspec.ValidationError):
        spec = msgspec.convert(asked.get("calibration"), CalibrationSpec | None)
    if spec is not None:
        tokens = f"{spec.nsamples} {signs.times} {spec.seqlen} tokens of {spec.dataset}"
        parts.append(f"calibrated on {tokens}, seed {spec.seed}")
    return ", ".join(parts)


def _cost(cost: dict[str, float]) -> str:
    known: dict[str, tuple[str, Callable[[float], str]]] = {
        "case_time": ("{} in all", duration),
        "load_time": ("loading {}", duration),
        "search_time": ("search {}", duration),
        "block_forwards": ("{} block-forwards", lambda v: f"{v:,.0f}"),
        "calibration_tokens": ("{} calibration tokens", lambda v: f"{v:,.0f}"),
        "search_memory": ("{} for the search", lambda v: formatting.size(int(v))),
    }
    parts = [text.format(shown(cost[k])) for k, (text, shown) in known.items() if k in cost]
    return ", ".join(parts + [f"{k} {v:.4g}" for k, v in cost.items() if k not in known])


def _print_strip(shown: Shown, console: Console, signs: Signs) -> None:
    if not shown.record.plan:
        return
    strip = block_map.strip(shown.record.plan, shown.blocks)
    console.print()
    if strip.foreign:
        console.print(Text("  an external checkpoint: its removed blocks are unknown"))
        return
    for line in drawing(strip, console.width - 2, signs):
        console.print(Text("  ").append_text(line), soft_wrap=True)
    if strip.removed:
        order = f"  in order of removal: {' '.join(strip.removed)}"
        for line in Text(order).wrap(console, max(20, console.width)):
            console.print(line)


def _trace(record: Record, width: int, signs: Signs) -> Table:
    rows = []
    for step in record.trace:
        score = step.decided_by(step.chosen)
        sure = "sure" if step.determined else "within noise"
        sign = signs.outcomes["same" if step.determined else "unsure"]
        rows.append(
            {
                "step": Text(str(step.step)),
                "chosen": Text(step.chosen),
                "score": Text("" if score is None else f"{score:.6g}"),
                "margin": Text("" if step.margin is None else f"{step.margin:.3g}"),
                "noise": Text(f"{step.noise:.2g}"),
                "runner-up": Text(step.runner_up or ""),
                "": Text(f"{sign} {sure}", style="" if step.determined else "yellow"),
            }
        )
    left = ("chosen", "runner-up", "")
    return _fitting(rows, width, left, ("noise", "score", "runner-up"), signs)


def _measurements(record: Record, verdict: Verdict, width: int, signs: Signs) -> Table:
    findings = {f.what: f for f in verdict.findings}
    families = [m.metric.rpartition("/")[0] for m in record.measurements]
    rows: list[dict[str, Text]] = []
    for i, measurement in enumerate(record.measurements):
        family, _, name = measurement.metric.rpartition("/")
        grouped = families.count(family) > 1
        if grouped and (i == 0 or families[i - 1] != family):
            rows.append({"metric": Text(family, style="bold")})
        name = f"  {name}" if grouped else measurement.metric
        rows.append(_row(name, measurement, record, findings.get(measurement.metric), signs))
    left = ("metric", signs.plus_minus, "unit", "outcome")
    drop = ("p", "allowed", "change", signs.plus_minus, "unit", "baseline")
    return _fitting(rows, width, left, drop, signs)


def _row(
    name: str, measurement: Measurement, record: Record, finding: Finding | None, signs: Signs
) -> dict[str, Text]:
    word = str(finding.outcome) if finding else "reported"
    value = measurement.value
    row = {
        "metric": Text(name),
        "now": Text(columns.text(measurement) if value is None else number(value)),
        "unit": Text(measurement.unit, style="dim"),
        "outcome": screen.outcome(word, signs),
    }
    error = columns.uncertainty(measurement, record)
    if value is not None and error and math.isfinite(error):
        row[signs.plus_minus] = Text(f"{error:.2g}", style="dim")
    if finding is not None:
        style = screen.COLOURS.get(word, "") if word not in ("same", "new") else ""
        if finding.was is not None:
            row["baseline"] = Text(number(finding.was))
            if finding.now not in (None, finding.was):
                row["change"] = Text(moved(finding.now, finding.was), style=style)
        if finding.allowed is not None:
            row["allowed"] = Text(number(finding.allowed), style="dim")
        if finding.p is not None and finding.now != finding.was:
            row["p"] = Text(formatting.p_text(finding.p, ""), style="dim")
    return row


def _fitting(
    rows: list[dict[str, Text]], width: int, left: Sequence[str], drop: Sequence[str], signs: Signs
) -> Table:
    """A table of *rows*; columns of *drop* are left out, first to last, until it fits."""
    first = ("metric", "step", "chosen", "now", signs.plus_minus, "unit", "baseline", "change")
    order = (*first, "allowed", "p", "score", "margin", "noise", "runner-up", "outcome", "")
    shown = [c for c in order if any(c in row for row in rows)]

    def needed(column: str) -> int:
        return max(len(column), *(cell_len(row[column].plain) for row in rows if column in row))

    for name in drop:
        if sum(map(needed, shown)) + 2 * (len(shown) - 1) <= width:
            break
        shown = [c for c in shown if c != name]
    grid = signs.grid()
    for column in shown:
        side: Literal["left", "right"] = "left" if column in left else "right"
        grid.add_column(column, justify=side, no_wrap=column != "metric", overflow="fold")
    for row in rows:
        grid.add_row(*(row.get(column, Text()) for column in shown))
    return grid


def _more(shown: Shown) -> Iterator[str]:
    for interval in shown.intervals:
        yield sentences.interval_line(interval)
    record = shown.record
    yield f"{formatting.counted(shown.count, 'record')} in the results folder:"
    yield f"  prunebench history {record.case_id}"
    if record.asked.get("calibration") and not shown.intervals and shown.reproduce:
        yield "one calibration seed; for an interval use several:"
        yield f"  {shown.reproduce} --set 'calibration.seed=[0,1,2]'"

"""Verdicts as sentences and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import inert
from ..formatting import FRACTIONS, counted, duration, number, p_text, size
from ..record import Record
from ..results import gpu_time
from ..results.baselines.published import Row, compared
from ..runs.dry_run import Outlook, Totals
from ..runs.result import Result
from ..verdicts import seeds
from ..verdicts.history import first_of_each
from ..verdicts.significance import POWER
from ..verdicts.verdict import Finding, Verdict

#: Column heading, and patterns of its measurement: the first match of the first pattern.
COLUMNS = (
    ("ppl", ("perplexity/*",)),
    ("acc", ("accuracy/mean", "accuracy/*")),
    ("match", ("generation/*",)),
    ("prefill", ("latency/*/speedup-prefill", "latency/*/ttft", "latency/*/prefill")),
    ("decode", ("latency/*/speedup-decode", "latency/*/tpot")),
)


def table_metrics(names: Sequence[str]) -> list[str]:
    """The one of *names* that each of ``COLUMNS`` shows, where there is one."""
    return first_of_each(names, [patterns for _, patterns in COLUMNS])


def power_lines(results: Sequence[Result]) -> list[str]:
    """The minimum detectable drop per metric family, of its weakest gate that is not worse."""
    units = {m.metric: m.unit for r in results if r.record for m in r.record.measurements}
    least: dict[str, tuple[float, str]] = {}
    tests = 0
    for finding in (f for r in results for f in r.verdict.findings if not f.diagnostic):
        seen = finding.evidence
        if seen is None or not seen.least or finding.outcome == "worse":
            continue
        tests = max(tests, seen.family)
        family = finding.what.split("/")[0]
        unit = units.get(finding.what, "")
        size = seen.least if unit in FRACTIONS else seen.least / abs(finding.was or 1.0)
        if size < 5e-5:
            continue  # only rounding errors differ
        text = f"{size * 100:.3g}{' pp' if unit in FRACTIONS else '%'}"
        least[family] = max(least.get(family, (0.0, "")), (size, text))
    if not least:
        return []
    drops = ", ".join(f"{family} {text}" for family, (_, text) in sorted(least.items()))
    return [f"minimum detectable drop ({POWER:.0%} power): {drops} ({counted(tests, 'test')})"]


def gpu_lines(results: Sequence[Result]) -> list[str]:
    """The time for which this run held GPUs, if it did."""
    held = gpu_time.total(r.record for r in results if r.record and not r.cached)
    if not held:
        return []
    loads, searches = duration(held[gpu_time.LOADS]), duration(held[gpu_time.SEARCHES])
    return [
        f"GPU time: {duration(held[gpu_time.TOTAL])} (model loads {loads}, searches {searches})"
    ]


def interval_lines(results: Sequence[Result]) -> list[str]:
    """Intervals over calibration seeds, which no verdict reads."""
    return [interval_line(interval) for interval in seeds.intervals(_seeded(results))]


def interval_line(interval: seeds.Interval) -> str:
    """A metric over calibration seeds: its mean, its interval, and the spread between seeds."""
    ends = f"{number(interval.low)} to {number(interval.high)}"
    spread = f"from seed to seed {number(interval.over_seeds)}"
    text = f"{interval.case_id}: {interval.metric} over {interval.seeds} calibration seeds"
    return f"{text} {number(interval.mean)}, 95% from {ends} ({spread})"


def lines(verdict: Verdict) -> list[str]:
    """A plain line for everything about a case that is not *same* or merely *new*.

    Indented ones only diagnose: the tasks, say, behind a mean that moved.
    """
    if verdict.error:
        return [inert(f"{verdict.case_id}: crashed: {verdict.error}")]
    if verdict.skipped:
        return [inert(f"{verdict.case_id}: skipped: {verdict.skipped}")]
    decisive = [
        f for f in verdict.findings if f.outcome not in ("same", "new") and not f.diagnostic
    ]
    families = {f.what.split("/")[0] for f in decisive}
    # Diagnostic findings explain a change, so only those of a family that has one.
    changed = [f for f in verdict.findings if f.outcome in ("worse", "better", "gone")]
    diagnostic = [f for f in changed if f.diagnostic and f.what.split("/")[0] in families]
    found = [f" {sentence(f)}" for f in decisive] + [f"   {sentence(f)}" for f in diagnostic]
    return [inert(f"{verdict.case_id}:{text}") for text in found]


def sentence(finding: Finding) -> str:
    """One finding with the numbers it rests on."""
    text = f"{finding.outcome} {finding.what}"
    if finding.now is not None:
        text += f": {number(finding.now)}"
        if finding.was is not None:
            text += f", was {number(finding.was)} ({finding.now - finding.was:+.4g})"
    if finding.allowed is not None:
        text += f", allowed {number(finding.allowed)}"
    if finding.p is not None:
        text += f", {p_text(finding.p)}"
        seen = finding.evidence
        if seen and seen.adjusted is not None:
            text += f" ({p_text(seen.adjusted, '')} among {seen.family} tests)"
        if seen and seen.least and finding.outcome == "unsure":
            text += f"; minimum detectable drop {number(seen.least)}"
    return f"{text}: {finding.note}" if finding.note else text


def summary(results: Sequence[Result]) -> str:
    """``11 cases: 10 same, 1 worse``."""
    counts = Counter(result.verdict.outcome for result in results)
    words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
    cached = sum(r.cached for r in results)
    reused = f" ({cached} reused from the results folder; --fresh measures again)" if cached else ""
    return f"{counted(len(results), 'case')}: {words or 'none'}{reused}"


def dry_run_lines(outlooks: Sequence[Outlook], total: Totals) -> list[str]:
    """What ``--dry-run`` prints: what would be done with each case, and the sum."""
    lines = []
    for outlook in outlooks:
        lines.append(f"{outlook.case_id}: {_WOULD[outlook.status]}{_reason(outlook)}")
        if outlook.status == "run":
            lines.append(f"  {_reads(outlook)}")
            lines += [f"  resumes {outlook.kept}"] if outlook.kept else []
    counts = ", ".join(f"{total.cases[s]} {_WOULD[s]}" for s in _WOULD if s in total.cases)
    line = f"{counted(len(outlooks), 'case')}: {counts}"
    if total.cases.get("run"):
        line += f"; took {duration(total.seconds)} before" if total.seconds else ""
        line += f"; {total.unknown} never measured here" if total.unknown else ""
        line += f"; at most {size(total.memory)} on the device" if total.memory else ""
    lines.append(line)
    if total.downloads:
        lines.append(f"to be downloaded: {', '.join(total.downloads)}")
    return lines


_WOULD = {"run": "would run", "reuse": "in the store", "skip": "skipped", "fail": "would fail"}
_PLACES = {"hub": "to be downloaded", "hub cache": "hub cache", "folder": "folder"}


def _reason(outlook: Outlook) -> str:
    needed = size(outlook.memory) if outlook.memory else ""
    if outlook.reason:
        return f": {outlook.reason}" + (f"; it would take {needed}" if needed else "")
    if outlook.status != "run":
        return ""
    time = "duration not known"
    if outlook.seconds is not None:
        time = f"took {duration(outlook.seconds)} before"
    return f", {time}" + (f", {needed}" if needed else "")


def _reads(outlook: Outlook) -> str:
    revision = f" at {outlook.revision}" if outlook.revision else ""
    parameters = f", {outlook.parameters:,} parameters" if outlook.parameters else ""
    parts = [f"model {outlook.model}{revision} ({_PLACES[outlook.source]}{parameters})"]
    parts += [f"data {', '.join(outlook.datasets)}"] if outlook.datasets else []
    parts += [f"tasks {', '.join(outlook.tasks)}"] if outlook.tasks else []
    return "; ".join(parts)


def to_json(results: Sequence[Result]) -> dict[str, Any]:
    """What ``run --json`` writes."""
    return {
        "records": [msgspec.to_builtins(r.record) for r in results if r.record],
        "verdicts": [msgspec.to_builtins(r.verdict) for r in results],
        "intervals": msgspec.to_builtins(seeds.intervals(_seeded(results))),
    }


def _seeded(results: Sequence[Result]) -> dict[str, list[Record]]:
    groups: dict[str, list[Record]] = {}
    for result in results:
        if result.case.seed_of and result.record:
            groups.setdefault(result.case.seed_of, []).append(result.record)
    return groups


def published_lines(record: Record, rows: Sequence[Row]) -> list[str]:
    """A line per published number about a record; one line for each other protocol."""
    lines = []
    same = compared(record, rows)
    for row in same:
        ours = record.find(row.metric)
        if ours is None:
            continue
        sparsity = "" if row.sparsity is None else f", sparsity {row.sparsity:.1%}"
        text = f"published {row.metric} {number(row.value)} ({row.credit}, {row.where}{sparsity})"
        if ours.value is None:
            text += ", ours not finite"
        else:
            apart = f" ({ours.value / row.value - 1:+.1%})" if row.value else ""
            text += f", ours {number(ours.value)}{apart}"
        lines.append(text + (f"; theirs on {row.hardware}" if row.hardware and ours.varies else ""))
    others: dict[str, list[str]] = {}
    for row in rows:
        if row not in same:
            others.setdefault(row.protocol, []).append(f"{row.metric} {number(row.value)}")
    own = record.asked.get("protocol") or "own settings"
    for protocol, numbers in others.items():
        what = ", ".join(dict.fromkeys(numbers))
        this = "this case, which measures otherwise" if protocol == own else own
        lines.append(f"published by {protocol} and not compared with {this}: {what}")
    return lines

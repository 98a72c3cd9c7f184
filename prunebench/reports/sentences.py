"""Verdicts in words: sentences, and the JSON file. Decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec

from ..errors import inert
from ..formatting import (
    FRACTIONS,
    duration,
    number,
    size,
)
from ..formatting import p_text as p_text
from ..record import Record
from ..results import gpu_time
from ..results.baselines.published import Row, compared
from ..runs.dry_run import Outlook, Totals
from ..runs.session import Result
from ..system.console import COLOURS as COLOURS
from ..system.console import InertConsole as InertConsole
from ..system.console import console as console
from ..verdicts import seeds
from ..verdicts.significance import POWER
from ..verdicts.verdict import Finding, Verdict

#: Column heading, and how to find its measurement: the first that fits, of the first pattern.
COLUMNS = (
    ("ppl", ("perplexity/*",)),
    ("acc", ("accuracy/mean", "accuracy/*")),
    ("match", ("generation/*",)),
    ("prefill", ("latency/*/speedup-prefill", "latency/*/ttft", "latency/*/prefill")),
    ("decode", ("latency/*/speedup-decode", "latency/*/tpot")),
)


def power_lines(results: Sequence[Result]) -> list[str]:
    """The smallest loss that each kind of gate could have seen, of the weakest that saw none."""
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
            continue  # nothing moved but the last digits
        told = f"{size * 100:.3g} {'pp' if unit in FRACTIONS else '%'}"
        least[family] = max(least.get(family, (0.0, "")), (size, told))
    if not least:
        return []
    seen_from = ", ".join(f"{family} {told}" for family, (_, told) in sorted(least.items()))
    count = f"{tests} test{'s' * (tests != 1)}"
    return [f"smallest loss found {POWER:.0%} of the time: {seen_from} ({count})"]


def gpu_lines(results: Sequence[Result]) -> list[str]:
    """For how long this run held GPUs, where it did."""
    held = gpu_time.total(r.record for r in results if r.record and not r.cached)
    if not held:
        return []
    loads, searches = duration(held[gpu_time.LOADS]), duration(held[gpu_time.SEARCHES])
    return [
        f"GPU time: {duration(held[gpu_time.TOTAL])} (model loads {loads}, searches {searches})"
    ]


def interval_lines(results: Sequence[Result]) -> list[str]:
    """What several calibration seeds give, which no verdict reads."""
    return [interval_line(one) for one in seeds.intervals(_seeded(results))]


def interval_line(one: seeds.Interval) -> str:
    """A metric over calibration seeds: its mean, its interval, and how far seeds are apart."""
    ends = f"{number(one.low)} to {number(one.high)}"
    apart = f"from seed to seed {number(one.over_seeds)}"
    text = f"{one.case_id}: {one.metric} over {one.seeds} calibration seeds"
    return f"{text} {number(one.mean)}, 95 % from {ends} ({apart})"


def lines(verdict: Verdict) -> list[str]:
    """A plain line for everything about a case that is not *same* or merely *new*.

    Indented ones only diagnose: the tasks, say, behind a mean that moved.
    """
    return [inert(line) for line in _lines(verdict)]


def _lines(verdict: Verdict) -> list[str]:
    if verdict.error:
        return [f"{verdict.case_id}: crashed: {verdict.error}"]
    if verdict.skipped:
        return [f"{verdict.case_id}: skipped: {verdict.skipped}"]
    told = [f for f in verdict.findings if f.outcome not in ("same", "new") and not f.diagnostic]
    families = {f.what.split("/")[0] for f in told}
    # What helps to understand a loss, and only where there is one.
    moved = [f for f in verdict.findings if f.outcome in ("worse", "better", "gone")]
    helping = [f for f in moved if f.diagnostic and f.what.split("/")[0] in families]
    said = [f"{verdict.case_id}: {sentence(f)}" for f in told]
    return said + [f"{verdict.case_id}:   {sentence(f)}" for f in helping]


def sentence(finding: Finding) -> str:
    """One finding with the numbers it rests on."""
    text = f"{finding.outcome} {finding.what}"
    if finding.now is not None:
        text += f": {number(finding.now)}"
    if finding.was is not None:
        text += f", was {number(finding.was)}" if finding.now is not None else ""
        if finding.now is not None:
            text += f" ({finding.now - finding.was:+.4g})"
    if finding.allowed is not None:
        text += f", allowed {number(finding.allowed)}"
    if finding.p is not None:
        text += f", {p_text(finding.p)}"
        seen = finding.evidence
        among = seen.adjusted if seen is not None else None
        if seen and among is not None:
            text += f" ({p_text(among, '')} among {seen.family} tests)"
        if seen and seen.least and finding.outcome == "unsure":
            text += f"; {POWER:.0%} of the time it shows a loss of {number(seen.least)}"
    return f"{text}: {finding.note}" if finding.note else text


def summary(results: Sequence[Result]) -> str:
    """``11 cases: 10 same, 1 worse``."""
    counts: dict[str, int] = {}
    for result in results:
        word = result.verdict.outcome
        counts[word] = counts.get(word, 0) + 1
    words = ", ".join(f"{n} {word}" for word, n in sorted(counts.items()))
    cached = sum(r.cached for r in results)
    reused = f" ({cached} reused from the results folder; --fresh measures again)" if cached else ""
    return f"{len(results)} case{'s' * (len(results) != 1)}: {words or 'none'}{reused}"


def outlook_lines(outlooks: Sequence[Outlook], total: Totals) -> list[str]:
    """What ``--dry-run`` says: per case what would become of it, and the sum."""
    said = []
    for one in outlooks:
        said.append(f"{one.case_id}: {_WOULD[one.status]}{_reason(one)}")
        if one.status == "run":
            said.append(f"  {_reads(one)}")
            said += [f"  goes on {one.kept}"] if one.kept else []
    counts = ", ".join(f"{total.cases[s]} {_WOULD[s]}" for s in _WOULD if s in total.cases)
    cases = "1 case" if len(outlooks) == 1 else f"{len(outlooks)} cases"
    line = f"{cases}: {counts}"
    if total.cases.get("run"):
        if total.seconds:
            line += f"; took {duration(total.seconds)} before"
        line += f"; {total.unknown} never measured here" if total.unknown else ""
        line += f"; at most {size(total.memory)} on the device" if total.memory else ""
    said.append(line)
    if total.downloads:
        said.append(f"to be downloaded: {', '.join(total.downloads)}")
    return said


_WOULD = {"run": "would run", "reuse": "in the store", "skip": "skipped", "fail": "would fail"}
_PLACES = {"hub": "to be downloaded", "hub cache": "hub cache", "folder": "folder"}


def _reason(one: Outlook) -> str:
    if one.reason:
        return f": {one.reason}" + (f"; it would take {size(one.memory)}" if one.memory else "")
    if one.status != "run":
        return ""
    time = "duration not known" if one.seconds is None else f"took {duration(one.seconds)} before"
    memory = f", {size(one.memory)}" if one.memory else ""
    return f", {time}{memory}"


def _reads(one: Outlook) -> str:
    revision = f" at {one.revision}" if one.revision else ""
    parameters = f", {one.parameters:,} parameters" if one.parameters else ""
    parts = [f"model {one.model}{revision} ({_PLACES[one.source]}{parameters})"]
    parts += [f"data {', '.join(one.datasets)}"] if one.datasets else []
    parts += [f"tasks {', '.join(one.tasks)}"] if one.tasks else []
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
    """A line for each of the papers' numbers about a record; one for those of other protocols."""
    said = []
    same = compared(record, rows)
    for row in same:
        ours = record.find(row.metric)
        if ours is None:
            continue
        gone = "" if row.sparsity is None else f", sparsity {row.sparsity:.1%}"
        text = f"published {row.metric} {number(row.value)} ({row.credit}, {row.where}{gone})"
        if ours.value is None:
            text += ", ours not finite"
        else:
            apart = f" ({ours.value / row.value - 1:+.1%})" if row.value else ""
            text += f", ours {number(ours.value)}{apart}"
        said.append(text + (f"; theirs on {row.hardware}" if row.hardware and ours.varies else ""))
    others: dict[str, list[str]] = {}
    for row in rows:
        if row not in same:
            others.setdefault(row.protocol, []).append(f"{row.metric} {number(row.value)}")
    own = record.asked.get("protocol") or "settings of its own"
    for protocol, numbers in others.items():
        what = ", ".join(dict.fromkeys(numbers))
        with_what = "this case, which measures otherwise" if protocol == own else own
        said.append(f"published by {protocol} and not compared with {with_what}: {what}")
    return said

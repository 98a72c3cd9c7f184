"""Judges a record by conditions, and reads what fails a run: outcome words and conditions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from ..errors import PrunebenchError, did_you_mean
from ..record import Measurement, Record
from .conditions import (
    DIFFERENCES,
    SPARSITY,
    Condition,
    Facts,
    exact,
    parse,
    parse_list,
    quantity,
    unfit,
)
from .evidence import p_among, unpairable
from .verdict import Finding, Outcome, split_question

#: What was meant for an outcome: a single word that is no metric's.
_WORD = re.compile(r"[^\s/:<>=!*?()\[\]]*")

_NO_SAMPLES = "no samples on both sides, so no p"


def read(text: str) -> Outcome | Condition:
    """One item of ``fail_on``: an outcome word, or a condition.

    Raises:
        PrunebenchError: if it is neither; one line that says what is allowed.
    """
    word = text.strip()
    if word in list(Outcome):
        return Outcome(word)
    if _WORD.fullmatch(word) and word != SPARSITY:
        hint = did_you_mean(word, map(str, Outcome))
        more = "or a condition, such as accuracy/recovery < 0.95"
        raise PrunebenchError(f"unknown outcome {word[:60]!r}; {hint}; {more}")
    return parse(text)


def parted(items: Iterable[str]) -> tuple[tuple[Outcome, ...], tuple[Condition, ...]]:
    """The outcome words and the conditions among *items*.

    Raises:
        PrunebenchError: for the first item that is neither.
    """
    found = [read(item) for item in items]
    outcomes = tuple(item for item in found if isinstance(item, Outcome))
    return outcomes, tuple(item for item in found if isinstance(item, Condition))


def given(
    text: str, option: str, families: Sequence[str]
) -> tuple[tuple[Outcome, ...] | None, tuple[Condition, ...] | None]:
    """What the *text* of a command-line *option* says, or nothing where none was given.

    A condition about none of *families*, the metrics of all cases, is a mistake.

    Raises:
        PrunebenchError: one line that begins with *option*.
    """
    if not text:
        return None, None
    try:
        outcomes, conditions = parted(parse_list(text))
    except PrunebenchError as error:
        raise PrunebenchError(f"{option}: {error}") from None
    for condition in conditions:
        if message := unfit(condition, families):
            raise PrunebenchError(f"{option}: {message}")
    return outcomes, conditions


def findings(now: Record, was: Record | None, conditions: Sequence[Condition]) -> Iterator[Finding]:
    """A finding per condition and measurement that it matches.

    Differences and *p* are unknown without a baseline *was* that answers the same question.

    Yields:
        *Worse*, which fails the case, where a condition holds or the value it is about is not
        finite; *same* where it does not; *not comparable* with what is missing where that is open.
    """
    on_cpu = now.environment.device == "cpu"
    for condition in conditions:
        if condition.pattern == SPARSITY:
            yield _judge(condition, _sparsity(now), now, was)
            continue
        matching = [m for m in now.measurements if condition.matches(m.metric)]
        for measurement in matching:
            if measurement.varies and on_cpu:
                what = f"{measurement.metric}: {condition.expression}"
                note = "on cpu it is only reported"
                yield Finding(what, Outcome.SAME, measurement.value, note=note)
            else:
                yield _judge(condition, measurement, now, was)
        if not matching:
            measured = ", ".join(m.metric for m in now.measurements) or "nothing"
            note = f"no measurement matches {condition.pattern!r}; measured: {measured}"
            # What compares with the dense model says nothing of that model itself.
            dense = not now.plan and now.parameters == now.dense_parameters
            yield Finding(condition.text, Outcome.NOT_COMPARABLE, note=note, diagnostic=dense)


def _before(now: Record, was: Record | None, metric: str) -> Measurement | str:
    """The baseline's measurement of a metric, or why it cannot be compared with."""
    if was is None:
        return "no baseline"
    (ours, mine), (theirs, their) = split_question(now.asked), split_question(was.asked)
    if ours != theirs:
        return "the baseline answers another question"
    if metric == SPARSITY:
        return _sparsity(was)
    family = metric.split("/")[0]
    if mine.get(family) != their.get(family):
        return "the baseline was measured otherwise"
    if (old := was.find(metric)) is None:
        return "the baseline has no such measurement"
    return unpairable(now.find(metric) or old, old) or old


def _judge(
    condition: Condition, now: Measurement, record: Record, baseline: Record | None
) -> Finding:
    before = _before(record, baseline, now.metric)
    what = f"{now.metric}: {condition.expression}"
    spoken = condition.quantities
    old = before if isinstance(before, Measurement) and spoken - {"now"} else None
    was = old.value if old else None
    if exact(now.value) is None:
        # What neither run could measure, for a reason that is given, is no loss.
        excused = bool(now.note) and "now" not in spoken and exact(was) is None
        outcome = Outcome.NOT_COMPARABLE if excused else Outcome.WORSE
        note = now.note or "not a finite number"
        return Finding(what, outcome, None, was, note=note, fails=not excused)
    if note := now.note or (old.note if old else ""):
        return Finding(what, Outcome.NOT_COMPARABLE, now.value, was, note=note)
    asks_p = old is not None and "p" in spoken and exact(was) is not None
    p = p_among(now, old, record, baseline) if old and asks_p else None
    facts = Facts(now.value, was, now.better, p)
    holds, limit = condition.holds(facts), condition.limit(facts)
    if holds is None:
        missing = "the baseline has no finite value" if exact(was) is None else _NO_SAMPLES
        note = before if isinstance(before, str) else missing
        return Finding(what, Outcome.NOT_COMPARABLE, now.value, was, limit, p, note)
    outcome = Outcome.WORSE if holds else Outcome.SAME
    note = _numbers(spoken, facts, limit)
    return Finding(what, outcome, now.value, was, limit, p, note, fails=holds)


def _numbers(spoken: frozenset[str], facts: Facts, limit: float | None) -> str:
    """The numbers a condition speaks of that its finding does not show, or shows too coarsely."""
    now = facts.now or 0.0
    plain = limit is not None and abs(now - limit) > 1e-3 * abs(limit)
    names = [n for n in ("now", *DIFFERENCES) if n in spoken and not (n == "now" and plain)]
    found = {name: quantity(name, facts) for name in names}
    return ", ".join(
        f"{name} = {float(value)!r}" for name, value in found.items() if value is not None
    )


def _sparsity(record: Record) -> Measurement:
    return Measurement(SPARSITY, record.sparsity, "", "higher")

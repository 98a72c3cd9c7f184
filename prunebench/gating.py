"""Judges a record by conditions, and reads what fails a run: outcome words and conditions."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from .conditions import DIFFERENCES, SPARSITY, Condition, Facts, exact, parse, quantity
from .errors import PrunebenchError, did_you_mean
from .record import Measurement, Record
from .verdict import Finding, Outcome

#: What was meant for an outcome: a single word that is no metric's.
_WORD = re.compile(r"[^\s/:<>=!*?()\[\]]*")

PFunction = Callable[[Measurement, Measurement], float | None]


def read(text: str) -> Outcome | Condition:
    """One item of ``fail_on``: an outcome word, or a condition.

    Raises:
        PrunebenchError: if it is neither; one line that says what is allowed.
    """
    word = text.strip()
    if word in list(Outcome):
        return Outcome(word)
    if _WORD.fullmatch(word) and word != SPARSITY:
        hint = did_you_mean(word, list(Outcome))
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


def findings(
    now: Record,
    was: Record | None,
    conditions: Sequence[Condition],
    p_of: PFunction,
) -> Iterator[Finding]:
    """A finding per condition and measurement that it matches.

    Args:
        now: the record to judge.
        was: its baseline; differences and *p* are unknown without one that answers the same.
        conditions: what must not hold.
        p_of: the one-sided p-value that the first measurement is worse than the second.

    Yields:
        *Worse*, which fails the case, where a condition holds or the value it is about is not
        finite; *same* where it does not; *not comparable* with what is missing where that is open.
    """
    for condition in conditions:
        if condition.pattern == SPARSITY:
            yield _judge(condition, _sparsity(now), _Past(now, was, SPARSITY), p_of)
            continue
        matching = [m for m in now.measurements if condition.matches(m.metric)]
        for measurement in matching:
            if measurement.varies and now.environment.device == "cpu":
                note = "on cpu it is only reported"
                what = f"{measurement.metric}: {condition.expression}"
                yield Finding(what, Outcome.SAME, measurement.value, note=note)
            else:
                yield _judge(condition, measurement, _Past(now, was, measurement.metric), p_of)
        if not matching:
            measured = ", ".join(m.metric for m in now.measurements) or "nothing"
            note = f"no measurement matches {condition.pattern!r}; measured: {measured}"
            # What compares with the dense model has nothing to say of that model itself.
            dense = not now.plan and now.parameters == now.dense_parameters
            yield Finding(condition.text, Outcome.NOT_COMPARABLE, note=note, diagnostic=dense)


class _Past:
    """The baseline's measurement *old* of a metric, or *why* there is none to compare with."""

    def __init__(self, now: Record, was: Record | None, metric: str) -> None:
        self.old: Measurement | None = None
        self.why = ""
        if was is None:
            self.why = "no baseline"
        elif _question(now) != _question(was):
            self.why = "the baseline answers another question"
        elif metric == SPARSITY:
            self.old = _sparsity(was)
        elif _asked(now, metric) != _asked(was, metric):
            self.why = "the baseline was measured otherwise"
        else:
            self.old = was.find(metric)
            self.why = "" if self.old else "the baseline has no such measurement"


def _judge(condition: Condition, now: Measurement, past: _Past, p_of: PFunction) -> Finding:
    what = f"{now.metric}: {condition.expression}"
    old = past.old
    spoken = condition.quantities
    compared = old if spoken - {"now"} else None
    was = compared.value if compared else None
    if exact(now.value) is None:
        # What neither run could measure, for a reason that is given, is no loss.
        excused = "now" not in spoken and now.note and (old is None or exact(old.value) is None)
        outcome = Outcome.NOT_COMPARABLE if excused else Outcome.WORSE
        note = now.note or "not a finite number"
        return Finding(what, outcome, None, was, note=note, fails=not excused)
    if now.note or (compared and compared.note):
        note = now.note or (compared.note if compared else "")
        return Finding(what, Outcome.NOT_COMPARABLE, now.value, was, note=note)
    p = p_of(now, old) if old and "p" in spoken and exact(old.value) is not None else None
    facts = Facts(now.value, was, now.better, p)
    holds = condition.holds(facts)
    limit = condition.limit(facts)
    if holds is None:
        note = _missing(spoken, facts, past)
        return Finding(what, Outcome.NOT_COMPARABLE, now.value, was, limit, p, note)
    outcome = Outcome.WORSE if holds else Outcome.SAME
    return Finding(what, outcome, now.value, was, limit, p, _numbers(spoken, facts), fails=holds)


def _missing(spoken: frozenset[str], facts: Facts, past: _Past) -> str:
    """Why the quantities of a condition are not all known."""
    if past.why:
        return past.why
    if facts.was is None or exact(facts.was) is None:
        return "the baseline has no finite value"
    return "no samples, so no p"


def _numbers(spoken: frozenset[str], facts: Facts) -> str:
    """The differences that decided, which no other field of a finding holds."""
    found = {name: quantity(name, facts) for name in DIFFERENCES if name in spoken}
    return ", ".join(
        f"{name} = {float(value)!r}" for name, value in found.items() if value is not None
    )


def _sparsity(record: Record) -> Measurement:
    return Measurement(SPARSITY, record.sparsity, "", "higher")


def _question(record: Record) -> dict[str, object]:
    return {key: value for key, value in record.asked.items() if key != "metrics"}


def _asked(record: Record, metric: str) -> list[object]:
    """What the question says of the metric that a measurement belongs to."""
    family = metric.split("/")[0]
    return [m for m in record.asked.get("metrics", ()) if m["name"] == family]

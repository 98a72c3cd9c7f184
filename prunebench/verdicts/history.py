"""The metrics of a case over its runs, and where they changed their level. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatchcase

from msgspec import Struct, field

from ..errors import PrunebenchError, did_you_mean
from ..record import Direction, Record
from .change_points import steps
from .verdict import differences, split_question


class Point(Struct, frozen=True):
    """The value of a metric in one run; None where it was not finite."""

    created: str
    commit: str | None
    value: float | None


class Change(Struct, frozen=True):
    """A step of a metric.

    *at* is the index of the first run at the new level, *before* and *after* are the medians of
    the stretches on its two sides. *packages* are those whose version changed with it.
    """

    at: int
    before: float
    after: float
    worse: bool
    packages: tuple[str, ...] = ()


class Series(Struct, frozen=True):
    """A metric's values (*points*), oldest first, all to one question on one device."""

    metric: str
    unit: str
    better: Direction
    points: tuple[Point, ...] = field(name="nights")
    steps: tuple[Change, ...]


class History(Struct, frozen=True):
    """The series of a case; *left_out* says, in a line each, which records are not in them."""

    case_id: str
    device: str
    series: tuple[Series, ...]
    left_out: tuple[str, ...]


def history(
    records: Sequence[Record],
    choose: Callable[[Sequence[str]], Sequence[str]],
    device: str | None = None,
    last: int | None = None,
) -> History:
    """The records that answer the newest question, on one device: by default the newest's.

    *records* are all of one case, newest first, at least one; *last* counts those to read.
    *choose* selects metrics of those that the newest record has.

    Raises:
        PrunebenchError: if no record is of that device.
    """
    here = _of_device(records, device)
    newest = here[0]
    question, metrics = split_question(newest.asked)
    names = choose([m.metric for m in newest.measurements])
    asked = [(record, *split_question(record.asked)) for record in here]
    reasons = Counter("; ".join(differences(question, q)) for _, q, _ in asked if q != question)
    same_question = [(record, their) for record, q, their in asked if q == question][:last]
    families = dict.fromkeys(name.split("/")[0] for name in names)
    by_family: dict[str, list[Record]] = {family: [] for family in families}
    for record, their in same_question:
        for family in families:
            if metrics.get(family) == their.get(family):
                by_family[family].append(record)
            elif family in their:
                what = differences(metrics.get(family), their[family], family)
                reasons["; ".join(what)] += 1
    series = [_series(name, by_family[name.split("/")[0]][::-1], newest) for name in names]
    elsewhere = Counter(r.environment.device for r in records)
    del elsewhere[newest.environment.device]
    left_out = [
        f"{n} older record{'s answer' if n > 1 else ' answers'} another question: {why}"
        for why, n in reasons.items()
    ]
    left_out += [
        f"{n} more record{'s' * (n > 1)} on {name}: --device {name}"
        for name, n in elsewhere.items()
    ]
    return History(newest.case_id, newest.environment.device, tuple(series), tuple(left_out))


def first_of_each(names: Sequence[str], columns: Iterable[Sequence[str]]) -> list[str]:
    """Of each column's patterns, the first name that the first fits which fits any."""
    found = (
        next((n for pattern in patterns for n in names if fnmatchcase(n, pattern)), None)
        for patterns in columns
    )
    return list(dict.fromkeys(name for name in found if name))


def _of_device(records: Sequence[Record], device: str | None) -> list[Record]:
    name = device or records[0].environment.device
    here = [r for r in records if r.environment.device == name]
    if not here:
        known = {r.environment.device for r in records}
        raise PrunebenchError(f"no record on {name!r}; {did_you_mean(name, known)}")
    return here


def _series(name: str, records: Sequence[Record], newest: Record) -> Series:
    """The series of a metric; *records* oldest first."""
    own = newest.find(name)
    assert own is not None  # noqa: S101  # the names are the newest record's
    found = [(record, m) for record in records if (m := record.find(name))]
    points = [Point(r.created, r.environment.commit, m.value) for r, m in found]
    finite = [(i, m.value) for i, (_, m) in enumerate(found) if m.value is not None]
    changes = []
    for step in steps([value for _, value in finite]):
        at = finite[step.at][0]
        worse = (step.after > step.before) == (own.better == "lower")
        packages = _upgraded(found[finite[step.at - 1][0]][0], found[at][0])
        changes.append(Change(at, step.before, step.after, worse, tuple(packages)))
    return Series(name, own.unit, own.better, tuple(points), tuple(changes))


def _upgraded(before: Record, after: Record) -> Iterable[str]:
    old, new = (r.environment.packages for r in (before, after))
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield f"{name} {old.get(name, 'absent')} -> {new.get(name, 'absent')}"

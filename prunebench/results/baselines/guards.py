"""What stands between a record and becoming the standard.

A baseline that was accepted from a broken night calls everything after it fine. So values that no
sound run can give, and values far from what was, are objected to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from ...case import Case
from ...errors import PrunebenchError
from ...formatting import number
from ...record import Measurement, Record, Tolerance
from ...verdicts import verdict
from ...verdicts.verdict import Finding, Outcome, Verdict
from ..store import Store
from . import files
from .files import Baselines

#: Accuracy this far above the dense model's (a fraction of the questions) is no pruned model's.
ABOVE_DENSE = 0.05
#: So is a perplexity this far below the dense model's (a fraction of it).
BELOW_DENSE = 0.10
#: A perplexity so many times the dense model's comes from broken weights.
BROKEN = 1000.0
#: A change by so many times what the case allows is no drift.
FAR = 10.0
#: What a guard calls impossible has to be this sure, one-sided, where there are samples.
SURE = 0.01
#: Better than guessing: one-sided level. Worse than guessing has to be surer: some models are
#: led astray by a task, and a real one is refused at no more than this.
ABOVE_CHANCE, BELOW_CHANCE = 0.05, 0.001
#: Earlier nights that have to agree before they are a history, and how many are looked at.
NIGHTS, LOOKED_AT = 3, 5
#: Cases accepted together, of which more than half may not have become worse.
TOGETHER = 4
#: Choose without looking at the model, and may well break it: others have to beat them.
CONTROLS = ("random", "first", "middle", "last")


class Objection(NamedTuple):
    """Why a record should not become the baseline of a case, or of all together where none is
    named; *leaves_out* says that forcing cannot accept that part, only the rest.
    """

    case_id: str
    why: str
    leaves_out: bool = False

    def line(self, flag: str = "--force") -> str:
        """As a line that says what to do about it."""
        case = f"{self.case_id}: " if self.case_id else ""
        remedy = f"{flag} accepts the rest" if self.leaves_out else f"{flag} overrides"
        return f"{case}not accepted: {self.why}; {remedy}"


def problems(
    records: Sequence[Record],
    baselines: Baselines,
    store: Store,
    cases: Sequence[Case],
    failed: Mapping[str, str] | None = None,
) -> list[str]:
    """Why *records* should not become the baselines of *cases*: a line each, none if all is well.

    Args:
        records: at most one per case.
        baselines: what the records are held against.
        store: where earlier nights are.
        cases: all that were selected.
        failed: why there is no record, by case id, where more is known than that there is none.
    """
    return [o.line() for o in objections(records, baselines, store, cases, failed)]


def objections(
    records: Sequence[Record],
    baselines: Baselines,
    store: Store,
    cases: Sequence[Case],
    failed: Mapping[str, str] | None = None,
) -> list[Objection]:
    """As ``problems``, as data."""
    by_id = {record.case_id: record for record in records}
    dense = _Dense(records, baselines, store)
    found: list[Objection] = []
    judged: list[Verdict] = []
    for case in cases:
        record = by_id.get(case.id)
        if record is None:
            why = (failed or {}).get(case.id) or without_record(case, store)
            found.append(Objection(case.id, why, leaves_out=True))
            continue
        was, damage = _present(baselines, record)
        against = verdict.compare(record, was, case.tolerance_for, rules=case.rules())
        judged.append(against)
        whys = [damage] if damage else []
        if record.asked != case.asked:
            whys.append("the record answers another question (--limit, or an older case)")
        whys += _of_record(record, was, dense.of(record))
        whys += _of_history(record, case, was, against, store)
        found += [Objection(case.id, why) for why in whys]
        unfit = [why for m in record.measurements if (why := files.unfit(m))]
        found += [Objection(case.id, why, leaves_out=True) for why in unfit]
    if why := _together(judged):
        found.append(Objection("", why))
    return found


def without_record(case: Case, store: Store) -> str:
    """Why the store has no record to accept for *case*."""
    older = store.latest(case.id) is not None
    why = "only of an older version of the case" if older else "none"
    return f"stored records: {why}; run it first"


def _present(baselines: Baselines, record: Record) -> tuple[Record | None, str]:
    """The baseline there is, and a line if it is a newer version's; a damaged one has no say."""
    try:
        return baselines.load(record.case_id, record.environment.device), ""
    except PrunebenchError as error:
        return None, str(error) if "newer prunebench" in str(error) else ""


# ------------------------------------------------------------------ what no sound run can give


def _of_record(record: Record, was: Record | None, dense: Record | None) -> Iterator[str]:
    for family, guess in _guesses(record).items():
        before = None if was is None else _guesses(was).get(family)
        yield from _against_chance(family, guess, before, dense=_is_dense(record))
    if dense is None:
        return
    families = _asked_alike(record, dense)
    for now in record.measurements:
        theirs = dense.find(now.metric)
        if theirs is not None and now.family in families and not (now.note or theirs.note):
            yield from _against_dense(now, theirs, control=_method(record) in CONTROLS)


def _against_dense(now: Measurement, dense: Measurement, *, control: bool) -> Iterator[str]:
    if now.value is None or dense.value is None:
        return
    pair = f"{now.metric} {number(now.value)}, the dense model has {number(dense.value)}"
    leak = "evaluation data in the calibration, or other weights?"
    # 0.65 - 0.6 is 0.05000000000000004: what binary fractions cannot say is no point more.
    above = now.value - dense.value > ABOVE_DENSE + 1e-12
    if now.unit == "acc" and above and _surely(dense, now):
        yield f"{pair}: more than {100 * ABOVE_DENSE:g} points above it: {leak}"
    if now.unit != "ppl":
        return
    if now.value < (1 - BELOW_DENSE) * dense.value and _surely(dense, now):
        yield f"{pair}: more than {BELOW_DENSE:.0%} below it: {leak}"
    if now.value > BROKEN * dense.value and not control:
        yield f"{pair}: more than {BROKEN:g} times as much: a broken night?"


class _Guess(NamedTuple):
    """Right answers to so many questions, of which guessing gets the part *chance*."""

    right: int
    questions: int
    chance: float

    def p(self, alternative: str) -> float:
        """Of the exact one-sided binomial test.

        For tasks of several chances that is Hoeffding's bound: in its tails the sum of binomials
        spreads no wider than the binomial of their mean (Annals of Mathematical Statistics 27,
        1956).
        """
        from scipy import stats

        test = stats.binomtest(self.right, self.questions, self.chance, alternative=alternative)
        return float(test.pvalue)

    @property
    def best_p(self) -> float:
        """Of the test if every answer were right."""
        return float(self.chance**self.questions)


def _guesses(record: Record) -> dict[str, _Guess]:
    """Per metric, the answers of all its tasks together.

    One task alone may be beyond a sound model, or lead it astray; all of them are not. The mean's
    samples are its tasks' once more and are not counted twice.
    """
    families: dict[str, list[Measurement]] = {}
    for m in record.measurements:
        answered = m.samples and set(m.samples) <= {0.0, 1.0}
        if m.chance is not None and 0 < m.chance < 1 and answered:
            families.setdefault(m.family, []).append(m)
    found = {}
    for family, members in families.items():
        tasks = [m for m in members if m.metric != f"{family}/mean"] or members
        questions = sum(len(m.samples) for m in tasks)
        chance = sum((m.chance or 0.0) * len(m.samples) for m in tasks) / questions
        found[family] = _Guess(int(sum(sum(m.samples) for m in tasks)), questions, chance)
    return found


def _against_chance(family: str, now: _Guess, was: _Guess | None, *, dense: bool) -> Iterator[str]:
    if now.best_p > BELOW_CHANCE:
        return  # so few questions cannot tell
    above, below = now.p("greater"), now.p("less")
    right = f"{family}: {now.right} of {now.questions} right, guessing gives {now.chance:.1%}"
    if below < BELOW_CHANCE:
        yield f"{right}: worse than guessing (p = {below:.2g}): answers mixed up?"
    elif above > ABOVE_CHANCE and dense:
        yield f"{right}: the dense model does no better (p = {above:.2g}): broken weights?"
    elif above > ABOVE_CHANCE and was is not None and was.p("greater") < BELOW_CHANCE:
        old = f"the baseline has {was.right} of {was.questions}"
        yield f"{right}: no better than that (p = {above:.2g}), {old}: a broken night?"


# ------------------------------------------------------------------ what is far from what was


def _of_history(
    record: Record, case: Case, was: Record | None, against: Verdict, store: Store
) -> Iterator[str]:
    moved = _moved(record, was, against, case.tolerance_for) if was is not None else []
    if moved:
        yield _far_from("the baseline", moved)
    elif not any(f.was is not None for f in against.findings):
        # No baseline to the same question: then what the nights before agree on.
        nights = _nights(record, case, store)
        typical = _typical(record, nights, case.tolerance_for)
        if typical is not None:
            compared = verdict.compare(record, typical, case.tolerance_for)
            if moved := _moved(record, typical, compared, case.tolerance_for):
                yield _far_from(f"the {len(nights)} nights before", moved)


class _Move(NamedTuple):
    finding: Finding
    times: float


def _moved(
    now: Record, was: Record, against: Verdict, tolerance_for: Callable[[str], Tolerance]
) -> list[_Move]:
    """What moved by more than so many times what is allowed, either way; the furthest first."""
    moves = []
    for finding in against.findings:
        ours, theirs = now.find(finding.what), was.find(finding.what)
        if ours is None or theirs is None or ours.value is None or theirs.value is None:
            continue
        if finding.now is None or finding.was is None or ours.note or theirs.note:
            continue
        allowed = tolerance_for(finding.what).allowed(theirs.value)
        change = abs(ours.value - theirs.value)
        rose = ours.value > theirs.value
        worse = rose if ours.better == "lower" else not rose
        if 0 < FAR * allowed < change and _surely(*((ours, theirs) if worse else (theirs, ours))):
            moves.append(_Move(finding, change / allowed))
    return sorted(moves, key=lambda move: -move.times)


def _far_from(what: str, moves: list[_Move]) -> str:
    furthest, times = moves[0]
    assert furthest.now is not None and furthest.was is not None  # noqa: S101, PT018
    values = f"{furthest.what} {number(furthest.now)}, {what}: {number(furthest.was)}"
    more = f" (and {len(moves) - 1} more metrics)" if len(moves) > 1 else ""
    return f"{values}, {times:.0f} times what the case allows{more}: a broken night?"


def _nights(record: Record, case: Case, store: Store) -> list[Record]:
    device = record.environment.device
    made = (record.key, record.created)
    answers = store.answers(case.id, case.asked, device)
    return [r for r in answers if (r.key, r.created) != made][:LOOKED_AT]


def _typical(
    record: Record, nights: list[Record], tolerance_for: Callable[[str], Tolerance]
) -> Record | None:
    """The median of each metric over earlier nights, where those agree among themselves.

    Nights between which somebody worked on the method are no history.
    """
    if len(nights) < NIGHTS:
        return None
    typical = []
    for now in record.measurements:
        values = [m for night in nights if (m := night.find(now.metric)) and m.value is not None]
        if len(values) < len(nights):
            continue
        ordered = sorted(values, key=lambda m: m.value or 0.0)
        median = ordered[len(ordered) // 2]
        room = FAR * tolerance_for(now.metric).allowed(median.value or 0.0)
        if all(abs((m.value or 0.0) - (median.value or 0.0)) <= room for m in values):
            typical.append(median)
    return replace(nights[0], measurements=tuple(typical))


def _together(judged: Sequence[Verdict]) -> str:
    """Many cases that get worse in one night have one cause, and it is none of theirs."""
    compared = [v for v in judged if any(f.was is not None for f in v.findings)]
    worse = [v for v in compared if v.has(Outcome.WORSE)]
    if len(compared) < TOGETHER or 2 * len(worse) <= len(compared):
        return ""
    return (
        f"{len(worse)} of {len(compared)} cases became worse than their baselines "
        f"allow: a broken night?"
    )


# ------------------------------------------------------------------ small things


def _surely(worse: Measurement, better: Measurement) -> bool:
    """Whether the samples say, surely enough, that one is worse; true where there are none."""
    finding = verdict.judge(worse, better, Tolerance())
    return finding.p is None or finding.p < SURE


class _Dense:
    """Finds the dense record beside a pruned one: accepted with it, a baseline, or in the store."""

    def __init__(self, records: Sequence[Record], baselines: Baselines, store: Store) -> None:
        self._records = [record for record in records if _is_dense(record)]
        self._baselines = baselines
        self._store = store
        self._kept: list[Record] | None = None

    def of(self, record: Record) -> Record | None:
        """The dense record of the same weights by the same protocol; None for a dense one."""
        if _is_dense(record):
            return None
        for dense in (*self._records, *self._elsewhere()):
            same = all(dense.asked.get(k) == record.asked.get(k) for k in ("model", "protocol"))
            hashes = {dense.model_hash, record.model_hash} - {""}
            if same and len(hashes) < 2 and _asked_alike(record, dense):
                return dense
        return None

    def _elsewhere(self) -> list[Record]:
        if self._kept is None:
            self._kept = [
                record
                for case_id in self._baselines.case_ids()
                if _named_dense(case_id) and (record := _sound(self._baselines, case_id))
            ]
            stored = (self._store.latest(i) for i in self._store.case_ids() if _named_dense(i))
            self._kept += [record for record in stored if record is not None]
        return self._kept


def _sound(baselines: Baselines, case_id: str) -> Record | None:
    try:
        return baselines.load(case_id, "cpu")
    except PrunebenchError:
        return None


def _named_dense(case_id: str) -> bool:
    return case_id.rsplit("/", 1)[-1].startswith("dense")


def _method(record: Record) -> str:
    return str(record.asked.get("method", {}).get("name", ""))


def _is_dense(record: Record) -> bool:
    return _method(record) == "dense"


def _asked_alike(one: Record, other: Record) -> set[str]:
    """The metrics that both were asked with the same options."""

    def metrics(record: Record) -> dict[str, Any]:
        named: dict[str, list[Any]] = {}
        for metric in record.asked.get("metrics", ()):
            named.setdefault(metric["name"], []).append(metric)
        return named

    ours, theirs = metrics(one), metrics(other)
    return {name for name in ours if ours[name] == theirs.get(name)}

"""Checks a record before it becomes a baseline: no sound run gives such values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ...case import Case
from ...errors import PrunebenchError
from ...formatting import number
from ...record import Measurement, Record, Tolerance
from ...verdicts import verdict
from ..store import Store
from . import files
from .files import Baselines

#: The largest accuracy gain over the dense model that is believed, as a fraction of the questions.
ABOVE_DENSE = 0.05
#: The largest reduction of the dense model's perplexity that is believed, as a fraction of it.
BELOW_DENSE = 0.10
#: One-sided level of the test that a pruned model beats its dense model, where there are samples.
SURE = 0.01
#: One-sided levels of the tests against guessing. Below chance the level is stricter: some models
#: are misled by a task, and a real one is refused at no more than this.
ABOVE_CHANCE, BELOW_CHANCE = 0.05, 0.001


class Objection(NamedTuple):
    """Why a record should not become the baseline of a case.

    With *leaves_out*, ``--force`` cannot accept that part, only the rest.
    """

    case_id: str
    why: str
    leaves_out: bool = False

    def line(self, flag: str = "--force") -> str:
        """The objection with its remedy; *flag* is the front end's name of ``--force``."""
        remedy = f"{flag} accepts the rest" if self.leaves_out else f"{flag} overrides"
        return f"{self.case_id}: not accepted: {self.why}; {remedy}"


def objections(
    records: Sequence[Record],
    baselines: Baselines,
    store: Store,
    cases: Sequence[Case],
    failed: Mapping[str, str] | None = None,
) -> list[Objection]:
    """Why *records* should not become the baselines of *cases*; empty if nothing is wrong.

    *cases* are all that were selected, with at most one record each; *failed* says by case id why
    there is no record, where more is known than that it is missing.
    """
    by_id = {record.case_id: record for record in records}
    dense = _dense_records(records, baselines, store)
    found: list[Objection] = []
    for case in cases:
        record = by_id.get(case.id)
        if record is None:
            older = store.latest(case.id) is not None
            stored = "only of an older version of the case" if older else "none"
            why = (failed or {}).get(case.id) or f"stored records: {stored}; run it first"
            found.append(Objection(case.id, why, leaves_out=True))
            continue
        found += [Objection(case.id, why) for why in _of_record(case, record, baselines, dense)]
        unfit = [why for m in record.measurements if (why := files.unfit(m))]
        found += [Objection(case.id, why, leaves_out=True) for why in unfit]
    return found


def _of_record(
    case: Case, record: Record, baselines: Baselines, dense: Iterable[Record]
) -> Iterator[str]:
    was = None
    try:
        was = baselines.load(record.case_id, record.environment.device)
    except PrunebenchError as error:
        if "newer prunebench" in str(error):  # any other damaged file may be replaced
            yield str(error)
    if record.asked != case.asked:
        yield "the record answers another question (--limit, or an older case)"
    for family, guess in _guesses(record).items():
        before = None if was is None else _guesses(was).get(family)
        yield from _against_chance(family, guess, before, dense=_is_dense(record))
    if not _is_dense(record) and (model := _dense_of(record, dense)) is not None:
        yield from _against_dense(record, model)


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


def _guesses(record: Record) -> dict[str, _Guess]:
    """Per metric, the answers of all its tasks: one alone may be beyond a sound model."""
    families: dict[str, list[Measurement]] = {}
    for m in record.measurements:
        answered = m.samples and set(m.samples) <= {0.0, 1.0}
        if m.chance is not None and 0 < m.chance < 1 and answered:
            families.setdefault(m.family, []).append(m)
    found = {}
    for family, members in families.items():
        # The mean's samples are its tasks' once more.
        tasks = [m for m in members if m.metric != f"{family}/mean"] or members
        questions = sum(len(m.samples) for m in tasks)
        chance = sum((m.chance or 0.0) * len(m.samples) for m in tasks) / questions
        found[family] = _Guess(int(sum(sum(m.samples) for m in tasks)), questions, chance)
    return found


def _against_chance(family: str, now: _Guess, was: _Guess | None, *, dense: bool) -> Iterator[str]:
    if now.chance**now.questions > BELOW_CHANCE:
        return  # too few questions: even if every answer were right
    above, below = now.p("greater"), now.p("less")
    right = f"{family}: {now.right} of {now.questions} right, guessing gives {now.chance:.1%}"
    if below < BELOW_CHANCE:
        yield f"{right}: worse than guessing (p = {below:.2g}): answers mixed up?"
    elif above > ABOVE_CHANCE and dense:
        yield f"{right}: the dense model does no better (p = {above:.2g}): broken weights?"
    elif above > ABOVE_CHANCE and was is not None and was.p("greater") < BELOW_CHANCE:
        old = f"the baseline has {was.right} of {was.questions}"
        yield f"{right}: no better than that (p = {above:.2g}), {old}: a broken run?"


def _against_dense(record: Record, dense: Record) -> Iterator[str]:
    families = _asked_alike(record, dense)
    for now in record.measurements:
        theirs = dense.find(now.metric)
        if theirs is None or now.family not in families or now.note or theirs.note:
            continue
        if now.value is None or theirs.value is None:
            continue
        # 0.65 - 0.6 is 0.05000000000000004: a rounding error is not a gain.
        if now.unit == "acc" and now.value - theirs.value > ABOVE_DENSE + 1e-12:
            how = f"more than {100 * ABOVE_DENSE:g} points above it"
        elif now.unit == "ppl" and now.value < (1 - BELOW_DENSE) * theirs.value:
            how = f"more than {BELOW_DENSE:.0%} below it"
        else:
            continue
        p = verdict.judge(theirs, now, Tolerance()).p
        if p is None or p < SURE:
            pair = f"{now.metric} {number(now.value)}, the dense model has {number(theirs.value)}"
            yield f"{pair}: {how}: evaluation data in the calibration, or other weights?"


def _dense_records(records: Sequence[Record], baselines: Baselines, store: Store) -> list[Record]:
    """Dense records to compare with: accepted together, then baselines, then stored ones."""

    def named_dense(case_ids: Iterable[str]) -> list[str]:
        return [i for i in case_ids if i.rsplit("/", 1)[-1].startswith("dense")]

    found = [record for record in records if _is_dense(record)]
    for case_id in named_dense(baselines.case_ids()):
        with contextlib.suppress(PrunebenchError):
            found += filter(None, [baselines.load(case_id, "cpu")])
    return [*found, *filter(None, map(store.latest, named_dense(store.case_ids())))]


def _dense_of(record: Record, known: Iterable[Record]) -> Record | None:
    """The dense record of the same weights by the same protocol."""
    for dense in known:
        same = all(dense.asked.get(k) == record.asked.get(k) for k in ("model", "protocol"))
        hashes = {dense.model_hash, record.model_hash} - {""}
        if same and len(hashes) < 2 and _asked_alike(record, dense):
            return dense
    return None


def _is_dense(record: Record) -> bool:
    return bool(record.asked.get("method", {}).get("name") == "dense")


def _asked_alike(one: Record, other: Record) -> set[str]:
    """The metrics that both were asked with the same options."""
    ours, theirs = (verdict.split_question(record.asked)[1] for record in (one, other))
    return {name for name in ours if ours[name] == theirs.get(name)}

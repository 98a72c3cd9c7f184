"""A run over cases: reuse or measure each record, save it, judge it.

An error in one case is that case's result and stops no other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from msgspec.structs import replace

from ..case import Case, Progress, silent
from ..cases.requirements import skip_reason
from ..errors import PrunebenchError
from ..progress import watched
from ..record import Record
from ..results import answer_key, gpu_time, judging, timing_noise
from ..results.baselines import published
from ..results.baselines.files import Baselines
from ..results.baselines.published import Row
from ..results.gpu_time import Clock
from ..results.resume.entries import SavedProgress
from ..results.resume.folders import Partials
from ..results.store import Store
from ..system import console
from ..system.locks import Claims, HeldError, turn
from ..system.machine import before_torch, default_device, gpu_ids
from ..verdicts import verdict
from ..verdicts.conditions import Condition
from ..verdicts.verdict import Outcome, Verdict
from .result import Result, crash_line

if TYPE_CHECKING:
    from .worker import Worker


class Session:
    """Answers and judges cases; several processes may do so with one store.

    Args:
        cases: all cases of the run, so that searches and models can be shared.
        store: where records are saved.
        baselines: what records are compared with.
        device: a torch device; by default a GPU if there is one.
        fresh: measure again even where the store has a record, unless it was made since *since*.
        since: an ISO time; by default now.
        fail_on: outcomes that fail, instead of each case's own.
        conditions: conditions that fail where they hold, instead of each case's own.
        alpha: level of the tests, instead of each case's own.
        family: how many tests share it, where verdicts are not settled together at the end.
        options: other options of the command, for the line that reproduces a case.
        progress: called with every step.

    Raises:
        PrunebenchError: if there is no such device, or the papers' numbers cannot be read.
    """

    def __init__(
        self,
        cases: Sequence[Case],
        store: Store,
        baselines: Baselines,
        device: str | None = None,
        *,
        fresh: bool = False,
        since: str = "",
        fail_on: tuple[Outcome, ...] | None = None,
        conditions: tuple[Condition, ...] | None = None,
        alpha: float | None = None,
        family: int = 1,
        options: str = "",
        progress: Progress = silent,
    ) -> None:
        self.cases = cases
        self.store = store
        self.baselines = baselines
        self.fresh = fresh
        self.since = since or datetime.now(UTC).isoformat(timespec="seconds")
        self.fail_on = fail_on
        self.conditions = conditions
        self.alpha = alpha
        self.family = family
        self.options = options
        self.progress = progress
        self.claims = Claims(store.root, console.print_note)
        self._clock = Clock(progress)
        # Read before anything is measured, so that a mistake in them is found first.
        models = frozenset(case.model.id for case in cases)
        self._rows = published.rows(baselines.published, models)
        oldest = datetime.fromisoformat(self.since).timestamp() if fresh else 0
        self.partials = Partials(store.root, int(oldest) * 10**9)
        self._device = device
        self._worker: Worker | None = None
        if device not in (None, "cpu"):
            _ = self.worker.device  # a missing device fails the whole run

    @property
    def worker(self) -> Worker:
        """Made when first needed: with every record stored, torch is never imported."""
        if self._worker is None:
            before_torch()
            from .worker import Worker

            upcoming = [c for c in self.cases if self._found(c) is None]
            self._worker = Worker(self._device, self._clock.step, upcoming, self.partials)
        return self._worker

    def answer(self, case: Case) -> Result:
        """Run or reuse *case*, save its record, and judge it; wait if another process runs it.

        A record that cannot be saved is its case's failure: the next may be saved again, and what
        was measured stays in the result. A results folder that cannot be written is refused before
        anything is measured.
        """
        with ExitStack() as claim:
            return self._answer(case, claim, wait=True)

    def attempt(self, case: Case) -> Result | None:
        """Like *answer*, but None at once where another process is running *case*."""
        try:
            with ExitStack() as claim:
                return self._answer(case, claim, wait=False)
        except HeldError:
            return None

    def reused(self, case: Case) -> Result | None:
        """The result of *case* from the store; None if anything has to be measured for it."""
        record = self._found(case)
        if record is None:
            return None
        result = self.result(case, record, cached=True)
        return None if result.verdict.unconfirmed else result

    def answers(self, cases: Iterable[Case]) -> Iterator[Result]:
        """The results of *cases* in order, those that other processes are running last."""
        later = []
        for case in cases:
            if (result := self.attempt(case)) is None:
                later.append(case)
            else:
                yield result
        yield from map(self.answer, later)

    def _answer(self, case: Case, claim: ExitStack, *, wait: bool) -> Result:
        try:
            record, cached = self._record(case, claim, wait=wait)
        except HeldError:
            raise
        except _SkippedError as skipped:
            return Result(case, Verdict(case.id, ok=True, skipped=str(skipped)))
        except PrunebenchError as error:
            return Result(case, Verdict(case.id, ok=False, error=str(error)))
        except Exception as error:  # a plug-in's bug must not lose the other cases
            return Result(case, Verdict(case.id, ok=False, error=crash_line(error, case)))
        try:
            if not cached:
                self._save(record)
            result = self.result(case, record, cached=cached)
            if names := result.verdict.unconfirmed:
                if cached:
                    self._enter(case, claim, wait=wait)
                    record = self._stored(case) or record
                record = self._confirmed(case, record, names)
                result = self.result(case, record, cached=cached)
        except _UnsavedError as error:
            failed = Verdict(case.id, ok=False, error=f"not saved: {error}")
            return Result(case, failed, record, cached, self._published(record))
        return result

    def cut_off(self, results: Sequence[Result]) -> list[Result]:
        """Results, besides *results*, of cases that were interrupted just after saving."""
        present = {result.case.id for result in results}
        found = [(c, self._found(c)) for c in self.cases if c.id not in present]
        return [
            self.result(case, record, cached=False)
            for case, record in found
            if record is not None and record.created >= self.since
        ]

    def settled(self, results: Sequence[Result]) -> list[Result]:
        """The results of a run in the order of its cases, with p-values adjusted over all tests."""
        places = {case.id: place for place, case in enumerate(self.cases)}
        results = sorted(results, key=lambda result: places[result.case.id])
        settled = verdict.settle(
            [(r.verdict, r.case.fail_on if self.fail_on is None else self.fail_on) for r in results]
        )
        return [
            replace(r, verdict=v, options=self.options)
            for r, v in zip(results, settled, strict=True)
        ]

    def result(self, case: Case, record: Record, *, cached: bool) -> Result:
        """The result that *record* is for *case*."""
        return Result(case, self.judge(case, record), record, cached, self._published(record))

    def _published(self, record: Record) -> tuple[Row, ...]:
        """The papers' numbers for what *record* measured."""
        return tuple(published.matching(record, self._rows))

    def judge(self, case: Case, record: Record) -> Verdict:
        """Judge *record* by the baseline of *case*, its conditions, and the papers if asked to."""
        if case.for_interval:
            return Verdict(case.id, ok=True, seed_of=case.seed_of)
        was: Record | PrunebenchError | None
        try:
            was = self.baselines.load(case.id, record.environment.device)
            rules = case.rules(self.alpha, self.family, self._noise(record))
        except PrunebenchError as error:
            was, rules = error, case.rules()
        return judging.judge(
            record,
            was,
            case,
            fail_on=self.fail_on,
            conditions=self.conditions,
            rules=rules,
            rows=self._rows,
        )

    def _noise(self, record: Record) -> dict[str, float]:
        """The timing noise of this device, as ``prunebench calibrate`` measured it."""
        if record.environment.device == "cpu":
            return {}  # timings are not judged there
        known = timing_noise.load(self.store.root, record.environment.device)
        return known.effects.get(record.model_id, {}) if known else {}

    def _confirmed(self, case: Case, record: Record, names: Sequence[str]) -> Record:
        """*record*, saved with a second measurement of the timings that look worse."""
        if record.again:
            return record  # another process did it, while this one waited
        self._clock.restart()
        try:
            again = self.worker.again(case, names)
        except Exception as error:  # a plug-in's bug must not lose them here either
            why = str(error) if isinstance(error, PrunebenchError) else crash_line(error, case)
            note = f"could not be measured a second time: {why}"
            first = [record.find(name) for name in names]
            again = tuple(replace(m, value=None, samples=(), note=note) for m in first if m)
        record = replace(
            record, again=again, cost=gpu_time.added(record.cost, self._gpu_cost(case))
        )
        self._save(record)
        return record

    def _gpu_cost(self, case: Case) -> dict[str, float]:
        """The GPU time since the clock was restarted for *case*."""
        spread = case.model.device_map is not None
        return self._clock.cost(len(gpu_ids(self.worker.device, spread=spread)))

    def _save(self, record: Record) -> None:
        try:
            self.store.save(record)
        except PrunebenchError as error:
            raise _UnsavedError(str(error)) from error
        self.partials.forget(record.key)

    def _record(self, case: Case, claim: ExitStack, *, wait: bool) -> tuple[Record, bool]:
        if stored := self._stored(case):
            return stored, True
        if reason := skip_reason(case, self.worker.device):
            raise _SkippedError(reason)
        self.store.require_writable()
        self._enter(case, claim, wait=wait)
        if stored := self._stored(case):
            return stored, True  # another process was faster
        self._clock.restart()
        record = self.worker.run(case)
        return replace(record, cost={**record.cost, **self._gpu_cost(case)}), False

    def _enter(self, case: Case, claim: ExitStack, *, wait: bool) -> None:
        """Claim *case* and then its turn on the device; both are held until *claim* is closed.

        Raises:
            HeldError: if another process has claimed it and *wait* is false.
            PrunebenchError: if the store cannot be written.
        """

        def waiting(holder: str) -> None:
            self.progress(case, f"waiting for {holder}")

        # Without a content key, as before a download of its model, the claim is by the question.
        asked = json.dumps([case.id, case.asked], sort_keys=True).encode()
        key = self._key(case) or hashlib.sha256(asked).hexdigest()
        claim.enter_context(self.claims.hold(key, case.id, waiting if wait else None))
        device = self.worker.device
        devices = gpu_ids(device, spread=case.model.device_map is not None) or [device]
        claim.enter_context(turn(devices, alone=case.times, waiting=waiting))

    def _found(self, case: Case) -> Record | None:
        """The stored record; None for an error, which is reported when the case is answered."""
        try:
            return self._stored(case)
        except PrunebenchError:
            return None

    def _stored(self, case: Case) -> Record | None:
        found = self.store.find(case.id, self._key(case))
        # Both in whole seconds: a record of the second in which the run began may be older.
        if found is None or (self.fresh and found.created <= self.since):
            return None
        if found.asked == case.asked:
            return found
        # The same content under another name: the record answers both.
        found = replace(found, asked=case.asked)
        self.store.save(found)
        return found

    def _key(self, case: Case) -> str | None:
        device = self._device or (self._worker.device if self._worker else default_device())
        with watched(partial(self.progress, case)):  # a large model is hashed, once
            return answer_key.key(case, device)

    def unfinished(self) -> list[tuple[Case, SavedProgress]]:
        """The cases that an earlier run left unfinished, and how far each came.

        With *fresh* there are none: their journals are deleted.
        """
        begun = self.partials.case_ids()
        found = []
        for case in self.cases:
            if case.id not in begun:
                continue
            try:
                key = self._key(case)
            except PrunebenchError:  # reported when the case is answered
                continue
            if self.fresh or self._found(case):
                self.partials.forget(key or "")
                continue
            journal = self.partials.journal(case.id, key, case.families)
            if not journal.empty:
                found.append((case, journal.progress))
        return found


class _SkippedError(Exception):
    """The machine lacks what a case needs."""


class _UnsavedError(Exception):
    """A record was measured and cannot be saved."""

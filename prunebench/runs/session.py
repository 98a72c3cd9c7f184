"""A run over cases: reuse or make each record, save it, judge it; one case's failure is its own."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec import Struct
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

if TYPE_CHECKING:
    from .worker import Worker

OK, REGRESSION, USAGE, CRASHED, UNSURE, NOTHING, NOT_COMPARABLE = range(7)
INTERRUPTED = 130


class Result(Struct, frozen=True):
    """What became of a case.

    *cached* records were made by an earlier run; *published* are the papers' numbers about it.
    *options* are what else the command said (``command_options``).
    """

    case: Case
    verdict: Verdict
    record: Record | None = None
    cached: bool = False
    published: tuple[Row, ...] = ()
    options: str = ""

    @property
    def reproduce(self) -> str:
        """The command that measures and judges this case alone, to the same end."""
        return f"{self.case.reproduce}{self.options}"


def command_options(given: Mapping[str, object]) -> str:
    """Options as they stand in a command, a blank before each; what is not given is left out.

    Args:
        given: by their names, with the value that was given; True for a switch.
    """
    words = []
    for name, value in given.items():
        if value is True:
            words.append(name)
        elif value not in (None, False, ""):
            words.append(f"{name} {shlex.quote(str(value))}")
    return "".join(f" {word}" for word in words)


class Session:
    """Answers and judges cases; several processes may do so with one store.

    Args:
        cases: all that will be asked, so that searches and models can be shared.
        store: where records go.
        baselines: what they are compared with.
        device: a torch device; by default a GPU if there is one.
        fresh: measure again even where the store has the answer, unless it was made meanwhile.
        since: from when on an answer is fresh, as an ISO time; by default from now on.
        fail_on: outcomes that fail, instead of those that each case says.
        conditions: conditions that fail where they hold, instead of each case's.
        alpha: level of the tests, instead of what each case says.
        family: how many tests share it, where verdicts are not settled together at the end.
        options: what else the command said, for the line that repeats a case.
        progress: told of every step.

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
        self.since = since or _now()
        self.fail_on = fail_on
        self.conditions = conditions
        self.alpha = alpha
        self.family = family
        self.options = options
        self.progress = progress
        self.claims = Claims(store.root, console.print_note)
        self._clock = Clock(progress)
        # Read before anything is measured: a mistake in them is not to be found out at the end.
        models = frozenset(case.model.id for case in cases)
        self._rows = published.rows(baselines.published, models)
        begun = datetime.fromisoformat(self.since).timestamp() if fresh else 0
        self.partials = Partials(store.root, int(begun) * 10**9)
        self._device = device
        self._worker: Worker | None = None
        if device not in (None, "cpu"):
            _ = self.worker.device  # a device that is not there is the whole run's failure

    @property
    def worker(self) -> Worker:
        """Made when first needed: with every answer stored, torch is never imported."""
        if self._worker is None:
            before_torch()
            from .worker import Worker

            upcoming = [c for c in self.cases if not self._answered(c)]
            self._worker = Worker(self._device, self._clock.step, upcoming, self.partials)
        return self._worker

    def answer(self, case: Case) -> Result:
        """Run or reuse *case*, save its record, and judge it; wait for others who are at it.

        A record that cannot be saved is its case's failure: the next may be saved again, and what
        was measured stays in the result. A results folder that takes no file is found out before
        anything is measured.
        """
        with ExitStack() as claim:
            return self._answer(case, claim, wait=True)

    def attempt(self, case: Case) -> Result | None:
        """Like *answer*, but None at once where another process is answering it now."""
        try:
            with ExitStack() as claim:
                return self._answer(case, claim, wait=False)
        except HeldError:
            return None

    def reused(self, case: Case) -> Result | None:
        """The result of *case* from the store, where nothing at all has to be measured for it."""
        record = self._found(case)
        if record is None or (judged := self.judge(case, record)).unconfirmed:
            return None
        return Result(case, judged, record, cached=True, published=self.published(record))

    def answers(self, cases: Iterable[Case]) -> Iterator[Result]:
        """The results of *cases* in turn, those that other processes are answering last."""
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
            return Result(case, Verdict(case.id, ok=False, error=_bug(error, case)))
        try:
            if not cached:
                self._save(record)
            judged = self.judge(case, record)
            if judged.unconfirmed:
                if cached:
                    self._enter(case, claim, wait=wait)
                    record = self._stored(case) or record
                record = self._confirmed(case, record, judged.unconfirmed)
                judged = self.judge(case, record)
        except _UnsavedError as error:
            failed = Verdict(case.id, ok=False, error=f"not saved: {error}")
            return Result(case, failed, record, cached, self.published(record))
        return Result(case, judged, record, cached, self.published(record))

    def cut_off(self, results: Sequence[Result]) -> list[Result]:
        """The results of cases that were interrupted when their record had just been saved.

        Args:
            results: those there are.
        """
        told = {result.case.id for result in results}
        found = [(c, self._found(c)) for c in self.cases if c.id not in told]
        return [
            Result(case, self.judge(case, record), record, False, self.published(record))
            for case, record in found
            if record is not None and record.created >= self.since
        ]

    def settled(self, results: Sequence[Result]) -> list[Result]:
        """The results of a run, each test now one of all of them."""
        judged = [(r.verdict, self._fail_on(r.case)) for r in results]
        settled = verdict.settle(judged)
        own = self.options
        return [replace(r, verdict=v, options=own) for r, v in zip(results, settled, strict=True)]

    def published(self, record: Record) -> tuple[Row, ...]:
        """The papers' numbers about what *record* measured."""
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

    def _fail_on(self, case: Case) -> tuple[Outcome, ...]:
        return case.fail_on if self.fail_on is None else self.fail_on

    def _noise(self, record: Record) -> dict[str, float]:
        """What two timings of one model differ by here, as `prunebench calibrate` measured it."""
        if record.environment.device == "cpu":
            return {}  # where timings are not judged
        known = timing_noise.load(self.store.root, record.environment.device)
        return known.effects.get(record.model_id, {}) if known else {}

    def _confirmed(self, case: Case, record: Record, names: Sequence[str]) -> Record:
        """*record* with timings that look worse measured a second time, and saved so."""
        if record.again:
            return record  # by another process, while this one waited
        self._clock.restart()
        try:
            again = self.worker.again(case, names)
        except Exception as error:  # nor must a plug-in's bug here
            why = str(error) if isinstance(error, PrunebenchError) else _bug(error, case)
            note = f"could not be measured a second time: {why}"
            looked = [record.find(name) for name in names]
            again = tuple(replace(m, value=None, samples=(), note=note) for m in looked if m)
        record = replace(record, again=again, cost=gpu_time.added(record.cost, self._held(case)))
        self._save(record)
        return record

    def _held(self, case: Case) -> dict[str, float]:
        """The GPU time since the clock was set to zero for *case*."""
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
        return replace(record, cost={**record.cost, **self._held(case)}), False

    def _enter(self, case: Case, claim: ExitStack, *, wait: bool) -> None:
        """Claim *case*, and then wait for its turn on the device, until *claim* is left.

        Raises:
            HeldError: if another process has claimed it and *wait* is false.
            PrunebenchError: if the store cannot be written.
        """

        def waiting(whom: str) -> None:
            self.progress(case, f"waiting for {whom}")

        # What has no content key yet is known by its question: its model is still to be downloaded.
        asked = json.dumps([case.id, case.asked], sort_keys=True).encode()
        key = self._key(case) or hashlib.sha256(asked).hexdigest()
        claim.enter_context(self.claims.hold(key, case.id, waiting if wait else None))
        device = self.worker.device
        devices = gpu_ids(device, spread=case.model.device_map is not None) or [device]
        claim.enter_context(turn(devices, alone=case.times, waiting=waiting))

    def _answered(self, case: Case) -> bool:
        return self._found(case) is not None

    def _found(self, case: Case) -> Record | None:
        """What is stored; an error on the way to it is told where the case itself is answered."""
        try:
            return self._stored(case)
        except PrunebenchError:
            return None

    def _stored(self, case: Case) -> Record | None:
        found = self.store.find(case.id, self._key(case))
        # Both in whole seconds: one that was made in the second when the run began may be older.
        if found is None or (self.fresh and found.created <= self.since):
            return None
        if found.asked == case.asked:
            return found
        # The same content under another name: what was measured is the answer to both.
        found = replace(found, asked=case.asked)
        self.store.save(found)
        return found

    def _key(self, case: Case) -> str | None:
        device = self._device or (self._worker.device if self._worker else default_device())
        with watched(partial(self.progress, case)):  # a large model is hashed, once
            return answer_key.key(case, device)

    def going_on(self) -> list[tuple[Case, SavedProgress]]:
        """The cases that an earlier run left unfinished, and how far each came.

        With *fresh* there are none: what is kept of these cases is thrown away.
        """
        begun = self.partials.case_ids()
        found = []
        for case in self.cases:
            if case.id not in begun:
                continue
            try:
                key = self._key(case)
            except PrunebenchError:  # told where the case itself is answered
                continue
            if self.fresh or self._answered(case):
                self.partials.forget(key or "")
                continue
            journal = self.partials.journal(case.id, key, case.families)
            if not journal.empty:
                found.append((case, journal.progress))
        return found


class _SkippedError(Exception):
    """The machine lacks what a case needs."""


class _UnsavedError(Exception):
    """A record was made and cannot be written."""


def _bug(error: Exception, case: Case) -> str:
    """One line for an error that nobody foresaw; the whole traceback with PRUNEBENCH_DEBUG=1.

    The place is the last one in the method's or the metric's own file, if it got so far: deep in a
    library nobody knows whose call it was.
    """
    if os.environ.get("PRUNEBENCH_DEBUG"):
        traceback.print_exception(error)
    modules = [sys.modules.get(type(p).__module__) for p in (case.method, *case.metrics)]
    own = {getattr(module, "__file__", None) for module in modules}
    frames = traceback.extract_tb(error.__traceback__)
    last = next((f for f in reversed(frames) if f.filename in own), frames[-1])
    text = (str(error).splitlines() or [""])[0]
    place = f"{Path(last.filename).name}:{last.lineno}"
    return f"{type(error).__name__}: {text} (at {place}; PRUNEBENCH_DEBUG=1 shows all)"


def exit_code(verdicts: Iterable[Verdict], *, strict: bool = False) -> int:
    """The exit code of a run: a regression outweighs a crash, a crash outweighs doubt."""
    verdicts = list(verdicts)
    if any(not v.ok and not v.error for v in verdicts):
        return REGRESSION
    if any(v.error for v in verdicts):
        return CRASHED
    if strict and any(v.has(Outcome.NOT_COMPARABLE, Outcome.NEW) for v in verdicts):
        return NOT_COMPARABLE
    if strict and any(v.has(Outcome.UNSURE) for v in verdicts):
        return UNSURE
    return OK


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def failures(results: Iterable[Result]) -> dict[str, str]:
    """Why cases of a run have no record, by case id."""
    return {
        r.case.id: f"crashed: {v.error}" if v.error else f"skipped: {v.skipped}"
        for r in results
        if (v := r.verdict) and r.record is None
    }

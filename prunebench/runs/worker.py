"""Runs a case: load, choose, apply, measure. Compares nothing.

What a killed run needs to resume is saved in the case's journal; nothing else is written.
"""

from __future__ import annotations

import gc
import platform
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial

import torch
from msgspec.structs import replace

from ..api import Method, Metric, Target, tag
from ..case import Case, Progress, question, silent, unanswerable
from ..data import fingerprints, task_trust
from ..errors import PrunebenchError
from ..methods.dense import Dense
from ..models import surgery
from ..models.calibration import Calibration
from ..models.causal_lm import CausalLM
from ..models.loading import available, load_model
from ..plan import Plan
from ..progress import watched
from ..record import Environment, Measurement, Record, storable
from ..results import answer_key, provenance
from ..results.resume.folders import Partials, measuring, searching
from ..results.resume.journal import Journal
from ..specs import ModelSpec
from ..system import machine
from ..system.machine import PeakMemory
from ..system.nvml import Gpu
from . import conformance
from .search import Search, SharedSearches


class Worker:
    """Runs cases one after the other, sharing dense models and searches between them.

    A nested method is searched once, for the largest amount of all *upcoming* cases. The finished
    parts of a case are saved in *partials* until its record is.

    Raises:
        PrunebenchError: if there is no such device.
    """

    def __init__(
        self,
        device: str | None = None,
        progress: Progress = silent,
        upcoming: Iterable[Case] = (),
        partials: Partials | None = None,
    ) -> None:
        self.device = available(device)
        self.progress = progress
        self.upcoming = tuple(upcoming)
        self.partials = partials or Partials()
        self._model: tuple[ModelSpec, str | None, CausalLM] | None = None
        self._load_seconds = 0.0
        self._shared = SharedSearches(
            self.upcoming, self._choose, intact=lambda: self._model is not None
        )
        self._last: tuple[object, Search] | None = None
        self._answered: set[str] = set()

    def run(self, case: Case) -> Record:
        """Answer *case*.

        Raises:
            PrunebenchError: if the method or a metric refuses, with one line saying why.
        """
        if reason := unanswerable(case):
            raise PrunebenchError(reason)
        self.progress(case, "loading")
        dense = self.dense(case.model)
        key = answer_key.key(case, self.device)
        read = answer_key.inputs(case) or {}
        with closing(self.partials.journal(case.id, key, case.families)) as journal:
            search = self._search(case, dense, journal)
            start = time.perf_counter()
            self.progress(case, "pruning")
            pruned = surgery.apply(dense.share(), search.plan) if search.plan.edits else dense
            measurements: list[Measurement] = []
            for number, metric in enumerate(case.metrics):
                measurements += self._measured(case, number, metric, (pruned, dense), journal)
        self._answered.add(case.id)
        # What the case takes when run alone, whatever it shared with others or resumed.
        own = time.perf_counter() - start + journal.saved_seconds
        alone = self._load_seconds + search.seconds + own
        now = answer_key.inputs(case) or {}
        if any(was not in (None, now.get(what)) for what, was in read.items()):
            raise PrunebenchError("a file it reads was changed while it was measured; run it again")
        return Record(
            case_id=case.id,
            asked=case.asked,
            plan=search.plan.edits,
            trace=search.plan.trace,
            parameters=pruned.num_parameters,
            dense_parameters=dense.num_parameters,
            measurements=tuple(map(storable, measurements)),
            cost={**search.cost, "load_time": self._load_seconds, "case_time": alone},
            environment=environment(self.device),
            model_hash=fingerprints.model_hash(case.model) or "",
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            key=key or "",
            provenance=provenance.of(case, str(dense.hf.dtype).removeprefix("torch.")),
        )

    def _measured(
        self,
        case: Case,
        number: int,
        metric: Metric,
        models: tuple[CausalLM, CausalLM],
        journal: Journal,
    ) -> Sequence[Measurement]:
        """The measurements of a metric, from the journal as far as they are saved."""
        if (finished := journal.finished(number)) is not None:
            return finished
        self.progress(case, name := tag(metric))
        pruned, dense = models
        start, saved = time.perf_counter(), journal.saved_seconds
        named = {"dense": dense, "pruned": pruned}
        shared = partial(self._dense_journal, case, metric)
        with (
            watched(partial(self._metric_step, case, name)),
            measuring(journal, number, named, shared),
        ):
            given = metric.measure(pruned, dense)
            found = conformance.checked_measurements(given, name, dense=pruned is dense)
        seconds = time.perf_counter() - start + journal.saved_seconds - saved
        journal.save_metric(number, found, seconds)
        return found

    def _dense_journal(self, case: Case, metric: Metric) -> Journal:
        """The journal of the dense model's answers to *metric*, which all cases share."""
        method, target = Dense(), Target()
        asked = question(
            case.asked["protocol"], case.model, method, target, case.calibration, (metric,)
        )
        alone = replace(case, method=method, target=target, metrics=(metric,), asked=asked)
        return self.partials.dense(answer_key.key(alone, self.device))

    def again(self, case: Case, names: Iterable[str]) -> tuple[Measurement, ...]:
        """Measure the timings *names* of a *case* that was run, and those along with them, again.

        Raises:
            PrunebenchError: if the method or a metric refuses, with one line saying why.
        """
        families = {name.split("/")[0] for name in names}
        dense = self.dense(case.model)
        plan = self._search(case, dense, Journal()).plan
        pruned = surgery.apply(dense.share(), plan) if plan.edits else dense
        found: list[Measurement] = []
        for metric in case.metrics:
            if (name := tag(metric)) in families:
                self.progress(case, f"{name}, to confirm")
                with watched(partial(self._metric_step, case, f"{name}, to confirm")):
                    found += metric.measure(pruned, dense)
        return tuple(map(storable, found))

    def repeated(self, case: Case, metric: Metric, times: int) -> Iterator[dict[str, float]]:
        """Measure *metric* of the dense model against itself, *times* times: name to value.

        A speedup is then 1 except for this machine's noise.

        Raises:
            PrunebenchError: if the model cannot be loaded.
        """
        dense = self.dense(case.model)
        for number in range(times):
            self.progress(case, f"{tag(metric)}, {number + 1} of {times}")
            measured = metric.measure(dense.share(), dense)
            yield {m.metric: m.value for m in measured if m.value is not None and not m.note}

    def dense(self, spec: ModelSpec) -> CausalLM:
        """The dense model, loaded once for consecutive cases of the same model.

        Raises:
            PrunebenchError: if it cannot be loaded, or its files are changed meanwhile.
        """
        content = fingerprints.model_hash(spec)
        if self._model is None or self._model[:2] != (spec, content):
            self._model = None  # two large models do not fit in memory
            self._shared.clear()
            self._last = None
            gc.collect()
            start = time.perf_counter()
            loaded = load_model(
                spec.id,
                revision=spec.revision,
                dtype=spec.dtype,
                device=self.device,
                weights=spec.weights,
                device_map=spec.device_map,
            )
            self._load_seconds = time.perf_counter() - start
            now = fingerprints.model_hash(spec)
            if content not in (None, now):
                raise PrunebenchError(f"model {spec.id!r} was changed while it was loaded")
            self._model = (spec, now, loaded)
        return self._model[2]

    def _search(self, case: Case, dense: CausalLM, journal: Journal) -> Search:
        # Cases that differ only in their metrics follow each other, and share any search.
        asked = _question(case)
        if self._last is None or self._last[0] != asked:
            self._last = None  # the tensors of two plans are too many
            if (saved := journal.search()) is not None:
                plan, found = saved
                search = Search(plan, found.seconds, found.tokens, found.memory)
            else:
                with searching(journal):
                    search = self._shared.find(case, dense)
                search.seconds += journal.search_seconds
                self._save_for_others(case, dense, search)
            self._last = (asked, search)
        self._last[1].save(journal)
        return self._last[1]

    def _save_for_others(self, case: Case, dense: CausalLM, search: Search) -> None:
        """Save a search for all later cases that need it, should another run measure them.

        A sweep over amounts is searched once; killed in its first case, it must not be searched
        again for the second.
        """
        for other in self.upcoming:
            if other.id == case.id or other.id in self._answered:
                continue
            if _question(other)[:3] != _question(case)[:3]:
                continue
            same = other.target == case.target
            if (shared := search if same else self._shared.known(other, dense)) is not None:
                key = answer_key.key(other, self.device)
                with closing(self.partials.journal(other.id, key, other.families)) as journal:
                    shared.save(journal)

    def _metric_step(self, case: Case, metric: str, text: str) -> None:
        self.progress(case, f"{metric}, {text}")

    def _choose(self, case: Case, dense: CausalLM, target: Target) -> Search:
        self.progress(case, "searching")
        calibration = Calibration(case.calibration, dense)
        start = time.perf_counter()
        with (
            watched(lambda text: self.progress(case, f"searching, {text}")),
            PeakMemory(self.device) as memory,
        ):
            plan = self._chosen(case.method, dense, calibration, target)
        return Search(plan, time.perf_counter() - start, calibration.tokens, memory.added)

    def _chosen(
        self, method: Method, dense: CausalLM, calibration: Calibration, target: Target
    ) -> Plan:
        before = conformance.structure(dense)
        plan, refused = None, ""
        try:
            plan = method.choose(dense, calibration, target)
        except PrunebenchError as error:
            if conformance.structure(dense) == before:
                raise
            refused = f" and then refused: {error}"
        finally:
            if changed := conformance.structure(dense) != before:
                self._model = None  # other cases must not measure what is left of it
        if changed:
            raise PrunebenchError(f"{tag(method)}: choose() changed the dense model{refused}")
        return conformance.checked_plan(plan, tag(method))


def _question(case: Case) -> tuple[object, ...]:
    """What a plan depends on."""
    return (case.model, case.method, case.calibration, case.target)


def environment(device: str) -> Environment:
    """What of this machine affects numbers."""
    return Environment(
        device=machine.device_name(device),
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        threads=torch.get_num_threads(),
        packages=answer_key.packages(),
        commit=provenance.git()[0],
        gpu=gpu.state() if (gpu := Gpu.of(device)) else {},
        trusted=("task folders",) if task_trust.trusted() else (),
    )

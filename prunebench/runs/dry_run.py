"""What would become of cases if they were run now: where models come from, what is reused, time.

A case that ran once on this device, asked the same, takes what it took then (its record's
``case_time``). Any other is a rough guess (see ``estimate``), scaled by how far such guesses are
off for the cases of the same run that did run. Nothing here needs torch, but where a GPU has to be
asked what it is.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from ..case import Case, search_of, unanswerable
from ..cases.requirements import skip_reason
from ..data import hub
from ..data.model_config import Shape, shape_of
from ..errors import PrunebenchError
from ..record import Record
from ..results import answer_key
from ..results.resume.folders import Partials
from ..results.store import Store
from ..specs import ModelSpec
from ..system import machine
from ..system.machine import default_device
from .estimate import Parts, memory, rough

#: Seconds: importing torch and transformers once.
START = 3.0


class Outlook(Struct, frozen=True):
    """What would become of a case.

    *status* is ``run``, ``reuse`` (the store has the answer), ``skip`` (this machine lacks
    something) or ``fail``; *reason* says why for the last two. *source* is where the model is:
    ``folder``, ``hub cache``, or ``hub`` where it would be downloaded. *basis* is ``measured`` or
    ``rough``; *seconds* and *memory* (bytes on the device) are None where there is nothing to guess
    from. *kept* is how far an interrupted run came.
    """

    case_id: str
    model: str
    revision: str | None
    source: str
    folder: str | None
    datasets: tuple[str, ...]
    tasks: tuple[str, ...]
    status: str
    reason: str = ""
    parameters: int | None = None
    parts: Parts | None = None
    basis: str = ""
    memory: int | None = None
    kept: str = ""

    @property
    def seconds(self) -> float | None:
        """Seconds of the case when run alone."""
        return None if self.parts is None else self.parts.total


class Totals(Struct, frozen=True):
    """A whole run: how many cases of each status, seconds with what is shared counted once.

    *unknown* cases have no estimate and are not in *seconds*. *memory* is that of the largest.
    """

    cases: dict[str, int]
    seconds: float
    rough: bool
    unknown: int
    memory: int | None
    downloads: tuple[str, ...]


def look(
    cases: Sequence[Case], store: Store, device: str | None = None, *, fresh: bool = False
) -> list[Outlook]:
    """What would become of each of *cases* if they were run now, with these options."""
    device = device or default_device()
    outlooks = [_look(case, store, device, fresh) for case in cases]
    if not fresh:
        outlooks = _begun(cases, outlooks, store, device)
    factor = _off_by(cases, outlooks, device)
    return [
        replace(o, parts=o.parts.times(factor)) if o.parts and o.basis == "rough" else o
        for o in outlooks
    ]


def totals(cases: Sequence[Case], outlooks: Sequence[Outlook]) -> Totals:
    """The sum of what would run; a model is loaded once, and a shared search made once."""
    counts: dict[str, int] = {}
    for outlook in outlooks:
        counts[outlook.status] = counts.get(outlook.status, 0) + 1
    running = [(c, o) for c, o in zip(cases, outlooks, strict=True) if o.status == "run"]
    loads: dict[ModelSpec, float] = {}
    searches: dict[object, float] = {}
    own = 0.0
    for case, outlook in running:
        if (parts := outlook.parts) is not None:
            loads[case.model] = max(loads.get(case.model, 0), parts.load)
            key = search_of(case)
            searches[key] = max(searches.get(key, 0), parts.search)
            own += parts.own
    memories = [o.memory for _, o in running if o.memory is not None]
    away = {o.model: None for _, o in running if o.source == "hub"}
    return Totals(
        cases=counts,
        seconds=(START if running else 0) + sum(loads.values()) + sum(searches.values()) + own,
        rough=any(o.basis == "rough" for _, o in running),
        unknown=sum(o.parts is None for _, o in running),
        memory=max(memories, default=None),
        downloads=tuple(away),
    )


def _look(case: Case, store: Store, device: str, fresh: bool) -> Outlook:
    tasks = [t for m in case.metrics for t in getattr(m, "tasks", ())]
    outlook = Outlook(
        case_id=case.id,
        model=case.asked["model"]["id"],
        revision=case.model.revision,
        source="",
        folder=None,
        datasets=tuple(dict.fromkeys(case.datasets)),
        tasks=tuple(dict.fromkeys(tasks)),
        status="run",
    )
    try:
        where = hub.place(case.model.id, case.model.revision)
        folder = str(where.folder) if where.folder else None
        outlook = replace(outlook, source=where.kind, folder=folder)
        shape = shape_at_hand(case)
        if shape is not None:
            outlook = replace(outlook, parameters=shape.parameters())
        if not fresh and store.find(case.id, answer_key.key(case, device)):
            return replace(outlook, status="reuse")
        if reason := skip_reason(case, device):
            # What it would take is told all the same: people ask before they rent a GPU.
            room = memory(case, shape, "cpu") if shape else None
            return replace(outlook, status="skip", reason=reason, memory=room)
        hub.require(case.model.id, case.model.revision, weights=case.model.weights is None)
        if reason := unanswerable(case):
            return replace(outlook, status="fail", reason=reason)
        if where.kind == "hub cache" and case.model.weights is None:
            assert where.folder is not None  # noqa: S101  # that is what the kind means
            if not hub.complete(where.folder):
                outlook = replace(outlook, source="hub")
    except PrunebenchError as error:
        return replace(outlook, status="fail", reason=str(error))
    if shape is not None:
        outlook = replace(outlook, memory=memory(case, shape, device))
    if (before := _measured(case, store, device)) is not None:
        return replace(outlook, parts=before, basis="measured")
    if shape is None:
        return outlook
    return replace(outlook, parts=rough(case, shape, device), basis="rough")


def _begun(
    cases: Sequence[Case], outlooks: Sequence[Outlook], store: Store, device: str
) -> list[Outlook]:
    """*outlooks* with how far an interrupted run came."""
    partials = Partials(store.root)
    begun = partials.case_ids()
    told = []
    for case, outlook in zip(cases, outlooks, strict=True):
        kept = ""
        if case.id in begun and outlook.status == "run":
            journal = partials.journal(case.id, answer_key.key(case, device), case.families)
            kept = "" if journal.empty else str(journal.progress)
        told.append(replace(outlook, kept=kept))
    return told


def shape_at_hand(case: Case) -> Shape | None:
    """The dense model's shape, where its config is at hand and its family known."""
    try:
        config = hub.config(case.model.id, case.model.revision)
        return None if config is None else shape_of(config)
    except PrunebenchError:
        return None


def _measured(case: Case, store: Store, device: str) -> Parts | None:
    """What the same question took when it was last answered on this device."""
    records = store.answers(case.id, case.asked, machine.device_name(device))
    return next((p for r in records if (p := _parts(r)) is not None), None)


def _parts(record: Record) -> Parts | None:
    cost = record.cost
    if "case_time" not in cost:
        return None  # written before cases were timed
    load, search = cost.get("load_time", 0.0), cost.get("search_time", 0.0)
    return Parts(load, search, max(0.0, cost["case_time"] - load - search))


def _off_by(cases: Sequence[Case], outlooks: Sequence[Outlook], device: str) -> float:
    """By how much the measured cases of a run take longer than guessed; 1 where none was."""
    ratios = []
    for case, outlook in zip(cases, outlooks, strict=True):
        if outlook.basis == "measured" and (shape := shape_at_hand(case)) and outlook.parts:
            ratios.append(outlook.parts.total / rough(case, shape, device).total)
    return statistics.median(ratios) if ratios else 1.0

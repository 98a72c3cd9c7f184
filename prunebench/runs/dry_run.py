"""What a run of cases would do: which models it reads, what it reuses, memory, measured times.

Times are those that a stored record of the same question on this device measured; none is guessed.
Torch is imported only to ask a GPU for its name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from msgspec import Struct
from msgspec.structs import replace

from ..case import Case, search_key, unanswerable
from ..cases.requirements import skip_reason
from ..data import hub
from ..data.model_config import Shape, shape_of
from ..errors import PrunebenchError
from ..results import answer_key
from ..results.resume.folders import Partials
from ..results.store import Store
from ..specs import ModelSpec
from ..system import machine
from ..system.machine import default_device
from .estimate import memory


class Parts(Struct, frozen=True):
    """Measured seconds of a case: loading the model, the search, and everything else.

    Cases of one model share *load*, and cases of one search share *search*.
    """

    load: float
    search: float
    own: float


class Outlook(Struct, frozen=True):
    """What a run would do with one case.

    *status* is ``run``, ``reuse`` (the store has the answer), ``skip`` (this machine lacks
    something) or ``fail``; *reason* says why for the last two. *source* is where the model is:
    ``folder``, ``hub cache``, or ``hub`` where it would be downloaded. *parts* is None where no
    record says how long the case takes; *memory* (bytes on the device) is None for an unknown
    config. *kept* is how far an interrupted run came.
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
    memory: int | None = None
    kept: str = ""

    @property
    def seconds(self) -> float | None:
        """Seconds that the case took when run alone; None where that was not measured."""
        return None if (p := self.parts) is None else p.load + p.search + p.own


class Totals(Struct, frozen=True):
    """A whole run: how many cases of each status, and measured seconds.

    A model's load and a search count once for all cases that share them. *unknown* cases were never
    measured and are not in *seconds*. *memory* is that of the largest case.
    """

    cases: dict[str, int]
    seconds: float
    unknown: int
    memory: int | None
    downloads: tuple[str, ...]


def look(
    cases: Sequence[Case], store: Store, device: str | None = None, *, fresh: bool = False
) -> list[Outlook]:
    """What a run with these options would do with each of *cases*."""
    device = device or default_device()
    partials = Partials(store.root)
    begun = set() if fresh else partials.case_ids()
    found = []
    for case in cases:
        outlook = _look(case, store, device, fresh)
        if case.id in begun and outlook.status == "run":
            journal = partials.journal(case.id, answer_key.key(case, device), case.families)
            outlook = replace(outlook, kept="" if journal.empty else str(journal.progress))
        found.append(outlook)
    return found


def totals(cases: Sequence[Case], outlooks: Sequence[Outlook]) -> Totals:
    """The sum over *outlooks*."""
    running = [(c, o) for c, o in zip(cases, outlooks, strict=True) if o.status == "run"]
    loads: dict[ModelSpec, float] = {}
    searches: dict[object, float] = {}
    own = 0.0
    for case, outlook in running:
        if (parts := outlook.parts) is not None:
            search = search_key(case)
            loads[case.model] = max(loads.get(case.model, 0), parts.load)
            searches[search] = max(searches.get(search, 0), parts.search)
            own += parts.own
    return Totals(
        cases=dict(Counter(o.status for o in outlooks)),
        seconds=sum(loads.values()) + sum(searches.values()) + own,
        unknown=sum(o.parts is None for _, o in running),
        memory=max((o.memory for _, o in running if o.memory is not None), default=None),
        downloads=tuple(dict.fromkeys(o.model for _, o in running if o.source == "hub")),
    )


def _look(case: Case, store: Store, device: str, fresh: bool) -> Outlook:
    shape = _shape(case)
    outlook = Outlook(
        case_id=case.id,
        model=case.asked["model"]["id"],
        revision=case.model.revision,
        source="",
        folder=None,
        datasets=tuple(dict.fromkeys(case.datasets)),
        tasks=tuple(dict.fromkeys(t for m in case.metrics for t in getattr(m, "tasks", ()))),
        status="run",
        parameters=shape.parameters() if shape else None,
    )
    try:
        place = hub.place(case.model.id, case.model.revision)
        folder = str(place.folder) if place.folder else None
        outlook = replace(outlook, source=place.kind, folder=folder)
        if not fresh and store.find(case.id, answer_key.key(case, device)):
            return replace(outlook, status="reuse")
        if reason := skip_reason(case, device):
            # Reported for skipped cases too: people ask before they rent a GPU.
            needed = memory(case, shape, "cpu") if shape else None
            return replace(outlook, status="skip", reason=reason, memory=needed)
        hub.require(case.model.id, case.model.revision, weights=case.model.weights is None)
        if reason := unanswerable(case):
            return replace(outlook, status="fail", reason=reason)
        if place.kind == "hub cache" and case.model.weights is None:
            assert place.folder is not None  # noqa: S101  # that is what the kind means
            if not hub.complete(place.folder):
                outlook = replace(outlook, source="hub")
    except PrunebenchError as error:
        return replace(outlook, status="fail", reason=str(error))
    if shape is not None:
        outlook = replace(outlook, memory=memory(case, shape, device))
    return replace(outlook, parts=_measured(case, store, device))


def _shape(case: Case) -> Shape | None:
    """The dense model's sizes; None where its config is not on this machine or not understood."""
    try:
        config = hub.config(case.model.id, case.model.revision)
        return None if config is None else shape_of(config)
    except PrunebenchError:
        return None


def _measured(case: Case, store: Store, device: str) -> Parts | None:
    """How long the same question took when it was last answered on this device."""
    for record in store.answers(case.id, case.asked, machine.device_name(device)):
        cost = record.cost
        if "case_time" in cost:  # older versions did not time cases
            load, search = cost.get("load_time", 0.0), cost.get("search_time", 0.0)
            return Parts(load, search, max(0.0, cost["case_time"] - load - search))
    return None

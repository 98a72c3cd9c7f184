"""The rounds of SPRINT's search, saved after each removal and restored in a resumed run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec
import torch
from msgspec import Struct

from .. import resume
from ..models.modeling import replace
from ..plan import Step
from ..progress import say
from ._sprint_amount import Amount
from ._sprint_scores import Fit, Removal, Search


class _State(Struct, frozen=True):
    """The state of a search between two removals, except tensors."""

    trace: list[Step]
    noise: float
    #: Removed sublayers, and the module that was fitted for each, or an empty text.
    removed: list[tuple[int, str]]
    #: Candidate, module and score of each fit.
    fits: list[tuple[int, int, float]]
    pseudo: list[float]
    ends: list[int]
    holds: list[bool]
    start: int
    halves: int
    #: The sublayers whose entering hidden states are known; they are computed again.
    places: list[int]


def rounds(search: Search, amount: Amount) -> Iterator[None]:
    """One item per removal that is still to be made; what a round removed is saved after it."""
    _restore(search)
    while not amount.reached(search):
        of = f" of {amount.sublayers}" if amount.sublayers is not None else ""
        say(f"removal {len(search.removed) + 1}{of}")
        yield
        _save(search, amount.sublayers or 0)


def _save(search: Search, count: int) -> None:
    """Save the state of *search*; *count* is the number of removals in all, 0 if unknown."""
    state = _State(
        search.trace,
        search.noise,
        [(r.sublayer, r.module) for r in search.removed],
        [(s, fit.at, fit.score) for s, fit in search.fits.items()],
        search.pseudo,
        search.ends,
        search.holds,
        search.start,
        search.stream.halves,
        sorted(search.saved[0]),
    )
    tensors = {f"fit {s}": fit.weight for s, fit in search.fits.items()}
    fitted = {f"removal {i}": r.weight for i, r in enumerate(search.removed)}
    tensors |= {name: weight for name, weight in fitted.items() if weight is not None}
    resume.save_state(msgspec.to_builtins(state), tensors, len(search.trace), count)


def _restore(search: Search) -> None:
    """Put a new *search* into the state that an earlier run saved, if one did."""
    if (saved := resume.state()) is None:
        return
    data, tensors = saved
    state = msgspec.convert(data, _State)
    device = search.lm.device
    search.trace, search.noise, search.start = state.trace, state.noise, state.start
    search.pseudo, search.ends, search.holds = state.pseudo, state.ends, state.holds
    for i, (s, module) in enumerate(state.removed):
        weight = tensors[f"removal {i}"].to(device) if module else None
        search.alive[s] = False
        search.removed.append(Removal(s, module, weight))
        if weight is not None:
            replace(search.lm.hf.get_submodule(module), "weight", weight)
    search.fits = {s: Fit(at, tensors[f"fit {s}"].to(device), score) for s, at, score in state.fits}
    _recompute(search, state.places)
    search.stream.halves = state.halves


def _recompute(search: Search, places: Sequence[int]) -> None:
    """The hidden states that enter the sublayers numbered *places*."""
    with torch.no_grad():
        for batch, saved in zip(search.stream.batches, search.saved, strict=True):
            hidden = batch.entering
            for s in range(max(places)):
                if search.alive[s]:
                    hidden = search.half(batch, s, hidden)
                if s + 1 in places:
                    saved[s + 1] = hidden

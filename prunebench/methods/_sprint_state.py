"""Where SPRINT's search stands between two removals: kept, and taken up again."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import torch
from msgspec import Struct

from .. import resume
from ..models.modeling import replace
from ..plan import Step
from ._sprint_scores import Fit, Removal, Search


class _Standing(Struct, frozen=True):
    """What a search knows besides tensors."""

    trace: list[Step]
    noise: float
    #: What went, and the module that was fitted for it, or an empty text.
    removed: list[tuple[int, str]]
    #: Module and score of the fit of each candidate that has one.
    fits: list[tuple[int, int, float]]
    pseudo: list[float]
    ends: list[int]
    holds: list[bool]
    start: int
    halves: int
    #: Where hidden states are known; they are run again.
    places: list[int]


def save(search: Search, trace: Sequence[Step], noise: float, count: int) -> None:
    """Keep where *search* stands, of *count* removals if that is known."""
    standing = _Standing(
        list(trace),
        noise,
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
    went = {f"removal {i}": r.weight for i, r in enumerate(search.removed)}
    tensors |= {name: weight for name, weight in went.items() if weight is not None}
    resume.save_state(msgspec.to_builtins(standing), tensors, len(trace), count)


def restore(search: Search) -> tuple[list[Step], float]:
    """Put a new *search* where an earlier run left it; the removals so far, and the noise."""
    if (before := resume.state()) is None:
        return [], 0.0
    data, tensors = before
    standing = msgspec.convert(data, _Standing)
    device = search.lm.device
    search.pseudo, search.ends, search.holds = standing.pseudo, standing.ends, standing.holds
    search.start = standing.start
    for i, (s, module) in enumerate(standing.removed):
        weight = tensors[f"removal {i}"].to(device) if module else None
        search.alive[s] = False
        search.removed.append(Removal(s, module, weight))
        if weight is not None:
            replace(search.lm.hf.get_submodule(module), "weight", weight)
    search.fits = {
        s: Fit(at, tensors[f"fit {s}"].to(device), score) for s, at, score in standing.fits
    }
    _run_again(search, standing.places)
    search.stream.halves = standing.halves
    return standing.trace, standing.noise


def _run_again(search: Search, places: Sequence[int]) -> None:
    """The hidden states that enter the sublayers numbered *places*."""
    with torch.no_grad():
        for batch, saved in zip(search.stream.batches, search.saved, strict=True):
            hidden = batch.entering
            for s in range(max(places)):
                if search.alive[s]:
                    hidden = search.half(batch, s, hidden)
                if s + 1 in places:
                    saved[s + 1] = hidden

"""How many sublayers SPRINT removes, and the plan that removes them."""

from __future__ import annotations

import warnings

from ..api import Target
from ..edits.drop_sublayers import DropSublayers
from ..edits.refit_weights import RefitWeights
from ..errors import PrunebenchError, PrunebenchWarning
from ..models.causal_lm import CausalLM
from ..models.tensors import Tensors
from ..plan import Plan
from ..search import require_at_most
from ._sprint_scores import Search
from ._sublayers import sublayer


class Amount:
    """How much a search removes: a number of sublayers, a sparsity, or until a speedup is reached.

    Args:
        lm: the dense model.
        target: the amount; with a *speedup* it is only compared with the result.
        speedup: the estimated speedup to reach, or None.
        keep_last: whether the last MLP must stay, because nothing after it can be fitted.

    Raises:
        PrunebenchError: if that much may not be removed.
    """

    def __init__(
        self, lm: CausalLM, target: Target, speedup: float | None, *, keep_last: bool
    ) -> None:
        self.lm = lm
        self.target = target
        self.speedup = speedup
        #: The number of sublayers where it is known beforehand.
        self.sublayers = target.sublayers if speedup is None else None
        if speedup is None:
            self._check(2 * len(lm.blocks) - keep_last, keep_last)

    def _check(self, most: int, keep_last: bool) -> None:
        if self.sublayers is None:
            asked = self.target.required_sparsity("sublayers")
            reachable = self.lm.gone([sublayer(s) for s in range(most)])[-1]
            if asked > reachable:
                raise PrunebenchError(
                    f"sparsity {asked:g} is asked for, but all sublayers that may go are "
                    f"{reachable:.3f} of the parameters"
                )
        else:
            why = "the last MLP is kept for its fit" if keep_last else "there are no more"
            total = 2 * len(self.lm.blocks)
            require_at_most(most, self.sublayers, f"of {total} sublayers", why)

    def reached(self, search: Search) -> bool:
        """Whether *search* has removed enough."""
        if self.speedup is not None:
            return search.speedup >= self.speedup
        if self.sublayers is not None:
            return len(search.removed) >= self.sublayers
        return self._sparsities(search)[-1] >= (self.target.sparsity or 0.0)

    def count(self, search: Search) -> int:
        """How many of the removals of a finished *search* make the amount.

        It may have removed more: the last one may overshoot a sparsity, and an earlier run may have
        been on its way to a larger amount. A speedup takes all; if the target differs, it warns.
        """
        removed = len(search.removed)
        asked = self.target.sublayers
        if self.target.sparsity is not None:
            asked = self.target.nearest(self._sparsities(search))
        if self.speedup is None:
            return removed if asked is None else min(removed, asked)
        if asked not in (None, removed):
            warnings.warn(
                f"target_speedup {self.speedup:g} removes {removed} sublayers, which is not the "
                f"amount asked for; the speedup decides",
                PrunebenchWarning,
                stacklevel=3,
            )
        return removed

    def _sparsities(self, search: Search) -> list[float]:
        """The sparsity after 0, 1, 2, ... removals."""
        return self.lm.gone([sublayer(r.sublayer) for r in search.removed])


def plan_of(search: Search, count: int, latencies: tuple[float, ...]) -> Plan:
    """The plan of the first *count* removals of *search*, and of what was fitted for them.

    Args:
        search: a finished search.
        count: how many removals.
        latencies: milliseconds of an attention and of an MLP if they were measured, else empty.
    """
    removed = search.removed[:count]
    if not removed:
        return Plan()
    drop = DropSublayers(tuple(sublayer(r.sublayer) for r in removed), *latencies)
    trace = tuple(search.trace[:count])
    absent = {r.sublayer for r in removed}
    # A later fit of a module replaces an earlier one; a module that was removed itself has none.
    weights = {
        r.module: r.weight
        for r in removed
        if r.weight is not None and search.position[r.module] not in absent
    }

    def shorten(count: int) -> Plan:
        return plan_of(search, count, latencies)

    if not weights:
        return Plan((drop,), trace, shorten=shorten)
    tensors = Tensors()
    modules = tuple(sorted(weights, key=search.position.__getitem__))
    refit = RefitWeights(modules, tensors.add(weights))
    return Plan((drop, refit), trace, tensors, shorten)

"""Shares a search between cases: a nested method is searched once, for the largest amount."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct

from ..api import Target
from ..case import Case, serves_all_amounts
from ..errors import PrunebenchError
from ..plan import Plan
from ..results.resume.journal import Journal

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class Search(Struct):
    """A plan with the cost of finding it; *amount* is what was searched for."""

    plan: Plan
    seconds: float
    tokens: int
    memory: int | None
    amount: float = 0.0

    @property
    def cost(self) -> dict[str, float]:
        """Seconds, block forwards, calibration tokens, and bytes where they were measured.

        Cases that share a search each have the cost of all of it.
        """
        memory = {} if self.memory is None else {"search_memory": self.memory}
        return {
            "search_time": self.seconds,
            "block_forwards": sum(step.block_forwards for step in self.plan.trace),
            "calibration_tokens": self.tokens,
            **memory,
        }

    def cut(self, case: Case, dense: CausalLM) -> Search:
        """This search stopped at the amount of *case*."""
        kind, amount = amount_of(case, dense)
        size = int(amount)
        if kind == "sparsity":
            removed = [unit for edit in self.plan for unit in edit.units()]
            size = case.target.nearest(dense.gone(removed))
        return Search(self.plan.prefix(size), self.seconds, self.tokens, self.memory)

    def save(self, journal: Journal) -> None:
        """Save it where a later run of the case finds it."""
        journal.save_search(self.plan, self.seconds, self.tokens, self.memory)


class SharedSearches:
    """The searches of one dense model that serve several amounts.

    *choose* runs a search of a case's method for a target; the largest amount of *upcoming* cases
    is searched. *intact* says whether the dense model may still be searched after a failure.
    """

    def __init__(
        self,
        upcoming: Sequence[Case],
        choose: Callable[[Case, CausalLM, Target], Search],
        intact: Callable[[], bool],
    ) -> None:
        self._upcoming = upcoming
        self._choose = choose
        self._intact = intact
        self._searches: dict[tuple[object, ...], Search] = {}

    def clear(self) -> None:
        """Forget all searches, as for another dense model."""
        self._searches.clear()

    def known(self, case: Case, dense: CausalLM) -> Search | None:
        """A finished search that serves *case*, for its amount or a larger one."""
        if not serves_all_amounts(case.method):
            return None
        kind, amount = amount_of(case, dense)
        search = self._searches.get(_key(case, kind))
        return None if search is None or search.amount < amount else search.cut(case, dense)

    def find(self, case: Case, dense: CausalLM) -> Search:
        """The search of *case*: a finished one, or a new one that serves later cases as well."""
        if not serves_all_amounts(case.method):
            return self._choose(case, dense, case.target)
        if (search := self.known(case, dense)) is not None:
            return search
        kind, amount = amount_of(case, dense)
        same = [c for c in self._upcoming if _key(c, kind) == _key(case, kind)]
        amounts = [amount_of(other, dense) for other in same]
        largest = max([amount, *(size for of, size in amounts if of == kind)])
        try:
            search = self._choose(case, dense, Target(**{kind: largest}))  # type: ignore[arg-type]
        except PrunebenchError:
            if largest <= amount or not self._intact():
                raise
            # A larger amount that cannot be reached is that case's failure, not this one's.
            largest = amount
            search = self._choose(case, dense, Target(**{kind: amount}))  # type: ignore[arg-type]
        search.amount = largest
        self._searches[_key(case, kind)] = search
        return search.cut(case, dense)


def amount_of(case: Case, dense: CausalLM) -> tuple[str, float]:
    """What the amount of a nested search counts, and how much of it *case* asks for.

    A sparsity gives the number of blocks at once. How many sublayers reach it is known only when
    they are chosen: an attention is not as large as an MLP.
    """
    if case.method.unit == "blocks":
        return "blocks", case.target.block_count(dense)
    if case.target.sublayers is not None:
        return "sublayers", case.target.sublayers
    return "sparsity", case.target.sparsity or 0.0


def _key(case: Case, kind: str) -> tuple[object, ...]:
    """What a shared search depends on; *kind* says what its amount counts."""
    return case.model, case.method, case.calibration, kind

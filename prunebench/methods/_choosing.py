"""How methods pick from scores: the tie rule, the margin to the runner-up, refusals."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TypeVar

from msgspec.structs import replace

from ..edits.drop_blocks import DropBlocks
from ..errors import PrunebenchError, SearchError
from ..models.causal_lm import CausalLM
from ..plan import Plan, Step, Sublayer

NO_SCORE = "no candidate has a finite score; is the model sound in this dtype?"

Unit = TypeVar("Unit", int, Sublayer)


def lowest(scores: Mapping[Unit, float]) -> tuple[Unit, float | None, Unit | None]:
    """The candidate with the lowest score, its distance to the runner-up, and the runner-up.

    Ties go to the lowest unit; a score that is not finite is never chosen.

    Raises:
        SearchError: if no score is finite.
    """
    ranked = sorted((score, unit) for unit, score in scores.items() if math.isfinite(score))
    if not ranked:
        raise SearchError(NO_SCORE)
    margin = ranked[1][0] - ranked[0][0] if len(ranked) > 1 else None
    second = ranked[1][1] if len(ranked) > 1 else None
    return ranked[0][1], margin, second


def choice(
    step: int, scores: Mapping[int, float], noise: float, block_forwards: int
) -> tuple[int, Step]:
    """Pick the lowest score, and record how it was picked."""
    chosen, margin, second = lowest(scores)
    kept = {str(block): finite(score) for block, score in scores.items()}
    runner_up = None if second is None else str(second)
    return chosen, Step(step, kept, str(chosen), margin, noise, block_forwards, runner_up)


def one_shot(
    scores: Mapping[int, float],
    candidates: Iterable[int],
    count: int,
    noise: float,
    block_forwards: int,
) -> Plan:
    """The plan that takes the *count* lowest of *candidates*; the trace tells all *scores* once."""
    if not count:
        return Plan()
    left = {block: scores[block] for block in candidates}
    trace: list[Step] = []
    for step in range(count):
        chosen, made = choice(step, left, noise, 0 if step else block_forwards)
        trace.append(made)
        del left[chosen]
    trace[0] = replace(trace[0], scores={str(b): finite(s) for b, s in scores.items()})
    return Plan((DropBlocks(tuple(int(step.chosen) for step in trace)),), tuple(trace))


def finite(score: float) -> float | None:
    """*score*, or None where JSON has no word for it."""
    return score if math.isfinite(score) else None


def removable(lm: CausalLM, count: int, keep_first: int, keep_last: int) -> range:
    """The blocks that may go, if *count* of them may.

    Raises:
        PrunebenchError: if fewer may.
    """
    total = len(lm.blocks)
    candidates = range(keep_first, total - keep_last)
    if count > len(candidates):
        raise PrunebenchError(
            f"{count} of {total} blocks are to go, but at most {len(candidates)} may: "
            f"the first {keep_first} and the last {keep_last} are kept"
        )
    return candidates

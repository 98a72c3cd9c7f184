"""Search: what methods share that remove blocks, or halves of blocks, by a score.

A method computes the scores. The tie rule, the margin to the runner-up, the noise, the trace,
progress messages and resuming after a kill are here, for every method alike.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec.structs import replace

from . import resume
from .edits.drop_blocks import DropBlocks
from .edits.drop_sublayers import DropSublayers
from .errors import PrunebenchError, SearchError
from .plan import Plan, Step, Sublayer, name
from .progress import say

if TYPE_CHECKING:
    from torch import Tensor

NO_SCORE = "no candidate has a finite score; is the model sound in this dtype?"

Unit = TypeVar("Unit", int, Sublayer)


class Stream(Protocol):
    """What a greedy search needs of ``models.stream.Stream``."""

    @property
    def forwards(self) -> int:
        """Block-forwards so far: one block on one window counts one."""

    def noise(self) -> float:
        """How far a score moves when only the batching changes."""


def greedy(
    stream: Stream,
    candidates: Iterable[Unit],
    count: int,
    score: Callable[[Sequence[Unit]], Mapping[Unit, float]],
    remove: Callable[[Unit], None],
) -> Plan:
    """Remove the candidate with the lowest score, then score those that are left, *count* times.

    Every removal is saved. A resumed search repeats the saved removals without scoring, except the
    last one: *score* runs once more there, so that what it caches is as it was.

    Args:
        stream: counts block-forwards and measures the noise of a score.
        candidates: the blocks, or sublayers such as ``(3, "attn")``, that may go; ascending.
        count: how many to remove.
        score: the scores of the candidates that are left, on the model without what was removed.
        remove: removes a candidate from that model for good.

    Raises:
        SearchError: if no score is finite.
    """
    left = list(candidates)
    units = {name(unit): unit for unit in left}
    noise = noise_of(stream)
    saved = resume.steps()[:count]
    trace: list[Step] = []
    for number in range(count):
        say(f"removal {number + 1} of {count}")
        if number < len(saved):
            step = saved[number]
            if number == len(saved) - 1 < count - 1:
                score(left)
        else:
            before = stream.forwards
            scores = score(left)
            step = choice(number, scores, noise, stream.forwards - before)
            resume.save_step(step, count)
        trace.append(step)
        remove(units[step.chosen])
        left.remove(units[step.chosen])
    return drop([units[step.chosen] for step in trace], trace)


def one_shot(
    scores: Mapping[Unit, float],
    candidates: Iterable[Unit],
    count: int,
    noise: float,
    block_forwards: int,
) -> Plan:
    """Remove the *count* lowest of *candidates*; the first step of the trace has all *scores*.

    Raises:
        SearchError: if fewer scores are finite.
    """
    left = {unit: scores[unit] for unit in candidates}
    units = {name(unit): unit for unit in left}
    trace: list[Step] = []
    for number in range(count):
        trace.append(choice(number, left, noise, 0 if number else block_forwards))
        del left[units[trace[-1].chosen]]
    if trace:
        trace[0] = replace(trace[0], scores={name(u): finite(s) for u, s in scores.items()})
    return drop([units[step.chosen] for step in trace], trace)


def drop(removed: Sequence[Unit], trace: Sequence[Step] = ()) -> Plan:
    """The plan that drops the blocks or sublayers *removed*, in that order; empty for none."""
    if not removed:
        return Plan()
    units = tuple(removed)
    edit = DropBlocks(units) if isinstance(units[0], int) else DropSublayers(units)
    return Plan((edit,), tuple(trace))


def removable(total: int, count: int, keep_first: int, keep_last: int) -> range:
    """The blocks of *total* that may be removed, if *count* of them may.

    Raises:
        PrunebenchError: if fewer may.
    """
    candidates = range(keep_first, total - keep_last)
    why = f"the first {keep_first} and the last {keep_last} are kept"
    require_at_most(len(candidates), count, f"of {total} blocks", why)
    return candidates


def require_at_most(most: int, count: int, of: str, why: str) -> None:
    """Refuse to remove *count* units (*of* says of what) if at most *most* may be removed.

    Raises:
        PrunebenchError: saying so, and *why*.
    """
    if count > most:
        raise PrunebenchError(f"{count} {of} are to go, but at most {most} may: {why}")


def noise_of(stream: Stream) -> float:
    """The noise of *stream*, measured once for a search."""
    return float(resume.part("noise", stream.noise))


def scored_twice(
    score: Callable[[Tensor, int | None], list[float]], windows: Tensor
) -> tuple[dict[int, float], float]:
    """The score of every block, and the most that one moves when only the batching changes.

    Args:
        score: the blocks' scores on windows, at most so many at a time (None: as many as fit).
        windows: token ids, (windows, length).
    """
    first = resume.part("round 1", lambda: score(windows, None), of=2)
    second = resume.part("round 2", lambda: score(windows.flip(0), 1), of=2)
    return dict(enumerate(first)), max(abs(a - b) for a, b in zip(first, second, strict=True))


def choice(number: int, scores: Mapping[Unit, float], noise: float, block_forwards: int) -> Step:
    """Choose the candidate with the lowest score, and record how it was chosen.

    Raises:
        SearchError: if no score is finite.
    """
    chosen, margin, second = lowest(scores)
    by_name = {name(unit): finite(score) for unit, score in scores.items()}
    runner_up = None if second is None else name(second)
    return Step(number, by_name, name(chosen), margin, noise, block_forwards, runner_up)


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


def finite(score: float) -> float | None:
    """*score*, or None where it is not finite: JSON has no word for that."""
    return score if math.isfinite(score) else None

"""Two runs of lm-eval side by side: the questions that both have, and what cannot be compared.

Questions are paired by the hash that lm-eval gives each (``lm_results``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from msgspec.structs import replace

from ..record import Environment, Measurement, Record
from .lm_eval_files import Answer, Results, Score, Task


class Unpaired(NamedTuple):
    """Two scores without samples; a *diagnostic* one helps to understand another."""

    metric: str
    unit: str
    now: Score
    was: Score
    diagnostic: bool = False


class Aligned(NamedTuple):
    """Two runs as far as they can be compared.

    *now* and *was* are records of the questions that both have; *unpaired* are scores without
    samples; *apart* says per task why it is not comparable; *notes* what else a reader should know.
    """

    now: Record
    was: Record
    unpaired: list[Unpaired]
    apart: dict[str, str]
    notes: list[str]

    def whole(self) -> tuple[Record, Record]:
        """Both records with the scores that have no samples."""
        now, was = self.now.measurements, self.was.measurements
        for one in self.unpaired:
            now += (Measurement(one.metric, one.now.value, one.unit, "higher"),)
            was += (Measurement(one.metric, one.was.value, one.unit, "higher"),)
        return replace(self.now, measurements=now), replace(self.was, measurements=was)


def align(now: Results, was: Results, case_id: str) -> Aligned:
    """Pair the questions of two runs, and say which cannot be compared and why."""
    found = Aligned(_record(case_id, now), _record(case_id, was), [], {}, [])
    pairs: list[tuple[Measurement, Measurement]] = []
    for task in [*now.tasks, *(t for t in was.tasks if t not in now.tasks)]:
        mine, old = now.tasks.get(task), was.tasks.get(task)
        if mine is None or old is None:
            continue  # its scores are on one side only, as those of a metric may be
        if why := _why_apart(mine, old, now, was):
            found.apart[task] = why
            continue
        for name in (n for n in mine.scores if n in old.scores):
            if name not in mine.answers or name not in old.answers:
                scores = mine.scores[name], old.scores[name]
                found.unpaired.append(Unpaired(name, _unit(name), *scores))
                asked = [str(score.questions or "?") for score in scores]
                if asked[0] != asked[1]:
                    found.notes.append(f"{name}: of {asked[0]} questions, was of {asked[1]}")
                continue
            both, only = _pairs(mine.answers[name], old.answers[name])
            pairs.append(
                (_measured(name, [a for a, _ in both]), _measured(name, [a for _, a in both]))
            )
            if any(only):
                each = f"{only[1]} only in A, {only[0]} only in B"
                found.notes.append(f"{name}: {len(both)} questions on both sides, {each}")
    pairs = _with_mean(pairs)
    alone = [_alone(*side, found.apart) for side in ((now, was), (was, now))]
    return found._replace(
        now=replace(found.now, measurements=(*(p[0] for p in pairs), *alone[0])),
        was=replace(found.was, measurements=(*(p[1] for p in pairs), *alone[1])),
        unpaired=_with_mean_score(found.unpaired),
    )


def _alone(run: Results, other: Results, apart: Mapping[str, str]) -> Iterator[Measurement]:
    """What only *run* measured."""
    for name, task in run.tasks.items():
        theirs = other.tasks[name].scores if name in other.tasks else {}
        for metric, score in task.scores.items() if name not in apart else ():
            if metric not in theirs:
                yield Measurement(metric, score.value, _unit(metric), "higher")


def _instead(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The accuracies that are averaged, and per name which other one is judged in its place.

    Of a task's accuracies the normalised one counts, and of several tasks their mean.
    """
    names = list(names)
    meant = {n: n for n in names if n.startswith("accuracy/")}
    meant |= {n: f"{n}-norm" for n in meant if f"{n}-norm" in meant}
    tasks = [n for n in names if meant.get(n) == n]
    mean = "accuracy/mean" if len(tasks) > 1 else ""
    instead = {n: mean if meant.get(n) == n else meant.get(n, "") for n in names}
    return tasks if mean else [], instead


def _with_mean(
    pairs: list[tuple[Measurement, Measurement]],
) -> list[tuple[Measurement, Measurement]]:
    """The mean of the tasks' accuracies too, which is judged in their place."""
    tasks, instead = _instead(now.metric for now, _ in pairs)
    marked = [
        (replace(now, instead=instead[now.metric]), replace(was, instead=instead[now.metric]))
        for now, was in pairs
    ]
    if tasks:
        own = [pair for pair in pairs if pair[0].metric in tasks]
        marked.append((_mean([now for now, _ in own]), _mean([was for _, was in own])))
    return marked


def _mean(tasks: Sequence[Measurement]) -> Measurement:
    value = fmean(m.value for m in tasks if m.value is not None)
    samples = tuple(s for m in tasks for s in m.samples)
    return Measurement("accuracy/mean", value, "acc", "higher", samples, paired=True)


def _with_mean_score(found: list[Unpaired]) -> list[Unpaired]:
    tasks, instead = _instead(one.metric for one in found)
    marked = [one._replace(diagnostic=bool(instead[one.metric])) for one in found]
    if tasks:
        own = [one for one in found if one.metric in tasks]
        now, was = _mean_score([t.now for t in own]), _mean_score([t.was for t in own])
        marked.append(Unpaired("accuracy/mean", "acc", now, was))
    return marked


def _mean_score(scores: Sequence[Score]) -> Score:
    errors = [s.stderr for s in scores if s.stderr is not None]
    whole = len(errors) == len(scores)
    error = math.sqrt(sum(e * e for e in errors)) / len(scores) if whole else None
    return Score(
        fmean(s.value for s in scores), error, sum(s.questions or 0 for s in scores) or None
    )


def _record(case_id: str, run: Results) -> Record:
    environment = Environment(run.device, "?", "?", 0, {})
    return Record(case_id, {}, (), (), 1, 1, (), {}, environment, run.model, run.date)


def _why_apart(mine: Task, old: Task, now: Results, was: Results) -> str:
    """Why two runs of a task ask different questions; nothing where they do not."""
    if mine.version != old.version:
        return f"the task's version is {mine.version}, was {old.version}"
    if mine.shots != old.shots:
        return f"few-shot examples are {mine.shots}, were {old.shots}"
    both = [n for n in mine.answers if n in old.answers]
    if not both:
        differ = [k for k, v in now.set_up.items() if v != was.set_up[k]]
        return f"another {' and '.join(differ)}" if differ else ""
    for name in both:
        pairs, _ = _pairs(mine.answers[name], old.answers[name])
        if not pairs:
            return "no question in common"
        if other := sum(a.prompt != b.prompt for a, b in pairs):
            what = f"the prompts of {other} of {len(pairs)} questions differ"
            return f"{what}: other few-shot examples, template or wording"
    return ""


def _pairs(
    mine: list[Answer], old: list[Answer]
) -> tuple[list[tuple[Answer, Answer]], tuple[int, int]]:
    """Answers to the same questions (repeated ones in order), and how many only either side has."""
    seen: Counter[str] = Counter()
    theirs: dict[tuple[str, int], Answer] = {}
    for answer in old:
        theirs[answer.doc, seen[answer.doc]] = answer
        seen[answer.doc] += 1
    seen.clear()
    pairs = []
    for answer in mine:
        if other := theirs.get((answer.doc, seen[answer.doc])):
            pairs.append((answer, other))
        seen[answer.doc] += 1
    return pairs, (len(mine) - len(pairs), len(old) - len(pairs))


def _measured(name: str, answers: Sequence[Answer]) -> Measurement:
    right = tuple(a.right for a in answers)
    margins = tuple(a.margin for a in answers if a.margin is not None and _agrees(a))
    whole = len(margins) == len(answers)
    own = margins if whole else ()
    return Measurement(name, fmean(right), _unit(name), "higher", right, paired=True, margins=own)


def _agrees(answer: Answer) -> bool:
    """Whether the margin is what decided; a task may have a rule of its own for what is right."""
    return not answer.margin or (answer.margin > 0) == (answer.right > 0)


def _unit(name: str) -> str:
    return "acc" if name.startswith("accuracy/") else "match"

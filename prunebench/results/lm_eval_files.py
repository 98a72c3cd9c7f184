"""What plain lm-eval 0.4 wrote: ``results_<date>.json`` and ``samples_<task>_<date>.jsonl``.

Questions of two such sets are paired by the hash that lm-eval gives each. Its layout is that of
``lm_eval.loggers.EvaluationTracker``; nothing of lm-eval is imported.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct

from ..errors import PrunebenchError
from ..system import files

#: lm-eval's metrics that are right or wrong per question: ours, its unit, what follows the task.
METRICS = {
    "acc": ("accuracy", "acc", ""),
    "acc_norm": ("accuracy", "acc", "-norm"),
    "exact_match": ("generation", "match", ""),
}
#: Bytes of a line of a samples file, which has one question with all its choices.
MAX_LINE = 100_000_000
_DATED = re.compile(r"_(\d{4}-\d\d-\d\dT[^_]*)\.json$")


class Score(NamedTuple):
    """An aggregate: its value, its standard error where lm-eval has one, and of how many."""

    value: float
    stderr: float | None
    questions: int | None


class Answer(NamedTuple):
    """One question: what it was, how it was put, 1 where right, and the right choice's lead."""

    doc: str
    prompt: str
    right: float
    margin: float | None


class Task(Struct, frozen=True):
    """One task of a run. *scores* and *answers* are by the name of our measurement."""

    version: Any
    shots: Any
    scores: dict[str, Score]
    answers: dict[str, list[Answer]]


class Results(Struct, frozen=True):
    """One run of lm-eval; *set_up* is what else the prompts depend on, *others* its other metrics.

    *older* is the number of results files in the folder that it is the newest of.
    """

    path: Path
    model: str
    device: str
    date: str
    set_up: dict[str, Any]
    tasks: dict[str, Task]
    others: tuple[str, ...]
    older: int = 0


def is_results(data: object) -> bool:
    """Whether a JSON document is an aggregate that lm-eval wrote."""
    return isinstance(data, dict) and isinstance(data.get("results"), dict) and "versions" in data


def document(path: Path) -> Any:
    """A JSON document; with NaN and Infinity too, which lm-eval writes of broken models.

    Raises:
        PrunebenchError: if it cannot be read, or is damaged.
    """
    try:
        return json.loads(files.read(path))
    except (ValueError, RecursionError) as error:
        raise PrunebenchError(f"{path}: damaged: {error}") from None


def newest(folder: Path) -> tuple[Path, int] | None:
    """The newest results file below *folder*, and how many older ones there are; None without."""
    found = [
        p
        for p in files.below(folder, ".json")
        if p.is_file() and p.name.startswith("results") and (p.name == "results.json" or date_of(p))
    ]
    if not found:
        return None
    return max(found, key=lambda p: (date_of(p), str(p))), len(found) - 1


def date_of(path: Path) -> str:
    """The date in a results file's name, which its samples files share; else nothing."""
    match = _DATED.search(path.name)
    return match[1] if match else ""


def load(path: Path, older: int = 0) -> Results:
    """The results in *path* with the samples next to it.

    Raises:
        PrunebenchError: if it or a samples file is damaged, or it is no results file.
    """
    data = document(path)
    if not is_results(data):
        raise PrunebenchError(f"{path}: no results of lm-eval: it has no 'results' and 'versions'")
    try:
        tasks, others = _tasks(path, data)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise PrunebenchError(f"{path}: no results that lm-eval 0.4 wrote: {error!r}") from None
    config = data.get("config") if isinstance(data.get("config"), dict) else {}
    return Results(
        path,
        str(data.get("model_name") or config.get("model") or "?"),
        str(config.get("device") or "?"),
        date_of(path),
        {
            "system instruction": data.get("system_instruction_sha"),
            "chat template": data.get("chat_template_sha"),
            "few-shot as turns": data.get("fewshot_as_multiturn") or None,
        },
        tasks,
        tuple(sorted(others)),
        older,
    )


def _tasks(path: Path, data: dict[str, Any]) -> tuple[dict[str, Task], set[str]]:
    tasks: dict[str, Task] = {}
    others: set[str] = set()
    for name, row in data["results"].items():
        if data.get("group_subtasks", {}).get(name):
            continue  # a group's mean; its tasks have rows of their own
        count = data.get("n-samples", {}).get(name, {}).get("effective")
        scores = {}
        for key, value in row.items():
            metric, _, rule = key.partition(",")
            if not rule or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            if metric not in METRICS:
                others.add(metric)
                continue
            if not math.isfinite(value):
                continue  # as good as not measured
            error = row.get(f"{metric}_stderr,{rule}")  # a text where lm-eval has none
            known = isinstance(error, int | float) and 0 <= error < math.inf
            error = float(error) if known else None
            count = count if type(count) is int and count > 0 else None
            scores[_named(metric, name, rule)] = Score(float(value), error, count)
        if scores:
            delimiter = data.get("configs", {}).get(name, {}).get("target_delimiter", " ")
            answers = _answers(path, name, delimiter)
            version, shots = (data.get(k, {}).get(name) for k in ("versions", "n-shot"))
            tasks[name] = Task(version, shots, scores, answers)
    return tasks, others


def _named(metric: str, task: str, rule: str) -> str:
    family, _, suffix = METRICS[metric]
    return f"{family}/{task}{suffix}" + ("" if rule == "none" else f"-{rule}")


class _Sample(Struct):
    """What is read of a line of a samples file; the rest, which is most of it, is skipped."""

    doc_hash: str = ""
    prompt_hash: str = ""
    filter: str = "none"
    target: Any = None
    resps: Any = None
    arguments: Any = None
    acc: Any = None
    acc_norm: Any = None
    exact_match: Any = None


def _answers(path: Path, task: str, delimiter: str) -> dict[str, list[Answer]]:
    """Per measurement, the answers to each question; none where they cannot be identified."""
    file = path.with_name(f"samples_{task}_{date_of(path)}.jsonl")
    if not date_of(path) or not file.is_file():
        return {}
    found: dict[str, list[Answer]] = {}
    for sample in _lines(file):
        if not sample.doc_hash:
            return {}  # lm-eval before 0.4.3
        for metric in METRICS:
            if (value := getattr(sample, metric)) is None:
                continue
            margin = None
            if metric != "exact_match":
                margin = _margin(sample, delimiter if metric == "acc_norm" else None)
            name = _named(metric, task, sample.filter)
            if not math.isfinite(right := float(value)):
                raise ValueError(f"{file.name}: {metric} is {right}")
            answer = Answer(sample.doc_hash, sample.prompt_hash, right, margin)
            found.setdefault(name, []).append(answer)
    return found


def _lines(file: Path) -> Iterator[_Sample]:
    try:
        with file.open("rb") as stream:
            lines = iter(lambda: stream.readline(MAX_LINE + 1), b"")
            for number, line in enumerate(lines, 1):
                if len(line) > MAX_LINE:
                    raise PrunebenchError(f"{file}:{number}: longer than {MAX_LINE} bytes")
                try:
                    yield _sample(line)
                except (ValueError, RecursionError, msgspec.MsgspecError) as error:
                    raise PrunebenchError(f"{file}:{number}: damaged: {error}") from None
    except OSError as error:
        raise PrunebenchError(f"{file}: cannot be read: {error.strerror}") from None


def _sample(line: bytes) -> _Sample:
    try:
        return msgspec.json.decode(line, type=_Sample)
    except msgspec.DecodeError:
        # Slower, but it knows the NaN that a question may have in one of its fields.
        return msgspec.convert(json.loads(line), _Sample)


def _margin(sample: _Sample, delimiter: str | None) -> float | None:
    """By how much the right choice's log-likelihood leads the best other one's, if it is known.

    With *delimiter* per character of the choice, which goes to the model behind it.
    """
    try:
        scores = [float(response[0][0]) for response in sample.resps]
        right = int(sample.target)
        if delimiter is not None:
            texts = [sample.arguments[f"gen_args_{i}"]["arg_1"] for i in range(len(scores))]
            lengths = [max(1, len(text.removeprefix(delimiter))) for text in texts]
            scores = [score / length for score, length in zip(scores, lengths, strict=True)]
        if right < 0:
            return None
        margin = scores[right] - max(scores[:right] + scores[right + 1 :])
        return margin if math.isfinite(margin) else None
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError):
        return None

"""Runs lm-eval tasks on the model in memory: what accuracy and generation share."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data import task_trust
from ..data.datasets import task_folder
from ..errors import PrunebenchError, PrunebenchWarning, did_you_mean
from ..models.causal_lm import CausalLM

if TYPE_CHECKING:
    from .accuracy import Accuracy
    from .generation import Generation


def answers(
    lm: CausalLM, metric: Accuracy | Generation, filter_name: str | None = None
) -> dict[str, list[dict[str, Any]]]:
    """Task to its per-question samples, in question order, as lm-eval logs them.

    Args:
        lm: the model.
        metric: which tasks of which folder; a group gives those in it.
        filter_name: which of a task's filters reads the answers; by default its first.

    Raises:
        PrunebenchError: if a task is unknown, its data cannot be had, or it has no such filter.
    """
    tasks = metric.tasks
    lm.require_tokenizer()
    folder = task_folder(metric.tasks_folder, tasks)
    if metric.tasks_folder is not None:
        task_trust.check(Path(metric.tasks_folder))
    _quieten()
    import lm_eval

    from ..models.scoring import Scorer

    scorer = Scorer(lm, metric.batch_size)
    manager = _manager(folder)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        hint = did_you_mean(unknown[0], manager.all_tasks) if folder else "see 'lm-eval ls tasks'"
        raise PrunebenchError(f"unknown lm-eval task {unknown[0]!r}; {hint}"[:400])
    # lm-eval draws a bar per request type whatever one asks; errors still come as exceptions.
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stderr(io.StringIO()),
        _templates(metric.tasks_folder),
    ):
        warnings.simplefilter("always")
        loaded = _load(manager, tasks)
        if metric.num_fewshot is not None:
            for task in loaded["tasks"].values():
                task.set_config(key="num_fewshot", value=metric.num_fewshot)
        results = lm_eval.evaluate(
            scorer,
            loaded,
            limit=metric.limit,
            bootstrap_iters=0,
            apply_chat_template=metric.chat_template,
        )
    # Other people's warnings are about lm-eval's own internals.
    for text in dict.fromkeys(str(w.message) for w in caught if w.category is PrunebenchWarning):
        warnings.warn(text, PrunebenchWarning, stacklevel=2)
    return {
        name: _samples(results["samples"][name], name, task, filter_name)
        for name, task in loaded["tasks"].items()
    }


@contextlib.contextmanager
def _templates(tasks_folder: str | None) -> Iterator[None]:
    """Within the block, templates of a folder that is not trusted reach nothing but their data."""
    from lm_eval import utils

    plain = utils.env
    if tasks_folder is not None and not task_trust.trusted():
        utils.env = task_trust.sandboxed()
    try:
        yield
    finally:
        utils.env = plain


def _samples(
    logged: list[dict[str, Any]], name: str, task: Any, filter_name: str | None
) -> list[dict[str, Any]]:
    """One sample per question, with its right choices and what stands before each choice."""
    # A task with several filters logs every question once for each.
    filters = list(dict.fromkeys(sample["filter"] for sample in logged))
    if filter_name is not None and filter_name not in filters:
        hint = did_you_mean(filter_name, filters)
        raise PrunebenchError(f"task {name!r} has no filter {filter_name!r}; {hint}")
    if not logged:
        raise PrunebenchError(f"task {name!r} has no questions")
    wanted = filter_name or filters[0]
    delimiter = {"delimiter": task.config.target_delimiter}
    kept = [sample | delimiter for sample in logged if sample["filter"] == wanted]
    for sample in kept:
        sample["gold"] = _gold(task, sample["doc"])
    return sorted(kept, key=lambda sample: sample["doc_id"])


def _gold(task: Any, doc: dict[str, Any]) -> list[int]:
    """Which choices are right, by lm-eval's rule; none where a task keeps that to itself."""
    if task.OUTPUT_TYPE != "multiple_choice" or not hasattr(task, "doc_to_choice"):
        return []
    choices = task.doc_to_choice(doc)
    gold = task.doc_to_text(doc) if task.multiple_input else task.doc_to_target(doc)
    right = gold if isinstance(gold, list) else [gold]
    found = [choices.index(g) if g in choices else -1 for g in right if isinstance(g, str)]
    return [g for g in found or right if isinstance(g, int) and 0 <= g < len(choices)]


def _load(manager: Any, tasks: Sequence[str]) -> Any:
    try:
        return manager.load(list(tasks))
    except Exception as error:  # a data set can fail in as many ways as there are loaders
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, ModuleNotFoundError):
            reason += f"; install what the task needs: pip install 'lm_eval[{tasks[0]}]'"
        raise PrunebenchError(f"tasks {', '.join(tasks)} cannot be loaded: {reason}") from error


@lru_cache(maxsize=4)
def _manager(folder: str | None) -> Any:
    from lm_eval.tasks import TaskManager

    # Indexing lm-eval's thousands of own tasks takes seconds, and a local folder needs none.
    return TaskManager(include_path=folder, include_defaults=folder is None)


def _quieten() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for name in ("lm_eval", "lm-eval", "lm_eval.evaluator", "datasets", "httpx"):
        logging.getLogger(name).setLevel(logging.ERROR)
    import datasets

    datasets.disable_progress_bars()

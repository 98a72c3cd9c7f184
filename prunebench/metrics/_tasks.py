"""Runs lm-eval tasks on the model in memory: what accuracy and generation share."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from ..errors import PrunebenchError, did_you_mean
from ..models import CausalLM
from ..texts import task_folder


def answers(
    lm: CausalLM,
    tasks: Sequence[str],
    folder: str | None,
    limit: int | None,
    num_fewshot: int | None,
    batch_size: int,
) -> dict[str, list[dict[str, Any]]]:
    """Task to its per-question samples, in question order, as lm-eval logs them.

    *folder* is the case's own task folder, if it names one.

    Raises:
        PrunebenchError: if a task is unknown or its data cannot be had.
    """
    tokenizer = lm.require_tokenizer()
    folder = task_folder(folder, tasks)
    _quieten()
    import lm_eval
    from lm_eval.models.huggingface import HFLM

    manager = _manager(folder)
    unknown = [task for task in tasks if task not in manager.all_tasks]
    if unknown:
        hint = did_you_mean(unknown[0], manager.all_tasks) if folder else "see 'lm-eval ls tasks'"
        raise PrunebenchError(f"unknown lm-eval task {unknown[0]!r}; {hint}"[:400])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about lm-eval's own internals
        loaded = _load(manager, tasks)
        if num_fewshot is not None:
            for task in loaded["tasks"].values():
                task.set_config(key="num_fewshot", value=num_fewshot)
        scorer = HFLM(pretrained=lm.hf, tokenizer=tokenizer, batch_size=batch_size)
        # lm-eval draws a bar per request type whatever one asks; errors still come as exceptions.
        with contextlib.redirect_stderr(io.StringIO()):
            results = lm_eval.evaluate(scorer, loaded, limit=limit, bootstrap_iters=0)
    samples = results["samples"]
    return {task: sorted(samples[task], key=lambda s: s["doc_id"]) for task in loaded["tasks"]}


def _load(manager: Any, tasks: Sequence[str]) -> Any:
    try:
        return manager.load(list(tasks))
    except Exception as error:  # a data set can fail in as many ways as there are loaders
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
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

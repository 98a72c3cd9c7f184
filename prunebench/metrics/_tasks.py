"""lm-eval tasks on the model in memory: the options and answers of accuracy and generation."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, Struct

from ..data import task_trust
from ..data.datasets import task_folder
from ..errors import PrunebenchError, PrunebenchWarning, did_you_mean, first_line
from ..specs import Count

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class TaskOptions(Struct, frozen=True, kw_only=True):
    """Which lm-eval tasks a metric runs, and how; a base of metrics next to ``Metric``.

    Not a ``Metric`` itself, or it would be listed as one.
    """

    tasks: Annotated[tuple[str, ...], Meta(min_length=1)]
    tasks_folder: str | None = None
    limit: Count | None = None
    num_fewshot: Annotated[int, Meta(ge=0)] | None = None
    chat_template: bool = False
    batch_size: Count = 64

    def samples(
        self, lm: CausalLM, filter_name: str | None = None
    ) -> dict[str, list[dict[str, Any]]]:
        """Task to its per-question samples, in question order, as lm-eval logs them.

        A group of tasks gives those in it.

        Args:
            lm: the model.
            filter_name: which of a task's filters reads the answers; by default its first.

        Raises:
            PrunebenchError: if a task is unknown, its data cannot be loaded, or it has no such
                filter.
        """
        lm.require_tokenizer()
        folder = task_folder(self.tasks_folder, self.tasks)
        if self.tasks_folder is not None:
            task_trust.check(Path(self.tasks_folder))
        _quieten()
        manager = _manager(folder)
        unknown = [task for task in self.tasks if task not in manager.all_tasks]
        if unknown:
            near = did_you_mean(unknown[0], manager.all_tasks)
            hint = near if folder else "see 'lm-eval ls tasks'"
            raise PrunebenchError(f"unknown lm-eval task {unknown[0]!r}; {hint}"[:400])
        with _silenced(), _templates(self.tasks_folder):
            loaded = _load(manager, self.tasks)
            logged = self._evaluate(lm, loaded)
        return {
            name: _samples(logged[name], name, task, filter_name)
            for name, task in loaded["tasks"].items()
        }

    def _evaluate(self, lm: CausalLM, loaded: Any) -> Any:
        import lm_eval

        from ..models.scoring import Scorer

        if self.num_fewshot is not None:
            for task in loaded["tasks"].values():
                task.set_config(key="num_fewshot", value=self.num_fewshot)
        results = lm_eval.evaluate(
            Scorer(lm, self.batch_size),
            loaded,
            limit=self.limit,
            bootstrap_iters=0,
            apply_chat_template=self.chat_template,
        )
        return results["samples"]


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Within the block, lm-eval's progress bars and warnings are dropped; ours come after it."""
    # lm-eval draws a bar per request type whatever one asks; errors still come as exceptions.
    with (
        warnings.catch_warnings(record=True) as caught,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        warnings.simplefilter("always")
        yield
    # Other people's warnings are about lm-eval's own internals.
    for text in dict.fromkeys(str(w.message) for w in caught if w.category is PrunebenchWarning):
        warnings.warn(text, PrunebenchWarning, stacklevel=3)


@contextlib.contextmanager
def _templates(tasks_folder: str | None) -> Iterator[None]:
    """Within the block, templates of an untrusted folder can read their own data only."""
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
    """One sample per question, with its right choices and the delimiter before each choice."""
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
    """Which choices are right, by lm-eval's rule; none where a task does not give them."""
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
        reason = first_line(error)
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

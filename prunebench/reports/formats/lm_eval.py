"""A results file of lm-eval 0.4 with everything of ours under one more key.

What a record does not have is left out or null: a task's version and its number of questions before
a limit. lm-eval's samples files need the text and hash of each question, which records do not keep;
right and wrong per question, and margins, are in the record under ``prunebench``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from statistics import stdev
from typing import Any

from ...record import SCHEMA, Measurement, Record

#: Our families of lm-eval's tasks.
_FAMILIES = ("accuracy", "generation")
#: Measurements of a family that are of no single task.
SUMMARIES = ("mean", "recovery", "flips")
#: Settings of a metric that are its tasks' settings in lm-eval.
STATED = ("num_fewshot", "tasks_folder")
#: Settings of lm-eval's run that a record does not have.
UNKNOWN = (
    *("batch_size", "use_cache", "gen_kwargs"),
    *("random_seed", "numpy_seed", "torch_seed", "fewshot_seed"),
)


def layout(records: Iterable[Record]) -> dict[str, dict[str, Any]]:
    """File names, ``<model>/results_<date>.json``, and what is in each."""
    found: dict[str, dict[str, Any]] = {}
    for record in records:
        data = results(record)
        when = _created(record).replace(tzinfo=None)
        while (name := f"{data['model_name_sanitized']}/{_file(when)}") in found:
            when += timedelta(microseconds=1)
        found[name] = data
    return found


def results(record: Record) -> dict[str, Any]:
    """What ``lm_eval.simple_evaluate`` returns and its tracker writes, of a record's tasks."""
    tasks = list(_tasks(record))
    asked = {task: metric for task, _, _, metric in tasks}
    environment, packages = record.environment, record.environment.packages
    name = _model_name(record)
    return {
        "results": {task: _scores(task, key, measured) for task, key, measured, _ in tasks},
        "group_subtasks": {task: [] for task in asked},
        "configs": {
            task: {"task": task, **{k: metric[k] for k in STATED if k in metric}}
            for task, metric in asked.items()
        },
        "versions": {},
        "n-shot": {t: m["num_fewshot"] for t, m in asked.items() if "num_fewshot" in m},
        "higher_is_better": {task: {key.split(",")[0]: True} for task, key, *_ in tasks},
        "n-samples": {
            task: {
                "original": None if metric.get("limit") else len(m.samples),
                "effective": len(m.samples),
            }
            for task, _, m, metric in tasks
        },
        "config": _config(record, asked),
        "git_hash": environment.commit,
        "date": _created(record).timestamp(),
        "pretty_env_info": f"Python {environment.python} on {environment.platform}",
        "transformers_version": packages.get("transformers"),
        "lm_eval_version": packages.get("lm_eval"),
        "upper_git_hash": None,
        "task_hashes": {},
        "model_source": "prunebench",
        "model_name": name,
        "model_name_sanitized": _folder(name),
        "system_instruction": None,
        "system_instruction_sha": None,
        "fewshot_as_multiturn": False,
        "chat_template": None,
        # The template is the tokenizer's; records do not keep it.
        "chat_template_sha": "unknown"
        if any(m.get("chat_template") for m in asked.values())
        else None,
        "total_evaluation_time_seconds": str(record.cost.get("case_time", 0.0)),
        "prunebench": {"schema_version": SCHEMA, "record": record},
    }


def _tasks(record: Record) -> Iterator[tuple[str, str, Measurement, dict[str, Any]]]:
    """Task, lm-eval's name of its score, our measurement, and the metric that was asked for."""
    metrics = record.asked.get("metrics") or ()
    for measured in record.measurements:
        family, _, task = measured.metric.partition("/")
        if family not in _FAMILIES or task in SUMMARIES or measured.varies:
            continue
        metric: dict[str, Any] = next((m for m in metrics if m.get("name") == family), {})
        if family == "accuracy":
            normed = metric.get("acc_norm")
            key = "acc_norm" if isinstance(normed, list) and task in normed else "acc"
            yield task, f"{key},none", measured, metric
        else:
            key = metric.get("metric", "exact_match")
            yield task, f"{key},{metric.get('filter') or 'none'}", measured, metric


def _scores(task: str, key: str, measured: Measurement) -> dict[str, Any]:
    name, _, rule = key.partition(",")
    return {
        "name": task,
        "alias": task,
        "sample_len": len(measured.samples),
        key: measured.value,
        f"{name}_stderr,{rule}": _mean_stderr(measured),
    }


def _mean_stderr(measured: Measurement) -> float | str:
    """As lm-eval computes it, each question on its own; its word where there is none."""
    samples = measured.samples
    if len(samples) < 2 or not all(map(math.isfinite, samples)):
        return "N/A"
    return stdev(samples) / math.sqrt(len(samples))


def _config(record: Record, asked: dict[str, dict[str, Any]]) -> dict[str, Any]:
    model = record.asked.get("model") or {}
    limits = {metric.get("limit") for metric in asked.values()}
    dtype = record.provenance.dtype or model.get("dtype", "auto")
    return {
        "model": "prunebench",
        "model_args": {
            "pretrained": record.model_id,
            "dtype": dtype,
            "method": record.asked.get("method"),
            "amount": record.asked.get("amount"),
        },
        "model_num_parameters": record.parameters,
        "model_dtype": dtype,
        "model_revision": model.get("revision") or "",
        "model_sha": record.provenance.model_commit,
        "batch_sizes": [],
        "device": record.environment.device,
        "limit": limits.pop() if len(limits) == 1 else None,
        "bootstrap_iters": 0,
        **dict.fromkeys(UNKNOWN),
    }


def _model_name(record: Record) -> str:
    """A pruned model is another model than the one it was made of."""
    dense = (record.asked.get("method") or {}).get("name") == "dense"
    label = record.case_id.rpartition("/")[2]
    model = record.model_id or "model"
    return model if dense else f"{model}-{label}"


def _folder(name: str) -> str:
    """As lm-eval makes a folder's name of a model's; never one that leads out of its place."""
    plain = re.sub(r"[\"<>:/|\\?*\[\]\x00-\x1f\x7f-\x9f]+", "__", name)
    return plain if plain.strip(".") else f"model{plain}"


def _created(record: Record) -> datetime:
    try:
        when = datetime.fromisoformat(record.created)
    except ValueError:
        when = datetime.fromtimestamp(0, UTC)
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def _file(when: datetime) -> str:
    """As lm-eval names its files, with microseconds."""
    return f"results_{when:%Y-%m-%dT%H-%M-%S.%f}.json"

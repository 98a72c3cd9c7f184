"""The metadata of a model card and the result files that the Hugging Face hub reads."""

from __future__ import annotations

from typing import Any

from ..data import datasets
from ..errors import inert
from ..record import Measurement, Record
from ..reports.formats.lm_eval import SUMMARIES
from .card import Card

#: Benchmarks that the hub keeps leaderboards of: our measurement, their dataset and task. The hub
#: takes results of listed ones only (huggingface.co/docs/hub/eval-results).
BENCHMARKS = {
    "generation/gsm8k": ("openai/gsm8k", "gsm8k"),
    "generation/mmlu_pro": ("TIGER-Lab/MMLU-Pro", "mmlu_pro"),
}
#: What the hub's metadata calls our metrics.
METRIC_TYPES = {"perplexity": "perplexity", "accuracy": "accuracy", "generation": "exact_match"}


def metadata(card: Card) -> Any:
    """The card's metadata as ``huggingface_hub.ModelCardData``.

    The hub knows the relations adapter, finetune, merge and quantized; pruning is none of them, so
    ``base_model_relation`` is left out.
    """
    from huggingface_hub import ModelCardData

    licence: dict[str, Any] = {key: inert(value) for key, value in card.base.licence.items()}
    results = eval_results(card.record) if card.record else []
    return ModelCardData(
        base_model=card.base.hub_id or None,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["pruning", "prunebench", inert(card.method)],
        model_name=inert(card.title) if results else None,
        eval_results=results or None,
        **licence,
    )


def eval_results(record: Record) -> list[Any]:
    """The scores that have a text or task, as ``huggingface_hub.EvalResult``.

    Without timings and memory, which depend on the machine; the table has them.
    """
    from huggingface_hub import EvalResult

    found = []
    for m in record.measurements:
        what = m.metric.partition("/")[2]
        if m.value is None or m.varies or m.family not in METRIC_TYPES or what in SUMMARIES:
            continue
        text = datasets.HUB.get(what.removesuffix("-bos")) if m.family == "perplexity" else None
        norm = m.family == "accuracy" and what.endswith("-norm")
        task = inert(what.removesuffix("-norm"))
        found.append(
            EvalResult(
                task_type="text-generation",
                dataset_type=text.repo if text else task,
                dataset_name=task,
                dataset_config=text.config if text else None,
                dataset_split=text.splits[1] if text else None,
                dataset_args=_settings(record, m) or None,
                metric_type="acc_norm" if norm else METRIC_TYPES[m.family],
                metric_name=inert(m.metric),
                metric_value=m.value,
            )
        )
    return found


def benchmark_files(record: Record) -> dict[str, bytes]:
    """Files of ``.eval_results``, for the benchmarks that the hub lists and on all questions."""
    import yaml
    from huggingface_hub import EvalResultEntry, eval_result_entries_to_yaml

    found = {}
    for m in record.measurements:
        settings = _settings(record, m)
        if m.metric not in BENCHMARKS or m.value is None or "limit" in settings:
            continue
        dataset, task = BENCHMARKS[m.metric]
        described = ", ".join(f"{key} {value}" for key, value in settings.items())
        entry = EvalResultEntry(
            dataset_id=dataset,
            task_id=task,
            value=round(100 * m.value, 4),
            date=record.created[:10],
            notes=inert(f"pruned model, lm-eval by prunebench, per cent; {described}", 200),
        )
        data = yaml.safe_dump(eval_result_entries_to_yaml([entry]), sort_keys=False)
        found[f".eval_results/{task}.yaml"] = data.encode()
    return found


def _settings(record: Record, measurement: Measurement) -> dict[str, Any]:
    """The protocol and the settings of *measurement* in the question."""
    what = measurement.metric.partition("/")[2].removesuffix("-norm").removesuffix("-bos")
    protocol = record.asked.get("protocol")
    found = {"protocol": protocol} if protocol else {}
    for metric in record.asked.get("metrics", ()):
        named = [metric.get("dataset"), *metric.get("tasks", ())]
        if metric["name"] == measurement.family and what in named:
            skipped = ("name", "dataset", "tasks", "acc_norm", "tasks_folder")
            found |= {k: v for k, v in metric.items() if k not in skipped}
            break
    return found

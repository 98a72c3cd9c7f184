"""The content key of an answer: hashes of everything its numbers depend on, never names."""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import sys
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..api import Method, Metric
from ..case import Case, question
from ..data import datasets
from ..data.fingerprints import folder_hash, model_hash
from ..data.paths import is_path
from ..plan import Edit
from ..specs import ModelSpec
from ..system import files, hash_cache
from ..system.machine import device_name
from . import code_reach

#: Libraries whose version can move a number.
PACKAGES = ("prunebench", "torch", "transformers", "lm_eval", "datasets", "tokenizers", "numpy")

#: Variables that make the same code compute otherwise, where they are set.
SETTINGS = (
    "ATEN_CPU_CAPABILITY",
    "CUBLAS_WORKSPACE_CONFIG",
    "DNNL_DEFAULT_FPMATH_MODE",
    "DNNL_MAX_CPU_ISA",
    "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE",
    "ONEDNN_DEFAULT_FPMATH_MODE",
    "ONEDNN_MAX_CPU_ISA",
    "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE",
)


def key(case: Case, device: str) -> str | None:
    """The content hash of a case's answer, or None where the model is not downloaded yet.

    Covers weights, tokenizer, calibration and evaluation text, task files, protocol, options, the
    source files that can bear on the number (ours and plug-ins'), library versions, variables that
    change arithmetic, and the device. No path or name of a model is in it, and neither are the
    number of threads and the processor: they move last bits, which no tolerance is as small as.

    Raises:
        PrunebenchError: if a file cannot be read.
    """
    read = inputs(case)
    if read is None:
        return None
    versions = packages()
    versions.pop("prunebench", None)  # our source files are hashed instead
    if case.model.device_map is not None:
        versions["accelerate"] = _version("accelerate") or ""
    parts = {
        "inputs": read,
        "commits": {n: c for n in case.datasets if (c := datasets.commits(n))},
        "protocol": _protocol_hash(case.asked.get("protocol")),
        "code": code_hash(case.method, *case.metrics),
        "packages": versions,
        "settings": {name: os.environ[name] for name in SETTINGS if name in os.environ},
        "device": device_name(device),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def inputs(case: Case) -> dict[str, Any] | None:
    """The question with the content of every file in place of its path; None as for *key*.

    While a case is measured this must not change.
    """
    weights = model_hash(case.model)
    if weights is None:
        return None
    asked = question(
        case.asked.get("protocol"),
        case.model,
        case.method,
        case.target,
        case.calibration,
        case.metrics,
    )
    asked["model"] = {**asked["model"], "id": weights, "revision": None}
    return {
        "asked": _with_content(asked),
        "texts": {name: datasets.fingerprint(name) for name in case.datasets if not is_path(name)},
        "tasks": sorted(map(folder_hash, set(task_folders(case)))),
        "checkpoint": _checkpoint(case.method),
    }


def code_hash(*plugins: Method | Metric) -> str:
    """A hash of the source files that can bear on a number of these methods and metrics."""
    classes: list[type] = [type(plugin) for plugin in plugins]
    # The edits of a plan in a file are another package's code that no method here imports.
    classes += dict.fromkeys(type(edit) for plugin in plugins for edit in _given_edits(plugin))
    modules = [getattr(sys.modules.get(cls.__module__), "__file__", None) for cls in classes]
    found = code_reach.digest(
        code_reach.PACKAGE / "runs" / "worker.py", *(Path(file) for file in modules if file)
    )
    loose = [_source(c) for c, file in zip(classes, modules, strict=True) if not file]
    return "\n".join([found, *loose])


def _given_edits(plugin: Method | Metric) -> tuple[Edit, ...]:
    """The edits in the plan file of an external result; none for other methods."""
    from ..methods.external import External
    from ..models.plan_files import PlanFile

    if not isinstance(plugin, External) or plugin.plan is None:
        return ()
    return files.read_json(Path(plugin.plan), PlanFile).plan


def task_folders(case: Case) -> list[str]:
    """The folders that a case's tasks are read from; none for lm-eval's own."""
    metrics = [m for m in case.metrics if hasattr(m, "tasks_folder")]
    found = [datasets.task_folder(m.tasks_folder, getattr(m, "tasks", ())) for m in metrics]
    return [folder for folder in found if folder]


def packages() -> dict[str, str]:
    """Versions of the libraries that matter."""
    return {name: found for name in PACKAGES if (found := _version(name))}


def _with_content(value: Any, name: str = "", *, measured: bool = False) -> Any:
    """*value* with every path in it replaced by a hash of what is there.

    Of a text that is measured on, the name of the file stays: measurements are called by it. A
    checkpoint's path stays, since its record names it.
    """
    if isinstance(value, dict):
        inside = {key: measured or key == "metrics" for key in value}
        return {k: _with_content(v, k, measured=inside[k]) for k, v in value.items()}
    if isinstance(value, list):
        return [_with_content(item, name, measured=measured) for item in value]
    if not is_path(value) or name == "checkpoint":
        return value
    path = Path(value)
    if path.is_dir():
        return folder_hash(value)
    label = datasets.label(value) if measured and name == "dataset" else ""
    return f"{label}:{hash_cache.sha256(path)}" if path.is_file() else value


def _protocol_hash(name: str | None) -> str | None:
    """The content of a protocol's file, of which the question holds what it says."""
    file = code_reach.PACKAGE / "protocols" / f"{name}.yaml"
    return hash_cache.sha256(file) if name and file.is_file() else name


def _source(cls: type) -> str:
    """A hash of a method or metric that was defined in no file."""
    try:
        source = inspect.getsource(cls)
    except (OSError, TypeError):
        source = ""
    return hashlib.sha256(f"{cls.__module__}:{cls.__qualname__}:{source}".encode()).hexdigest()


def _checkpoint(method: Method) -> str | None:
    """The content of the checkpoint that an external result is."""
    checkpoint = getattr(method, "checkpoint", None)
    return model_hash(ModelSpec(checkpoint)) if checkpoint else None


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

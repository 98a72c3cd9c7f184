"""What a finished answer is known by: hashes of everything its numbers depend on, never names."""

from __future__ import annotations

import hashlib
import inspect
import json
import sys
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import hub, texts
from .case import Case, ModelSpec
from .nvml import Gpu

#: Libraries whose version can move a number.
PACKAGES = ("prunebench", "torch", "transformers", "lm_eval", "datasets", "tokenizers")

#: Files of a checkpoint that decide what the model computes.
_WEIGHTS = ("*.safetensors", "*.json", "*.model", "*.txt")


def key(case: Case, device: str) -> str | None:
    """The content hash of a case's answer, or None where the model is not at hand yet.

    Covers weights, tokenizer, calibration and evaluation text, task files, protocol, options, our
    own code, plug-ins' code, library versions and the device.
    """
    weights = model_hash(case.model)
    if weights is None:
        return None
    parts = {
        "asked": case.asked,
        "model": weights,
        "data": sorted({texts.fingerprint(name) for name in _datasets(case)}),
        "tasks": sorted({_folder_hash(folder) for folder in _task_folders(case)}),
        "given": _given(case),
        "code": _code_hash(),
        "plugins": sorted({_source_hash(type(p)) for p in (case.method, *case.metrics)}),
        "packages": packages(),
        "device": device_name(device),
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def model_hash(spec: ModelSpec) -> str | None:
    """A hash of a model's files; the hub's own file hashes where it comes from the hub cache.

    Random weights follow from the config alone. None where files would have to be downloaded first.
    """
    folder = hub.place(spec.id, spec.revision).folder
    if folder is None or not folder.is_dir():
        return None
    digest = hashlib.sha256()
    if spec.weights is not None:
        digest.update(f"{spec.weights} weights\n".encode())
        config = json.dumps(hub.config(spec.id, spec.revision), sort_keys=True)
        digest.update(config.encode())
        return digest.hexdigest()
    files = sorted({p for pattern in _WEIGHTS for p in folder.glob(pattern)})
    for file in files:
        digest.update(f"{file.name}:{_file_hash(file)}\n".encode())
    return digest.hexdigest()


def packages() -> dict[str, str]:
    """Versions of the libraries that matter."""
    return {name: found for name in PACKAGES if (found := _version(name))}


@cache
def device_name(device: str) -> str:
    """``cpu``, or the GPU's product name as a folder name: ``nvidia-h200``.

    The product names form factor, memory and MIG slice; a power cap below the usual is added, for a
    card that is held back is another device: ``nvidia-h200-500w``.
    """
    if not device.startswith("cuda"):
        return device
    import torch

    name = str(torch.cuda.get_device_name(device)).lower().replace(" ", "-").replace("/", "-")
    gpu = Gpu.of(device)
    state = gpu.state() if gpu else {}
    cap, usual = state.get("power_cap"), state.get("default_power_cap")
    return f"{name}-{cap:.0f}w" if cap and usual and cap < 0.95 * usual else name


def _file_hash(file: Path) -> str:
    # The hub cache links a snapshot's file to a blob that is named by the hash of its content.
    if file.is_symlink() and file.resolve().parent.name == "blobs":
        return file.resolve().name
    stat = file.stat()
    return _content_hash(file, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=4096)
def _content_hash(file: Path, size: int, modified: int) -> str:
    # Size and time are only what makes this process read a file again.
    del size, modified
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _folder_hash(folder: str) -> str:
    digest = hashlib.sha256()
    for file in sorted(p for p in Path(folder).rglob("*") if p.is_file()):
        if "__pycache__" not in file.parts:
            digest.update(f"{file.relative_to(folder)}:{_file_hash(file)}\n".encode())
    return digest.hexdigest()


@cache
def _code_hash() -> str:
    """Our own code: all of it, because deciding what matters would be guessing."""
    root = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted([*root.rglob("*.py"), *root.rglob("*.yaml")]):
        digest.update(f"{file.relative_to(root)}:{_file_hash(file)}\n".encode())
    return digest.hexdigest()


def _source_hash(cls: type) -> str:
    """The file a method or metric comes from, for those that are not ours."""
    module = sys.modules.get(cls.__module__)
    try:
        source = inspect.getsource(module) if module else ""
    except (OSError, TypeError):
        source = ""
    return hashlib.sha256(f"{cls.__module__}:{cls.__qualname__}:{source}".encode()).hexdigest()


def _given(case: Case) -> str | None:
    """What an external result is known by: the content of its checkpoint or plan file."""
    if checkpoint := getattr(case.method, "checkpoint", None):
        return model_hash(ModelSpec(checkpoint))
    plan = getattr(case.method, "plan", None)
    return _file_hash(Path(plan)) if plan and Path(plan).is_file() else None


def _datasets(case: Case) -> list[str]:
    names = [case.calibration.dataset] if case.method.calibrated else []
    return names + [d for m in case.metrics if (d := getattr(m, "dataset", None))]


def _task_folders(case: Case) -> list[str]:
    metrics = [m for m in case.metrics if hasattr(m, "tasks_folder")]
    found = [texts.task_folder(m.tasks_folder, getattr(m, "tasks", ())) for m in metrics]
    return [folder for folder in found if folder]


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""Content hashes of models and folders, independent of their names."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ..specs import ModelSpec
from ..system import files, hash_cache
from . import hub

#: Files of a checkpoint that determine the results of the model and its tokenizer.
_WEIGHTS = (".safetensors", ".json", ".model", ".txt", ".jinja", ".tiktoken")


def model_hash(spec: ModelSpec) -> str | None:
    """A hash of a model's files; the hub's own sha256 of a file is used where there is one.

    Of random weights it is a hash of the config. None if files would have to be downloaded first.
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
    weights = [f for f in files.listed(folder) if f.suffix in _WEIGHTS and f.is_file()]
    for file, sha256 in zip(weights, hash_cache.sha256s(weights), strict=True):
        digest.update(f"{file.name}:{sha256}\n".encode())
    return digest.hexdigest()


def folder_hash(folder: str) -> str:
    """A hash of the contents and relative names of all files in *folder*, at any depth."""
    digest = hashlib.sha256()
    for name in sorted(_names(folder)):
        digest.update(f"{name}:{hash_cache.sha256(Path(folder, name))}\n".encode())
    return digest.hexdigest()


def _names(folder: str) -> Iterator[str]:
    """The files below *folder* as paths relative to it, without Python's bytecode."""
    for place, inner, names in os.walk(folder, onerror=files.require_listed):
        inner[:] = [name for name in inner if name != "__pycache__"]
        below = os.path.relpath(place, folder)
        yield from (name if below == "." else f"{below}/{name}" for name in names)

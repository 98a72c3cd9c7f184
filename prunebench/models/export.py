"""Saves a pruned model as a checkpoint, reloads it, and proves that it is the same."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import PrunebenchError
from ..system import files
from . import modeling
from .causal_lm import CausalLM
from .loading import load_model

#: The file with the classes of a checkpoint that plain classes cannot express.
CODE = "modeling_prunebench.py"


def save(
    lm: CausalLM, folder: Path, about: Any = None, beside: Mapping[str, bytes] | None = None
) -> None:
    """Write *lm* and its tokenizer as a folder that transformers reloads, atomically.

    Where plain classes cannot express the model, the folder holds the small model file that can,
    and ``trust_remote_code=True`` is needed. The checkpoint is written to a temporary folder and
    renamed only once a reloaded copy gives the same logits, so a folder that exists is complete.

    Args:
        lm: the pruned model.
        folder: the destination; it must not exist, or be empty.
        about: how it was pruned, as data for ``pruning.json`` next to the weights.
        beside: more files, by their names in the folder: its model card.

    Raises:
        PrunebenchError: if the folder exists or cannot be written, or the reloaded model differs.
    """
    require_free(folder)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    except OSError as error:
        message = f"{folder}: cannot be written: {error.strerror}"
        raise PrunebenchError(message) from error
    try:
        write(lm, draft)
        if about is not None:
            files.write_json(draft / "pruning.json", about)
        for name, content in (beside or {}).items():
            files.write(draft / name, content)
        _prove(lm, draft)
        if folder.exists():
            folder.rmdir()
        draft.chmod(0o755)  # mkdtemp makes folders private
        draft.rename(folder)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def require_free(folder: Path) -> None:
    """Refuse a destination that exists or cannot be written.

    Raises:
        PrunebenchError: if it is a file or a folder that is not empty, or cannot be created.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PrunebenchError(f"{folder}: already exists and is not an empty folder")
    if not folder.exists():
        files.require_writable(folder)


def write(lm: CausalLM, folder: Path) -> None:
    """Write weights, config, tokenizer and, where plain classes do not suffice, the model file."""
    lm.hf.save_pretrained(folder)
    if lm.tokenizer is not None:
        lm.tokenizer.save_pretrained(folder)
    if spec := modeling.spec_of(lm.hf):
        name = modeling.plain_class(lm.hf).__name__.removesuffix("ForCausalLM")
        code = Path(CODE).stem
        path = folder / "config.json"
        config = json.loads(path.read_text())
        config |= {
            # No plain class has this type, so none can load the checkpoint wrongly.
            "model_type": f"{modeling.SPEC}_{lm.family.model_type}",
            "architectures": [f"Pruned{name}ForCausalLM"],
            "auto_map": {
                "AutoConfig": f"{code}.Pruned{name}Config",
                "AutoModelForCausalLM": f"{code}.Pruned{name}ForCausalLM",
            },
            modeling.SPEC: spec,
        }
        files.write_json(path, config)
        shutil.copyfile(modeling.__file__, folder / CODE)


def _prove(lm: CausalLM, draft: Path) -> None:
    dtype = str(lm.hf.dtype).removeprefix("torch.")
    again = load_model(draft, dtype=dtype, device=str(lm.device))
    vocabulary = lm.hf.get_input_embeddings().num_embeddings
    length = min(16, lm.max_length or 16)
    ids = torch.randint(vocabulary, (2, length), generator=torch.Generator().manual_seed(0))
    ids = ids.to(lm.device)
    with torch.no_grad():
        same = torch.equal(lm.hf(ids).logits, again.hf(ids).logits)
    if not same or again.num_parameters != lm.num_parameters:
        raise PrunebenchError("the saved model differs from the pruned one; nothing was written")

"""Loads models: from a folder, the hub's cache or the hub; or builds one from its config alone."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..data import families, hub
from ..errors import PrunebenchError, PrunebenchWarning, did_you_mean, first_line
from . import modeling
from .causal_lm import CausalLM

DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

#: A model folder with one of these is expected to have a tokenizer.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "merges.txt")


def load_model(
    model_id: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    known: bool = True,
    weights: str | None = None,
    device_map: str | Mapping[str, str | int] | None = None,
) -> CausalLM:
    """Load a model and its tokenizer for evaluation.

    Args:
        model_id: a folder, a hub id, or ``prunebench/reference``.
        revision: the hub revision to pin.
        dtype: ``auto`` (the checkpoint's), ``float32``, ``float16`` or ``bfloat16``.
        device: a torch device.
        known: False for a model of any family that is only scored.
        weights: ``random`` reads the config alone and draws the weights with a fixed seed.
        device_map: the device of each part, for a model that is larger than one device: a word or a
            mapping as accelerate takes it. On the device ``cpu`` a word means the CPU. The path
            over several GPUs follows accelerate's code and has not been run on such a machine.

    Raises:
        PrunebenchError: if it is not there, not in safetensors, or of an unsupported family; if an
            argument has no such value.
    """
    if dtype not in DTYPES:
        raise PrunebenchError(f"dtype {dtype!r}: {did_you_mean(str(dtype), DTYPES)}")
    if weights not in (None, "random"):
        raise PrunebenchError(f"weights {weights!r}: allowed: random, or None for the checkpoint's")
    name, drawn = str(model_id), weights == "random"
    if drawn and device_map is not None:
        raise PrunebenchError(f"model {name!r}: random weights are made on one device only")
    device = available(device)
    _silence()
    hub.require(name, revision, weights=not drawn)
    folder = hub.folder_of(name)
    source = str(folder or name)
    options: dict[str, Any] = {"trust_remote_code": False}
    if folder is None:
        options["revision"] = revision
    try:
        _check_config(name, revision, source, options)
        if drawn:
            hf = _drawn(source, options, dtype, device)
        else:
            hf = _read(name, source, options, dtype, _spread(device_map, device))
    except PrunebenchError:
        raise
    except Exception as error:  # damaged files fail in as many ways as there are readers of them
        if _is_shortage(error):
            raise
        raise PrunebenchError(hub.explained(name, revision, error)) from error
    hf.requires_grad_(False)
    if device_map is None:
        hf.to(device)
    _warn_of_code(name, hf)
    tokenizer = None if drawn else _tokenizer(name, source, options)
    return CausalLM(hf.eval(), tokenizer, known=known, drawn=drawn)


def _silence() -> None:
    """Keep progress bars and the libraries' own warnings off the terminal."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    logging.getLogger("accelerate").setLevel(logging.ERROR)  # it warns of parts on disk


def _check_config(name: str, revision: str | None, source: str, options: dict[str, Any]) -> None:
    """Refuse a config that ``hub.require`` could not read yet, being downloaded only now.

    A checkpoint of ours is loaded with our own classes, not with the code in its folder: they are
    registered with transformers here.
    """
    import transformers

    config, _ = transformers.PreTrainedConfig.get_config_dict(source, **options)
    hub.check_config(hub.named(name, revision), config)
    kind, (architecture, *_) = str(config.get("model_type")), config.get("architectures") or [""]
    if kind.startswith(families.OWN) and architecture.startswith("Pruned"):
        family = families.family_named(kind)
        modeling.register(architecture, family.blocks, family.halves)


def _read(name: str, source: str, options: dict[str, Any], dtype: str, device_map: Any) -> Any:
    """The model with the checkpoint's weights, all of them and nothing else."""
    import transformers

    # Where a repository has pickled weights only, transformers would ask a bot to convert them and
    # load the result from a pull request: weights of another revision than the requested one.
    os.environ["DISABLE_SAFETENSORS_CONVERSION"] = "1"
    more: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
    # Pickled weights can run code when opened, so only safetensors are.
    hf, info = transformers.AutoModelForCausalLM.from_pretrained(
        source,
        dtype=DTYPES[dtype],
        use_safetensors=True,
        output_loading_info=True,
        **options,
        **more,
    )
    # transformers would initialise missing tensors at random and drop unknown ones silently.
    if missing := sorted(info["missing_keys"]):
        raise PrunebenchError(
            f"model {name!r} cannot be loaded: its weights lack {len(missing)} tensors that "
            f"{type(hf).__name__} has: {hub.some(missing)}"
        )
    if unknown := sorted(info["unexpected_keys"]):
        warnings.warn(
            f"model {name!r} has {len(unknown)} tensors that {type(hf).__name__} does not know, "
            f"which are left out: {hub.some(unknown)}",
            PrunebenchWarning,
            stacklevel=4,
        )
    return hf


def _drawn(source: str, options: dict[str, Any], dtype: str, device: str) -> Any:
    """The model of a config with the initial weights of its class, drawn with seed 0."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(source, **options)
    own = DTYPES[dtype] if dtype != "auto" else config.dtype or torch.float32
    place = torch.device(device)
    gpus = [place] if place.type != "cpu" else []
    with torch.random.fork_rng(gpus, device_type=place.type if gpus else "cuda"), place:
        torch.manual_seed(0)
        return transformers.AutoModelForCausalLM.from_config(
            config, dtype=own, trust_remote_code=False
        )


def _spread(device_map: str | Mapping[str, str | int] | None, device: str) -> Any:
    if isinstance(device_map, Mapping):
        return dict(device_map)
    return {"": "cpu"} if device_map is not None and device == "cpu" else device_map


def _is_shortage(error: Exception) -> bool:
    """Whether memory ran out, which is not the model's fault."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError)


def _warn_of_code(name: str, hf: Any) -> None:
    """Warn that transformers' own class was used instead of code in the repository."""
    if getattr(hf.config, "auto_map", None) and not hasattr(hf.config, modeling.SPEC):
        warnings.warn(
            f"model {name!r} brings code of its own (auto_map), which is not run: it is loaded as "
            f"transformers' {type(hf).__name__}",
            PrunebenchWarning,
            stacklevel=3,
        )


def _tokenizer(name: str, source: str, options: dict[str, Any]) -> Any:
    """The tokenizer, or None: token ids can still be scored."""
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(source, **options)
    except Exception as error:  # tokenizers raises bare exceptions; files are damaged in many ways
        folder = hub.place(name, options.get("revision")).folder
        if folder is not None and any((folder / file).is_file() for file in TOKENIZER_FILES):
            warnings.warn(
                f"the tokenizer of model {name!r} cannot be loaded: {first_line(error)}",
                PrunebenchWarning,
                stacklevel=3,
            )
        return None


def available(device: str | None) -> str:
    """*device*, or by default a GPU if there is one and else the CPU.

    Raises:
        PrunebenchError: if there is no such device.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.ones(1, device=device).item()  # tensors on meta have no values
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise PrunebenchError(f"--device {device}: {first_line(error)}") from None
    return device

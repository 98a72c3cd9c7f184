"""Finds a model's files, and reports what is wrong with them before anything is loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .. import reference
from ..errors import PrunebenchError
from ..system import files
from .paths import is_path

WEIGHTS = "model.safetensors"
ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"

#: Why pickled weights are refused, and how to convert them; transformers saves safetensors.
PICKLED = (
    "pickled weights can run code when opened, so only safetensors are read; whoever trusts them "
    "converts them once: AutoModelForCausalLM.from_pretrained(ID).save_pretrained(FOLDER) with "
    "transformers"
)

#: Sizes in a config and their upper bounds; building a larger model would never finish.
LARGEST = {
    "num_hidden_layers": 10_000,
    "num_attention_heads": 1_000_000,
    "num_key_value_heads": 1_000_000,
    "head_dim": 1_000_000,
    "hidden_size": 10_000_000,
    "intermediate_size": 100_000_000,
    "ffn_dim": 100_000_000,
    "word_embed_proj_dim": 10_000_000,
    "vocab_size": 100_000_000,
    "max_position_embeddings": 10**12,
}

#: Weights that can run code when they are opened.
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


class Place(NamedTuple):
    """Where a model is; *folder* is None if its files would have to be downloaded."""

    kind: Literal["folder", "hub cache", "hub"]
    folder: Path | None


def folder_of(model_id: str) -> Path | None:
    """The folder of a model that is not a hub id, else None.

    As in transformers, a folder of that name in the current one takes precedence over the hub.
    """
    if model_id == reference.MODEL_ID:
        return reference.MODEL
    path = Path(model_id)
    return path if is_path(model_id) or path.is_dir() else None


def place(model_id: str, revision: str | None = None) -> Place:
    """Where *model_id* would be loaded from.

    Raises:
        PrunebenchError: if it is neither a folder nor a valid hub id.
    """
    if (folder := folder_of(model_id)) is not None:
        return Place("folder", folder)
    from huggingface_hub import try_to_load_from_cache

    try:
        config = try_to_load_from_cache(model_id, "config.json", revision=revision)
    except ValueError:  # raised by the hub client for an invalid id
        raise PrunebenchError(
            f"model {model_id!r} is neither a folder here nor a hub id (name or organisation/name)"
        ) from None
    if not isinstance(config, str):
        return Place("hub", None)
    return Place("hub cache", Path(config).parent)


def require(model_id: str, revision: str | None = None, *, weights: bool = True) -> None:
    """Refuse a model that cannot be loaded, judging by the files on this machine.

    Args:
        model_id: a folder or hub id.
        revision: of a hub id: branch, tag or commit.
        weights: False if only the config will be read.

    Raises:
        PrunebenchError: one line with what is missing or not allowed.
    """
    where = place(model_id, revision)
    name = named(model_id, revision)
    if where.kind == "folder" and revision is not None:
        raise PrunebenchError(f"model {model_id!r} is a folder and has no revisions")
    if where.folder is None:
        if offline():
            raise PrunebenchError(f"{name} is not in the hub cache{_kept(model_id)}; {OFFLINE}")
        return
    if not where.folder.is_dir():
        raise PrunebenchError(f"no such model folder: {model_id!r}")
    if not (where.folder / "config.json").is_file():
        raise PrunebenchError(f"model folder {model_id!r} has no config.json")
    config(model_id, revision)  # refuses one that is damaged or out of bounds
    if where.kind == "folder" and (where.folder / ADAPTER).exists():
        raise PrunebenchError(
            f"{name} has an {ADAPTER}, with which other weights than its own would be loaded; "
            f"merge the adapter and save the result"
        )
    # Files that a cached snapshot lacks may still be on the hub.
    if weights and (where.kind == "folder" or offline()):
        for problem in weight_problems(where.folder):
            wanting = where.kind == "hub cache" and "pickled" not in problem
            tail = f"; {OFFLINE}" if wanting else ""
            raise PrunebenchError(f"{name} {problem}{tail}")


def complete(folder: Path) -> bool:
    """Whether a model's folder has all its weights."""
    return not any(weight_problems(folder))


def weight_files(folder: Path) -> list[Path]:
    """The files of a model's weights, as its index names them; some may be missing.

    Raises:
        PrunebenchError: if the index is damaged.
    """
    single, index = folder / WEIGHTS, folder / INDEX
    if single.is_file() or not index.is_file():
        return [single]
    try:
        names = sorted(set(json.loads(files.read(index))["weight_map"].values()))
        # An index could name any file of this machine, and pickled ones, which run when opened.
        for name in names:
            if Path(name).name != name or not name.endswith(".safetensors"):
                raise PrunebenchError(
                    f"{index} names {name[:80]!r}: only safetensors files next to it are read"
                )
        return [folder / name for name in names]
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        raise PrunebenchError(f"{index} is damaged: expected JSON with a 'weight_map'") from None


def weight_problems(folder: Path) -> Iterator[str]:
    """Why the weights in *folder* cannot be read: at most one reason."""
    needed = weight_files(folder)
    missing = [file.name for file in needed if not file.is_file()]
    if needed == [folder / WEIGHTS] and missing:
        pickles = sorted(p.name for pattern in PICKLES for p in folder.glob(pattern))
        if pickles:
            yield f"has pickled weights only ({pickles[0]}): {PICKLED}"
        else:
            yield f"has no weights ({WEIGHTS} or {INDEX})"
    elif missing:
        yield f"lacks {len(missing)} of its {len(needed)} weight files: {some(missing)}"


def some(names: list[str]) -> str:
    """The first three of *names*, for a message."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def config(model_id: str, revision: str | None = None) -> dict[str, Any] | None:
    """The content of a model's config, or None if it would have to be downloaded.

    Raises:
        PrunebenchError: if it is missing, not JSON, or out of bounds.
    """
    folder = place(model_id, revision).folder
    if folder is None:
        return None
    path = folder / "config.json"
    try:
        data = json.loads(files.read(path))
    except (ValueError, RecursionError):
        raise PrunebenchError(f"{path}: damaged: not JSON") from None
    if not isinstance(data, dict):
        raise PrunebenchError(f"{path}: damaged: expected a mapping")
    check_config(named(model_id, revision), data)
    return data


def check_config(name: str, data: Mapping[str, Any]) -> None:
    """Refuse a config that asks for code from the hub, or whose sizes are out of bounds.

    Raises:
        PrunebenchError: one line with the setting.
    """
    for key, value in data.items():
        # transformers treats an implementation with a slash as a repository of compiled code.
        chosen = value.values() if isinstance(value, dict) else (value,)
        if key.endswith("_implementation") and any("/" in str(one) for one in chosen):
            raise PrunebenchError(
                f"{name} cannot be loaded: its config asks for {key} {value!r}, code from the hub, "
                f"which is never run"
            )
    for key, largest in LARGEST.items():
        value = data.get(key)
        least = 0 if key == "num_hidden_layers" else 1
        whole = isinstance(value, int) and not isinstance(value, bool)
        if value is not None and not (whole and least <= value <= largest):
            raise PrunebenchError(
                f"{name} cannot be loaded: its config has {key} {str(value)[:40]}, expected a "
                f"whole number from {least} to {largest}"
            )
    if not isinstance(kind := data.get("model_type", ""), str):
        raise PrunebenchError(f"{name} cannot be loaded: its config has the model_type {kind!r}")


def offline() -> bool:
    """Whether the hub client is offline."""
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE)


#: Part of the message wherever a file is not looked for on the hub.
OFFLINE = "HF_HUB_OFFLINE=1 is set, so nothing is downloaded"


def named(model_id: str, revision: str | None = None) -> str:
    """``model 'org/name'``, with its revision where one is given."""
    return f"model {model_id!r}" + (f" at revision {revision!r}" if revision else "")


def explained(model_id: str, revision: str | None, error: BaseException) -> str:
    """One line for an error of the hub client or of transformers while loading."""
    from huggingface_hub import errors

    name = named(model_id, revision)
    for cause in _chain(error):
        if isinstance(cause, errors.GatedRepoError):
            page = f"https://huggingface.co/{model_id}"
            return f"{name} is gated: ask for access at {page} and log in with 'hf auth login'"
        if isinstance(cause, errors.RevisionNotFoundError):
            return f"model {model_id!r} has no revision {revision!r} on the hub"
        if isinstance(cause, errors.RepositoryNotFoundError):
            return f"{name} is not on the hub, or private and 'hf auth login' is needed"
    text = _first_line(error)
    if "custom code" in text:
        return (
            f"{name} cannot be loaded: it brings code of its own (auto_map in its config.json), "
            f"and remote code is never run"
        )
    if "thus cannot be loaded with `safetensors`" in text:
        return f"{name} cannot be loaded: it has no {WEIGHTS} or {INDEX}; {PICKLED}"
    # Nothing is downloaded for a folder, so there being offline explains nothing.
    missing = offline() and folder_of(model_id) is None
    return f"{name} cannot be loaded: {text}" + (f"; {OFFLINE}" if missing else "")


def _kept(model_id: str) -> str:
    """The cache's folder and its revisions of *model_id*, for a message."""
    from huggingface_hub import constants

    root = Path(constants.HF_HUB_CACHE)
    repository = root / f"models--{model_id.replace('/', '--')}"
    refs = repository / "refs"
    have = sorted(p.relative_to(refs).as_posix() for p in refs.rglob("*") if p.is_file())
    have += sorted(p.name for p in (repository / "snapshots").glob("*"))
    return f" ({root})" + (f", which has its revisions {', '.join(have)}" if have else "")


def commits(repo: str, kind: str = "models") -> list[str]:
    """The commits of a repository with files in the hub's cache, sorted."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE) / f"{kind}--{repo.replace('/', '--')}" / "snapshots"
    return sorted(p.name for p in folder.glob("*"))


def commit_of(folder: Path | None) -> str:
    """The commit of a snapshot in the hub's cache; empty for any other folder."""
    return folder.name if folder is not None and folder.parent.name == "snapshots" else ""


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    first = lines[0] if lines else type(error).__name__
    return f"{first} {lines[1]}" if first.endswith(":") and len(lines) > 1 else first

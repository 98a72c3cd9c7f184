"""Named texts, local files and task folders: what a case reads beside its model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path

from . import reference
from .errors import PrunebenchError, did_you_mean

#: How documents are joined before they are tokenised once.
JOINS = {"tinyworld": "\n", "wikitext2": "\n\n"}

#: Purposes and the split each one reads.
SPLITS = {"calibration": "calibration", "evaluation": "test"}


def documents(dataset: str, purpose: str) -> tuple[str, ...]:
    """The documents of a text.

    Args:
        dataset: ``tinyworld``, ``wikitext2``, or a file: ``*.jsonl`` with a ``text`` key per line,
            otherwise plain text with one document per line.
        purpose: ``calibration`` or ``evaluation``; a named text keeps them apart.

    Raises:
        PrunebenchError: if the text is unknown, missing or empty.
    """
    if dataset.startswith(("/", ".")):
        texts = _file(Path(dataset))
    elif dataset in _NAMED:
        texts = _NAMED[dataset](purpose)
    else:
        hint = did_you_mean(dataset, _NAMED)
        raise PrunebenchError(
            f"unknown dataset {dataset!r}; {hint}, or a path that starts with . or /"
        )
    if not any(text.strip() for text in texts):
        raise PrunebenchError(f"dataset {dataset!r} has no text")
    return tuple(texts)


def joined(dataset: str, purpose: str) -> str:
    """All documents as the one string that is tokenised."""
    return JOINS.get(dataset, "\n\n").join(documents(dataset, purpose))


def label(dataset: str) -> str:
    """The name of a text in metric names."""
    return Path(dataset).stem if dataset.startswith(("/", ".")) else dataset


def fingerprint(dataset: str) -> str:
    """What the cache knows a text by: a file's content, or a name whose content is fixed."""
    if dataset.startswith(("/", ".")) and Path(dataset).is_file():
        return hashlib.sha256(Path(dataset).read_bytes()).hexdigest()
    return _tinyworld_hash() if dataset == "tinyworld" else dataset


def task_folder(folder: str | None, tasks: Iterable[str]) -> str | None:
    """Where the YAML files of *tasks* are: *folder*, the shipped ones, or None for lm-eval's own.

    Raises:
        PrunebenchError: if the folder does not exist.
    """
    if folder is not None and not Path(folder).is_dir():
        raise PrunebenchError(f"no such task folder: {folder!r}")
    return folder or (str(reference.TASKS) if set(tasks) <= set(reference.TASK_NAMES) else None)


def _file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise PrunebenchError(f"dataset {path} cannot be read: {reason}") from None
    if path.suffix != ".jsonl":
        return lines
    texts = []
    for number, line in enumerate(lines, 1):
        try:
            texts.append(str(json.loads(line)["text"]))
        except (ValueError, KeyError, TypeError):
            message = "expected a JSON object with a 'text' key"
            raise PrunebenchError(f"{path}:{number}: {message}") from None
    return texts


@cache
def _tinyworld_hash() -> str:
    texts = (text for split in SPLITS.values() for text in reference.documents(split))
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()


@cache
def _tinyworld(purpose: str) -> list[str]:
    return reference.documents(SPLITS[purpose])


def _wikitext2(purpose: str) -> list[str]:
    import datasets

    split = "train" if purpose == "calibration" else "test"
    try:
        rows = datasets.load_dataset("Salesforce/wikitext", "wikitext-2-raw-v1", split=split)
    except Exception as error:  # the hub client has no common base class for "not reachable"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PrunebenchError(f"dataset 'wikitext2' cannot be loaded: {reason}") from error
    return list(rows["text"])


_NAMED: dict[str, Callable[[str], list[str]]] = {
    "tinyworld": _tinyworld,
    "wikitext2": _wikitext2,
}

#: Token ids drawn evenly from the model's vocabulary: for calibration only, there is no text.
RANDOM = "random"

#: What a case can name as its data.
NAMES = frozenset({*_NAMED, RANDOM})

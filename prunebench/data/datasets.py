"""Named texts, local files and task folders: the data that a case reads."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Literal, NamedTuple

from .. import reference
from ..errors import PrunebenchError, did_you_mean, first_line
from ..system import hash_cache
from . import hub
from .paths import is_path

Purpose = Literal["calibration", "evaluation"]
PURPOSES: tuple[Purpose, ...] = ("calibration", "evaluation")

#: Maps the number of documents to the indices of those to use.
Pick = Callable[[int], Sequence[int]]

#: Purpose to the split of the shipped text.
SPLITS = {"calibration": "calibration", "evaluation": "test"}


class HubText(NamedTuple):
    """A text on the hub: its rows, and how they are joined into one string.

    *splits* and *files* are those of calibration and evaluation, and *first* is the number of rows
    used of each; None is all. *doubt* is an assumption that could not be checked against a source.
    """

    repo: str
    config: str | None
    splits: tuple[str, str]
    column: str = "text"
    join: str = "\n\n"
    files: tuple[str, str] | None = None
    first: tuple[int | None, int | None] = (None, None)
    revision: str | None = None
    doubt: str = ""

    def arguments(self, purpose: Purpose) -> dict[str, Any]:
        """Keyword arguments of ``datasets.load_dataset``."""
        at = PURPOSES.index(purpose)
        given = {
            "path": self.repo,
            "name": self.config,
            "split": self.splits[at],
            "revision": self.revision,
            "data_files": {self.splits[at]: self.files[at]} if self.files else None,
        }
        return {key: value for key, value in given.items() if value is not None}


#: The hub's own conversion to Parquet of a repository whose text comes from a script, which
#: datasets 4 and later do not run.
CONVERTED = "refs/convert/parquet"

HUB = {
    # The rows that SparseGPT, SLEB, SliceGPT and SPRINT join (depth.md 1.2 and 1.4 name the
    # repository by its old short name, wikitext).
    "wikitext2": HubText("Salesforce/wikitext", "wikitext-2-raw-v1", ("train", "test")),
    # SLEB's loader: one shard each, documents joined with a space, the first 1,100 for evaluation.
    # The other shard has hundreds of millions of tokens; its first documents have several million.
    "c4": HubText(
        "allenai/c4",
        None,
        ("train", "validation"),
        join=" ",
        files=("en/c4-train.00000-of-01024.json.gz", "en/c4-validation.00000-of-00008.json.gz"),
        first=(20_000, 1_100),
    ),
    # Shortened LLaMA evaluates on the validation split; the card names column and configuration.
    "ptb": HubText(
        "ptb-text-only/ptb_text_only",
        "penn_treebank",
        ("train", "validation"),
        column="sentence",
        revision=CONVERTED,
        doubt="that the hub keeps a converted copy of this script-based repository",
    ),
    # What Shortened LLaMA and Sliding Layer Merging calibrate on: a row is a sentence.
    "bookcorpus": HubText(
        "bookcorpus/bookcorpus",
        "plain_text",
        ("train", "train"),
        first=(200_000, 200_000),
        revision=CONVERTED,
        doubt="that the hub keeps a converted copy of this script-based repository",
    ),
    # SliceGPT's other calibration text. Its own code divides the one split 80/10/10, for which a
    # local file can be used.
    "alpaca": HubText("tatsu-lab/alpaca", None, ("train", "train")),
}

#: Token ids drawn uniformly from the model's vocabulary, for calibration only: there is no text.
RANDOM = "random"

#: The data sets that a case can name.
NAMES = frozenset({"tinyworld", *HUB, RANDOM})


def documents(dataset: str, purpose: Purpose, pick: Pick | None = None) -> tuple[str, ...]:
    """The documents of a text.

    Args:
        dataset: one of ``NAMES``, or a file: ``*.jsonl`` with a ``text`` key per line, otherwise
            plain text with one document per line.
        purpose: ``calibration`` or ``evaluation``; a named text has a split for each.
        pick: selects documents; by default all, or the first ones of a text that is too large.

    Raises:
        PrunebenchError: if the text is unknown, missing or empty.
    """
    if is_path(dataset):
        texts = _picked(_file(Path(dataset)), pick)
    elif dataset == "tinyworld":
        texts = _picked(_tinyworld(purpose), pick)
    elif dataset in HUB:
        texts = _hub(dataset, purpose, pick)
    else:
        hint = did_you_mean(dataset, NAMES)
        raise PrunebenchError(
            f"unknown dataset {dataset!r}; {hint}, or a path that starts with . or /"
        )
    if not any(text.strip() for text in texts):
        raise PrunebenchError(f"dataset {dataset!r} has no text")
    return tuple(texts)


def joined(dataset: str, purpose: Purpose, join: str | None = None) -> str:
    """All documents as one string.

    Args:
        dataset: as for ``documents``.
        purpose: as for ``documents``.
        join: the separator of documents; by default the one that users of the data set use. A
            newline restores a plain text file.
    """
    between = joint(dataset) if join is None else join
    return between.join(documents(dataset, purpose))


def joint(dataset: str) -> str:
    """The default separator of a text's documents."""
    if dataset == "tinyworld":
        return "\n"
    return HUB[dataset].join if dataset in HUB else "\n\n"


def label(dataset: str) -> str:
    """The name of a text in metric names."""
    return Path(dataset).stem if is_path(dataset) else dataset


def fingerprint(dataset: str) -> str:
    """A text in the answer key: the hash of a file, or a name whose content is fixed."""
    if is_path(dataset) and Path(dataset).is_file():
        return hash_cache.sha256(Path(dataset))
    return _tinyworld_hash() if dataset == "tinyworld" else dataset


def commits(dataset: str) -> list[str]:
    """The commits of a text of ``HUB`` in the hub's cache; a later download adds another."""
    return hub.commits(HUB[dataset].repo, "datasets") if dataset in HUB else []


def task_folder(folder: str | None, tasks: Iterable[str]) -> str | None:
    """The folder of the YAML files of *tasks*, or None for lm-eval's own tasks.

    Raises:
        PrunebenchError: if the folder does not exist.
    """
    if folder is not None and not Path(folder).is_dir():
        raise PrunebenchError(f"no such task folder: {folder!r}")
    return folder or (str(reference.TASKS) if set(tasks) <= set(reference.TASK_NAMES) else None)


def _file(path: Path) -> list[str]:
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
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


def _picked(texts: list[str], pick: Pick | None) -> list[str]:
    return texts if pick is None else [texts[i] for i in pick(len(texts))]


def _hub(dataset: str, purpose: Purpose, pick: Pick | None) -> list[str]:
    import datasets

    text = HUB[dataset]
    first = text.first[PURPOSES.index(purpose)]
    try:
        rows = datasets.load_dataset(**text.arguments(purpose))
        if pick is not None:
            rows = rows.select(pick(len(rows)))
        elif first is not None:
            rows = rows.select(range(min(first, len(rows))))
        return list(rows[text.column])
    except Exception as error:  # the hub client has no common base class for "not reachable"
        raise PrunebenchError(_absent(dataset, error)) from error


def _absent(dataset: str, error: Exception) -> str:
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    where = f" (HF_HUB_OFFLINE={offline})" if offline else ""
    doubt = f"; unverified: {HUB[dataset].doubt}" if HUB[dataset].doubt else ""
    return (
        f"dataset {dataset!r} ({HUB[dataset].repo}) cannot be loaded: "
        f"{first_line(error)}{where}{doubt}; "
        "use a local file instead: dataset: ./file.txt in a case, --calibration-ids for prune"
    )

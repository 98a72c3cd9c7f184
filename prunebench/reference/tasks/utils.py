"""Loads the questions of the TinyWorld tasks from the files beside this one.

lm-eval imports this file by its path, so it stands alone. The data stays in memory: no data set
cache is written.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets


def _load(name: str) -> dict[str, datasets.Dataset]:
    path = Path(__file__).resolve().parent / f"tinyworld_{name}.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    return {"test": datasets.Dataset.from_list([json.loads(line) for line in lines])}


def load_agreement(**_: Any) -> dict[str, datasets.Dataset]:
    """Loads the questions of subject-verb agreement."""
    return _load("agreement")


def load_recall(**_: Any) -> dict[str, datasets.Dataset]:
    """Loads the questions of who holds what and who is where."""
    return _load("recall")


def load_facts(**_: Any) -> dict[str, datasets.Dataset]:
    """Loads the questions about the fixed world of facts."""
    return _load("facts")


def load_order(**_: Any) -> dict[str, datasets.Dataset]:
    """Loads the questions about what comes where in a list."""
    return _load("order")


def load_complete(**_: Any) -> dict[str, datasets.Dataset]:
    """Loads the sums and brackets to complete."""
    return _load("complete")

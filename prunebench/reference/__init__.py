"""TinyWorld, the reference model that comes with the package, with its text and its tasks.

The model is a real, trained Llama-architecture model of a few megabytes, so that everything in the
harness can be tried offline. This module only locates files: importing it needs no other package.
"""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).resolve().parent

#: The id of the model.
MODEL_ID = "prunebench/reference"
#: The model's folder, as transformers loads it.
MODEL: Path = _HERE / "model"
#: The folder with the lm-eval task files, for `lm_eval --include_path`.
TASKS: Path = _HERE / "tasks"
#: The splits that come as text files.
SPLITS: tuple[str, ...] = ("validation", "test", "calibration")
#: The lm-eval names of the tasks.
TASK_NAMES: tuple[str, ...] = (
    "tinyworld_agreement",
    "tinyworld_recall",
    "tinyworld_facts",
    "tinyworld_order",
    "tinyworld_complete",
)


def documents(split: str) -> list[str]:
    """The shipped documents of a split.

    Raises:
        ValueError: if there is no such split.
    """
    if split not in SPLITS:
        raise ValueError(f"no shipped split {split!r}: there are {', '.join(SPLITS)}")
    return (_HERE / "data" / f"{split}.txt").read_text(encoding="utf-8").splitlines()

"""The files of a new project: a first case, .gitignore, workflows, a script for cron."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from .. import reference
from ..data import hub
from ..errors import PrunebenchError
from ..system import files
from ..version import __version__

TEMPLATES = Path(__file__).parents[1] / "templates"
WORKFLOWS = ".github/workflows"
#: Files of runs that are not committed.
IGNORED = (".prunebench/", "logs/", "site/", "nightly.env", "nightly.json", "nightly.md")

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def contents(
    folder: Path,
    *,
    model: str | None = None,
    ci: bool = False,
    nightly: bool = False,
    runner: str = "ubuntu-latest",
) -> dict[str, str]:
    """The files of a new project, by their path below *folder*.

    A first case is among them only if ``cases/smoke`` has none, and ``.gitignore`` keeps its
    lines.

    Args:
        folder: the project.
        model: a folder or hub id; by default the shipped reference model.
        ci: with the workflow for pull requests.
        nightly: with the nightly workflow and the script for cron.
        runner: labels of the GitHub runner that measures, with commas between them.

    Raises:
        PrunebenchError: if there is no such model, or *runner* is no list of labels.
    """
    names = {"RUNNER": _runs_on(runner), "VERSION": __version__}
    made: dict[str, str] = {}
    smoke = folder / "cases" / "smoke"
    if not any(smoke.rglob("*.yaml")) or (smoke / "first.yaml").exists():
        name = "reference.yaml" if model is None else "model.yaml"
        model_id = "" if model is None else _model_id(model, smoke)
        made["cases/smoke/first.yaml"] = _filled(name, {"MODEL": json.dumps(model_id)})
    if ci:
        made[f"{WORKFLOWS}/prunebench.yml"] = _filled("prunebench.yml", names)
    if nightly:
        made[f"{WORKFLOWS}/prunebench-nightly.yml"] = _filled("nightly.yml", names)
        made["nightly.sh"] = _filled("nightly.sh", {})
    made[".gitignore"] = _ignoring(folder / ".gitignore")
    return made


def conflicts(folder: Path, made: Mapping[str, str]) -> list[str]:
    """Which files exist with other content; ``.gitignore`` is only added to."""
    return [
        name
        for name, text in made.items()
        if name != ".gitignore"
        and (folder / name).exists()
        and (not (folder / name).is_file() or (folder / name).read_bytes() != text.encode())
    ]


def write(folder: Path, made: Mapping[str, str]) -> list[Path]:
    """Write the files that differ; returns their paths.

    Raises:
        PrunebenchError: if a file cannot be written.
    """
    written = []
    for name, text in made.items():
        path = folder / name
        if path.is_file() and path.read_bytes() == text.encode():
            continue
        files.write(path, text.encode())
        if path.suffix == ".sh":
            path.chmod(path.stat().st_mode | 0o111)
        written.append(path)
    return written


def _filled(name: str, values: Mapping[str, str]) -> str:
    text = (TEMPLATES / name).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace(f"@{key}@", value)
    return text


def _runs_on(labels: str) -> str:
    named = [label.strip() for label in labels.split(",")]
    if not all(_LABEL.fullmatch(label) for label in named):
        raise PrunebenchError(
            f"--runner {labels!r}: expected labels of a GitHub runner such as self-hosted,gpu"
        )
    return named[0] if len(named) == 1 else f"[{', '.join(named)}]"


def _model_id(model: str, case_folder: Path) -> str:
    """The id for a case file in *case_folder*: a model's folder is relative to it."""
    hub.require(model, weights=False)
    folder = hub.folder_of(model)
    if folder is None or model == reference.MODEL_ID or Path(model).is_absolute():
        return model
    relative = os.path.relpath(folder, case_folder)
    return relative if relative.startswith(".") else f"./{relative}"


def _ignoring(path: Path) -> str:
    text = files.read(path).decode("utf-8", "surrogateescape") if path.is_file() else ""
    missing = [line for line in IGNORED if line not in text.splitlines()]
    if not missing:
        return text
    gap = "" if text.endswith("\n") or not text else "\n"
    return text + gap + "".join(f"{line}\n" for line in missing)

"""Where a record comes from: project, machine, model, data, command; enough to make it again."""

from __future__ import annotations

import os
import platform
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from ..api import Method, Metric, tag
from ..case import Case
from ..data import datasets, hub
from ..data.fingerprints import folder_hash, model_hash
from ..record import Provenance, Record
from ..specs import ModelSpec
from .answer_key import SETTINGS, task_folders

#: Variables of the user's that bear on a run, in addition to those in the answer key.
VARIABLES = (
    "CUDA_VISIBLE_DEVICES",
    "HF_DATASETS_OFFLINE",
    "HF_HUB_OFFLINE",
    "MKL_NUM_THREADS",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "PYTORCH_CUDA_ALLOC_CONF",
    "TOKENIZERS_PARALLELISM",
    *SETTINGS,
)


def of(case: Case, dtype: str) -> Provenance:
    """What is known of a record of *case* that is made now, of weights loaded in *dtype*."""
    where = hub.place(case.model.id, case.model.revision)
    _, branch, dirty = git()
    return Provenance(
        branch=branch,
        dirty=dirty,
        command=_command(),
        host="" if _anonymous() else socket.gethostname(),
        cpu=cpu(),
        dtype=dtype,
        seeds=_seeds(case),
        model_source=where.kind,
        model_commit=hub.commit_of(where.folder),
        data=_data(case),
        checkpoint=_checkpoint(case),
        settings={name: os.environ[name] for name in VARIABLES if name in os.environ},
    )


def git() -> tuple[str | None, str, bool | None]:
    """Commit and branch of the project in the current folder, and whether it has changes.

    Files that git does not know are no change: results lie among them. Without git, nothing.
    """
    command = ["git", "status", "--porcelain=v2", "--branch", "--untracked-files=no"]
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired, UnicodeDecodeError):
        return None, "", None
    lines = done.stdout.splitlines()
    heads = dict(line[2:].split(" ", 1) for line in lines if line.startswith("# "))
    commit = heads.get("branch.oid", "(initial)")
    if done.returncode or commit == "(initial)":
        return None, "", None
    branch = heads.get("branch.head", "")
    return (
        commit[:12],
        "" if branch == "(detached)" else branch,
        any(not line.startswith("#") for line in lines),
    )


@cache
def cpu() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def lines(record: Record) -> Iterator[str]:
    """The provenance of a record as lines: ``name: value``, what is not known left out."""
    here, origin = record.environment, record.provenance
    commit = here.commit or ""
    if commit and origin.dirty:
        commit += " with changes"
    model = ", ".join(filter(None, (record.model_id, record.model_hash[:12])))
    facts = {
        "made": record.created,
        "command": origin.command,
        "project": " on ".join(filter(None, (commit, origin.branch))),
        "host": origin.host,
        "device": here.device,
        "gpu": ", ".join(f"{k} {v}" for k, v in here.gpu.items()),
        "processor": f"{origin.cpu}, {here.threads} threads" if origin.cpu else "",
        "system": f"{here.platform}, Python {here.python}",
        "packages": ", ".join(f"{k} {v}" for k, v in here.packages.items()),
        "settings": ", ".join(f"{k}={v}" for k, v in origin.settings.items()),
        "model": ", ".join(filter(None, (model, origin.dtype, origin.model_source))),
        "revision": origin.model_commit,
        "checkpoint": origin.checkpoint,
        "data": ", ".join(f"{k} {v[:12]}" for k, v in origin.data.items()),
        "seeds": ", ".join(f"{k} {v}" for k, v in origin.seeds.items()),
        "key": record.key,
    }
    yield from (f"{name}: {value}" for name, value in facts.items() if value)


def _anonymous() -> bool:
    return os.environ.get("PRUNEBENCH_ANONYMOUS", "") not in ("", "0")


def _command() -> str:
    name = Path(sys.argv[0]).name
    if name in ("__main__.py", "-c", "-m"):
        name = "prunebench" if name == "__main__.py" else "python"
    command = shlex.join([name, *sys.argv[1:]])
    return command.replace(str(Path.home()), "~") if _anonymous() else command


def _seeds(case: Case) -> dict[str, int]:
    seeds = {"calibration": case.calibration.seed} if case.method.calibrated else {}
    plugins: list[Method | Metric] = [case.method, *case.metrics]
    return seeds | {tag(p): s for p in plugins if isinstance(s := getattr(p, "seed", None), int)}


def _data(case: Case) -> dict[str, str]:
    found = {datasets.label(name): _text(name) for name in case.datasets}
    return found | {f"tasks {Path(f).name}": folder_hash(f) for f in task_folders(case)}


def _text(name: str) -> str:
    if name not in datasets.HUB:
        return datasets.fingerprint(name)
    return " ".join(datasets.commits(name)) or "of an unknown commit"


def _checkpoint(case: Case) -> str:
    """The resolved commit or content of the checkpoint that an external result is."""
    if (name := getattr(case.method, "checkpoint", None)) is None:
        return ""
    return hub.commit_of(hub.place(name).folder) or model_hash(ModelSpec(name)) or ""

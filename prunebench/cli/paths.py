"""Default places of cases, baselines and results."""

from __future__ import annotations

from pathlib import Path

from ..results.baselines.files import OWN, shipped

DEFAULT_STORE = Path(".prunebench")


def case_paths(paths: list[Path] | None) -> list[Path]:
    """*paths*, by default the smoke cases: those here, else those of the package."""
    if paths:
        return paths
    smoke = Path("cases/smoke")
    return [smoke if smoke.is_dir() else shipped("cases/smoke")]


def all_case_paths() -> list[Path]:
    """The places in which the case of a record may be defined."""
    return [Path("cases")] if Path("cases").is_dir() else [shipped("cases/smoke")]


def default_baselines() -> Path:
    """``baselines/`` here, or those of the package if its cases are used."""
    return OWN if OWN.is_dir() or Path("cases").is_dir() else shipped("baselines")

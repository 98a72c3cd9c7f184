"""Where cases, baselines and results lie when no option names them."""

from __future__ import annotations

from pathlib import Path

from ..results.baselines.files import OWN, shipped

DEFAULT_STORE = Path(".prunebench")


def case_paths(paths: list[Path] | None) -> list[Path]:
    """What was given, or else the smoke cases: those here, or those that come with us."""
    if paths:
        return paths
    smoke = Path("cases/smoke")
    return [smoke if smoke.is_dir() else shipped("cases/smoke")]


def all_case_paths() -> list[Path]:
    """Where a case of any record may be defined."""
    return [Path("cases")] if Path("cases").is_dir() else [shipped("cases/smoke")]


def default_baselines() -> Path:
    """``baselines/`` here, or the shipped ones where the shipped cases are used."""
    return OWN if OWN.is_dir() or Path("cases").is_dir() else shipped("baselines")

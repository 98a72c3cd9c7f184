"""``prunebench list``: the ids of cases, without running them."""

from __future__ import annotations

from ..system.console import print_line
from .options import AsJson, Keyword, Paths, Settings, chosen_cases, print_json


def list_cases(
    paths: Paths = None,
    keyword: Keyword = "",
    settings: Settings = None,
    as_json: AsJson = False,
) -> None:
    """List cases without running them."""
    cases = chosen_cases(paths, keyword, settings)
    if as_json:
        print_json([{"id": c.id, "file": str(c.file), "line": c.line, **c.asked} for c in cases])
        return
    for case in cases:
        print_line(case.id)

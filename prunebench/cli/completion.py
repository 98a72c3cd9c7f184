"""Shell completion: methods, cases, files, keys.

A shell asks at every Tab, so nothing heavy is imported, and errors are not printed: the command
itself prints them.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import typer

from .. import registry
from ..cases import loader
from ..cases.keys import CaseFile
from ..results.store import Store
from .paths import DEFAULT_STORE, all_case_paths, case_paths


def methods(incomplete: str) -> list[str]:
    """Names of methods."""
    return _starting(incomplete, lambda: registry.names("methods"))


def keywords(ctx: typer.Context, incomplete: str) -> list[str]:
    """The last word of a ``-k`` expression: a method's name, or a case of the paths given."""
    word = re.split(r"[\s(]", incomplete)[-1]
    before = incomplete[: len(incomplete) - len(word)]

    def words() -> Iterable[str]:
        given = [Path(text) for text in ctx.args if not text.startswith("-")]
        cases = loader.load(case_paths(given))
        return [*dict.fromkeys(c.asked["method"]["name"] for c in cases), *(c.label for c in cases)]

    return [before + candidate for candidate in _starting(word, words)]


def case_files(incomplete: str) -> list[str]:
    """Case files below cases/ and their folders; the shell completes other files."""

    def found() -> Iterable[str]:
        files = loader.find([Path("cases")])
        folders = sorted({folder for f in files for folder in f.parents if folder != Path()})
        return [*(f"{folder}" for folder in folders), *map(str, files)]

    return _starting(incomplete, found)


def stored_cases(ctx: typer.Context, incomplete: str) -> list[str]:
    """Cases with records, by id or its last part; without records those of the case files."""

    def found() -> Iterable[str]:
        ids = Store(Path(ctx.params.get("store") or DEFAULT_STORE)).case_ids()
        ids = ids or [case.id for case in loader.load(all_case_paths())]
        ends = [case_id.rpartition("/")[2] for case_id in ids]
        return [*ids, *(end for end in ends if ends.count(end) == 1)]

    return _starting(incomplete, found)


def settings(incomplete: str) -> list[str]:
    """Keys of a case file, for ``--set``."""
    return _starting(incomplete, lambda: [f"{key}=" for key in CaseFile.__struct_fields__])


def devices(incomplete: str) -> list[str]:
    """Words for devices."""
    return _starting(incomplete, lambda: ["cpu", "cuda"])


def _starting(prefix: str, found: Callable[[], Iterable[str]]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            words = dict.fromkeys(word for word in found() if word.startswith(prefix))
        except Exception:  # a traceback would disturb the line being typed
            return []
    return [word for word in words if word.isprintable()]

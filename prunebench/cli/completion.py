"""What a shell may complete: methods, cases, files, keys.

A shell asks at every press of a key, so nothing heavy is imported, and what goes wrong is not told:
the command itself will.
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


def methods(incomplete: str) -> list[str]:
    """Names of methods."""
    return _starting(incomplete, lambda: registry.names("methods"))


def keywords(ctx: typer.Context, incomplete: str) -> list[str]:
    """The last word of a ``-k`` expression: a method's name, or a case of the paths given."""
    begun = re.split(r"[\s(]", incomplete)[-1]
    before = incomplete[: len(incomplete) - len(begun)]

    def words() -> Iterable[str]:
        from .paths import case_paths  # which gives its options what is here

        given = [Path(text) for text in ctx.args if not text.startswith("-")]
        cases = loader.load(case_paths(given))
        return [*dict.fromkeys(c.asked["method"]["name"] for c in cases), *(c.label for c in cases)]

    return [before + word for word in _starting(begun, words)]


def case_files(incomplete: str) -> list[str]:
    """Case files here and the folders they are in; for others the shell knows all files."""

    def found() -> Iterable[str]:
        files = loader.find([Path("cases")])
        folders = sorted({folder for f in files for folder in f.parents if folder != Path()})
        return [*(f"{folder}" for folder in folders), *map(str, files)]

    return _starting(incomplete, found)


def stored_cases(ctx: typer.Context, incomplete: str) -> list[str]:
    """Cases that have records, by their id or its end; without any, those of the case files."""

    def found() -> Iterable[str]:
        from .paths import DEFAULT_STORE, all_case_paths

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


def _starting(begun: str, found: Callable[[], Iterable[str]]) -> list[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            words = dict.fromkeys(word for word in found() if word.startswith(begun))
        except Exception:  # a shell has no use for a traceback between two keys
            return []
    return [word for word in words if word.isprintable()]

"""Plain case data before it is a case: merged, overridden, its paths found and moved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from ..case import AMOUNTS
from ..data import yaml_source
from ..data.paths import is_path
from ..errors import CaseError, PrunebenchError
from ..system.files import slug
from .keys import SHAPING, Data


def merge(lower: Data, upper: Data) -> Data:
    """*upper* laid over *lower*: mappings merge, everything else replaces.

    A method of another name replaces the one below it, options and all.
    """
    merged = dict(lower)
    for key, value in upper.items():
        below = merged.get(key)
        other = key == "method" and isinstance(value, dict) and value.get("name") is not None
        if (
            isinstance(below, dict)
            and isinstance(value, dict)
            and not (other and below.get("name") != value.get("name"))
        ):
            merged[key] = merge(below, value)
        else:
            merged[key] = value
    return merged


def matches(cell: object, pattern: Data) -> bool:
    """Whether *cell* has everything that *pattern* has, at any depth."""
    return isinstance(cell, dict) and all(
        matches(cell.get(k), v) if isinstance(v, dict) else cell.get(k) == v
        for k, v in pattern.items()
    )


#: Levels of a dotted key; the deepest option is three down.
MAX_KEYS = 10


class Setting(NamedTuple):
    """An override of a case key, as given on the command line."""

    key: str
    value: Any
    text: str

    @classmethod
    def parse(cls, text: str, flag: str = "--set") -> Setting:
        """Read ``KEY=VALUE``, given to *flag*: a dotted key and a YAML value.

        Raises:
            PrunebenchError: if it is not of that form, or the key shapes the whole file.
        """
        key, equals, value = text.partition("=")
        key = key.strip()
        if not equals or not key:
            raise PrunebenchError(f"{flag} {text}: found no '=', expected KEY=VALUE")
        if key.split(".")[0] in SHAPING:
            raise PrunebenchError(f"{flag} {text}: {key!r} shapes the file; edit the file instead")
        if len(parts := key.split(".")) > MAX_KEYS or not all(parts):
            raise PrunebenchError(f"{flag} {text}: found the key {key!r}, expected a.b.c")
        try:
            return cls(key, yaml_source.value(value, "value"), text)
        except CaseError as error:
            what = error.problems[0].split(": ", 1)[1]
            raise PrunebenchError(f"{flag} {text}: the value is not valid YAML: {what}") from None

    @property
    def suffix(self) -> str:
        """What it adds to a case id."""
        return f"@{slug(self.text)}"

    def rebased(self, file: Path, reader: Path) -> Setting:
        """The same with paths relative to *file* made relative to *reader*."""
        return self._replace(value=rebased(self.value, file, reader))


def with_setting(data: Data, key: str, value: Any) -> Data:
    """*data* with the value at a dotted key replaced; numbers index lists."""
    head, _, rest = key.partition(".")
    new: Any = value
    if rest:
        inner = data.get(head)
        if isinstance(inner, list) and rest.partition(".")[0].isdigit():
            items = {str(i): item for i, item in enumerate(inner)}
            index = rest.partition(".")[0]
            if index not in items:
                raise PrunebenchError(f"--set {key}: {head} has {len(inner)} items")
            new = list(with_setting(items, rest, value).values())
        else:
            new = with_setting(inner if isinstance(inner, dict) else {}, rest, value)
    dropped = set(AMOUNTS) - {head} if head in AMOUNTS else set()  # one amount replaces another
    return {**{k: v for k, v in data.items() if k not in dropped}, head: new}


def rebased(value: Any, file: Path, reader: Path) -> Any:
    """*value* with paths relative to *file* rewritten relative to *reader*, which extends it."""
    if isinstance(value, dict):
        return {key: rebased(item, file, reader) for key, item in value.items()}
    if isinstance(value, list):
        return [rebased(item, file, reader) for item in value]
    if not is_path(value) or value.startswith("/"):
        return value
    moved = os.path.relpath(file.parent / value, reader.resolve().parent)
    return moved if moved.startswith(".") else f"./{moved}"


def resolved(value: Any, folder: Path) -> Any:
    """*value* with every relative path in it made absolute against the case file's folder."""
    if isinstance(value, dict):
        return {key: resolved(item, folder) for key, item in value.items()}
    if isinstance(value, list):
        return [resolved(item, folder) for item in value]
    return str((folder / value).resolve()) if is_path(value) else value

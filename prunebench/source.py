"""YAML files as plain data that remembers where every value stands."""

from __future__ import annotations

from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from .errors import CaseError

MAX_DEPTH = 20
MAX_NODES = 100_000
MAX_BYTES = 1_000_000

Where = tuple[str | int, ...]


class Source:
    """One parsed file: *data*, and the line and column of every key and item in it.

    Args:
        path: the file, as the user named it; it stands in every message.

    Raises:
        CaseError: if the file cannot be read, is no YAML mapping, has duplicate keys, or is nested
            or aliased beyond reason.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._marks: dict[Where, tuple[int, int]] = {}
        self._problems: list[str] = []
        self._nodes = 0
        node = self._compose()
        self.data: dict[str, Any] = {}
        if not isinstance(node, yaml.MappingNode):
            found = "an empty file" if node is None else "a list or a single value"
            raise CaseError([f"{path}:1:1: found {found}, expected a mapping of case keys"])
        self.data = self._plain(node, ())
        if self._problems:
            raise CaseError(self._problems)

    def at(self, where: Where) -> str:
        """``file:line:column`` of the value at *where*, or of the nearest thing around it."""
        while where and where not in self._marks:
            where = where[:-1]
        line, column = self._marks.get(where, (1, 1))
        return f"{self.path}:{line}:{column}"

    def _compose(self) -> yaml.Node | None:
        try:
            if self.path.stat().st_size > MAX_BYTES:
                raise CaseError([f"{self.path}:1:1: larger than {MAX_BYTES} bytes, no case file"])
            text = self.path.read_bytes().decode("utf-8")
            node: yaml.Node | None = yaml.compose(text, Loader=yaml.SafeLoader)
        except OSError as error:
            raise CaseError([f"{self.path}:1:1: cannot be read: {error.strerror}"]) from None
        except UnicodeDecodeError as error:
            raise CaseError([f"{self.path}:1:1: not UTF-8 text: {error.reason}"]) from None
        except RecursionError:
            raise CaseError([f"{self.path}:1:1: nested too deeply"]) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
            what = " ".join(str(error.problem or error.context).split())
            raise CaseError([f"{self.path}:{line}:{column}: not valid YAML: {what}"]) from None
        except yaml.YAMLError as error:
            what = " ".join(str(error).split())
            raise CaseError([f"{self.path}:1:1: not valid YAML: {what}"]) from None
        return node

    def _plain(self, node: yaml.Node, where: Where) -> Any:
        self._marks.setdefault(where, (node.start_mark.line + 1, node.start_mark.column + 1))
        self._nodes += 1
        # An alias may be expanded many times over: what counts is what a reader would get.
        if self._nodes > MAX_NODES or len(where) > MAX_DEPTH:
            limit = f"{MAX_NODES} values" if self._nodes > MAX_NODES else f"{MAX_DEPTH} levels"
            raise CaseError([f"{self.at(where)}: more than {limit}, no case file needs that"])
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item, (*where, i)) for i, item in enumerate(node.value)]
        return self._scalar(node)

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self._scalar(key_node) if isinstance(key_node, yaml.ScalarNode) else None
            spot = (key_node.start_mark.line + 1, key_node.start_mark.column + 1)
            if not isinstance(key, str):
                message = f"found a key that is no text: {key_node.value!r}"
                self._problems.append(f"{self.path}:{spot[0]}:{spot[1]}: {message}"[:300])
                continue
            if key in result:
                message = f"duplicate key {key!r}: give it once"
                self._problems.append(f"{self.path}:{spot[0]}:{spot[1]}: {message}")
                continue
            self._marks[(*where, key)] = spot
            result[key] = self._plain(value_node, (*where, key))
        return result

    def _scalar(self, node: yaml.Node) -> Hashable:
        loader = _CONSTRUCTOR
        try:
            value: Hashable = loader.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, OverflowError) as error:
            what = " ".join(str(getattr(error, "problem", error)).split())
            line, column = node.start_mark.line + 1, node.start_mark.column + 1
            self._problems.append(f"{self.path}:{line}:{column}: {what}")
            return None
        if value is not None and not isinstance(value, str | int | float | bool):
            return str(node.value)  # a date, say: YAML's guess, never ours
        return value


_CONSTRUCTOR = yaml.constructor.SafeConstructor()

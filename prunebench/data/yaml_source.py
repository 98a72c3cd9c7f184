"""YAML files as plain data, with the line and column of every value."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from ..errors import CaseError, PrunebenchError, inert
from ..system import files

#: The most levels of a case file, values with every alias expanded, and bytes.
MAX_DEPTH = 20
MAX_NODES = 20_000
MAX_BYTES = 1_000_000
#: The most problems of a file that are reported.
MAX_PROBLEMS = 100
#: The largest whole number that is read.
MAX_WHOLE = 2**63 - 1

Where = tuple[str | int, ...]

_YAML = "tag:yaml.org,2002:"
#: Tags of plain data; any other tag makes a loader construct an object.
_PLAIN = {f"{_YAML}{kind}" for kind in ("str", "int", "float", "bool", "null", "timestamp")}
_DECIMAL = re.compile(r"[-+]?(0|[1-9][0-9_]*)")


class _ShapeError(yaml.MarkedYAMLError):
    """A YAML file that is not a case file: too deep, too large, or more than plain data."""


class _Loader(yaml.SafeLoader):
    """Composes the nodes of a file; stops at the limits of a case file."""

    depth = nodes = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.nodes += 1
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        # A key of a mapping is a node of its own, one level down.
        if self.depth > MAX_DEPTH + 2:
            raise _ShapeError(problem=_beyond(f"{MAX_DEPTH} levels"), problem_mark=mark)
        if self.nodes > 2 * MAX_NODES:
            raise _ShapeError(problem=_beyond(f"{MAX_NODES} values"), problem_mark=mark)
        node: yaml.Node | None = super().compose_node(parent, index)
        self.depth -= 1
        return node


class Source:
    """One parsed file: *data*, and the line and column of every key and item in it.

    Args:
        path: the file, as the user named it; every message shows it.

    Raises:
        CaseError: if the file cannot be read, is not a YAML mapping, has duplicate keys, tags or
            merge keys, or exceeds the limits above.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        parsed = _Parsed(str(path), text_of(path))
        self._marks = parsed.marks
        if not isinstance(parsed.data, dict):
            found = "an empty file" if parsed.data is None else "a list or a single value"
            raise CaseError([f"{path}:1:1: found {found}, expected a mapping of case keys"])
        self.data: dict[str, Any] = parsed.data

    def at(self, where: Where) -> str:
        """``file:line:column`` of the value at *where*, or of the innermost value around it."""
        while where and where not in self._marks:
            where = where[:-1]
        line, column = self._marks.get(where, (1, 1))
        return f"{self.path}:{line}:{column}"


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        CaseError: if it cannot be read, is too large, or is not UTF-8.
    """
    try:
        return files.read(path, MAX_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line = before.count(b"\n") + 1
        column = error.start - before.rfind(b"\n")
        raise CaseError([f"{path}:{line}:{column}: not UTF-8 text: {error.reason}"]) from None
    except PrunebenchError as error:
        message = str(error).removeprefix(f"{path}: ")
        raise CaseError([f"{path}:1:1: {message}"]) from None


def compose(text: str, name: str) -> yaml.Node | None:
    """The nodes of a YAML text, None for an empty one; aliases are not expanded yet.

    Args:
        text: YAML.
        name: the file in messages.

    Raises:
        CaseError: if it is not YAML, or exceeds the limits above.
    """
    try:
        node: yaml.Node | None = yaml.compose(text, Loader=_Loader)
    except _ShapeError as error:
        raise CaseError([_located(name, error.problem_mark, str(error.problem))]) from None
    except yaml.MarkedYAMLError as error:
        what = " ".join(str(error.problem or error.context).split())
        mark = error.problem_mark or error.context_mark
        raise CaseError([_located(name, mark, f"not valid YAML: {what}")]) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - text.rfind("\n", 0, error.position)
        found = repr(text[error.position : error.position + 1])
        message = f"not valid YAML: found the character {found}, which is not allowed"
        raise CaseError([f"{name}:{line}:{column}: {message}"]) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        what = " ".join(str(error).split())
        raise CaseError([f"{name}:1:1: not valid YAML: {what}"]) from None
    return node


def _located(name: str, mark: Any, message: str) -> str:
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    return f"{name}:{line}:{column}: {message}"


def value(text: str, name: str) -> Any:
    """The value of *text*, read like a value in a case file.

    Args:
        text: YAML.
        name: the file in messages.

    Raises:
        CaseError: if a case file could not have it.
    """
    return _Parsed(name, text).data


class _Parsed:
    """The data of a YAML text, and the line and column of everything in it."""

    def __init__(self, name: str, text: str) -> None:
        self.name = name
        self.marks: dict[Where, tuple[int, int]] = {}
        self._problems: list[str] = []
        self._nodes = 0
        node = compose(text, name)
        self.data: Any = None if node is None else self._plain(node, ())
        if self._problems:
            raise CaseError(self._problems)

    def _problem(self, node: yaml.Node, message: str) -> None:
        self._problems.append(_located(self.name, node.start_mark, message))
        if len(self._problems) >= MAX_PROBLEMS:
            raise CaseError(self._problems)

    def _plain(self, node: yaml.Node, where: Where) -> Any:
        self.marks.setdefault(where, (node.start_mark.line + 1, node.start_mark.column + 1))
        self._nodes += 1
        # An alias may be expanded many times: the expanded values count.
        if self._nodes > MAX_NODES or len(where) > MAX_DEPTH:
            limit = f"{MAX_NODES} values" if self._nodes > MAX_NODES else f"{MAX_DEPTH} levels"
            raise CaseError([_located(self.name, node.start_mark, _beyond(limit))])
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node)
        if node.tag not in (f"{_YAML}map", f"{_YAML}seq"):
            self._problem(node, _tagged(node.tag))
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, where)
        return [self._plain(item, (*where, i)) for i, item in enumerate(node.value)]

    def _mapping(self, node: yaml.MappingNode, where: Where) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                kind = "a list" if isinstance(key_node, yaml.SequenceNode) else "a mapping"
                self._problem(key_node, f"found a key that is not text: {kind}")
                continue
            if key_node.tag == f"{_YAML}merge":
                message = "merge keys (<<) are not read; use extends or defaults"
                self._problem(key_node, message)
                continue
            key = self._scalar(key_node)
            if not isinstance(key, str):
                self._problem(key_node, f"found a key that is not text: {key_node.value[:60]!r}")
            elif key in result:
                self._problem(key_node, f"duplicate key {key[:60]!r}: give it once")
            else:
                mark = key_node.start_mark
                self.marks[(*where, key)] = (mark.line + 1, mark.column + 1)
                result[key] = self._plain(value_node, (*where, key))
        return result

    def _scalar(self, node: yaml.ScalarNode) -> str | float | bool | None:
        if node.tag not in _PLAIN:
            self._problem(node, _tagged(node.tag))
            return None
        if node.tag == f"{_YAML}timestamp":
            return str(node.value)  # the text, which YAML would read as a date
        if node.tag == f"{_YAML}int" and not _DECIMAL.fullmatch(node.value):
            # YAML 1.1 has octal, hexadecimal and base 60, where 010 is 8 and 1:30 is 90.
            self._problem(node, f"found {node.value[:60]!r}, expected a whole number in decimal")
            return None
        if node.tag == f"{_YAML}float" and ":" in node.value:
            self._problem(node, f"found {node.value[:60]!r}, expected a number in decimal")
            return None
        try:
            found: str | float | bool | None = _CONSTRUCTOR.construct_object(node)
        except (yaml.YAMLError, ValueError, LookupError, OverflowError):
            self._problem(
                node, f"found {node.value[:60]!r}, which is not a valid {_name(node.tag)}"
            )
            return None
        if isinstance(found, int) and abs(found) > MAX_WHOLE:
            self._problem(
                node, f"found a number of {len(node.value)} digits, at most 2^63 is allowed"
            )
            return None
        return found


def _beyond(limit: str) -> str:
    return f"more than {limit}, no case file needs that"


def _tagged(tag: str) -> str:
    return f"found the tag {inert(_name(tag), 60)!r}: a case file holds plain data only"


def _name(tag: str) -> str:
    return f"!!{tag.removeprefix(_YAML)}" if tag.startswith(_YAML) else tag


_CONSTRUCTOR = yaml.constructor.SafeConstructor()

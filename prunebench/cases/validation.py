"""Checks plain data against a struct and reports every problem at once, each with its place.

msgspec stops at the first problem; somebody who wrote a case file wants all of them.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

from msgspec import inspect

from ..errors import did_you_mean

Where = tuple[str | int, ...]
Problem = tuple[Where, str]

_NAMES = {
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.StrType: "text",
    inspect.BoolType: "true or false",
    inspect.DictType: "a mapping",
    inspect.VarTupleType: "a list",
    inspect.ListType: "a list",
    inspect.StructType: "a mapping",
    inspect.NoneType: "nothing",
}


def problems(data: object, kind: Any, where: Where = ()) -> Iterator[Problem]:
    """All places where *data* is not a *kind* (a type msgspec knows)."""
    yield from _check(data, _info(kind), where)


def found(value: object) -> str:
    """A short rendering of *value* for messages."""
    words = {dict: "a mapping", list: "a list", type(None): "nothing"}
    short = value[:60] if isinstance(value, str) else value
    return words.get(type(value)) or repr(short)[:60]


@cache
def _info(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)


def _check(data: object, kind: inspect.Type, where: Where) -> Iterator[Problem]:
    if isinstance(kind, inspect.Metadata):
        kind = kind.type
    yield from _CHECKS.get(type(kind), _plain)(data, kind, where)


def _union(data: object, kind: inspect.UnionType, where: Where) -> Iterator[Problem]:
    if data is None and any(isinstance(t, inspect.NoneType) for t in kind.types):
        return
    rest = [t for t in kind.types if not isinstance(t, inspect.NoneType)]
    answers = [list(_check(data, t, where)) for t in rest]
    if all(answers):
        # The alternative that fails deepest is the one that was meant.
        yield from max(answers, key=lambda found: max(len(w) for w, _ in found))


def _struct(data: object, kind: inspect.StructType, where: Where) -> Iterator[Problem]:
    if not isinstance(data, dict):
        yield where, _expected(kind, data)
        return
    fields = {f.encode_name: f for f in kind.fields}
    known = {*fields, kind.tag_field} - {None}
    for key, value in data.items():
        if key not in known:
            hint = did_you_mean(str(key), [str(k) for k in known])
            yield (*where, key), f"unknown key {key!r}; {hint}"
        elif key in fields:
            yield from _check(value, fields[key].type, (*where, key))
    for name, field in fields.items():
        if field.required and name not in data:
            yield where, f"missing key {name!r}"


def _choice(
    data: object, kind: inspect.LiteralType | inspect.EnumType, where: Where
) -> Iterator[Problem]:
    values = kind.values if isinstance(kind, inspect.LiteralType) else list(kind.cls)
    if isinstance(data, bool | list | dict) or data not in values:
        hint = did_you_mean(str(data), [str(v) for v in values])
        yield where, f"found {found(data)}; {hint}"


def _list(
    data: object, kind: inspect.VarTupleType | inspect.ListType, where: Where
) -> Iterator[Problem]:
    if not isinstance(data, list):
        yield where, _expected(kind, data)
        return
    if len(data) < (kind.min_length or 0):
        yield where, f"found {len(data)} items, expected at least {kind.min_length}"
    for i, item in enumerate(data):
        yield from _check(item, kind.item_type, (*where, i))


def _mapping(data: object, kind: inspect.DictType, where: Where) -> Iterator[Problem]:
    if not isinstance(data, dict):
        yield where, _expected(kind, data)
        return
    for key, item in data.items():
        yield from _check(item, kind.value_type, (*where, key))


def _plain(data: object, kind: inspect.Type, where: Where) -> Iterator[Problem]:
    if not _is(data, kind):
        yield where, _expected(kind, data)
    elif isinstance(kind, inspect.StrType) and not _fits(kind.pattern, str(data)):
        yield where, f"found {found(data)}, expected text of the form {kind.pattern}"


def _number(
    data: object, kind: inspect.IntType | inspect.FloatType, where: Where
) -> Iterator[Problem]:
    whole = isinstance(kind, inspect.IntType)
    if isinstance(data, bool) or not isinstance(data, int if whole else int | float):
        hint = ""
        if isinstance(data, str) and len(data) < 60 and not whole and _reads_as_number(data):
            hint = f" (YAML reads {data} as text; write it out as {float(data)!r})"
        yield where, _expected(kind, data) + hint
        return
    if isinstance(data, float) and not math.isfinite(data):
        kind_of = "a number" if math.isnan(data) else "a finite number"
        yield where, f"found {data}, expected {kind_of}"
        return
    bounds = [
        (kind.gt, "above", operator.gt),
        (kind.ge, "at least", operator.ge),
        (kind.lt, "below", operator.lt),
        (kind.le, "at most", operator.le),
    ]
    limits = [f"{word} {bound:g}" for bound, word, _ in bounds if bound is not None]
    if any(bound is not None and not holds(data, bound) for bound, _, holds in bounds):
        yield where, f"found {found(data)}, expected {_NAMES[type(kind)]} {' and '.join(limits)}"


def _reads_as_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _fits(pattern: str | None, text: str) -> bool:
    # The $ of a JSON Schema is the very end; that of Python may come before a last line end.
    return pattern is None or (re.search(pattern, text) is not None and not text.endswith("\n"))


def _expected(kind: inspect.Type, data: object) -> str:
    return f"found {found(data)}, expected {_NAMES.get(type(kind), type(kind).__name__)}"


def _is(data: object, kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.StrType):
        return isinstance(data, str)
    if isinstance(kind, inspect.BoolType):
        return isinstance(data, bool)
    return isinstance(kind, inspect.NoneType) and data is None


def _anything(*_: object) -> Iterator[Problem]:
    return iter(())


#: How a value is checked against a kind of type; text, truth values and nothing are plain.
_CHECKS: dict[type[inspect.Type], Callable[[object, Any, Where], Iterator[Problem]]] = {
    inspect.AnyType: _anything,
    inspect.DictType: _mapping,
    inspect.EnumType: _choice,
    inspect.FloatType: _number,
    inspect.IntType: _number,
    inspect.ListType: _list,
    inspect.LiteralType: _choice,
    inspect.StructType: _struct,
    inspect.UnionType: _union,
    inspect.VarTupleType: _list,
}

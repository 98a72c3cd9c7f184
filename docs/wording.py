"""Markdown of tables, and of JSON Schemas in words, for the generated pages."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Schema = Mapping[str, Any]

NAMES = {
    "boolean": "`true`, `false`",
    "integer": "whole number",
    "number": "number",
    "string": "text",
}
BOUNDS = {
    "exclusiveMinimum": "above",
    "minimum": "from",
    "exclusiveMaximum": "below",
    "maximum": "up to",
}


def table(head: tuple[str, ...], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, tuple("---" for _ in head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def cell(text: str) -> str:
    """Text that stays in its cell."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def prose(text: str) -> str:
    """A docstring as Markdown: papers become links."""
    return re.sub(r"arXiv:(\d{4}\.\d{4,5})", r"[arXiv:\1](https://arxiv.org/abs/\1)", text)


def fields(part: Schema, parts: Schema, kind: str = "key") -> str:
    """A table of what a mapping takes."""
    required = part.get("required", ())
    rows = [
        (f"`{k}`", words(v, parts), "required" if k in required else default(v))
        for k, v in part["properties"].items()
        if k not in ("name", "edit") or "enum" not in v
    ]
    return table((kind, "takes", "default"), rows) if rows else "No options."


def default(schema: Schema) -> str:
    """What holds where nothing is given."""
    given = schema.get("default")
    return "none" if given is None or given in ({}, []) else f"`{json.dumps(given)}`"


def words(schema: Schema, parts: Schema) -> str:
    """A JSON Schema in a few words."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        part = parts[name]
        if "enum" in part:
            return words(part, parts)
        return f"mapping, see [{name}](#{name.lower()})"
    if "anyOf" in schema:
        known = [words(s, parts) for s in schema["anyOf"] if s.get("type") != "null"]
        return " or ".join(dict.fromkeys(known))
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"] if value is not None)
    if schema.get("type") == "array":
        items = schema.get("items")
        some = f", at least {schema['minItems']}" if schema.get("minItems") else ""
        return "list of " + (words(items, parts) if isinstance(items, dict) else "values") + some
    if schema.get("type") == "object":
        inner = schema.get("additionalProperties")
        return "mapping" + (f" of name to {words(inner, parts)}" if isinstance(inner, dict) else "")
    text = NAMES.get(str(schema.get("type")), "anything")
    limits = [f"{word} {schema[key]:g}" for key, word in BOUNDS.items() if key in schema]
    if "pattern" in schema:
        limits.append(f"of the form `{schema['pattern'].replace('|', chr(92) + '|')}`")
    return " ".join([text, *limits])

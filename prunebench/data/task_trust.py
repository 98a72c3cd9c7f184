"""Finds code that a folder of lm-eval tasks could run, before anything of it is loaded.

A task file can name Python next to it (``!function``), a metric that is a script, a generation loop
of a repository; and its templates are Jinja, which outside a sandbox reaches all of Python. Such a
folder is code, and is run only if the user trusts it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from .. import reference
from ..errors import CaseError, PrunebenchError
from ..system import files
from . import yaml_source

#: The environment variable by which a user trusts the task folders of a run.
VARIABLE = "PRUNEBENCH_TRUST_TASKS"

#: Keys that run code with any value, and keys that run code if they are true.
_CODE = ("class", "custom_generate", "use_prompt")
_IF_TRUE = ("hf_evaluate", "trust_remote_code", "unsafe_code")
#: Loaders of data sets that unpickle or import by name.
_LOADERS = ("generator", "pandas", "spark", "sql")
#: lm-eval's own metrics; any other name is loaded as a script of Hugging Face Evaluate.
_METRICS = (
    *("acc", "acc_all", "acc_bytes", "acc_mutual_info", "acc_norm", "bits_per_byte", "bleu"),
    *("brier_score", "bypass", "byte_perplexity", "chrf", "chrf++", "exact_match", "f1"),
    *("likelihood", "mcc", "perplexity", "ter", "word_perplexity"),
)
_YAML = "tag:yaml.org,2002:"


def trusted() -> bool:
    """Whether the user allows task folders to run code."""
    return os.environ.get(VARIABLE, "") not in ("", "0")


def check(folder: Path) -> None:
    """Refuse a task folder that could run code, unless the user trusts it.

    Raises:
        PrunebenchError: with the first places, as ``file:line:column``.
    """
    if found := list(islice(problems(folder), 3)):
        raise PrunebenchError("\n".join(found))


def problems(folder: Path) -> Iterator[str]:
    """Every place in the task files of *folder* that could run code.

    None if the folder is trusted or is the shipped one.
    """
    if trusted() or folder.resolve() == reference.TASKS.resolve():
        return
    left = [path for path in files.below(folder, ".yaml") if path.is_file()]
    seen = set(left)
    while left:
        path = left.pop(0)
        reader = _Reader(path)
        try:
            yield from reader.problems()
        except CaseError as error:
            yield from error.problems
        more = [other for other in reader.includes if other not in seen]
        seen.update(more)
        left += more


class _Reader:
    """Walks one task file; *includes* are the files that it includes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.includes: list[Path] = []
        self._left = yaml_source.MAX_NODES

    def problems(self) -> Iterator[str]:
        node = yaml_source.compose(yaml_source.text_of(self.path), str(self.path))
        if node is not None:
            yield from self._walk(node, 0)

    def _walk(self, node: yaml.Node, depth: int) -> Iterator[str]:
        self._left -= 1
        if self._left < 0 or depth > yaml_source.MAX_DEPTH:
            raise CaseError([f"{self._at(node)}: nested too deeply, or too many values by aliases"])
        if not node.tag.startswith(_YAML) or "python" in node.tag:
            what = f"{node.tag} {node.value}" if isinstance(node, yaml.ScalarNode) else node.tag
            yield self._refused(node, what[:80])
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                yield from self._walk(item, depth + 1)
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                yield from self._entry(str(key.value), value, depth)
                yield from self._walk(key, depth + 1)
                yield from self._walk(value, depth + 1)

    def _entry(self, key: str, value: yaml.Node, depth: int) -> Iterator[str]:
        text = str(value.value)[:80] if isinstance(value, yaml.ScalarNode) else ""
        true = text.lower() not in ("false", "no", "off", "")
        if (key in _CODE and (key != "class" or depth == 0)) or (key in _IF_TRUE and true):
            yield self._refused(value, f"{key}: {text}")
        elif key == "metric" and text and text not in _METRICS:
            yield self._refused(value, f"the metric {text!r}, which is not lm-eval's own,")
        elif key == "dataset_path" and (text in _LOADERS or text.endswith(".py")):
            yield self._refused(value, f"the data set loader {text!r}")
        elif key == "include":
            named = value.value if isinstance(value, yaml.SequenceNode) else [value]
            self.includes += [
                file
                for item in named
                if isinstance(item, yaml.ScalarNode)
                for file in _existing(self.path.parent / str(item.value))
            ]

    def _at(self, node: yaml.Node) -> str:
        mark = node.start_mark
        return f"{self.path}:{mark.line + 1}:{mark.column + 1}"

    def _refused(self, node: yaml.Node, what: str) -> str:
        return f"{self._at(node)}: {what} can run code; {VARIABLE}=1 says that you trust the folder"


def _existing(path: Path) -> list[Path]:
    try:
        return [path.resolve()] if path.is_file() else []
    except (OSError, ValueError):
        return []


def sandboxed() -> Any:
    """lm-eval's template environment in Jinja's sandbox.

    In lm-eval's own, a template in a task file can reach every class and module of Python.
    """
    from jinja2 import BaseLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment
    from lm_eval import utils

    inner = SandboxedEnvironment(
        loader=BaseLoader(), undefined=StrictUndefined, keep_trailing_newline=True
    )
    inner.filters.update(utils.env.filters)
    return inner

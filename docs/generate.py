"""Writes the reference pages of the documentation site from the code; a hook of mkdocs.

Nothing that it writes is committed: mkdocs asks for the pages whenever the site is built. It reads
classes, commands and protocols as they are, and imports no torch.
"""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import typer
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

# mkdocs puts the folder of a hook on the path.
from wording import cell, default, fields, prose, table, words

import prunebench
from prunebench import plan, plugin, record, registry
from prunebench.api import Method, Metric
from prunebench.cases import keys as grammar
from prunebench.cli import app
from prunebench.cli.help import sections
from prunebench.results.baselines import files as baseline
from prunebench.runs import result
from prunebench.system import signals
from prunebench.verdicts import outcomes, verdict

PACKAGE = Path(prunebench.__file__).parent


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Mkdocs calls this once all written pages are known."""
    for name, content in pages().items():
        files.append(File.generated(config, f"reference/{name}", content=content))
    return files


def pages() -> dict[str, str]:
    """Name to text of every generated page and file, below ``reference/``."""
    return {
        "commands.md": commands(),
        "keys.md": keys(),
        "methods.md": plugins("methods"),
        "metrics.md": plugins("metrics"),
        "protocols.md": protocols(),
        "files.md": files_page(),
        "exit-codes.md": exit_codes(),
        "python.md": python(),
        "case.schema.json": (PACKAGE / "case.schema.json").read_text(),
        "record.schema.json": (PACKAGE / "record.schema.json").read_text(),
    }


# ---------------------------------------------------------------- commands


def commands() -> str:
    """Every command with its arguments and options, as ``--help`` has them; then pytest's."""
    root: Any = typer.main.get_command(app)
    text = [
        "# Commands",
        "Made from the commands themselves. A message about bad input is one plain line; "
        "[exit codes](exit-codes.md) say how a run ended.",
        f"```text\n{_usage(root, 'prunebench')}\n```",
    ]
    for name, command in _walk(root, "prunebench"):
        text += [f"## {name}", command.help or "", f"```text\n{_usage(command, name)}\n```"]
        for heading, options in sections(command, _context(command, name)).items():
            rows = ((f"`{option}`", cell(meaning)) for option, meaning in options)
            text.append(table((heading.lower(), "meaning"), rows))
    text += ["## Options of pytest", "With the plugin, every case is a test item."]
    text.append(table(("option", "meaning"), _pytest_options()))
    markers = [marker.split(": ", 1) for marker in plugin.MARKERS]
    text.append(table(("marker", "meaning"), ((f"`{n}`", what) for n, what in markers)))
    return "\n\n".join(text)


def _walk(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, command in group.commands.items():
        if getattr(command, "commands", None):
            yield from _walk(command, f"{prefix} {name}")
        elif not command.hidden:
            yield f"{prefix} {name}", command


def _context(command: Any, name: str) -> Any:
    return typer.Context(command, info_name=name)


def _usage(command: Any, name: str) -> str:
    return str(command.get_usage(_context(command, name))).removeprefix("Usage: ")


def _pytest_options() -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []

    class Parser:
        """Takes down what the plugin asks pytest for."""

        def getgroup(self, *_: str) -> Parser:
            return self

        def addoption(self, name: str, *, metavar: str = "", help: str = "", **_: Any) -> None:  # noqa: A002
            found.append((f"`{f'{name} {metavar}'.strip()}`", cell(help)))

        def addini(self, name: str, help: str, *_: Any, **__: Any) -> None:  # noqa: A002
            found.append((f"ini key `{name}`", cell(help)))

    plugin.pytest_addoption(Parser())  # type: ignore[arg-type]
    return found


# ---------------------------------------------------------------- case files


def keys() -> str:
    """The keys of a case file: what each takes, and what it is if not given."""
    schema = grammar.json_schema()
    parts = schema["$defs"]
    top = parts["CaseFile"]["properties"]
    text = [
        "# Keys of a case file",
        "Made from the same types that check case files. What the keys mean and how files are laid "
        "over each other is in [Case files](../cases.md). The whole as a JSON Schema for "
        "editors: [`case.schema.json`](case.schema.json), or `prunebench check --schema`.",
    ]
    rows = []
    for key, value in top.items():
        takes = {"method": "`name` and the options of a [method](methods.md)"}.get(key)
        takes = takes or {
            "metrics": "list of `name` and the options of a [metric](metrics.md)"
        }.get(key)
        rows.append((f"`{key}`", takes or words(value, parts), default(value)))
    text.append(table(("key", "takes", "default"), rows))
    for name in dict.fromkeys(
        _mentioned(v for k, v in top.items() if k not in ("method", "metrics"))
    ):
        part = parts[name]
        users = ", ".join(f"`{k}`" for k, v in top.items() if name in _mentioned([v]))
        text += [f"## {name}", f"{prose(part.get('description', ''))}\n\nStands in {users}."]
        text.append(fields(part, parts))
    return "\n\n".join(text)


def _mentioned(schemas: Any) -> Iterator[str]:
    yield from re.findall(r'"#/\$defs/(\w+)"', json.dumps(list(schemas)))


# ---------------------------------------------------------------- methods and metrics


def plugins(kind: str) -> str:
    """Every method or metric that comes with the package."""
    find: Callable[[str], Any] = registry.method if kind == "methods" else registry.metric
    about = {
        "methods": "Options go into a case as `method: {name: sleb, keep_first: 2}`, to "
        "`prunebench prune` as `--option keep_first=2`. How "
        "they compare, what they cost and which families take them: [Methods](../methods.md).",
        "metrics": "Options go into a case as `metrics: [{name: perplexity, seqlen: 128}]`. How "
        "each is computed, and by whose rules: [Metrics](../metrics.md), [Latency](../latency.md).",
    }
    text = [f"# {kind.capitalize()}", f"Made from the classes themselves. {about[kind]}"]
    for name in registry.files(kind):
        cls = find(name)
        module = inspect.getmodule(cls)
        components = msgspec.json.schema_components([cls], ref_template="#/$defs/{name}")[1]
        part = components[cls.__name__]
        text += [
            f"## {name}",
            prose(inspect.getdoc(module) or ""),
            prose(inspect.getdoc(cls) or ""),
        ]
        facts = _method_facts(cls) if issubclass(cls, Method) else _metric_facts(cls)
        text += [table(("", ""), facts), fields(part, components, "option")]
        file = Path(inspect.getfile(cls))
        source = textwrap.indent(f"```python\n{file.read_text().rstrip()}\n```", "    ")
        text.append(f'??? quote "prunebench/{kind}/{file.name}"\n\n{source}')
    return "\n\n".join(text)


def _method_facts(cls: type[Method]) -> Iterator[tuple[str, str]]:
    amounts = {
        "blocks": "`sparsity` or `blocks`",
        "sublayers": "`sparsity` or `sublayers`",
        "width": "`sparsity` or `slicing`",
        "none": "none: nothing is removed",
        "given": "none: it takes what it is given",
    }
    sizing = f", or the option `{cls.sizing}`" if cls.sizing else ""
    yield "amount", amounts[cls.unit] + sizing
    yield "one search serves all amounts", "yes" if cls.nested else "no"
    yield "reads calibration data", "yes" if cls.calibrated else "no"


def _metric_facts(cls: type[Metric]) -> Iterator[tuple[str, str]]:
    yield "measures", cell(" ".join((inspect.getdoc(cls.measure) or "").split()))
    yield "unit, better", f"{cls.unit or 'none'}, {cls.better}"
    own = cls.tolerance
    given = [f"`{k}: {getattr(own, k):g}`" for k in ("abs", "rel") if getattr(own, k)]
    yield "worse by more than", " ".join(given) or "anything"


# ---------------------------------------------------------------- protocols


def protocols() -> str:
    """Every protocol: its source, its settings, and each measurement with its options."""
    text = [
        "# Protocols",
        "Made from `prunebench/protocols/*.yaml`, whose comments are the texts below. A case takes "
        "one as `protocol: sleb@1`. Why they differ and why it matters: "
        "[Why numbers differ](../explanation/numbers.md).",
    ]
    for file in sorted((PACKAGE / "protocols").glob("*.yaml")):
        lines = file.read_text().splitlines()
        comment = [line.lstrip("# ") for line in lines if line.startswith("#")]
        data = yaml.safe_load(file.read_text())
        rest = [(f"`{k}`", _options_of(v)) for k, v in data.items() if k != "metrics"]
        text += [f"## {file.stem}", prose("\n".join(comment)), table(("key", "value"), rest)]
        rows = []
        for metric in data["metrics"]:
            options = {k: v for k, v in metric.items() if k != "name"}
            rows.append(
                (f"[`{metric['name']}`](metrics.md#{metric['name']})", _options_of(options))
            )
        text.append(table(("metric", "options"), rows))
    return "\n\n".join(text)


def _options_of(data: Mapping[str, Any]) -> str:
    def plain(value: Any) -> str:
        return (
            ", ".join(map(str, value)) if isinstance(value, list) else json.dumps(value).strip('"')
        )

    return (
        "<br>".join(f"`{k}`: {cell(plain(v)) or 'a blank'}" for k, v in data.items())
        or "as by default"
    )


# ---------------------------------------------------------------- files, exit codes, Python


def files_page() -> str:
    """Which files there are, and the fields of what is in them."""
    layout = [
        ("`cases/**/*.yaml`", "questions", "[Case files](../cases.md), [keys](keys.md)"),
        (
            "`baselines/quality/<case id>.json`",
            "accepted scores and plans",
            "[Baseline](#baseline)",
        ),
        (
            "`baselines/latency/<device>/<case id>.json`",
            "accepted timings",
            "[Baseline](#baseline)",
        ),
        ("`<case id>.samples.gz` next to each", "samples, packed", "[Baselines](../baselines.md)"),
        (
            "`baselines/published/*.yaml`",
            "papers' numbers",
            "[Published](../protocols.md#published-numbers)",
        ),
        ("`.prunebench/records/<case>/<key>.json`", "answers", "[Record](#record)"),
        ("`.prunebench/partial/<key>/`", "what a stopped run left", "[Resuming](../resume.md)"),
        (
            "`.prunebench/noise/<device>.json`",
            "smallest effects to believe",
            "[Verdicts](../verdicts.md)",
        ),
        ("`run --json FILE`", "records and verdicts", "[Finding](#finding)"),
        ("`prune --json FILE`", "plan, trace, perplexity", "[Plan](#plan)"),
    ]
    text = [
        "# Files and schemas",
        "All are plain data; reading one runs nothing ([Security](../security.md)). The tables "
        "below are made from the types that are written. As JSON Schema: "
        "[`case.schema.json`](case.schema.json), [`record.schema.json`](record.schema.json).",
        table(("file", "holds", "see"), layout),
    ]
    edits = plan.edit_kinds()
    kinds: list[Any] = [record.Record, record.Measurement, record.Environment, record.Provenance]
    kinds += [baseline.Accepted, verdict.Verdict, verdict.Finding, plan.Step, *edits]
    text += [
        "## Plan",
        "A list of edits, each named by its `edit`: "
        + ", ".join(f"[`{e.__struct_config__.tag}`](#{e.__name__.lower()})" for e in edits)
        + ".",
    ]
    for kind in kinds:
        title = "Baseline" if kind is baseline.Accepted else kind.__name__
        lead = "A record, and under `accepted`:\n\n" if title == "Baseline" else ""
        text += [f"## {title}", lead + prose(inspect.getdoc(kind) or ""), _struct(kind)]
    return "\n\n".join(text)


def _struct(kind: Any) -> str:
    rows = []
    for field in msgspec.structs.fields(kind):
        plain = isinstance(field.default, bool | int | float | str) and field.default != ""
        need = f"`{field.default}` if left out" if plain else "may be left out"
        needed = "always" if field.required else need
        rows.append((f"`{field.encode_name}`", f"`{_type(field.type)}`", needed))
    return table(("field", "type", ""), rows)


def _type(kind: Any) -> str:
    text = kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else str(kind)
    text = "tuple[Edit, ...]" if text == "tuple[typing.Any, ...]" else text
    text = re.sub(r"\b(typing|prunebench(\.\w+)*|collections\.abc|msgspec(\.\w+)*)\.", "", text)
    return text.replace("|", "or").replace("NoneType", "None").replace("UnsetType", "nothing")


def exit_codes() -> str:
    """How a command ends."""
    codes = {
        result.OK: "fine",
        result.REGRESSION: "a regression: something failed that `fail_on` lists",
        result.USAGE: "a mistake in the arguments or a case file; `accept` refused",
        result.CRASHED: "a case crashed; the others ran and were saved",
        result.UNSURE: "unsure, with `--strict`",
        result.NOTHING: "no case selected",
        result.NOT_COMPARABLE: "not comparable, or no baseline, with `--strict`",
        signals.STOPPED: f"stopped by the scheduler's signal ({', '.join(signals.NAMES)}); saved, "
        "the same command resumes",
        result.INTERRUPTED: "interrupted; finished cases are saved, the same command resumes",
    }
    failing = ", ".join(f"`{outcome}`" for outcome in outcomes.FAILING)
    text = [
        "# Exit codes and outcomes",
        table(("code", "meaning"), ((f"`{code}`", what) for code, what in codes.items())),
        "Under pytest, exit codes are pytest's own.",
        f"## Outcomes\n\nThe words of a finding; [Verdicts](../verdicts.md) defines when each is "
        f"given. By default {failing} fail.",
        ", ".join(f"`{outcome}`" for outcome in outcomes.Outcome) + ".",
    ]
    return "\n\n".join(text)


def python() -> str:
    """What may be imported from ``prunebench``, through mkdocstrings."""
    text = [
        "# Python",
        "Everything below is imported from `prunebench` itself: `from prunebench import "
        "load_model`. What needs torch is loaded when first asked for.",
    ]
    for name in prunebench.__all__:
        if not name.startswith("__"):
            text.append(f"::: {home(name)}.{name}")
    text += ["## For authors of methods and metrics", "From `prunebench.testing`:"]
    public = ("check_method", "check_metric", "tiny_model")
    text += [f"::: prunebench.testing.{name}" for name in public]
    return "\n\n".join(text)


def home(name: str) -> str:
    """The module in which a public name is defined, without importing torch for it."""
    return f"prunebench.{prunebench._HOME[name]}"

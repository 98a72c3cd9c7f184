"""``--help`` in plain headed sections, never boxed or wrapped by rich: scripts and logs read it."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand, TyperGroup

#: A command with fewer parameters has them all in one section.
FEW = 10


def sections(command: Any, context: Any) -> dict[str, list[tuple[str, str]]]:
    """The parameters of *command* by the heading of their section, as (name, help)."""
    records = [(p, p.get_help_record(context)) for p in command.get_params(context)]
    shown = [(parameter, record) for parameter, record in records if record is not None]
    found: dict[str, list[tuple[str, str]]] = {}
    for parameter, record in shown:
        heading = "Arguments" if parameter.param_type_name == "argument" else "Options"
        panel = getattr(parameter, "rich_help_panel", None) if len(shown) >= FEW else None
        found.setdefault(panel or heading, []).append(record)
    return found


def _write(command: Any, context: Any, formatter: Any) -> None:
    for heading, records in sections(command, context).items():
        with formatter.section(heading):
            formatter.write_dl(records)


class Command(TyperCommand):
    """A command whose options are grouped by their ``rich_help_panel``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write a section for each group of options."""
        _write(self, ctx, formatter)


class Group(TyperGroup):
    """A group whose commands are grouped by their ``rich_help_panel``."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options, then the commands."""
        _write(self, ctx, formatter)
        self.format_commands(ctx, formatter)

    def format_commands(self, ctx: Any, formatter: Any) -> None:  # noqa: ARG002
        """Write a section for each group of commands."""
        width = max(map(len, self.commands))
        panels: dict[str, list[tuple[str, str]]] = {}
        for name, command in self.commands.items():
            panel = getattr(command, "rich_help_panel", None) or "Commands"
            row = (name.ljust(width), command.get_short_help_str(formatter.width - width - 6))
            panels.setdefault(panel, []).append(row)
        for heading, rows in panels.items():
            with formatter.section(heading):
                formatter.write_dl(rows)

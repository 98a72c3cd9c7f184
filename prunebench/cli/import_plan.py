"""``prunebench import-plan``: a plan from a removal list of another tool."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..plan import describe
from ..system.console import print_line
from ..system.files import write_json
from .options import print_json


def import_plan(
    file: Annotated[Path, typer.Argument(help="A removal list: JSON, CSV or plain text.")],
    output: Annotated[
        Path | None, typer.Option(metavar="PLAN", help="Write the plan here, else print it.")
    ] = None,
    unit: Annotated[
        Literal["blocks", "sublayers"],
        typer.Option(help="What a bare number counts; sublayers: 2b attention, 2b+1 MLP."),
    ] = "blocks",
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Only the first N of a ranking.")
    ] = None,
    model: Annotated[
        str | None, typer.Option(metavar="M", help="Check that it fits this folder or hub id.")
    ] = None,
) -> None:
    """Make a plan from a removal list of another tool."""
    from ..models import plan_files

    plan = plan_files.imported(file, unit, count)
    if model is not None:
        plan_files.check_fits(plan.edits, model)
    data = {"plan": plan.edits, "source": file.name}
    if output is None:
        print_json(data)
        return
    if plan.tensors is not None:
        plan.tensors.save(output.parent)
    write_json(output, data)
    print_line(f"{output}: {describe(plan.edits)}")
    print_line(f"in a case: method: {{name: external, plan: ./{output.name}}}")

"""``prunebench prune`` and ``import-plan``: one model pruned, and somebody's removal list."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from ..cases import keys
from ..cases.overlay import Setting
from ..errors import PrunebenchError
from ..plan import describe
from ..system.console import print_line
from ..system.files import require_writable, write_json
from ..system.machine import before_torch
from . import completion
from .options import JsonFile, print_json


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""
    app.command()(prune)
    app.command(name="import-plan")(import_plan)


def prune(
    model: Annotated[str, typer.Argument(help="A folder or hub id.", show_default=False)],
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="The pruning method.", autocompletion=completion.methods),
    ],
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A method option.")
    ] = None,
    sparsity: Annotated[float | None, typer.Option(help="Fraction of all parameters.")] = None,
    blocks: Annotated[int | None, typer.Option(help="Blocks to remove.")] = None,
    sublayers: Annotated[int | None, typer.Option(help="Sublayers to remove.")] = None,
    slicing: Annotated[float | None, typer.Option(help="Fraction of the width.")] = None,
    calibration_ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON: windows of token ids.")
    ] = None,
    eval_ids: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON: windows to evaluate on.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Save the pruned checkpoint here.")
    ] = None,
    json_file: JsonFile = None,
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16 or auto.")] = "float32",
    device: Annotated[str, typer.Option(metavar="D", help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Prune one model: choose, apply, and evaluate or save where asked."""
    given = {"sparsity": sparsity, "blocks": blocks, "sublayers": sublayers, "slicing": slicing}
    amounts = {key: value for key, value in given.items() if value is not None}
    options = {s.key: s.value for s in (Setting.parse(t, "--option") for t in option or ())}
    chosen = keys.build_method(method, options)
    flags = {**amounts, "model": {"id": model, "dtype": dtype}}
    problems = [f"--{w[-1]}: {m}" for w, m in keys.check_keys(flags, ())]
    try:
        target = chosen.amount(amounts)
    except PrunebenchError as error:
        problems.append(str(error))
    if problems:
        raise PrunebenchError("\n".join(problems))
    if json_file is not None:
        require_writable(json_file)
    before_torch()
    from ..checkpoints import prune as pruning

    def tell_all(pruned: pruning.Pruned) -> None:
        if json_file:
            if pruned.tensors is not None:
                pruned.tensors.save(json_file.parent)
            write_json(json_file, pruning.to_json(pruned))
        print_line(f"{describe(pruned.plan)}; sparsity {pruned.sparsity:.2%}")
        if (ppl := pruned.perplexity) is not None:
            print_line(f"perplexity {ppl.dense:.4f} dense, {ppl.pruned:.4f} pruned")

    try:
        pruned = pruning.prune(
            model,
            chosen,
            target,
            calibration_ids=calibration_ids,
            eval_ids=eval_ids,
            output=output,
            dtype=dtype,
            device=device,
        )
    except pruning.UnsavedError as error:
        tell_all(error.pruned)
        raise
    tell_all(pruned)


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
    """Make a plan of somebody's removal list, for cases with {name: external, plan: PLAN}."""
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

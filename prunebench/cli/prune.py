"""``prunebench prune``: one model pruned, evaluated and saved."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..api import Method, Target
from ..cases import keys
from ..cases.overlay import Setting
from ..errors import PrunebenchError
from ..plan import describe
from ..system.console import print_line
from ..system.files import require_writable, write_json
from ..system.machine import before_torch
from . import completion
from .options import JsonFile, report_option

if TYPE_CHECKING:
    from ..checkpoints.prune import Pruned

amount_option = partial(typer.Option, rich_help_panel="Amount")
data_option = partial(typer.Option, rich_help_panel="Data")


def prune(
    model: Annotated[str, typer.Argument(help="A folder or hub id.", show_default=False)],
    method: Annotated[
        str,
        typer.Option(metavar="NAME", help="The pruning method.", autocompletion=completion.methods),
    ],
    option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="A method option.")
    ] = None,
    sparsity: Annotated[float | None, amount_option(help="Fraction of all parameters.")] = None,
    blocks: Annotated[int | None, amount_option(help="Blocks to remove.")] = None,
    sublayers: Annotated[int | None, amount_option(help="Sublayers to remove.")] = None,
    slicing: Annotated[float | None, amount_option(help="Fraction of the width.")] = None,
    calibration_ids: Annotated[
        Path | None,
        data_option(metavar="FILE", help="JSON: windows of token ids."),
    ] = None,
    eval_ids: Annotated[
        Path | None,
        data_option(metavar="FILE", help="JSON: windows to evaluate on."),
    ] = None,
    output: Annotated[
        Path | None,
        report_option(metavar="DIR", help="Save the pruned checkpoint here."),
    ] = None,
    json_file: JsonFile = None,
    dtype: Annotated[str, typer.Option(help="float32, float16, bfloat16 or auto.")] = "float32",
    device: Annotated[str, typer.Option(metavar="D", help="cpu, cuda, ...")] = "cpu",
) -> None:
    """Prune one model; evaluate and save it if asked to."""
    given = {"sparsity": sparsity, "blocks": blocks, "sublayers": sublayers, "slicing": slicing}
    amounts = {key: value for key, value in given.items() if value is not None}
    chosen, target = _method(method, option or [], amounts, {"id": model, "dtype": dtype})
    if json_file is not None:
        require_writable(json_file)
    before_torch()
    from ..checkpoints import prune as pruning

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
        _report(error.pruned, json_file)
        raise
    _report(pruned, json_file)


def _method(
    name: str, options: list[str], amounts: dict[str, float], model: dict[str, str]
) -> tuple[Method, Target]:
    """The method with its options and its amount; every problem is reported at once.

    Raises:
        PrunebenchError: with a line per problem.
    """
    settings = [Setting.parse(text, "--option") for text in options]
    method = keys.build_method(name, {setting.key: setting.value for setting in settings})
    flags = {**amounts, "model": model}
    problems = [f"--{where[-1]}: {what}" for where, what in keys.check_keys(flags, ())]
    try:
        target = method.amount(amounts)
    except PrunebenchError as error:
        problems.append(str(error))
    if problems:
        raise PrunebenchError("\n".join(problems))
    return method, target


def _report(pruned: Pruned, json_file: Path | None) -> None:
    from ..checkpoints import prune as pruning

    if json_file:
        if pruned.tensors is not None:
            pruned.tensors.save(json_file.parent)
        write_json(json_file, pruning.to_json(pruned))
    print_line(f"{describe(pruned.plan)}; sparsity {pruned.sparsity:.2%}")
    if (perplexity := pruned.perplexity) is not None:
        print_line(f"perplexity {perplexity.dense:.4f} dense, {perplexity.pruned:.4f} pruned")

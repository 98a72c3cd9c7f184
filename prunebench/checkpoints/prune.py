"""Prunes one model from loading to checkpoint: what ``prunebench prune`` does."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from torch import Tensor

from .. import reference
from ..api import Method, Target
from ..errors import PrunebenchError
from ..formatting import number
from ..models import export, modeling
from ..models.calibration import Calibration, check_ids
from ..models.causal_lm import CausalLM
from ..models.loading import load_model
from ..models.surgery import apply
from ..plan import Edit, Plan, Step
from ..runs import functional
from ..specs import CalibrationSpec
from ..system import files
from . import card_text, dense_card
from .card import Card, Score

#: No vocabulary is as large.
MAX_TOKEN = 2**31


class Perplexities(Struct, frozen=True, omit_defaults=True):
    """Perplexity on the evaluation ids; *after_each_step* for methods that go step by step."""

    dense: float
    pruned: float
    after_each_step: list[float] | None = None


class Pruned(Struct, frozen=True, omit_defaults=True):
    """Result of ``prune``, as written by ``--json``; *tensors* are saved next to it."""

    method: Method
    model: str
    parameters: int
    dense_parameters: int
    sparsity: float
    plan: tuple[Edit, ...]
    trace: tuple[Step, ...]
    perplexity: Perplexities | None
    tensors: Any = None


class UnsavedError(PrunebenchError):
    """The checkpoint could not be saved; *pruned* has the result, which may have taken hours."""

    def __init__(self, message: str, pruned: Pruned) -> None:
        super().__init__(message)
        self.pruned = pruned


def prune(
    model: str,
    method: Method,
    target: Target,
    *,
    calibration_ids: Path | None = None,
    eval_ids: Path | None = None,
    output: Path | None = None,
    dtype: str = "float32",
    device: str = "cpu",
) -> Pruned:
    """Load *model*, choose, apply, and evaluate or save where asked.

    Args:
        model: a folder or hub id.
        method: the method with its options.
        target: how much to remove.
        calibration_ids: JSON file of token windows; by default WikiText-2, or TinyWorld's own
            calibration split for the reference model.
        eval_ids: JSON file of token windows; without it nothing is evaluated.
        output: where to save the pruned checkpoint.
        dtype: as in a case file.
        device: a torch device.

    Raises:
        PrunebenchError: if an argument is invalid; nothing is written then.
        UnsavedError: if writing the checkpoint fails.
    """
    if output is not None:
        export.require_free(output)  # fail before hours of search
    given, evaluated = _read_ids(calibration_ids), _read_ids(eval_ids)
    lm = load_model(model, dtype=dtype, device=device)
    if evaluated is not None:
        check_ids(evaluated, lm)
    spec = CalibrationSpec()
    if model == reference.MODEL_ID:
        spec = CalibrationSpec(dataset="tinyworld", seqlen=128)
    calibration = Calibration(spec, lm) if given is None else Calibration.of_ids(given, lm)
    plan = method.choose(lm, calibration, target)
    pruned = apply(lm.share(), plan)
    result = Pruned(
        method=method,
        model=model,
        parameters=pruned.num_parameters,
        dense_parameters=lm.num_parameters,
        sparsity=1 - pruned.num_parameters / lm.num_parameters,
        plan=plan.edits,
        trace=plan.trace,
        perplexity=_perplexities(lm, pruned, plan, evaluated, each_step=method.stepwise),
        tensors=plan.tensors,
    )
    if output is not None:
        windows = None if evaluated is None else (len(evaluated), len(evaluated[0]))
        card = _card(result, pruned, target, spec if given is None else None, windows)
        about = {k: v for k, v in to_json(result).items() if k != "trace"}
        try:
            export.save(pruned, output, about, {"README.md": card_text.render(card).encode()})
        except PrunebenchError as error:
            raise UnsavedError(str(error), result) from error
    return result


def _perplexities(
    lm: CausalLM, pruned: CausalLM, plan: Plan, ids: Any, *, each_step: bool
) -> Perplexities | None:
    if ids is None:
        return None
    parts = [plan.prefix(size) for size in range(1, plan.size + 1)] if each_step else []
    after = [functional.perplexity(apply(lm.share(), part), ids) for part in parts]
    return Perplexities(
        dense=functional.perplexity(lm, ids),
        pruned=functional.perplexity(pruned, ids),
        after_each_step=after if each_step else None,
    )


def to_json(pruned: Pruned) -> dict[str, Any]:
    """The result as JSON data; a perplexity per step only where there is one."""
    data: dict[str, Any] = msgspec.to_builtins(replace(pruned, tensors=None))
    return data


def _card(
    result: Pruned,
    pruned: CausalLM,
    target: Target,
    calibration: CalibrationSpec | None,
    windows: tuple[int, int] | None,
) -> Card:
    """The model card of what was pruned; *calibration* is None where token ids were given."""
    base = dense_card.read(result.model)
    dtype = str(pruned.hf.dtype).removeprefix("torch.")
    case, command = _question(result, base.shown, dtype, target, calibration)
    scores, about = [], []
    if windows is not None and (ppl := result.perplexity) is not None:
        count, length = windows
        over = f"{count:,} windows of {length:,} tokens"
        scores.append(Score("perplexity", number(ppl.dense), number(ppl.pruned), over=over))
        about.append("On token ids of the author's own, in float32; no named protocol.")
    return Card(
        base=base,
        method=str(case["method"]["name"]),
        plan=result.plan,
        parameters=result.parameters,
        dense_parameters=result.dense_parameters,
        case=case,
        command=shlex.join(command),
        code=bool(modeling.spec_of(pruned.hf)),
        dtype=dtype,
        scores=scores,
        about=about,
    )


def _question(
    result: Pruned,
    shown: str,
    dtype: str,
    target: Target,
    calibration: CalibrationSpec | None,
) -> tuple[dict[str, Any], list[str]]:
    """What was asked, as a case file and as the words of a command line."""
    amount = msgspec.to_builtins(target)
    method = msgspec.to_builtins(result.method)
    case: dict[str, Any] = {"model": {"id": shown, "dtype": dtype}, "method": method, **amount}
    words = ["prunebench", "prune", shown, "--method", str(method["name"])]
    options = {k: v if isinstance(v, str) else json.dumps(v) for k, v in method.items()}
    words += [w for k, v in options.items() if k != "name" for w in ("--option", f"{k}={v}")]
    words += [w for key, value in amount.items() for w in (f"--{key}", str(value))]
    words += ["--dtype", dtype, "--output", "DIR"]
    if result.method.calibrated and calibration is not None:
        case["calibration"] = msgspec.to_builtins(calibration)
    elif result.method.calibrated:
        words += ["--calibration-ids", "FILE.json"]
    return case, words


def _read_ids(path: Path | None) -> Tensor | None:
    if path is None:
        return None
    try:
        windows = files.read_json(path, list[list[int]])
    except PrunebenchError as error:
        raise PrunebenchError(f"{error}; expected a list of lists of token ids") from None
    if any(not 0 <= token < MAX_TOKEN for window in windows for token in window):
        raise PrunebenchError(f"{path}: found a token id that is negative or beyond {MAX_TOKEN}")
    lengths = sorted({len(window) for window in windows})
    if len(lengths) != 1 or lengths[0] < 2:
        found = "no windows" if not lengths else f"lengths {lengths[:5]}"
        raise PrunebenchError(f"{path}: found {found}, expected equally long windows of 2 or more")
    return functional.tensor(windows)

"""The Python API for one model: choose, apply, perplexity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..api import Method
from ..cases.keys import build_method, check_keys
from ..errors import PrunebenchError
from ..models.calibration import Calibration, check_ids
from ..models.causal_lm import CausalLM, perplexity_of
from ..models.loading import load_model
from ..models.surgery import apply
from ..plan import Plan
from ..specs import CalibrationSpec

__all__ = ["apply", "choose", "lm_eval_model", "load_model", "perplexity"]

Ids = Tensor | Sequence[Sequence[int]]


def choose(
    lm: CausalLM,
    method: str | Method,
    *,
    sparsity: float | None = None,
    blocks: int | None = None,
    sublayers: int | None = None,
    slicing: float | None = None,
    calibration: Ids | CalibrationSpec | None = None,
    **options: Any,
) -> Plan:
    """Decide what *method* would remove, leaving *lm* bit-identical.

    Args:
        lm: the dense model.
        method: a method, or its name with *options*.
        sparsity: fraction of all parameters to remove; or give one of the native amounts.
        blocks: blocks to remove.
        sublayers: attention and MLP halves to remove.
        slicing: fraction of the width to remove.
        calibration: token windows (windows x length), or a description of where to draw them.
        **options: the method's own options.

    Raises:
        PrunebenchError: if the request cannot be met.
    """
    chosen = _method(method, options)
    given = {"sparsity": sparsity, "blocks": blocks, "sublayers": sublayers, "slicing": slicing}
    amounts = {key: value for key, value in given.items() if value is not None}
    problems = [f"{where[-1]}: {message}" for where, message in check_keys(amounts, ())]
    try:
        target = chosen.amount(amounts)
    except PrunebenchError as error:
        problems.append(str(error))
    if problems:
        raise PrunebenchError("\n".join(problems))
    return chosen.choose(lm, _calibration(calibration, lm), target)


def perplexity(lm: CausalLM, ids: Ids) -> float:
    """Perplexity: exp of the mean over windows of their mean float32 cross entropy."""
    windows = tensor(ids)
    check_ids(windows, lm)
    return perplexity_of(lm.nll(windows))


def lm_eval_model(lm: CausalLM, batch_size: int = 64, **options: Any) -> Any:
    """*lm* as an ordinary lm-eval ``LM``, for any ``simple_evaluate`` call.

    It answers as lm-eval's ``HFLM`` does, several times faster on multiple choice: the context of a
    question is run once for all its choices.

    Args:
        lm: the model, with its tokenizer.
        batch_size: rows per forward at most; a row is a question with all its choices.
        **options: options of ``HFLM``, e.g. ``max_length`` or ``add_bos_token``.

    Raises:
        PrunebenchError: if the model has no tokenizer.
    """
    from ..models.scoring import Scorer

    return Scorer(lm, batch_size, **options)


def tensor(ids: Ids) -> Tensor:
    """Token windows as a tensor of int64, (windows, length).

    Raises:
        PrunebenchError: if they are not integers, not equally long, or shorter than two tokens.
    """
    if not isinstance(ids, Tensor):
        ids = _read(ids)
    if ids.ndim != 2 or not len(ids) or ids.shape[1] < 2:
        shape = "x".join(map(str, ids.shape)) or "none"
        raise PrunebenchError(
            f"token windows: found the shape {shape}, expected windows x length, at least 1 x 2"
        )
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        kind = str(ids.dtype).removeprefix("torch.")
        raise PrunebenchError(f"token windows: found {kind} numbers, expected whole token ids")
    return ids.long()


def _read(ids: Sequence[Sequence[int]]) -> Tensor:
    try:
        lengths = {len(row) for row in ids}
        if len(lengths) > 1 or lengths == {1}:
            raise PrunebenchError(
                f"token windows must be equally long; found lengths {sorted(lengths)}"
            )
        return torch.tensor(ids)
    except (TypeError, ValueError, RuntimeError):  # depends on the wrong type
        message = f"token windows: found {type(ids).__name__}, expected lists of token ids"
        raise PrunebenchError(message) from None


def _method(method: str | Method, options: dict[str, Any]) -> Method:
    if isinstance(method, str):
        return build_method(method, options)
    if not isinstance(method, Method):
        raise PrunebenchError(f"method: found {method!r}, expected a name or a Method object")
    if options:
        name = type(method).__name__
        raise PrunebenchError(f"{', '.join(options)}: give options to {name}(...) itself")
    return method


def _calibration(given: Ids | CalibrationSpec | None, lm: CausalLM) -> Calibration:
    if given is None:
        given = CalibrationSpec()
    if isinstance(given, CalibrationSpec):
        return Calibration(given, lm)
    if isinstance(given, str | Mapping):
        message = "calibration: expected token windows or a prunebench.specs.CalibrationSpec"
        raise PrunebenchError(f"{message}, found {given!r}")
    return Calibration.of_ids(tensor(given), lm)

"""The Python API for one model: choose, apply, perplexity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import surgery
from .api import Method, Target
from .calibration import Calibration, check_ids
from .case import CalibrationSpec
from .errors import PrunebenchError
from .grammar import build_method
from .loading import load_model
from .models import CausalLM, perplexity_of
from .plan import Plan

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
    chosen = method if isinstance(method, Method) else build_method(method, options)
    target = Target(sparsity=sparsity, blocks=blocks, sublayers=sublayers, slicing=slicing)
    return chosen.choose(lm, _calibration(calibration, lm), target)


def apply(lm: CausalLM, plan: Plan) -> CausalLM:
    """Carry out *plan* on *lm*, in place, and return it."""
    return surgery.apply(lm, plan)


def perplexity(lm: CausalLM, ids: Ids) -> float:
    """Perplexity: exp of the mean over windows of their mean float32 cross entropy."""
    windows = tensor(ids)
    check_ids(windows, lm)
    return perplexity_of(lm.nll(windows))


def lm_eval_model(lm: CausalLM, batch_size: int = 64, **options: Any) -> Any:
    """*lm* as an ordinary lm-eval ``LM``, for anybody's own ``simple_evaluate`` call.

    It answers as lm-eval's ``HFLM`` does, several times faster on multiple choice: the context of a
    question is run once for all its choices.

    Args:
        lm: the model, with its tokenizer.
        batch_size: rows per forward at most; a row is a question with all its choices.
        **options: options of ``HFLM``, e.g. ``max_length`` or ``add_bos_token``.

    Raises:
        PrunebenchError: if the model has no tokenizer.
    """
    from .scoring import Scorer

    return Scorer(lm, batch_size, **options)


def tensor(ids: Ids) -> Tensor:
    """Token windows as a tensor, (windows, length)."""
    if isinstance(ids, Tensor):
        return ids
    lengths = {len(row) for row in ids}
    if len(lengths) != 1 or min(lengths) < 2:
        raise PrunebenchError(
            f"token windows must be equally long; found lengths {sorted(lengths)}"
        )
    return torch.tensor(ids, dtype=torch.long)


def _calibration(given: Ids | CalibrationSpec | None, lm: CausalLM) -> Calibration:
    if given is None:
        given = CalibrationSpec()
    if isinstance(given, CalibrationSpec):
        return Calibration(given, lm)
    return Calibration.of_ids(tensor(given), lm)

"""SPRINT's closed-form fit of one linear layer, from sums over the calibration tokens."""

from __future__ import annotations

import torch
from torch import Tensor


def fitted(gram: Tensor, target: Tensor, weight: Tensor, damping: float, ratio: float) -> Tensor:
    """The new weight, (out, in): rows of the least-squares solution in place of the old ones.

    Args:
        gram: X^T X, (in, in).
        target: X^T (Y - r), (in, out).
        weight: the current weight, (out, in).
        damping: as released, least squares on [X; damping I] against [Y - r; damping W].
        ratio: the fraction of the rows that is replaced, those of the highest Wanda-like score.
    """
    old = weight.detach().to(gram.dtype)
    if damping:
        eye = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solution = _least_squares(
            torch.cat([gram, damping * eye]), torch.cat([target, damping * old.T])
        ).T
    else:
        solution = _least_squares(gram, target).T
    importance = (old.abs() * gram.diagonal().clamp_min(0).sqrt()).sum(1)
    count = max(1, int(ratio * len(old)))
    chosen = importance >= importance.sort(descending=True).values[count - 1]
    if not bool(torch.isfinite(solution[chosen].to(weight.dtype)).all()):
        return weight.detach()  # as released
    return torch.where(chosen[:, None], solution, old).to(weight.dtype)


def _least_squares(a: Tensor, b: Tensor) -> Tensor:
    """Min |a x - b|, of least norm where a is rank-deficient.

    By singular values: the released code's driver on a CPU, a pivoted QR, does not repeat its last
    bits from call to call. A GPU only has a driver for full rank; where its result does not solve
    the equations, they are solved on the CPU.
    """
    if a.device.type != "cpu":
        solution: Tensor = torch.linalg.lstsq(a, b).solution
        rest = a.T @ (a @ solution - b)
        if torch.isfinite(solution).all() and rest.norm() <= 1e-6 * (a.T @ b).norm():
            return solution
    solution = torch.linalg.lstsq(a.cpu(), b.cpu(), driver="gelsd").solution
    return solution.to(a.device)

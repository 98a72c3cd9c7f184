"""The optimizer of the reference model's training: Muon for matrices, Adam for the rest.

Muon replaces the update of a matrix by the nearest matrix with equal singular values, so that rare
directions are learned as fast as common ones. All
matrices of one shape go through it in one batch, which makes it cheap for a deep, narrow model.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

#: The coefficients of the quintic iteration, from Keller Jordan's Muon.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)


def orthogonal(batch: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Brings the singular values of each matrix of a batch close to one."""
    a, b, c = _COEFFICIENTS
    tall = batch.shape[-2] > batch.shape[-1]
    x: Tensor = (batch.mT if tall else batch).to(dtype)
    x = x / (x.float().norm(dim=(-2, -1), keepdim=True) + 1e-7).to(dtype)
    for _ in range(steps):
        square = x @ x.mT
        x = a * x + (b * square + c * square @ square) @ x
    return x.mT.to(batch.dtype) if tall else x.to(batch.dtype)


class Muon(torch.optim.Optimizer):
    """Updates matrices by momentum with equal singular values, as large as Adam's updates are."""

    def __init__(
        self, params: Iterable[Any], lr: float, momentum: float = 0.95, weight_decay: float = 0.0
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Makes one update of all matrices that have gradients."""
        del closure
        for group in self.param_groups:
            shapes: dict[torch.Size, list[tuple[Tensor, Tensor]]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    shapes.setdefault(parameter.shape, []).append((parameter, parameter.grad))
            for pairs in shapes.values():
                self._update(group, pairs)

    def _update(self, group: dict[str, Any], pairs: list[tuple[Tensor, Tensor]]) -> None:
        matrices, looked = [], []
        for matrix, gradient in pairs:
            state = self.state[matrix]
            if not state:
                state["momentum"] = torch.zeros_like(matrix)
            state["momentum"].lerp_(gradient, 1 - group["momentum"])
            matrices.append(matrix)
            looked.append(gradient.lerp(state["momentum"], group["momentum"]))
        # This factor gives the updates the typical size of Adam's, so one rate serves both.
        scale = 0.2 * max(matrices[0].shape) ** 0.5
        for matrix, update in zip(matrices, orthogonal(torch.stack(looked)), strict=True):
            matrix.mul_(1 - group["lr"] * group["weight_decay"])
            matrix.add_(update, alpha=-group["lr"] * scale)

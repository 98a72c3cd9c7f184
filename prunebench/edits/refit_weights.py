"""``refit_weights``: weights of modules that stay are replaced by refitted ones."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import PrunebenchError
from ..plan import Edit, Mark, Sublayer, block_of

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.causal_lm import CausalLM


class RefitWeights(Edit, frozen=True, tag="refit_weights"):
    """Weights of *modules* (names in the dense model) were refitted; *tensors* names them."""

    modules: tuple[str, ...]
    tensors: str = ""

    def last_block(self) -> int:
        """The last block that has one of the modules."""
        return max(map(block_of, self._sublayers()), default=-1)

    def detail(self) -> str:
        """How many modules."""
        return f"{len(self.modules)} module{'s' * (len(self.modules) != 1)}"

    def words(self) -> str:
        """How many modules."""
        return f"Weights of {self.detail()} refitted after the removal"

    def check(self, lm: CausalLM, tensors: Mapping[str, Tensor]) -> None:
        """Refuse a module that the model lacks, and a weight of another shape or type."""
        from torch import Tensor

        lm.require_one_device("refitting weights")
        for name in self.modules:
            refits = f"the plan refits {name!r}"
            try:
                module: Any = lm.hf.get_submodule(name)
            except AttributeError:
                raise PrunebenchError(f"{refits}, which is not there") from None
            if not isinstance(weight := getattr(module, "weight", None), Tensor):
                raise PrunebenchError(f"{refits}, which has no weight")
            given = tensors.get(name)
            if given is not None and not given.is_floating_point():
                raise PrunebenchError(f"{refits} with {given.dtype}, no floating point")
            if given is None or given.shape != weight.shape:
                shape = "nothing" if given is None else tuple(given.shape)
                raise PrunebenchError(f"{refits} with {shape}, expected {tuple(weight.shape)}")

    def apply(self, lm: CausalLM, tensors: Mapping[str, Tensor]) -> None:
        """Replace the weights, in the dtype of the model."""
        from ..models import modeling

        for name in self.modules:
            module: Any = lm.hf.get_submodule(name)
            modeling.replace(module, "weight", tensors[name].to(module.weight.dtype))

    def marks(self, blocks: int, left: Sequence[int]) -> Iterator[Mark]:  # noqa: ARG002
        """The halves that the modules are in."""
        return (Mark(sublayer, "refit") for sublayer in self._sublayers())

    def _sublayers(self) -> Iterator[Sublayer]:
        """Where the modules are: ``model.layers.4.mlp.down_proj`` is (4, mlp)."""
        for module in self.modules:
            if found := re.search(r"(?:^|\.)(\d{1,5})(?:\.|$)(.*)", module):
                attention = "attn" in found[2] or "attention" in found[2]
                yield int(found[1]), "attn" if attention else "mlp"

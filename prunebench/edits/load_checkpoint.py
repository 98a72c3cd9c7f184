"""``load_checkpoint``: the model is a checkpoint that somebody else pruned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec.structs import replace

from ..errors import PrunebenchError
from ..plan import Edit

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class LoadCheckpoint(Edit, frozen=True, tag="load_checkpoint"):
    """The model is one that somebody else pruned; *sha256* is that of its files."""

    foreign: ClassVar[bool] = True

    checkpoint: str
    sha256: str

    def bare(self) -> LoadCheckpoint:
        """Without the place of the checkpoint; the hash says which one it is."""
        return replace(self, checkpoint="")

    def detail(self) -> str:
        """The folder or hub id."""
        return self.checkpoint

    def apply(self, lm: CausalLM, tensors: Mapping[str, Any]) -> None:  # noqa: ARG002
        """Replace the model by the checkpoint's.

        Raises:
            PrunebenchError: if it is not what the plan names, or has another vocabulary.
        """
        from ..data.fingerprints import model_hash
        from ..models.loading import load_model
        from ..specs import ModelSpec

        which = f"checkpoint {self.checkpoint!r}"
        if self.sha256 != (model_hash(ModelSpec(self.checkpoint)) or ""):
            raise PrunebenchError(f"{which} is no longer what the plan names")
        dtype = str(lm.hf.dtype).removeprefix("torch.")
        other = load_model(self.checkpoint, dtype=dtype, device=str(lm.device), known=False)
        dense, pruned = (m.hf.get_input_embeddings().num_embeddings for m in (lm, other))
        if dense != pruned:
            raise PrunebenchError(
                f"{which} has a vocabulary of {pruned} tokens, the dense model one of {dense}: "
                "their scores would not answer the same questions"
            )
        lm.become(other)

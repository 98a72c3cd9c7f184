"""A result from elsewhere: a checkpoint that is already pruned, or a plan.

It is measured like every other case and appears in the same tables, under this name. A checkpoint
is any folder or hub id that plain transformers opens, and need not be of a family that can be
pruned here; its scores are compared with those of the case's dense model, whose tokenizer is used,
so the vocabularies must be the same. A plan is a file that ``prunebench import-plan`` or
``prunebench prune --json`` wrote.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from ..api import Method, Target
from ..edits.load_checkpoint import LoadCheckpoint
from ..plan import Plan

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM


class External(Method, frozen=True, tag="external"):
    """Load a pruned checkpoint or a plan: exactly one of *checkpoint* and *plan* is given."""

    unit: ClassVar[str] = "given"
    calibrated: ClassVar[bool] = False

    checkpoint: str | None = None
    plan: str | None = None

    def __post_init__(self) -> None:
        if (self.checkpoint is None) == (self.plan is None):
            raise ValueError("external: give exactly one of 'checkpoint' and 'plan'")

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:  # noqa: ARG002
        """The plan in the file, or one that loads the checkpoint."""
        if self.plan is not None:
            from ..models.plan_files import read

            return read(Path(self.plan))
        from ..data.fingerprints import model_hash
        from ..models.loading import load_model
        from ..specs import ModelSpec

        name = str(self.checkpoint)
        if (sha256 := model_hash(ModelSpec(name))) is None:
            load_model(name, known=False)  # fetches it from the hub, or raises
            sha256 = model_hash(ModelSpec(name)) or ""
        return Plan((LoadCheckpoint(_shortest(name), sha256),))


def _shortest(name: str) -> str:
    """A folder below the current one as a relative path, so that records can be moved."""
    near = os.path.relpath(name) if name.startswith("/") else ".."
    return name if near.startswith("..") else f"./{near}"

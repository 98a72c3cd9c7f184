"""prunebench: know whether a pruned language model is still good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import Method, Metric, Target
    from .edits.drop_blocks import DropBlocks
    from .edits.drop_sublayers import DropSublayers
    from .edits.load_checkpoint import LoadCheckpoint
    from .edits.merge_blocks import MergeBlocks
    from .edits.refit_weights import RefitWeights
    from .edits.slice_hidden import SliceHidden
    from .errors import CaseError, PrunebenchError
    from .models.calibration import Calibration
    from .models.causal_lm import CausalLM
    from .models.loading import load_model
    from .plan import Plan, Step
    from .record import Measurement, Record, Tolerance
    from .reports.formats.frame import frame
    from .runs.functional import apply, choose, lm_eval_model, perplexity
    from .specs import CalibrationSpec
    from .version import __version__

# Imported on first use: torch and pandas take seconds to import, and every pytest run of the
# environment imports this package for its plugin, with cases or without.
_HOMES = {
    "api": ("Method", "Metric", "Target"),
    "edits.drop_blocks": ("DropBlocks",),
    "edits.drop_sublayers": ("DropSublayers",),
    "edits.load_checkpoint": ("LoadCheckpoint",),
    "edits.merge_blocks": ("MergeBlocks",),
    "edits.refit_weights": ("RefitWeights",),
    "edits.slice_hidden": ("SliceHidden",),
    "errors": ("CaseError", "PrunebenchError"),
    "models.calibration": ("Calibration",),
    "models.causal_lm": ("CausalLM",),
    "models.loading": ("load_model",),
    "plan": ("Plan", "Step"),
    "record": ("Measurement", "Record", "Tolerance"),
    "reports.formats.frame": ("frame",),
    "runs.functional": ("apply", "choose", "lm_eval_model", "perplexity"),
    "specs": ("CalibrationSpec",),
    "version": ("__version__",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "Calibration",
    "CalibrationSpec",
    "CaseError",
    "CausalLM",
    "DropBlocks",
    "DropSublayers",
    "LoadCheckpoint",
    "Measurement",
    "MergeBlocks",
    "Method",
    "Metric",
    "Plan",
    "PrunebenchError",
    "Record",
    "RefitWeights",
    "SliceHidden",
    "Step",
    "Target",
    "Tolerance",
    "__version__",
    "apply",
    "choose",
    "frame",
    "lm_eval_model",
    "load_model",
    "perplexity",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        from importlib import import_module

        return getattr(import_module(f".{_HOME[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

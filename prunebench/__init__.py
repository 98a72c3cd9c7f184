"""prunebench: know whether a pruned language model is still good."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .api import Method, Metric, Target
from .errors import CaseError, PrunebenchError
from .plan import (
    DropBlocks,
    DropSublayers,
    LoadCheckpoint,
    MergeBlocks,
    Plan,
    RefitWeights,
    SliceHidden,
    Step,
)
from .record import Measurement, Record, Tolerance

if TYPE_CHECKING:
    from .loading import load_model
    from .models import CausalLM
    from .reports.frame import frame
    from .tools import apply, choose, lm_eval_model, perplexity

__version__ = "0.1.0"

__all__ = [
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

# These need torch or pandas, which take seconds to import; they arrive when first asked for.
_LATE = {
    "CausalLM": "models",
    "load_model": "loading",
    "apply": "tools",
    "choose": "tools",
    "lm_eval_model": "tools",
    "perplexity": "tools",
    "frame": "reports.frame",
}


def __getattr__(name: str) -> Any:
    if name in _LATE:
        from importlib import import_module

        return getattr(import_module(f".{_LATE[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The model and what is done with its tensors: loading, editing, streaming, scoring, timing.

Which parts to remove does not belong here (``methods``), nor does what to measure (``metrics``).
May import ``data``, ``system`` and the data modules at the top. torch lives here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .causal_lm import CausalLM

__all__ = ["CausalLM"]


def __getattr__(name: str) -> Any:
    # ``prunebench.models.CausalLM`` is a public path; torch is imported when it is asked for.
    if name == "CausalLM":
        from .causal_lm import CausalLM

        return CausalLM
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""What a run checks of everybody's methods and metrics, on every case: cheap, and in their words.

The whole of what they promise is checked by ``prunebench.testing``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..errors import PrunebenchError
from ..plan import Edit, Plan
from ..record import Measurement

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


def structure(lm: CausalLM) -> object:
    """What shows at once that a method took the dense model apart: its modules and their size."""
    return lm.num_parameters, [(name, type(m)) for name, m in lm.hf.named_modules()]


def checked_plan(given: object, method: str) -> Plan:
    """What *method* chose, if it is a plan.

    Raises:
        PrunebenchError: if it is not, or has something else among its edits.
    """
    if not isinstance(given, Plan):
        raise PrunebenchError(f"{method}: choose() returned {_kind(given)}, expected a Plan")
    for edit in given.edits:
        if not isinstance(edit, Edit):
            raise PrunebenchError(f"{method}: the plan has {_kind(edit)} among its edits")
    return given


def checked_measurements(
    given: Iterable[object] | None, metric: str, *, dense: bool
) -> list[Measurement]:
    """What *metric* measured, if these are measurements; of a pruned model there is one at least.

    Raises:
        PrunebenchError: if they are not, or there is none.
    """
    found = []
    for one in () if given is None else given:
        if not isinstance(one, Measurement):
            message = f"{metric}: measure() gave {_kind(one)}, expected a Measurement"
            raise PrunebenchError(message)
        found.append(one)
    if not found and not dense:
        raise PrunebenchError(f"{metric}: measure() gave no measurement")
    return found


def _kind(value: object) -> str:
    return f"{value!r:.40}" if isinstance(value, str | int | float | None) else type(value).__name__

"""The two classes a plug-in author subclasses: Method and Metric."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from .discovery import tag
from .errors import PrunebenchError
from .plan import Plan
from .record import Direction, Measurement, Tolerance

if TYPE_CHECKING:
    from .models.calibration import Calibration
    from .models.causal_lm import CausalLM

__all__ = ["Method", "Metric", "Target", "tag"]


class Target(Struct, frozen=True, omit_defaults=True):
    """How much is to go: at most one field is given, and none where a method's option decides."""

    sparsity: float | None = None
    blocks: int | None = None
    sublayers: int | None = None
    slicing: float | None = None

    def block_count(self, lm: CausalLM) -> int:
        """Blocks to remove from *lm*: as asked, or the number whose achieved sparsity is nearest.

        Sparsity is the fraction of all unique parameters; ties go to fewer blocks.

        Raises:
            PrunebenchError: if the amount is not one of blocks or sparsity.
        """
        if self.blocks is not None:
            return self.blocks
        if self.sparsity is None:
            given = [k for k in self.__struct_fields__ if getattr(self, k) is not None]
            raise PrunebenchError(
                f"this method removes blocks: give 'sparsity' or 'blocks', not {given or 'nothing'}"
            )
        return self.nearest(lm.gone(range(len(lm.blocks))))

    def nearest(self, gone: Sequence[float]) -> int:
        """How many removals come nearest to the sparsity asked for, ties to fewer.

        Args:
            gone: the sparsity after 0, 1, 2, ... removals.
        """
        asked = self.sparsity or 0.0
        return min(range(len(gone)), key=lambda n: (abs(gone[n] - asked), n))


class Method(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="name",
):
    """A way of choosing what to remove. Its fields are its options; its tag is its name.

    A file ``methods/<tag>.py`` of this package, an entry point in the group ``prunebench.methods``
    or a class imported by a ``conftest.py`` makes it known.
    """

    #: What the amount counts; "none" for methods that remove nothing.
    unit: ClassVar[str] = "blocks"
    #: A smaller amount is a prefix of a larger one, so one search serves all amounts.
    nested: ClassVar[bool] = False
    #: Every removal is chosen on the model that the one before it left.
    stepwise: ClassVar[bool] = False
    #: An option that says how much goes, in place of an amount.
    sizing: ClassVar[str] = ""
    #: Whether choosing reads calibration data.
    calibrated: ClassVar[bool] = True

    @property
    def times(self) -> bool:
        """Whether choosing times the model, so that nothing else may run on its device then."""
        return False

    @property
    def sized(self) -> bool:
        """Whether an option of this method says how much goes."""
        return bool(self.sizing) and getattr(self, self.sizing) is not None

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Decide what goes, and leave *lm* bit-identical.

        Args:
            lm: the dense model.
            calibration: token windows, loaded when first asked for.
            target: how much is to go.

        Returns:
            The plan, with the scores, runner-up margins and noise of every choice in its trace.

        Raises:
            PrunebenchError: if the request cannot be met; one line saying what can.
        """
        raise NotImplementedError(f"{type(self).__name__} does not define choose()")


class Metric(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="name",
):
    """Something measured on a model. Its fields are its options; its tag is its name."""

    unit: ClassVar[str] = ""
    better: ClassVar[Direction] = "lower"
    #: What a case allows when it says nothing.
    tolerance: ClassVar[Tolerance] = Tolerance()
    #: Whether it times the model, so that nothing else may run on its device meanwhile.
    times: ClassVar[bool] = False

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:
        """Measure *lm*; *dense* is the model it came from (the same object for the dense case)."""
        raise NotImplementedError(f"{type(self).__name__} does not define measure()")

    def names(self) -> tuple[object, ...]:
        """What tells its measurements' names from another's of its kind: nothing, unless it says.

        Two metrics of one case that agree in this would write over each other.
        """
        return ()

    def limited(self, limit: int) -> Metric:
        """The same metric on at most *limit* questions; unchanged where it asks none."""
        from msgspec.structs import replace

        if "limit" not in self.__struct_fields__:
            return self
        own: int | None = self.limit  # type: ignore[attr-defined]
        return replace(self, limit=min(limit, own or limit))

    def measured(
        self, name: str, value: float, samples: Sequence[float] = (), *, paired: bool = True
    ) -> Measurement:
        """A measurement called ``<tag>/<name>`` in this metric's unit and direction.

        Arrays and tensors are taken too; what is not finite becomes None.
        """
        value, kept = _plain(value), tuple(map(_plain, samples))
        return Measurement(
            metric=f"{tag(self)}/{name}",
            value=value if math.isfinite(value) else None,
            unit=self.unit,
            better=self.better,
            samples=kept,
            paired=paired and bool(kept),
        )


def _plain(value: Any) -> float:
    """A number of NumPy or torch as Python's own, which records are made of."""
    return value.item() if hasattr(value, "item") else value  # type: ignore[no-any-return]

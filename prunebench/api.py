"""The two classes a plug-in author subclasses: Method and Metric."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from .discovery import tag
from .errors import PrunebenchError, did_you_mean
from .plan import Plan
from .record import Direction, Measurement, Tolerance

if TYPE_CHECKING:
    from .models.calibration import Calibration
    from .models.causal_lm import CausalLM

__all__ = ["Method", "Metric", "Target", "tag"]


#: The amounts that a method takes, by its unit.
AMOUNTS_OF = {
    "none": (),
    "given": (),
    "blocks": ("sparsity", "blocks"),
    "sublayers": ("sparsity", "sublayers"),
    "width": ("sparsity", "slicing"),
}


class Target(Struct, frozen=True, omit_defaults=True):
    """How much to remove: at most one field is given, none where a method's option decides."""

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
        self.required_sparsity("blocks")
        return self.nearest(lm.gone(range(len(lm.blocks))))

    def nearest(self, sparsities: Sequence[float]) -> int:
        """How many removals come nearest to the sparsity asked for, ties to fewer.

        Args:
            sparsities: the sparsity after 0, 1, 2, ... removals.
        """
        asked = self.sparsity or 0.0
        return min(range(len(sparsities)), key=lambda n: (abs(sparsities[n] - asked), n))

    def required_sparsity(self, unit: str) -> float:
        """The sparsity asked for, where no number of *unit* (blocks or sublayers) is.

        Raises:
            PrunebenchError: if there is none either. ``Method.amount`` refuses that earlier; this
                is for targets that were made without it.
        """
        if self.sparsity is None:
            given = [k for k in self.__struct_fields__ if getattr(self, k) is not None]
            raise PrunebenchError(
                f"this method removes {unit}: give 'sparsity' or {unit!r}, not {given or 'nothing'}"
            )
        return self.sparsity


class Method(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    omit_defaults=True,
    kw_only=True,
    tag_field="name",
):
    """A way of choosing what to remove. Its fields are its options; its tag is its name.

    It is found as a file ``methods/<tag>.py`` of this package, by an entry point in the group
    ``prunebench.methods``, or as a class that a ``conftest.py`` imports.
    """

    #: What the amount counts; "none" for methods that remove nothing.
    unit: ClassVar[str] = "blocks"
    #: A smaller amount is a prefix of a larger one, so one search serves all amounts.
    nested: ClassVar[bool] = False
    #: Every removal is chosen on the model without the earlier ones.
    stepwise: ClassVar[bool] = False
    #: An option that decides how much is removed, in place of an amount.
    sizing: ClassVar[str] = ""
    #: Whether choosing reads calibration data.
    calibrated: ClassVar[bool] = True

    @property
    def times(self) -> bool:
        """Whether choosing times the model, so that nothing else may run on its device then."""
        return False

    @property
    def sized(self) -> bool:
        """Whether an option of this method decides how much is removed."""
        return bool(self.sizing) and getattr(self, self.sizing) is not None

    def amount(self, given: Mapping[str, Any]) -> Target:
        """The target for the *given* amounts, such as ``{"blocks": 3}``.

        Raises:
            PrunebenchError: if they are not exactly one amount that this method takes, or none
                where an option decides.
        """
        name, unit = tag(self), self.unit
        if unit not in AMOUNTS_OF:
            hint = did_you_mean(unit, AMOUNTS_OF)
            raise PrunebenchError(f"{name}: its class says unit {unit!r}; {hint}")
        allowed = AMOUNTS_OF[unit]
        wrong = [amount for amount in given if amount not in allowed]
        if wrong and not allowed:
            what = "removes nothing" if unit == "none" else "takes what it is given"
            raise PrunebenchError(f"{name} {what}; leave out {wrong[0]!r}")
        if wrong:
            taken = " or ".join(map(repr, allowed))
            raise PrunebenchError(f"{name} takes {taken}, not {wrong[0]!r}")
        if allowed and len(given) != 1 and not (self.sized and not given):
            other = f", or the option {self.sizing}" if self.sizing and not given else ""
            raise PrunebenchError(
                f"give exactly one of {', '.join(allowed)} for {name}{other}; found "
                f"{', '.join(given) or 'none'}"
            )
        return Target(**given)

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Decide what to remove, and leave *lm* bit-identical.

        Args:
            lm: the dense model.
            calibration: token windows, loaded when first read.
            target: how much to remove.

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
    #: The tolerance where a case gives none.
    tolerance: ClassVar[Tolerance] = Tolerance()
    #: Whether it times the model, so that nothing else may run on its device meanwhile.
    times: ClassVar[bool] = False

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:
        """Measure *lm*; *dense* is the model it came from (the same object for the dense case)."""
        raise NotImplementedError(f"{type(self).__name__} does not define measure()")

    def names(self) -> tuple[object, ...]:
        """The options that make its measurements' names differ from those of another of its kind.

        Two metrics of one case that agree in these would overwrite each other's measurements.
        """
        return ()

    def limited(self, limit: int) -> Metric:
        """The same metric on at most *limit* questions; unchanged if it has no such option."""
        from msgspec.structs import replace

        if "limit" not in self.__struct_fields__:
            return self
        given: int | None = self.limit  # type: ignore[attr-defined]
        return replace(self, limit=min(limit, given or limit))

    def measured(
        self, name: str, value: float, samples: Sequence[float] = (), *, paired: bool = True
    ) -> Measurement:
        """A measurement called ``<tag>/<name>`` in this metric's unit and direction.

        Values may be NumPy or torch scalars; a *value* that is not finite becomes None.
        """
        value, numbers = _plain(value), tuple(map(_plain, samples))
        return Measurement(
            metric=f"{tag(self)}/{name}",
            value=value if math.isfinite(value) else None,
            unit=self.unit,
            better=self.better,
            samples=numbers,
            paired=paired and bool(numbers),
        )


def _plain(value: Any) -> float:
    """A NumPy or torch scalar as a Python number, as records need it."""
    return value.item() if hasattr(value, "item") else value  # type: ignore[no-any-return]

"""What a journal has of a case: each kind of item, and how far they show it came."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from ...plan import AnyEdit, Step, decode_edits
from ...record import Measurement
from .search_state import File

if TYPE_CHECKING:
    from torch import Tensor


class Found(Struct, frozen=True):
    """A search as it is kept: the plan, what it cost, and what it took."""

    edits: tuple[AnyEdit, ...]
    trace: tuple[Step, ...]
    seconds: float
    tokens: int
    memory: int | None = None

    def __post_init__(self) -> None:
        decode_edits(self, "edits")


class Done(Struct, frozen=True):
    """A finished metric."""

    measurements: tuple[Measurement, ...]
    seconds: float


class State(Struct, frozen=True):
    """Where a search stands: plain data, and the file and layout of each tensor."""

    data: Any
    tensors: dict[str, File]
    done: int
    of: int


class Offer(NamedTuple):
    """Where a search stands, for the time being in memory; *seconds* led there."""

    data: Any
    tensors: dict[str, Tensor]
    done: int
    of: int
    seconds: float


class Kept(NamedTuple):
    """How far an interrupted case came: what it was at, and how many parts of that are kept.

    *of* is how many parts there are, 0 where that is not known.
    """

    at: str
    parts: int = 0
    of: int = 0
    unit: tuple[str, str] = ("batch", "batches")

    def __str__(self) -> str:
        if not self.parts:
            return f"at {self.at}"
        one, many = self.unit
        parts = f"{self.parts} of {self.of}" if self.of else f"{self.parts}"
        return f"at {self.at}, {parts} {one if parts == '1' else many} kept"

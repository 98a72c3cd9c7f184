"""The entries of a journal, and the progress that they show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from msgspec import Struct

from ...plan import AnyEdit, Step, decode_edits
from ...record import Measurement
from .search_state import File

if TYPE_CHECKING:
    from torch import Tensor


class FinishedSearch(Struct, frozen=True):
    """A plan, the seconds of its search, the calibration tokens read and the memory added."""

    edits: tuple[AnyEdit, ...]
    trace: tuple[Step, ...]
    seconds: float
    tokens: int
    memory: int | None = None

    def __post_init__(self) -> None:
        decode_edits(self, "edits")


class FinishedMetric(Struct, frozen=True):
    """The measurements of a finished metric, and its seconds."""

    measurements: tuple[Measurement, ...]
    seconds: float


class SavedState(Struct, frozen=True):
    """The saved state of a search: plain data, and the file and memory layout of each tensor.

    *done* of *of* steps led to it; *of* is 0 where it is unknown.
    """

    data: Any
    tensors: dict[str, File]
    done: int
    of: int


class PendingState(NamedTuple):
    """The latest state of a search, in memory until it is saved; *seconds* led to it."""

    data: Any
    tensors: dict[str, Tensor]
    done: int
    of: int
    seconds: float


class SavedProgress(NamedTuple):
    """How far an interrupted case came: the task it was at, and how many parts of that are saved.

    *of* is the number of parts, 0 where it is unknown.
    """

    at: str
    parts: int = 0
    of: int = 0
    unit: tuple[str, str] = ("batch", "batches")

    def __str__(self) -> str:
        if not self.parts:
            return f"at {self.at}"
        singular, plural = self.unit
        parts = f"{self.parts} of {self.of}" if self.of else f"{self.parts}"
        return f"at {self.at}, {parts} {singular if parts == '1' else plural} saved"

"""The parts of a case about the model, the calibration text and the machine, as frozen data."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Fraction = Annotated[float, Meta(gt=0, lt=1)]


Count = Annotated[int, Meta(ge=1)]


Dtype = Literal["auto", "float32", "float16", "bfloat16"]


#: One of accelerate's words, or module name to GPU number, ``cpu`` or ``disk``.
DeviceMap = Literal["auto", "balanced", "balanced_low_0", "sequential"] | dict[str, str | int]


class ModelSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which model: a hub id, a folder (starts with ``.`` or ``/``) or ``prunebench/reference``.

    *weights* ``random`` reads the config alone and draws the weights with a fixed seed, which is
    enough to time a shape. *device_map* spreads a model that is larger than one device.
    """

    id: str
    revision: str | None = None
    dtype: Dtype = "auto"
    weights: Literal["random"] | None = None
    device_map: DeviceMap | None = None

    def __hash__(self) -> int:
        # Without device_map, which may be a mapping and so not hashable.
        return hash((self.id, self.revision, self.dtype, self.weights))


class CalibrationSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """The tokens that a method may read: *nsamples* windows of *seqlen* tokens.

    *join* separates documents, instead of the text's usual separator.
    """

    dataset: str = "wikitext2"
    nsamples: Count = 128
    seqlen: Annotated[int, Meta(ge=2)] = 2048
    seed: Annotated[int, Meta(ge=0)] = 0
    join: str | None = None


Size = Annotated[str, Meta(pattern=r"^\d+(\.\d+)? ?(GiB|GB)$")]


class Needs(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Requirements on the machine; without them the case is skipped with the reason.

    *gpu_memory* is that of each of the *gpus*, *memory* the machine's main memory.
    """

    device: Literal["cpu", "cuda"] | None = None
    gpu_memory: Size | None = None
    gpus: Count | None = None
    memory: Size | None = None

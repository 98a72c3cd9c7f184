"""What a case says about the model, the calibration text and the machine, as frozen data."""

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

    *weights* ``random`` reads the config alone and draws the weights from a fixed seed, which is
    enough to time a shape. *device_map* spreads a model that is larger than one device.
    """

    id: str
    revision: str | None = None
    dtype: Dtype = "auto"
    weights: Literal["random"] | None = None
    device_map: DeviceMap | None = None

    def __hash__(self) -> int:
        # Equal specs hash alike; a device_map may be a mapping, which has no hash itself.
        return hash((self.id, self.revision, self.dtype, self.weights))


class CalibrationSpec(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Which tokens a method may look at: *nsamples* windows of *seqlen* tokens.

    *join* goes between documents in place of what is usual for the text.
    """

    dataset: str = "wikitext2"
    nsamples: Count = 128
    seqlen: Annotated[int, Meta(ge=2)] = 2048
    seed: Annotated[int, Meta(ge=0)] = 0
    join: str | None = None


Size = Annotated[str, Meta(pattern=r"^\d+(\.\d+)? ?(GiB|GB)$")]


class Needs(Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the machine must have; otherwise the case is skipped with the reason.

    *gpu_memory* is that of each of the *gpus*, *memory* the machine's main memory.
    """

    device: Literal["cpu", "cuda"] | None = None
    gpu_memory: Size | None = None
    gpus: Count | None = None
    memory: Size | None = None

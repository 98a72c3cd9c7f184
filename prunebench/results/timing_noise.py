"""How much timings of one model differ on this machine: the smallest believable effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from msgspec import Struct

from ..system import files

#: Of a hundred pairs of measurements of one model, so many differ by less than what is believable.
QUANTILE = 0.99


class Noise(Struct, frozen=True):
    """What was measured on one device, *when*, from so many *repetitions*.

    *effects* is per model and measurement: two measurements of the same model differ by no more
    than this part of their value in 99 of 100 pairs.
    """

    device: str
    when: str
    repetitions: int
    effects: dict[str, dict[str, float]]


def effect(values: Sequence[float]) -> float:
    """The part by which two of *values* differ at most, in 99 of 100 pairs.

    The 0.99 quantile of |a - b| / min(a, b) over all pairs; of few pairs that is the largest.
    """
    parts = sorted(
        abs(a - b) / min(a, b) for i, a in enumerate(values) for b in values[:i] if min(a, b) > 0
    )
    return parts[min(len(parts) - 1, int(QUANTILE * len(parts)))] if parts else 0.0


def effects(repeated: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """The effect of each measurement over repetitions of all of them."""
    series: dict[str, list[float]] = {}
    for once in repeated:
        for name, value in once.items():
            series.setdefault(name, []).append(value)
    return {name: effect(values) for name, values in series.items()}


def path(store: Path, device: str) -> Path:
    """Where the noise of *device* is stored, below the results folder."""
    return files.inside(store / "noise", f"{files.slug(device)}.json")


def load(store: Path, device: str) -> Noise | None:
    """What was measured on *device*, if anything.

    Raises:
        PrunebenchError: if the file is damaged.
    """
    place = path(store, device)
    return files.read_json(place, Noise) if place.is_file() else None


def save(store: Path, noise: Noise) -> Path:
    """Keep *noise*, and what was known of other models on that device.

    Raises:
        PrunebenchError: if the place cannot be written.
    """
    known = load(store, noise.device)
    old = known.effects if known else {}
    merged = {**old, **{m: {**old.get(m, {}), **own} for m, own in noise.effects.items()}}
    place = path(store, noise.device)
    files.write_json(place, Noise(noise.device, noise.when, noise.repetitions, merged))
    return place

"""Accepted records on disk, in two trees: quality holds on any device, latency on one named device.

Samples lie beside each file compressed, a bit per question, so that paired tests work from git.
"""

from __future__ import annotations

import base64
import gzip
import json
from array import array
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from . import files
from .errors import PrunebenchError
from .record import SCHEMA, Measurement, Record

#: A user's own baselines, below the current directory.
OWN = Path("baselines")
#: A samples file larger than this is refused: baselines live in git.
MAX_SAMPLE_BYTES = 1_000_000


def shipped(part: str) -> Path:
    """A folder that the wheel carries, or the repository's when run from a checkout."""
    package = Path(__file__).parent
    inside = package / "_shipped" / part
    return inside if inside.is_dir() else package.parent / part


class Accepted(Struct, frozen=True):
    """Who took a record as the baseline, when, and why."""

    by: str
    when: str
    because: str


class Baselines:
    """Baselines below *root* (``baselines``)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def quality(self, case_id: str) -> Path:
        """The file of scores, perplexity and plan."""
        return self.root / "quality" / f"{case_id}.json"

    @property
    def published(self) -> Path:
        """The papers' numbers: beside these baselines, or else those that come with us."""
        own = self.root / "published"
        return own if own.is_dir() else shipped("baselines/published")

    def latency(self, case_id: str, device: str) -> Path:
        """The file of timings and memory on one device."""
        return self.root / "latency" / device / f"{case_id}.json"

    def load(self, case_id: str, device: str) -> Record | None:
        """The accepted record of a case, with what was accepted for this device.

        Raises:
            PrunebenchError: if a file is damaged or from a newer version.
        """
        path = self.quality(case_id)
        if not path.is_file():
            return None
        record = _read(path)
        timed = self.latency(case_id, device)
        if device != "cpu" and timed.is_file():
            own = record.measurements + _read(timed).measurements
            record = replace(record, measurements=own)
        return record

    def save(self, record: Record, accepted: Accepted) -> list[Path]:
        """Make *record* the baseline of its case; returns the files written.

        Raises:
            PrunebenchError: if a value is not finite, for a broken model is no standard; or is one
                that can be compared with nothing, such as a timing on a shared GPU.
        """
        broken = [m.metric for m in record.measurements if m.value is None and not m.note]
        if broken:
            names = ", ".join(broken)
            raise PrunebenchError(f"{record.case_id}: not accepted, not finite: {names}")
        if odd := next((m for m in record.measurements if m.value is not None and m.note), None):
            raise PrunebenchError(f"{record.case_id}: not accepted, {odd.metric}: {odd.note}")
        steady = tuple(m for m in record.measurements if not m.varies)
        varying = tuple(m for m in record.measurements if m.varies)
        path = self.quality(record.case_id)
        _write(path, replace(record, measurements=steady), accepted)
        if record.environment.device == "cpu" or not varying:
            return [path]
        timed = self.latency(record.case_id, record.environment.device)
        _write(timed, replace(record, measurements=varying), accepted)
        return [path, timed]

    def accepted(self, case_id: str) -> Accepted | None:
        """Who accepted the baseline of a case, if there is one."""
        path = self.quality(case_id)
        if not path.is_file():
            return None
        return msgspec.convert(files.read_json(path, dict[str, Any]).get("accepted"), Accepted)

    def case_ids(self) -> list[str]:
        """All cases that have a quality baseline, sorted."""
        base = self.root / "quality"
        return sorted(p.relative_to(base).with_suffix("").as_posix() for p in base.rglob("*.json"))


def _write(path: Path, record: Record, accepted: Accepted) -> None:
    samples = {m.metric: _packed(m.samples) for m in record.measurements if m.samples}
    packed = gzip.compress(json.dumps(samples, sort_keys=True).encode(), mtime=0)
    if len(packed) > MAX_SAMPLE_BYTES:
        size = f"{len(packed)} bytes of samples, at most {MAX_SAMPLE_BYTES}"
        raise PrunebenchError(f"{record.case_id}: not accepted: {size}")
    bare = replace(record, measurements=tuple(replace(m, samples=()) for m in record.measurements))
    data = {**msgspec.to_builtins(bare), "accepted": msgspec.to_builtins(accepted)}
    files.write(_beside(path), packed)
    files.write_json(path, data)


def _read(path: Path) -> Record:
    data = files.read_json(path, dict[str, Any])
    if isinstance(schema := data.get("schema"), int) and schema > SCHEMA:
        raise PrunebenchError(f"{path}: written by a newer prunebench (schema {schema})")
    data.pop("accepted", None)
    try:
        record = msgspec.convert(data, Record)
    except msgspec.ValidationError as error:
        raise PrunebenchError(f"{path}: damaged: {error}") from None
    return replace(record, measurements=_with_samples(path, record.measurements))


def _with_samples(path: Path, bare: tuple[Measurement, ...]) -> tuple[Measurement, ...]:
    beside = _beside(path)
    try:
        packed = json.loads(gzip.decompress(beside.read_bytes()))
        return tuple(replace(m, samples=_unpacked(packed.get(m.metric))) for m in bare)
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise PrunebenchError(f"{beside}: samples missing or damaged: {error}") from None


def _beside(path: Path) -> Path:
    return path.with_name(f"{path.name.removesuffix('.json')}.samples.gz")


def _packed(samples: tuple[float, ...]) -> dict[str, Any]:
    if all(s in (0.0, 1.0) for s in samples):
        bits = int("".join("1" if s else "0" for s in samples), 2)
        return {"bits": f"{bits:x}", "count": len(samples)}
    return {"float32": base64.b64encode(array("f", samples).tobytes()).decode()}


def _unpacked(packed: dict[str, Any] | None) -> tuple[float, ...]:
    if packed is None:
        return ()
    if "bits" in packed:
        return tuple(map(float, f"{int(packed['bits'], 16):0{packed['count']}b}"))
    return tuple(array("f", base64.b64decode(packed["float32"])))

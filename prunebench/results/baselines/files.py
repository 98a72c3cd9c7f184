"""Accepted records on disk, in two trees: quality holds on any device, latency on one named device.

Samples lie next to each file, compressed, a bit per question and half a float per margin, so that
paired tests work from git. Each file carries a hash of itself and its samples, so that a
baseline that was edited by hand is refused.
"""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import struct
import zlib
from array import array
from collections.abc import Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from ...errors import PrunebenchError
from ...record import Measurement, Record, too_new
from ...system import files, transaction
from ...verdicts.evidence import MAX_HALF

T = TypeVar("T")

#: A user's own baselines, below the current directory.
OWN = Path("baselines")
#: A samples file larger than this is refused: baselines live in git.
MAX_SAMPLE_BYTES = 1_000_000
#: What they unpack to, and how many samples a measurement has, is far less.
MAX_UNPACKED_BYTES = 100_000_000
MAX_SAMPLES = 10_000_000
#: What reading a damaged samples file may raise.
_DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, AttributeError),
    *(zlib.error, struct.error, ArithmeticError, RecursionError),
)


def shipped(part: str) -> Path:
    """A folder that the wheel carries, or the repository's when run from a checkout."""
    package = Path(__file__).parents[2]
    inside = package / "_shipped" / part
    return inside if inside.is_dir() else package.parent / part


class Accepted(Struct, frozen=True, omit_defaults=True):
    """Who took a record as the baseline, when, and why.

    *sha256* is of everything else in the file, and of its samples; older files have none. *forced*
    says that a guard had refused it (see ``guards``).
    """

    by: str
    when: str
    because: str
    sha256: str = ""
    forced: bool = False


class Baselines:
    """Baselines below *root* (``baselines``)."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def quality(self, case_id: str) -> Path:
        """The file of scores, perplexity and plan."""
        return files.inside(self.root / "quality", f"{case_id}.json")

    @property
    def published(self) -> Path:
        """The papers' numbers: next to these baselines, or else the packaged ones."""
        own = self.root / "published"
        return own if own.is_dir() else shipped("baselines/published")

    def latency(self, case_id: str, device: str) -> Path:
        """The file of timings and memory on one device."""
        return files.inside(self.root / "latency", f"{files.slug(device)}/{case_id}.json")

    def load(self, case_id: str, device: str) -> Record | None:
        """The accepted record of a case, with what was accepted for this device.

        Margins come back in half precision and samples in single, as they are stored.

        Raises:
            PrunebenchError: if a file is damaged, edited by hand, another case's, or from a newer
                version; one line with the file first.
        """
        path = self.quality(case_id)
        if not path.is_file():
            return None
        record = _read(path, case_id)
        timed = self.latency(case_id, device)
        if device != "cpu" and timed.is_file():
            own = record.measurements + _read(timed, case_id).measurements
            record = replace(record, measurements=own)
        return record

    def save(self, record: Record, accepted: Accepted) -> list[Path]:
        """Make *record* the baseline of its case; returns the files written.

        Raises:
            PrunebenchError: if a value is not finite, for a broken model is no baseline; or is one
                that can be compared with nothing, such as a timing on a shared GPU.
        """
        prepared = self.prepare(record, accepted)
        with transaction.turn(self.root):
            self.write(prepared)
        return [path for path in prepared if path.suffix == ".json"]

    def prepare(self, record: Record, accepted: Accepted) -> dict[Path, bytes]:
        """What ``save`` would write, by file: the samples, then the JSON that vouches for them.

        Raises:
            PrunebenchError: as ``save``, but nothing is written.
        """
        for measurement in record.measurements:
            if why := unfit(measurement):
                raise PrunebenchError(f"{record.case_id}: not accepted, {why}")
        steady = tuple(m for m in record.measurements if not m.varies)
        varying = tuple(m for m in record.measurements if m.varies)
        path = self.quality(record.case_id)
        contents = _contents(path, replace(record, measurements=steady), accepted)
        if record.environment.device == "cpu" or not varying:
            return contents
        timed = self.latency(record.case_id, record.environment.device)
        return contents | _contents(timed, replace(record, measurements=varying), accepted)

    def write(self, prepared: dict[Path, bytes]) -> None:
        """Write what was prepared, all of it or nothing, in the folder's turn (``transaction``)."""
        names = {path.relative_to(self.root).as_posix(): data for path, data in prepared.items()}
        transaction.write(self.root, names)

    @property
    def cut_off(self) -> str:
        """That an accept was cut off in the middle and how it is ended; or an empty text."""
        if not transaction.unfinished(self.root):
            return ""
        return (
            f"{self.root}: an accept was cut off in the middle, some baselines are new and some "
            f"old; the next prunebench accept ends it"
        )

    def accepted(self, case_id: str) -> Accepted | None:
        """Who accepted the baseline of a case, if there is one."""
        path = self.quality(case_id)
        return read_accepted(path) if path.is_file() else None

    def case_ids(self) -> list[str]:
        """All cases that have a quality baseline, sorted."""
        return _ids(self.root / "quality")

    def devices(self) -> list[str]:
        """The devices that have timings, sorted."""
        base = self.root / "latency"
        return sorted(p.name for p in files.listed(base) if p.is_dir())

    def timed(self, case_id: str) -> list[str]:
        """The devices that have timings of a case, sorted."""
        return [d for d in self.devices() if self.latency(case_id, d).is_file()]

    def all_case_ids(self) -> list[str]:
        """All cases that have a baseline in either tree, sorted."""
        trees = [self.root / "quality", *(self.root / "latency" / d for d in self.devices())]
        return sorted({case_id for tree in trees for case_id in _ids(tree)})

    def files(self, case_id: str) -> list[Path]:
        """Every file of a case's baseline that is there: JSON and samples, in both trees."""
        places = [self.quality(case_id), *(self.latency(case_id, d) for d in self.devices())]
        return [p for place in places for p in (place, samples_file(place)) if p.is_file()]


def unfit(measurement: Measurement) -> str:
    """Why *measurement* cannot be a baseline, or an empty text.

    A note without a value, such as memory that ran out, is a fact like any other.
    """
    if measurement.value is None:
        return "" if measurement.note else f"not finite: {measurement.metric}"
    return f"{measurement.metric}: {measurement.note}" if measurement.note else ""


def samples_file(path: Path) -> Path:
    """The samples file of a baseline."""
    return path.with_name(f"{path.name.removesuffix('.json')}.samples.gz")


def read_accepted(path: Path, data: dict[str, Any] | None = None) -> Accepted:
    """Who accepted the baseline in that file, whose content is *data* if it is read already.

    Raises:
        PrunebenchError: if it does not say.
    """
    return _converted(path, data or _data(path), "accepted", Accepted)


def _converted(path: Path, data: dict[str, Any], name: str, kind: type[T]) -> T:
    """The field *name* of *data*, or all of it without a name."""
    try:
        return msgspec.convert(data.get(name) if name else data, kind)
    except msgspec.ValidationError as error:
        where = f"{name}: " if name else ""
        raise PrunebenchError(f"{path}: damaged: {where}{error}") from None


def _ids(base: Path) -> list[str]:
    found = (p.relative_to(base).as_posix() for p in files.below(base, ".json"))
    return sorted(name.removesuffix(".json") for name in found if files.is_name(name))


def _contents(path: Path, record: Record, accepted: Accepted) -> dict[Path, bytes]:
    samples = {m.metric: own for m in record.measurements if (own := _packed(m))}
    packed = gzip.compress(json.dumps(samples, sort_keys=True).encode(), mtime=0)
    if len(packed) > MAX_SAMPLE_BYTES:
        size = f"{len(packed)} bytes of samples, at most {MAX_SAMPLE_BYTES}"
        raise PrunebenchError(f"{record.case_id}: not accepted: {size}")
    bare = tuple(replace(m, samples=(), margins=(), clusters=()) for m in record.measurements)
    # A second measurement was evidence against the old baseline; it says nothing of this one.
    data = msgspec.to_builtins(replace(record, measurements=bare, again=()))
    data["samples"] = {m.metric: len(m.samples) for m in record.measurements if m.samples}
    data["accepted"] = msgspec.to_builtins(replace(accepted, sha256=""))
    data["accepted"]["sha256"] = _digest(msgspec.json.decode(msgspec.json.encode(data)), packed)
    return {samples_file(path): packed, path: files.as_json(data)}


def _digest(data: dict[str, Any], samples: bytes) -> str:
    """The hash of a baseline: of its data, so that layout and line ends do not matter."""
    accepted = {k: v for k, v in data["accepted"].items() if k != "sha256"}
    rest = {**data, "accepted": accepted}
    canonical = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode() + b"\0" + samples).hexdigest()


def _read(path: Path, case_id: str) -> Record:
    data = _data(path)
    if newer := too_new(data.get("schema")):
        raise PrunebenchError(f"{path}: {newer}")
    record = _converted(path, data, "", Record)
    if record.case_id != case_id:
        raise PrunebenchError(f"{path}: the record of another case, {record.case_id!r}")
    if not (file := samples_file(path)).exists():
        raise PrunebenchError(f"{path}: samples missing: {file}; git add it or accept again")
    try:
        packed = files.read(file, MAX_SAMPLE_BYTES)
    except PrunebenchError as error:
        raise PrunebenchError(f"{path}: {error}") from None
    counts = (
        _converted(path, data, "samples", dict[str, int])
        if data.get("samples") is not None
        else None
    )
    whole = _with_samples(path, packed, record.measurements, counts)
    accepted = read_accepted(path, data)
    if accepted.sha256 not in ("", _digest(data, packed)):  # older versions wrote no hash
        raise PrunebenchError(
            f"{path}: edited by hand since {accepted.by} accepted it on {accepted.when[:10]}; "
            f"accept again with prunebench accept, or restore it with git checkout"
        )
    return replace(record, measurements=whole)


def _data(path: Path) -> dict[str, Any]:
    try:
        return files.read_json(path, dict[str, Any])
    except PrunebenchError as error:
        if b"<<<<<<< " in files.read(path):
            raise PrunebenchError(f"{error}; a merge conflict is left in it") from None
        raise


def _with_samples(
    path: Path, packed: bytes, bare: tuple[Measurement, ...], counts: dict[str, int] | None
) -> tuple[Measurement, ...]:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as stream:
            data = stream.read(MAX_UNPACKED_BYTES + 1)
        if len(data) > MAX_UNPACKED_BYTES:  # a bomb: what we pack has far less
            raise ValueError(f"more than {MAX_UNPACKED_BYTES} bytes when unpacked")
        samples = json.loads(data)
        whole = tuple(_unpacked(m, samples.get(m.metric, {})) for m in bare)
    except _DAMAGE as error:
        raise PrunebenchError(f"{path}: samples damaged: {samples_file(path)}: {error}") from None
    if misfit := next(_misfits(whole, samples, counts), None):
        raise PrunebenchError(f"{path}: samples do not fit the record: {misfit}")
    return whole


def _misfits(
    measurements: tuple[Measurement, ...], samples: dict[str, Any], counts: dict[str, int] | None
) -> Iterator[str]:
    """What says that the samples are of another record; *counts* are not in older files."""
    for m in measurements:
        count = len(m.samples)
        if counts is not None and count != counts.get(m.metric, 0):
            yield f"{count} of {m.metric}, the record had {counts.get(m.metric, 0)}"
        if m.paired and not count:
            yield f"none of {m.metric}"
        for name in ("margins", "clusters"):
            if (other := len(getattr(m, name))) not in (0, count):
                yield f"{other} {name} for {count} samples of {m.metric}"
    for metric in samples.keys() - {m.metric for m in measurements}:
        yield f"it has no {metric}"


def _packed(measurement: Measurement) -> dict[str, Any]:
    samples = measurement.samples
    packed: dict[str, Any] = {}
    if samples and all(s in (0.0, 1.0) for s in samples):
        bits = int("".join("1" if s else "0" for s in samples), 2)
        packed = {"bits": f"{bits:x}", "count": len(samples)}
    elif samples:
        packed = {"float32": _base64(array("f", samples).tobytes())}
    if measurement.margins:
        # In this order, what is not a number stays so; what has no room becomes the largest.
        halves = [max(min(m, MAX_HALF), -MAX_HALF) for m in measurement.margins]
        packed["float16"] = _base64(struct.pack(f"<{len(halves)}e", *halves))
    if clusters := measurement.clusters:
        # Neighbouring questions mostly share a passage: their differences compress to nothing.
        packed["clusters"] = [b - a for a, b in pairwise((0, *clusters))]
    return packed


def _unpacked(bare: Measurement, packed: dict[str, Any]) -> Measurement:
    samples: tuple[float, ...] = ()
    if "bits" in packed:
        count = packed["count"]
        if not 0 <= count <= MAX_SAMPLES:
            raise ValueError(f"{count} samples of {bare.metric}, at most {MAX_SAMPLES}")
        samples = tuple(map(float, f"{int(packed['bits'], 16):0{count}b}"))
        if len(samples) != count:
            raise ValueError(f"{len(samples)} bits of {bare.metric}, {count} announced")
    elif "float32" in packed:
        samples = tuple(array("f", base64.b64decode(packed["float32"], validate=True)))
    halves = base64.b64decode(packed.get("float16", ""), validate=True)
    margins = struct.unpack(f"<{len(halves) // 2}e", halves)
    clusters = tuple(accumulate(map(int, packed.get("clusters", ()))))
    return replace(bare, samples=samples, margins=margins, clusters=clusters)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()

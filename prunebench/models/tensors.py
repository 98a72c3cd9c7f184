"""The tensors that a plan names, by content hash; saved as safetensors files of that name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import PrunebenchError
from ..system import files

#: The largest file that is read: the tensors of a plan fit into memory.
MAX_BYTES = 2**40


class Tensors:
    """Named tensors in bundles, each known by the sha256 of its safetensors file."""

    def __init__(self) -> None:
        self._bundles: dict[str, dict[str, Tensor]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tensors) and set(self._bundles) == set(other._bundles)

    __hash__ = None  # type: ignore[assignment]

    def __getitem__(self, sha256: str) -> dict[str, Tensor]:
        if sha256 not in self._bundles:
            raise PrunebenchError(f"the plan names tensors {sha256[:12]}..., which are missing")
        return self._bundles[sha256]

    def add(self, bundle: Mapping[str, Tensor]) -> str:
        """Store *bundle*, on the CPU, and return its hash."""
        kept = {name: t.detach().cpu().contiguous() for name, t in sorted(bundle.items())}
        sha256 = hashlib.sha256(_bytes(kept)).hexdigest()
        self._bundles[sha256] = kept
        return sha256

    def save(self, folder: Path) -> list[Path]:
        """Write every bundle to ``<folder>/<sha256>.safetensors``, unless that file exists."""
        paths = []
        for sha256, bundle in self._bundles.items():
            path = path_of(folder, sha256)
            if not path.is_file():
                files.write(path, _bytes(bundle))
            paths.append(path)
        return paths

    def load(self, folder: Path, sha256: str) -> None:
        """Read the bundle called *sha256* from *folder*.

        Raises:
            PrunebenchError: if it is missing, or its content has another hash.
        """
        import safetensors.torch

        path = path_of(folder, sha256)
        data = files.read(path, MAX_BYTES)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise PrunebenchError(f"{path}: damaged: its content does not match its name")
        try:
            self._bundles[sha256] = safetensors.torch.load(data)
        except (safetensors.SafetensorError, KeyError, ValueError) as error:
            raise PrunebenchError(f"{path}: damaged: {error}") from None


def keep(folder: Path, tensor: Tensor) -> tuple[str, tuple[int, ...]]:
    """Write *tensor* to *folder*, in a file named by its hash.

    Returns:
        The hash, and the order of the tensor's axes in memory: results computed from a transposed
        matrix may differ in their last bits from those of a copy in the other order.

    Raises:
        PrunebenchError: if the file cannot be written.
    """
    axes = range(tensor.dim())
    order = tuple(sorted(axes, key=lambda axis: tensor.stride(axis), reverse=True))
    laid_out = tensor.detach().permute(order).cpu().contiguous()
    data = _bytes({"tensor": laid_out})
    sha256 = hashlib.sha256(data).hexdigest()
    if not (path := path_of(folder, sha256)).is_file():
        files.write(path, data)
    return sha256, order


def kept(folder: Path, sha256: str, order: tuple[int, ...]) -> Tensor:
    """The tensor that *keep* wrote, on the CPU, in the same memory layout.

    Raises:
        PrunebenchError: if it is missing, or its content has another hash.
    """
    bundles = Tensors()
    bundles.load(folder, sha256)
    found = bundles[sha256].get("tensor")
    if found is None or sorted(order) != list(range(found.dim())):
        raise PrunebenchError(f"{path_of(folder, sha256)}: damaged: not the tensor of a search")
    # A copy has the allocator's alignment, on which the last bits of some libraries depend.
    return found.clone().permute([order.index(axis) for axis in range(found.dim())])


def path_of(folder: Path, sha256: str) -> Path:
    """The file of the tensors with that hash in *folder*."""
    return folder / f"{sha256}.safetensors"


def storage_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of saved rotations: float32, or float64 for a float64 model."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def _bytes(bundle: Mapping[str, Tensor]) -> bytes:
    import safetensors.torch

    data: bytes = safetensors.torch.save(dict(bundle))
    return data

"""Facts of this machine: memory, GPUs, device names. Imports torch only to ask a GPU."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path

from .nvml import Gpu

GIB = 2**30

#: Device files of GPUs that torch can use: NVIDIA's, AMD's, and those of WSL.
GPU_FILES = ("/dev/nvidiactl", "/dev/nvidia0", "/dev/kfd", "/dev/dxg")


def before_torch() -> None:
    """Set the environment variables that torch reads when it starts its threads.

    OpenMP threads that spin while they wait slow a shared machine down: next to another busy
    process the dense smoke case took 95 s, and 12 s with threads that sleep.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


def default_device() -> str:
    """``cuda`` if there is a GPU, else ``cpu``; torch is imported only where there might be one."""
    if not has_gpu_files():
        return "cpu"
    before_torch()
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def has_gpu_files() -> bool:
    """Whether there might be a GPU, without importing torch."""
    return sys.platform != "linux" or any(Path(name).exists() for name in GPU_FILES)


def usable_cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def gibibytes(text: str) -> float:
    """``80GiB`` or ``80 GB`` in GiB."""
    number = float(text.rstrip("GiB "))
    return number if text.endswith("GiB") else number * 1e9 / GIB


def main_memory() -> int | None:
    """Bytes of main memory or of the container's limit; None where the system does not say."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None
    try:
        return min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    except (OSError, ValueError):  # no such file, or "max"
        return total


def gpu_memory(device: str) -> int:
    """Bytes of memory of one GPU."""
    import torch

    return int(torch.cuda.get_device_properties(device).total_memory)


def gpu_count() -> int:
    """How many GPUs there are."""
    import torch

    return torch.cuda.device_count()


def gpu_ids(device: str, *, spread: bool = False) -> list[str]:
    """The UUIDs of the GPUs that a model on *device* takes, all visible ones if it is *spread*."""
    if not device.startswith("cuda"):
        return []
    import torch

    wanted = range(torch.cuda.device_count()) if spread else [torch.device(device).index or 0]
    return [str(torch.cuda.get_device_properties(number).uuid) for number in wanted]


class PeakMemory:
    """Measures the peak of memory that the work inside a ``with`` adds, in bytes.

    On GPUs it is what torch allocates on all of them; on Linux the resident size of this process,
    whose high-water mark is reset first. Memory that Python had already and reuses is not counted,
    so a number from a CPU is a lower bound.

    *added* is the result; None where the system does not provide or permit it.
    """

    def __init__(self, device: str) -> None:
        self.added: int | None = None
        self._gpu = device.startswith("cuda")
        self._before: int | None = None

    def __enter__(self) -> PeakMemory:
        self._before = self._gpu_bytes(reset=True) if self._gpu else _resident_now()
        return self

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            peak = self._gpu_bytes(reset=False) if self._gpu else resident("VmHWM")
            self.added = max(0, (peak or 0) - self._before)

    @staticmethod
    def _gpu_bytes(*, reset: bool) -> int:
        """The peak of what torch has allocated; *reset* makes the current amount the new peak."""
        import torch

        total = 0
        for gpu in range(torch.cuda.device_count()):
            torch.cuda.synchronize(gpu)
            if reset:
                torch.cuda.reset_peak_memory_stats(gpu)
            total += torch.cuda.max_memory_allocated(gpu)
        return total


def resident(field: str) -> int | None:
    """Resident bytes of this process, now (VmRSS) or at peak (VmHWM); None except on Linux."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))
    except (OSError, ValueError, StopIteration):
        return None


def _resident_now() -> int | None:
    """The current resident size, after a reset of the peak to it; None where not permitted."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return resident("VmRSS")


@cache
def device_name(device: str) -> str:
    """``cpu``, or the GPU's product name as a folder name: ``nvidia-h200``.

    The product name has form factor, memory and MIG slice. A power cap below the default is added,
    because it makes the card another device for timings: ``nvidia-h200-500w``.
    """
    if not device.startswith("cuda"):
        return device
    import torch

    name = str(torch.cuda.get_device_name(device)).lower().replace(" ", "-").replace("/", "-")
    gpu = Gpu.of(device)
    state = gpu.state() if gpu else {}
    cap, usual = state.get("power_cap"), state.get("default_power_cap")
    return f"{name}-{cap:.0f}w" if cap and usual and cap < 0.95 * usual else name

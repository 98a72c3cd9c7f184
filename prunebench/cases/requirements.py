"""Compares the ``needs`` of a case with this machine."""

from __future__ import annotations

from ..case import Case
from ..system.machine import GIB, gibibytes, gpu_count, gpu_memory, main_memory


def skip_reason(case: Case, device: str) -> str:
    """Why *case* cannot run here, or an empty text."""
    needs, gpu = case.needs, device.startswith("cuda")
    if needs.device and needs.device != device.split(":")[0]:
        return f"needs device {needs.device}, this is {device}"
    if needs.gpu_memory:
        if not gpu:
            return f"needs {needs.gpu_memory} of GPU memory, this is {device}"
        have = gpu_memory(device) / GIB
        # A card sold as 80 GB shows a little over 79 GiB.
        if have < 0.95 * gibibytes(needs.gpu_memory):
            return f"needs {needs.gpu_memory} of GPU memory, this has {have:.0f} GiB"
    if needs.gpus and (count := gpu_count() if gpu else 0) < needs.gpus:
        here = f"there are {count} here" if gpu else f"this is {device}"
        return f"needs {needs.gpus} GPUs, {here}"
    total = main_memory() if needs.memory else None
    # The total lacks what the firmware reserves.
    if needs.memory and total and total / GIB < 0.95 * gibibytes(needs.memory):
        return f"needs {needs.memory} of main memory, this machine has {total / GIB:.0f} GiB"
    return ""

"""Slots of the worker pool: which GPUs each worker sees, and its share of the cores."""

from __future__ import annotations

import os
import subprocess
import sys

from msgspec import Struct

from ..errors import PrunebenchError
from ..system.machine import has_gpu_files, usable_cores


class Slot(Struct, frozen=True):
    """What a worker gets: its GPUs as CUDA_VISIBLE_DEVICES names them, and its CPU threads.

    *gpus* is None where the worker is bound to no GPU.
    """

    gpus: str | None
    threads: int


def slots(text: str, device: str | None, per_gpu: int = 1) -> list[Slot]:
    """The slots for ``-n`` *text*: a number, or ``auto`` for all that GPUs hold or half the cores.

    *device* is the value of ``--device``; *per_gpu* workers may share a GPU.

    Raises:
        PrunebenchError: if *text* is something else, or there are more workers than GPUs hold.
    """
    if os.name == "nt":
        raise PrunebenchError("-n: not on Windows, which has no process groups")
    gpus = visible_gpus(device)
    if text == "auto":
        count = len(gpus) * per_gpu if gpus else max(1, cores() // 2)
    elif text.isdecimal() and int(text) > 0:
        count = int(text)
    else:
        raise PrunebenchError(f"-n {text}: expected a number from 1, or auto")
    if gpus and count > len(gpus) * per_gpu:
        raise PrunebenchError(
            f"-n {count}: there are {len(gpus)} GPUs for {per_gpu} workers each; "
            f"--per-gpu N lets more share one"
        )
    threads = max(1, cores() // count)
    return [Slot(gpus[i % len(gpus)] if gpus else None, threads) for i in range(count)]


def cores() -> int:
    """CPU threads that OMP_NUM_THREADS allows, or else that this process may use."""
    given = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    if given.isdecimal() and int(given) > 0:
        return int(given)
    return usable_cores()


def visible_gpus(device: str | None) -> list[str]:
    """The GPUs that *device* means, as CUDA_VISIBLE_DEVICES names them.

    Another process counts them, so that this one takes no memory on them.
    """
    kind, _, number = (device or "cuda").partition(":")
    if kind != "cuda" or not has_gpu_files():
        return []
    program = "import torch; print(torch.cuda.device_count())"
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    count = int(done.stdout.strip() or 0) if done.returncode == 0 else 0
    named = [n.strip() for n in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if n.strip()]
    names = named[:count] if named else [str(i) for i in range(count)]
    return names[int(number) : int(number) + 1] if number.isdecimal() else names

"""Asks NVIDIA's management library whether a GPU is shared, throttled or power-capped.

The library (``nvidia-ml-py``) is optional. Without it, or without a GPU, nothing is known.
"""

from __future__ import annotations

import os
import statistics
from typing import Any

#: Reasons for a low clock that spoil a timing. The power cap is not among them: reaching it is how
#: the card works at full load.
_THROTTLES = {
    0x08: "hardware slowdown",
    0x20: "too hot (driver)",
    0x40: "too hot (hardware)",
    0x80: "power brake",
}

#: A clock below this fraction of its median so far counts as throttled, as in nvbench.
_LEAST_CLOCK = 0.75


class Gpu:
    """One GPU, or MIG instance of one, by its handle."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle
        # An instance has processes and memory of its own; clocks, power and heat are its card's.
        card = self._ask("nvmlDeviceGetDeviceHandleFromMigDeviceHandle")
        self._mig = card is not None
        self._card = handle if card is None else card
        self._clocks: list[int] = []

    @classmethod
    def of(cls, device: Any) -> Gpu | None:
        """The GPU that torch calls *device*; None for a CPU or without the library."""
        import torch

        if torch.device(device).type != "cuda":
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
        except Exception:  # absent, another driver, no permission: then nothing is known
            return None
        # Torch leaves out the prefix.
        names = [uuid] if uuid.startswith(("GPU-", "MIG-")) else [f"GPU-{uuid}", f"MIG-{uuid}"]
        for name in names:
            try:
                return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
            except Exception:  # noqa: S112  # the other prefix
                continue
        return None

    def busy(self) -> str:
        """Which other processes compute on it, in words; empty if none.

        To be called once this process computes there too, so that one of those listed is this one:
        in a container its listed id is not the one it knows.
        """
        pids = sorted(p.pid for p in self._ask("nvmlDeviceGetComputeRunningProcesses", default=[]))
        others = [pid for pid in pids if pid != os.getpid()]
        listed, plural = ", ".join(map(str, others)), "es" * (len(others) > 1)
        if len(pids) < 2:
            return ""
        if len(others) == len(pids):
            return f"the GPU was shared: this is one of its processes {listed}"
        return f"the GPU was shared with process{plural} {listed}"

    def throttled(self) -> str:
        """Why its clock is throttled now, in words; empty if it is not.

        To be called after each round: the usual clock is the median of those calls.
        """
        reasons = self._ask("nvmlDeviceGetCurrentClocksEventReasons", card=True)
        if reasons is None:  # drivers and libraries before 2023 have the older name only
            reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", card=True, default=0)
        if held := ", ".join(text for bit, text in _THROTTLES.items() if reasons & bit):
            return held
        clock = self._ask("nvmlDeviceGetClockInfo", 1, card=True)  # 1: the multiprocessors
        if clock is None:
            return ""
        self._clocks.append(clock)
        usual = statistics.median(self._clocks)
        return f"at {clock} of {usual:.0f} MHz" if clock < _LEAST_CLOCK * usual else ""

    def state(self) -> dict[str, Any]:
        """Driver, power cap and default cap in watts, temperature, MIG: those that are known."""
        facts = {
            "driver": self._ask("nvmlSystemGetDriverVersion", own=False),
            "memory": getattr(self._ask("nvmlDeviceGetMemoryInfo"), "total", None),
            "power_cap": _watts(self._ask("nvmlDeviceGetEnforcedPowerLimit", card=True)),
            "default_power_cap": _watts(
                self._ask("nvmlDeviceGetPowerManagementDefaultLimit", card=True)
            ),
            "temperature": self._ask("nvmlDeviceGetTemperature", 0, card=True),
            "mig": 1 if self._mig else (self._ask("nvmlDeviceGetMigMode") or [None])[0],
        }
        return {key: value for key, value in facts.items() if value is not None}

    def _ask(
        self, name: str, *given: Any, default: Any = None, own: bool = True, card: bool = False
    ) -> Any:
        handle = self._card if card else self._handle
        try:
            return getattr(self._nvml, name)(*([handle] if own else []), *given)
        except Exception:  # not supported on this card, or a library without the call
            return default


def _watts(milliwatts: Any) -> float | None:
    return None if milliwatts is None else milliwatts / 1000

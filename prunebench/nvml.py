"""What NVIDIA's management library says about a GPU: is it shared, throttled, capped?

The library (``nvidia-ml-py``) is optional. Without it, or without a GPU, nothing is known.
"""

from __future__ import annotations

import os
from typing import Any

#: Why a clock can be low, as far as it spoils a timing. A power cap that a heavy kernel runs into
#: is how the card works at full load, and belongs to the device.
_THROTTLES = {
    0x08: "hardware slowdown",
    0x20: "too hot (driver)",
    0x40: "too hot (hardware)",
    0x80: "power brake",
}


class Gpu:
    """One GPU, by its handle."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml = nvml
        self._handle = handle

    @classmethod
    def of(cls, device: Any) -> Gpu | None:
        """The GPU that torch calls *device*; None where it is none or the library is not there."""
        import torch

        if torch.device(device).type != "cuda":
            return None
        try:
            import pynvml

            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties(device).uuid)
            name = uuid if uuid.startswith(("GPU-", "MIG-")) else f"GPU-{uuid}"
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(name))
        except Exception:  # absent, another driver, no permission: then nothing is known
            return None

    def busy(self) -> str:
        """Which other processes compute on it, in words; empty if none."""
        running = self._ask("nvmlDeviceGetComputeRunningProcesses", default=[])
        others = sorted(p.pid for p in running if p.pid != os.getpid())
        if not others:
            return ""
        pids = ", ".join(map(str, others))
        return f"the GPU was shared with process{'es' * (len(others) > 1)} {pids}"

    def throttled(self) -> str:
        """Why its clock is held down right now, in words; empty if it is not."""
        reasons = self._ask("nvmlDeviceGetCurrentClocksThrottleReasons", default=0)
        return ", ".join(text for bit, text in _THROTTLES.items() if reasons & bit)

    def state(self) -> dict[str, Any]:
        """Driver, power cap in watts and what it is by default, temperature, MIG: what is known."""
        facts = {
            "driver": self._ask("nvmlSystemGetDriverVersion", own=False),
            "memory": getattr(self._ask("nvmlDeviceGetMemoryInfo"), "total", None),
            "power_cap": _watts(self._ask("nvmlDeviceGetEnforcedPowerLimit")),
            "default_power_cap": _watts(self._ask("nvmlDeviceGetPowerManagementDefaultLimit")),
            "temperature": self._ask("nvmlDeviceGetTemperature", 0),
            "mig": (self._ask("nvmlDeviceGetMigMode", default=None) or [None])[0],
        }
        return {key: value for key, value in facts.items() if value is not None}

    def _ask(self, name: str, *given: Any, default: Any = None, own: bool = True) -> Any:
        try:
            return getattr(self._nvml, name)(*([self._handle] if own else []), *given)
        except Exception:  # not supported on this card, or a library without the call
            return default


def _watts(milliwatts: Any) -> float | None:
    return None if milliwatts is None else milliwatts / 1000

"""The fresh process of the memory metric: load a folder, run one forward, write the peak."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path


def main() -> None:
    """Arguments: folder, tokens, device, dtype. Writes ``peak.json`` into the folder."""
    folder, tokens, device, dtype = sys.argv[1:]
    import torch

    from ..loading import load_model

    before = _resident("VmRSS")
    hf = load_model(folder, dtype=dtype, device=device).hf
    ids = torch.zeros((1, int(tokens)), dtype=torch.long, device=device)
    with torch.no_grad():
        hf(ids, use_cache=True)
    if device.startswith("cuda"):
        used = torch.cuda.max_memory_allocated(device)
    else:
        used = _resident("VmHWM") - before
    Path(folder, "peak.json").write_text(json.dumps({"bytes": used}))


def _resident(field: str) -> int:
    """Resident bytes, now (VmRSS) or at most so far (VmHWM).

    Linux's getrusage counts the parent's memory before exec too, so its own page is read there.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith(field))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()

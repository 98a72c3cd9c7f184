"""The fresh process of the memory metric: load a folder, run one round, write the peak."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
from pathlib import Path


def main() -> None:
    """Arguments: folder, device, dtype, batch, tokens, new tokens. Writes ``peak.json`` there."""
    folder, device, dtype, *shape = sys.argv[1:]
    threading.Thread(target=_end_with_parent, daemon=True).start()
    from ..models.timing import out_of_memory

    try:
        used = _added(folder, device, dtype, *map(int, shape))
    except Exception as error:
        if not out_of_memory(error):
            raise
        used = None
    Path(folder, "peak.json").write_text(json.dumps({"bytes": used}))


def _end_with_parent() -> None:
    """Exit when the parent process does, also if killed: it holds the other end of our input."""
    # Not through sys.stdin: a waiting thread would hold its lock when the interpreter exits.
    while os.read(0, 4096):
        pass
    os._exit(1)


def _added(folder: str, device: str, dtype: str, batch: int, tokens: int, new: int) -> int | None:
    """Bytes that loading and one round add: a forward with a cache, or a whole generation."""
    import torch

    from ..models.loading import load_model
    from ..models.timing import Shape, Timer

    before = _resident("VmRSS")
    lm = load_model(folder, dtype=dtype, device=device)
    if new:
        Timer(lm, Shape(batch, tokens, new)).time()
    else:
        ids = torch.zeros((batch, tokens), dtype=torch.long, device=device)
        with torch.no_grad():
            lm.hf(ids, use_cache=True)
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    return _resident("VmHWM") - before


def _resident(field: str) -> int:
    """Resident bytes, now (VmRSS) or at most so far (VmHWM).

    Read from /proc on Linux, whose getrusage also counts the parent's memory before exec.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(x for x in status.read_text().splitlines() if x.startswith(field))
        return int(line.split()[1]) * 1024
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    main()

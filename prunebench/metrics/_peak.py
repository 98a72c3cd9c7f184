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
    from transformers import AutoModelForCausalLM

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    hf = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).to(device).eval()
    ids = torch.zeros((1, int(tokens)), dtype=torch.long, device=device)
    with torch.no_grad():
        hf(ids, use_cache=True)
    if device.startswith("cuda"):
        used = torch.cuda.max_memory_allocated(device)
    else:
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    Path(folder, "peak.json").write_text(json.dumps({"bytes": used}))


if __name__ == "__main__":
    main()

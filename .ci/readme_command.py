"""Prints the Nth shell block of README.md, so that CI runs what readers are told to run."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def main() -> None:
    """Argument: which block, from 1."""
    readme = Path(__file__).resolve().parents[1] / "README.md"
    blocks = re.findall(r"^```sh\n(.*?)^```", readme.read_text(), re.DOTALL | re.MULTILINE)
    sys.stdout.write(blocks[int(sys.argv[1]) - 1])


if __name__ == "__main__":
    main()

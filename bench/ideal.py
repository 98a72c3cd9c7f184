"""Measured speedups next to the ideal ones, from what ``prunebench run --json`` wrote.

    python bench/ideal.py FILE

The ideal speedup of reading a prompt is dense over pruned operations (``compute/flops-ratio``,
where the case measures it), because a long prompt keeps the arithmetic busy. That of a decoded
token is dense over pruned parameters, because each is read once per token. Neither counts launching
kernels, the cache that attention reads, or what a sliced shape does to a matrix product; a speedup
above the ideal comes from launching fewer kernels, as in eager decoding. Exits 1 where a verdict
failed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.table import Table


class Row(NamedTuple):
    """One speedup of one case in one setting."""

    case: str
    setting: str
    part: str
    measured: float
    ideal: float


def rows(data: dict[str, Any]) -> Iterator[Row]:
    """Every speedup in the records that has an ideal."""
    for record in data["records"]:
        values = {m["metric"]: m["value"] for m in record["measurements"]}
        ideals = {
            "prefill": values.get("compute/flops-ratio"),
            "decode": record["dense_parameters"] / record["parameters"],
        }
        for name, value in values.items():
            family, _, rest = name.partition("/")
            setting, _, part = rest.rpartition("/speedup-")
            if family == "latency" and value is not None and ideals.get(part):
                yield Row(record["case_id"], setting, part, value, ideals[part])


def main(path: Path) -> int:
    """Print the table of *path*; the exit code."""
    data = json.loads(path.read_text())
    table = Table("case", "setting", "part", "measured", "ideal", "of ideal", box=None)
    for row in rows(data):
        share = f"{row.measured / row.ideal:.0%}"
        table.add_row(*row[:3], f"{row.measured:.3f}x", f"{row.ideal:.3f}x", share)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    failed = [v["case_id"] for v in data["verdicts"] if not v["ok"]]
    for case_id in failed:
        print(f"failed: {case_id}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))

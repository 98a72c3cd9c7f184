"""How long ranks and pages take and how large the site is, for records made of the shipped ones.

Ranks alone for a board of 100 rows and one of *records* rows, in three groups of which every pair
is tested; then the site, once of many small boards and once of that one board.

python bench/site.py [--records N] [--output DIR]
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from sites import crowd, many

from prunebench import Record
from prunebench.leaderboard import build, site


def main() -> None:
    """Build both, and print seconds and bytes by kind."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--records", type=int, default=500)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    for rows in (100, given.records):
        print(rank(crowd(rows)))
    for made in (many, crowd):
        measure(made(given.records), given.output and given.output / made.__name__)


def rank(records: list[Record]) -> str:
    """Rank *records*, one board, and say how long it took."""
    start = time.perf_counter()
    (board,) = build.boards(records)
    seconds = time.perf_counter() - start
    sizes = Counter(row.group for row in board.rows).values()
    pairs = sum(math.comb(size, 2) for size in sizes) * len(board.rank_by)
    return f"a board of {len(board.rows)} rows, {pairs:,} tests of pairs: ranked in {seconds:.1f} s"


def measure(records: list[Record], output: Path | None) -> None:
    """Rank and build *records*, and write them to *output* if there is one."""
    start = time.perf_counter()
    boards = build.boards(records)
    ranked = time.perf_counter()
    built = site.build(boards, records, "Bench")
    done = time.perf_counter()
    if output:
        site.write(output, built)
    print(f"{len(records)} records, boards: {len(boards)}")
    print(f"ranks {ranked - start:.1f} s, pages {done - ranked:.1f} s")
    for kind, size in sorted(sizes(built).items()):
        print(f"{kind:>10} {size / 1000:9,.0f} kB")


def sizes(built: dict[str, bytes]) -> dict[str, int]:
    """Bytes by folder, downloads apart."""
    total: dict[str, int] = {}
    for name, content in built.items():
        kind = "downloads" if name.endswith((".csv", ".json")) else name.split("/")[0]
        total[kind] = total.get(kind, 0) + len(content)
    return total


if __name__ == "__main__":
    main()

"""Measures the overhead of the harness: a case, its journal, cached cases, a large checkpoint.

    python bench/overhead.py [--seconds S] [--pairs P] [--cases N] [--gigabytes G]

The minute-long case loads the shipped model, removes blocks and waits S seconds as its metric;
bare, a program of ten lines does the same. Both are whole processes, one after the other, and the
processor's seconds are compared too, which another job on the machine does not change. The journal
is compared in P pairs: the same case once with one and once without, in one process, the order
changing from pair to pair; each run loads the model, searches and measures again. The cached
cases are a matrix whose records are synthetic; the command is run as a user would. The checkpoint
is G gigabytes of random bytes: read only, hashed only, hashed through the cache, asked again. The
system's page cache is dropped before each, which not every system permits.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from prunebench.case import Case
    from prunebench.results.resume.folders import Partials

BARE = """
import sys, time
from prunebench.system.machine import before_torch
before_torch()
import prunebench
lm = prunebench.load_model("prunebench/reference")
plan = prunebench.choose(lm, "first", blocks=2)
prunebench.apply(lm, plan)
time.sleep(float(sys.argv[1]))
"""

#: The command, with a metric that only waits.
WAITING = """
import sys, time
from prunebench.api import Metric

class Waiting(Metric, frozen=True, tag="waiting"):
    seconds: float

    def measure(self, lm, dense):
        time.sleep(self.seconds)
        yield self.measured("seconds", self.seconds)

from prunebench.cli import main
sys.argv = ["prunebench", *sys.argv[1:]]
main()
"""

CASE = """\
model: {id: prunebench/reference}
method: {name: first}
blocks: 2
"""

MATRIX = """\
protocol: tinyworld@1
model: {{id: prunebench/reference}}
matrix: {{method: [{methods}], blocks: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}
"""


#: Searches that keep steps, states with fitted weights, states with a whole stream; short ones, so
#: that what is saved is much compared with the work.
SEARCHED = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 16, seqlen: 128}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 128, nsamples: 64}
  - {name: accuracy, tasks: [tinyworld_agreement, tinyworld_facts], limit: 30, batch_size: 4}
  - {name: divergence, dataset: tinyworld, seqlen: 128, nsamples: 32}
sparsity: 0.2
matrix:
  method:
    - {name: sleb, calibration_unit: windows}
    - {name: sprint, attn_latency: 5, mlp_latency: 4}
    - {name: slicegpt}
"""


class Cost(NamedTuple):
    """Seconds on the clock and of the processor."""

    wall: float
    cpu: float

    def __sub__(self, other: Cost) -> Cost:
        return Cost(self.wall - other.wall, self.cpu - other.cpu)


def cost(*program: str, folder: Path) -> Cost:
    """The cost of a Python program in its own process."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *program], cwd=folder, capture_output=True, text=True, check=False
    )
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Cost(wall, used)


def least(costs: list[Cost]) -> Cost:
    """The minimum of each; other load on the machine only adds."""
    return Cost(min(c.wall for c in costs), min(c.cpu for c in costs))


def minute(folder: Path, seconds: float, table: Table) -> None:
    """Compare a case of *seconds* with the same work without a harness."""
    (folder / "one").mkdir()
    case = folder / "one" / "case.yaml"
    case.write_text(f"{CASE}metrics: [{{name: waiting, seconds: {seconds}}}]\n")
    bare, ours = [], []
    for _ in range(3):
        bare.append(cost("-c", BARE, str(seconds), folder=folder))
        ours.append(cost("-c", WAITING, "run", str(case), "-q", "--fresh", folder=folder))
    more = least(ours) - least(bare)
    for name, at in (("bare work", least(bare)), ("as a case", least(ours))):
        table.add_row(f"{seconds:g} s of work: {name}", f"{at.wall:.2f} s", f"{at.cpu:.2f} s", "")
    part = f"{max(more) / least(bare).wall:.2%}"
    table.add_row(
        "  the harness", f"{more.wall:.2f} s", f"{more.cpu:.2f} s", f"{part} (at most 1 %)"
    )


def journal(folder: Path, pairs: int, table: Table) -> None:
    """The cost of the journal, as a fraction of the whole case."""
    from prunebench.cases import loader
    from prunebench.results.resume.folders import Partials

    path = folder / "searched" / "case.yaml"
    path.parent.mkdir()
    path.write_text(SEARCHED)
    kept, none = Partials(folder / "kept"), Partials()
    for case in loader.load([path]):
        _answered(case, none)  # what is only done once in a process
        ratios, size = [], 0
        for number in range(pairs):
            costs = {}
            for partials in (kept, none) if number % 2 else (none, kept):
                costs[partials], written = _answered(case, partials)
                size = max(size, written)
            ratios.append(Cost(*(a / b - 1 for a, b in zip(costs[kept], costs[none], strict=True))))
        wall, cpu = (sorted(values) for values in zip(*ratios, strict=True))
        told = [f"{at[pairs // 2]:+.2%} ({at[0]:+.1%} to {at[-1]:+.1%})" for at in (wall, cpu)]
        name = case.id.rpartition("/")[2].partition("-")[0]
        what = f"{size / 1e3:,.0f} kB, {costs[none].wall:.1f} s a case"
        table.add_row(f"a journal: {name}", *told, what)


def _answered(case: Case, partials: Partials) -> tuple[Cost, int]:
    """The cost of answering *case*, and the bytes of its journal at the end."""
    from prunebench.runs.worker import Worker

    wall, cpu = time.perf_counter(), time.process_time()
    record = Worker("cpu", partials=partials).run(case)
    done = Cost(time.perf_counter() - wall, time.process_time() - cpu)
    files = partials.folder.rglob("*") if partials.folder else ()
    size = sum(file.stat().st_size for file in files if file.is_file())
    wall, cpu = time.perf_counter(), time.process_time()
    partials.forget(record.key)
    partials.tidy()  # or the dense model's answers would be there the next time
    gone = Cost(time.perf_counter() - wall, time.process_time() - cpu)
    return Cost(done.wall + gone.wall, done.cpu + gone.cpu), size


def made_up(folder: Path, count: int) -> Path:
    """A matrix of *count* cases, and a record of each in the store below *folder*."""
    from prunebench import Measurement, Record
    from prunebench.cases import loader
    from prunebench.record import Environment
    from prunebench.results import answer_key
    from prunebench.results.store import Store

    (folder / "cases").mkdir()
    path = folder / "cases" / "many.yaml"
    methods = ", ".join(f"{{name: random, seed: {i}}}" for i in range(count // 10))
    path.write_text(MATRIX.format(methods=methods))
    samples = tuple(float(i % 3 > 0) for i in range(500))
    measured = tuple(
        Measurement(f"accuracy/t{i}", 0.66, "acc", "higher", samples, paired=True) for i in range(3)
    )
    environment = Environment("cpu", "3.11", "Linux", 1, {})
    os.chdir(folder)
    for case in loader.load([Path("cases")]):
        Store(folder / ".prunebench").save(
            Record(
                case_id=case.id,
                asked=case.asked,
                plan=(),
                trace=(),
                parameters=80,
                dense_parameters=100,
                measurements=measured,
                cost={},
                environment=environment,
                model_hash="x",
                created="2026-01-01T00:00:00+00:00",
                key=answer_key.key(case, "cpu") or "",
            )
        )
    return path


def cached(folder: Path, count: int, table: Table) -> None:
    """Commands over cases whose answers are all stored."""
    path = made_up(folder, count)
    # The same case in a file of its own, whose name it has: its record is among those.
    first = path.with_name("single") / "cases" / path.name
    first.parent.mkdir(parents=True)
    first.write_text(
        MATRIX.format(methods="{name: random}").replace(", 2, 3, 4, 5, 6, 7, 8, 9, 10", "")
    )
    command = ["-m", "prunebench", "run", "--device", "cpu", "-q"]
    run, single = [*command, str(path)], [*command, str(first)]
    help_ = least([cost("-m", "prunebench", "--help", folder=folder) for _ in range(3)])
    one = least([cost(*single, folder=folder) for _ in range(3)])
    many = least([cost(*run, folder=folder) for _ in range(3)])
    each = (many - one).wall / (count - 1)
    table.add_row("prunebench --help", f"{help_.wall:.2f} s", f"{help_.cpu:.2f} s", "")
    table.add_row("1 cached case", f"{one.wall:.2f} s", f"{one.cpu:.2f} s", "")
    many_limit = f"{1000 * each:.1f} ms a case (at most 50)"
    table.add_row(f"{count} cached cases", f"{many.wall:.2f} s", f"{many.cpu:.2f} s", many_limit)


def large(folder: Path, gigabytes: float, table: Table) -> None:
    """Time a file read, hashed, hashed through the cache, and asked again by another process."""
    path = folder / "model.safetensors"
    size = int(gigabytes * 1e9)
    with path.open("wb") as stream:
        for _ in range(size >> 24):
            stream.write(os.urandom(1 << 24))
        stream.flush()
        os.fsync(stream.fileno())
    program = "from pathlib import Path\nfrom prunebench.system import hash_cache as hashes\n"
    program += f"hashes.sha256(Path({str(path)!r}))"
    time.sleep(2.5)  # what was just written is not remembered
    took = {
        "read": cold(path, lambda: _read(path)),
        "hashed by hashlib": cold(path, lambda: _hash(path)),
        "hashed and remembered": cold(path, lambda: cost("-c", program, folder=folder)),
        "asked again, a new process": cold(path, lambda: cost("-c", program, folder=folder)),
        "that process without asking": cold(
            path, lambda: cost("-c", program.rpartition("\n")[0], folder=folder)
        ),
    }
    for name, seconds in took.items():
        speed = f"{path.stat().st_size / 1e9 / seconds:.2f} GB/s" if "process" not in name else ""
        table.add_row(f"{gigabytes:g} GB {name}", f"{seconds:.2f} s", "", speed)


def cold(path: Path, work: Callable[[], object]) -> float:
    """Seconds of *work* with the pages of *path* dropped before."""
    with path.open("rb") as stream:
        os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _read(path: Path) -> None:
    buffer = bytearray(1 << 18)
    with path.open("rb", buffering=0) as stream:
        while stream.readinto(buffer):
            pass


def _hash(path: Path) -> None:
    with path.open("rb", buffering=0) as stream:
        hashlib.file_digest(stream, "sha256")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--cases", type=int, default=1000)
    parser.add_argument("--gigabytes", type=float, default=1.0)
    given = parser.parse_args()
    table = Table("what", "clock", "processor", "", box=None)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["PRUNEBENCH_CACHE"] = str(folder / "memory")
        if given.cases:
            cached(folder, given.cases, table)
        if given.seconds:
            minute(folder, given.seconds, table)
        if given.pairs:
            journal(folder, given.pairs, table)
        if given.gigabytes:
            large(folder, given.gigabytes, table)
        os.chdir("/")
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    main()

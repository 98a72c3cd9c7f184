"""End a real run at random points, then resume: what is lost, and whether numbers are equal.

    python bench/faults.py [--tries 20] [--seed 0] [--signal SIGKILL] [--json FILE]

Five cases on the shipped model (searches that save steps, parts, states with fits, states with a
whole stream, states with one sum), with every metric that runs batch by batch, a timing and the
memory. Every try starts from an empty folder, is ended after a random number of its batches and
steps and a random time more (about half a second, so that ends fall into searches, timings and
saving too), and is run again with the same command. A batch is lost if it was begun more often than
in the undisturbed run, a step if it was made more often. Tensors are written only as often as a
hundredth of a search's time allows, which in searches as short as these is seldom, so a kill loses
the steps that have some; a run that is stopped, by SIGTERM, SIGUSR1 or SIGINT, writes them then.
Exits 1 if any number differs, if more than one batch is lost, or if a stopped run loses a step,
takes more than 30 seconds to end, or ends with a wrong exit code.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

from prunebench import resume

CASE = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 8, seqlen: 128}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 128, nsamples: 24, batch_size: 4}
  - name: accuracy
    tasks: [tinyworld_agreement, tinyworld_recall, tinyworld_facts, tinyworld_order]
    limit: 12
    batch_size: 4
  - {name: generation, tasks: [tinyworld_complete], limit: 8, batch_size: 4}
  - {name: divergence, dataset: tinyworld, seqlen: 128, nsamples: 8, batch_size: 2}
  - {name: repetition, dataset: tinyworld, prompt_tokens: 16, new_tokens: 16, nsamples: 8,
     batch_size: 4}
  - {name: memory}
  - {name: latency, prompt_tokens: 32, new_tokens: 4, rounds: 3, warmup: 1}
sparsity: 0.2
matrix:
  method:
    - {name: sleb, calibration_unit: windows}
    - {name: sprint, attn_latency: 5, mlp_latency: 4}
    - {name: slicegpt}
    - {name: slice_global}
    - {name: sliding_layer_merging, threshold: 0.3}
"""

#: The exit code of a run that got this signal, unless it had ended.
CODES = {"SIGKILL": -9, "SIGTERM": 75, "SIGUSR1": 75, "SIGINT": 130}

#: Seconds that a scheduler gives.
NOTICE = 30.0

#: Fields of a record that differ between runs, or are compared in parts.
OF_THE_MOMENT = ("created", "cost", "measurements", "provenance", "environment")

SPRINT = "sprint-attn_latency5-mlp_latency4"


class Try(NamedTuple):
    """One interrupted run: when and in which step it ended, and what had to be repeated.

    *ending* is seconds from the signal to the end of the process, *code* its exit code.
    """

    part: float
    at: str
    saved: int
    batches: int
    steps: int
    seconds: float
    equal: bool
    ending: float
    code: int


def main() -> int:
    """Print the table; exit 1 if a promise is broken."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tries", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--signal", choices=CODES, default="SIGKILL")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    _import_once()
    draw = random.Random(options.seed)  # when to kill is no secret
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        Path("cases").mkdir()
        Path("cases", "small.yaml").write_text(CASE)
        start = time.monotonic()
        code, _ = _run("whole")
        whole = time.monotonic() - start
        assert code == 0, code
        expected, due = _numbers("whole"), _events("whole")
        begun = due.count("batch"), due.count("step")
        print(f"undisturbed: {whole:.1f} s, {begun[0]} batches, {begun[1]} steps of a search")
        heads = f"{'saved':>5} {'batches':>7} {'steps':>5} {'ends':>6} {'code':>4}  numbers"
        print(f"{'ended at':>9}  {'in':<44} {heads}")
        tries = []
        for number in range(options.tries):
            name = f"try{number}"
            tries.append(_tried(name, draw, expected, begun, options.signal))
            one = tries[-1]
            print(
                f"{one.part:>8.0%}   {one.at:<44} {one.saved:>5} {one.batches:>7} {one.steps:>5} "
                f"{one.ending:>5.2f}s {one.code:>4}  "
                f"{'equal' if one.equal else 'DIFFERENT'}",
                flush=True,
            )
    lost, steps = max(t.batches for t in tries), max(t.steps for t in tries)
    equal = sum(t.equal for t in tries)
    slowest = max(t.ending for t in tries)
    what = f"at most {lost} batch and {steps} steps lost, ended within {slowest:.1f} s"
    print(f"{options.signal}: {len(tries)} tries, {what}, {equal} with equal numbers")
    if options.json:
        options.json.write_text(json.dumps([t._asdict() for t in tries], indent=2) + "\n")
    bad = (
        lost > 1
        or equal < len(tries)
        or any(t.code not in (CODES[options.signal], 0) for t in tries)
    )
    if options.signal != "SIGKILL":
        bad |= steps > 0 or slowest > NOTICE
    return int(bad)


def _tried(name: str, draw: random.Random, expected: Any, begun: tuple[int, int], by: str) -> Try:
    after = draw.randrange(sum(begun))
    ended, ending = _run(name, after, draw.expovariate(2), by)
    part = after / sum(begun)
    saved = len(list(Path(name, "records").rglob("*.json")))
    start = time.monotonic()
    code, _ = _run(name)
    assert code == 0, code
    events = _events(name)
    told = Path(f"{name}.err").read_text().splitlines()
    going = [t.removeprefix("going on: ") for t in told if t.startswith("going on: ")]
    between = "all saved" if saved == CASE.count("- {name: s") else "a search, or between cases"
    at = going[0].replace(SPRINT, "sprint") if going else between if saved else "nothing begun"
    again = events.count("batch") - begun[0], events.count("step") - begun[1]
    seconds, equal = time.monotonic() - start, _numbers(name) == expected
    return Try(part, at, saved, *again, seconds, equal, ending, ended)


def _import_once() -> None:
    """All that a run needs, so that a fork starts at once; nothing is computed here."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch

    torch.set_num_threads(1)  # a pool of threads would not survive the fork
    import datasets  # noqa: F401
    from transformers import LlamaForCausalLM  # noqa: F401

    from prunebench.metrics import _tasks  # noqa: F401


def _run(
    name: str, after: int | None = None, and_seconds: float = 0.0, by: str = "SIGKILL"
) -> tuple[int, float]:
    """Run the cases into store *name*, and end it *by* a signal *after* so many events and seconds.

    Gives its exit code, negative for the number of a signal, and the seconds from signal to end.
    """
    log = Path(f"{name}.log")
    log.touch()
    child = os.fork()
    if child == 0:
        _child(name)
    start = time.monotonic()
    if after is not None:
        while len(_events(name)) < after:
            time.sleep(0.005)
        time.sleep(and_seconds)
        start = time.monotonic()
        os.kill(child, getattr(signal, by))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, time.monotonic() - start


def _child(store: str) -> None:
    from prunebench.cli import main as prunebench
    from prunebench.models import stream
    from prunebench.results.resume.journal import Journal

    out = os.open(f"{store}.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
    os.dup2(out, 1)
    os.dup2(out, 2)
    log = os.open(f"{store}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    once, cut = resume.Scope.once, stream.batches

    def logged(self: Any, who: str, given: object, make: Any, of: int) -> Any:
        def begun() -> Any:
            os.write(log, b"batch\n")
            return make()

        return once(self, who, given, begun, of)

    def step(keep: Any) -> Any:
        def kept(*given: Any) -> None:
            os.write(log, b"step\n")
            keep(*given)

        return kept

    resume.Scope.once = logged  # type: ignore[method-assign]
    stream.batches = lambda windows, size=None: cut(windows, size or 2)  # several in a search
    for name in ("save_step", "save_part", "save_state"):
        setattr(Journal, name, step(getattr(Journal, name)))
    arguments = ["run", "cases", "-q", "--store", store, "--json", f"{store}.json"]
    sys.argv = ["prunebench", *arguments]
    try:
        prunebench()
    except SystemExit as stop:
        os._exit(int(stop.code or 0))
    finally:
        os._exit(99)


def _events(name: str) -> list[str]:
    return Path(f"{name}.log").read_text().splitlines()


def _numbers(name: str) -> Any:
    """All of the records that must not vary."""
    from prunebench.record import VARYING

    found = []
    for record in json.loads(Path(f"{name}.json").read_text())["records"]:
        measured = [m for m in record["measurements"] if not any(w in m["metric"] for w in VARYING)]
        rest = {k: v for k, v in record.items() if k not in OF_THE_MOMENT}
        forwards = record["cost"]["block_forwards"]
        found.append({**rest, "measurements": measured, "block_forwards": forwards})
    return found


if __name__ == "__main__":
    sys.exit(main())

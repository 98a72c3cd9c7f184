"""How far timing is off when there is nothing to find: a model timed against itself.

    python bench/latency.py [--trials N] [--rounds N] [--precision P] [--backend B] [--device D]

Every trial times the shipped model as dense and, once more, as pruned: every speedup should be 1.
For comparison, on the same machine and in as many rounds, the way of the released scripts of SLEB
and SPRINT: one warm-up and then all rounds of dense in one span, the same for pruned, the ratio of
the two means. The last column is how often the gate would have called one trial worse than the one
before it, at the metric's own tolerance.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

from rich.console import Console
from rich.table import Table

from prunebench import CausalLM, Measurement, load_model, reference
from prunebench.metrics.latency import Latency
from prunebench.models.timing import Shape, Timer
from prunebench.verdicts.verdict import Outcome, judge

PARTS = ("prefill", "decode", "end-to-end")


def ours(metric: Latency, dense: CausalLM, same: CausalLM) -> dict[str, Measurement]:
    """The speedups that the metric reports."""
    found = {m.metric.rpartition("/speedup-")[2]: m for m in metric.measure(same, dense)}
    return {part: found[part] for part in PARTS}


def released(metric: Latency, dense: CausalLM, same: CausalLM, rounds: int) -> float:
    """One span over all rounds of each model, one after the other."""
    shape = Shape(metric.batch_size, metric.prompt_tokens, metric.new_tokens)
    means = []
    for model in (dense, same):
        timer = Timer(model, shape, metric.backend)
        timer.time()
        start = time.perf_counter()
        for _ in range(rounds):
            timer.time()
        means.append((time.perf_counter() - start) / rounds)
    return means[0] / means[1]


def row(values: Sequence[float]) -> list[str]:
    """How often a speedup that should be 1 is off, and by how much at the median and at worst."""
    off = [abs(value - 1) for value in values]
    parts = [sum(o > limit for o in off) / len(off) for limit in (0.02, 0.05)]
    return [
        *(f"{p:.0%}" for p in parts), f"{statistics.median(off):.2%}", f"{max(off):.1%}",
    ]  # fmt: skip


def alarms(trials: Sequence[Measurement]) -> str:
    """How often a trial counts as worse than the one before."""
    words = [judge(now, was, Latency.tolerance).outcome for was, now in pairwise(trials)]
    return f"{words.count(Outcome.WORSE)} of {len(words)}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--precision", type=float, default=0.0)
    parser.add_argument("--backend", default="hf-eager")
    parser.add_argument("--device", default="cpu")
    given = parser.parse_args()
    dense = load_model(reference.MODEL_ID, dtype="float32", device=given.device)
    same = dense.share()
    metric = Latency(
        backend=given.backend,
        prompt_tokens=64,
        new_tokens=8,
        rounds=given.rounds,
        warmup=1,
        precision=given.precision,
    )
    trials, others = [], []
    for _ in range(given.trials):
        trials.append(ours(metric, dense, same))
        rounds = len(trials[-1]["end-to-end"].samples)
        others.append(released(metric, dense, same, rounds))
    rounds = statistics.median(len(t["end-to-end"].samples) for t in trials)
    title = f"{given.trials} trials of {rounds:g} rounds, {given.backend} on {given.device}"
    table = Table("speedup", "off > 2 %", "> 5 %", "median", "worst", "called worse", title=title)
    for part in PARTS:
        own = [t[part] for t in trials]
        table.add_row(part, *row([m.value or 0.0 for m in own]), alarms(own))
    table.add_row("end-to-end as released", *row(others), "")
    Console().print(table)


if __name__ == "__main__":
    main()

"""Searches against straight transcriptions of the published loops: same decisions, less work.

Every pair runs interleaved in this process on the same threads, and both must decide the same; the
table gives medians, the ratio of the paired times, block-forwards, and what each adds to the memory
of a fresh process. Nothing is asserted about time: read the ratios.

    python bench/search.py [--rounds N] [--only NAME] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
import transformers
from rich.console import Console
from rich.table import Table
from torch.nn.modules.module import register_module_forward_hook

import prunebench
from prunebench import CausalLM, MergeBlocks, Plan
from prunebench.methods._slicing import _axes, fused, per_block, projected
from prunebench.methods._sprint_scores import Search
from prunebench.methods.sprint import Sprint
from prunebench.metrics._peak import _resident
from prunebench.models.calibration import evaluation_windows
from prunebench.models.rotation import Norms
from prunebench.models.stream import Stream, Thinning


class Count:
    """Block-forwards of a loop, counted by a hook: half a block for each half, per window."""

    def __init__(self, lm: CausalLM) -> None:
        self.halves = 0
        self.kinds = {type(getattr(lm.blocks[0], half[-1])) for half in lm.family.halves}
        self.hook = register_module_forward_hook(self._one)

    def _one(self, module: Any, _: Any, output: Any) -> None:
        if type(module) in self.kinds:
            self.halves += len(output[0] if isinstance(output, tuple) else output)

    def stop(self) -> float:
        """Stop counting; returns the count."""
        self.hook.remove()
        return self.halves / 2


class Way(NamedTuple):
    """One way to search: returns the decision; block-forwards are counted by hooks."""

    name: str
    run: Callable[[CausalLM, torch.Tensor], Any]


class Pair(NamedTuple):
    """Ours against the published loop, on one model and one set of windows."""

    name: str
    model: Callable[[], CausalLM]
    windows: Callable[[CausalLM], torch.Tensor]
    ours: Way
    published: Way
    wanted: str


def tinyworld() -> CausalLM:
    return prunebench.load_model("prunebench/reference", dtype="float32")


def random_llama(blocks: int) -> CausalLM:
    """Blocks far from the identity, so that every candidate makes a difference."""
    config = transformers.LlamaConfig(
        vocab_size=256, hidden_size=128, intermediate_size=352, num_hidden_layers=blocks,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
    )  # fmt: skip
    torch.manual_seed(0)
    return CausalLM(transformers.LlamaForCausalLM(config).eval().requires_grad_(False))


def own_text(lm: CausalLM, count: int, length: int) -> torch.Tensor:
    return evaluation_windows("tinyworld", lm, length, count)


def random_ids(count: int, length: int) -> torch.Tensor:
    return torch.randint(256, (count, length), generator=torch.Generator().manual_seed(1))


# ------------------------------------------------------------------------ SLEB

REMOVALS = 6


def sleb(lm: CausalLM, ids: torch.Tensor) -> list[int]:
    """What the method does; the measurement of noise is part of it."""
    stream = Stream(lm, ids)
    stream.noise()
    thinning = Thinning(stream)
    candidates, removed = list(range(1, len(lm.blocks) - 1)), []
    for _ in range(REMOVALS):
        losses = thinning.losses(candidates)
        removed.append(min(losses, key=losses.__getitem__))
        thinning.remove(removed[-1])
        candidates.remove(removed[-1])
    return removed


def sleb_published(batch_size: int | None) -> Callable[[CausalLM, torch.Tensor], list[int]]:
    """Every candidate of every step a whole forward over all windows."""

    def search(lm: CausalLM, ids: torch.Tensor) -> list[int]:
        removed: list[int] = []
        for _ in range(REMOVALS):
            losses = {}
            for block in range(1, len(lm.blocks) - 1):
                if block not in removed:
                    with lm.skipping({*removed, block}):
                        losses[block] = lm.window_nll(ids, batch_size).mean().item()
            removed.append(min(losses, key=losses.__getitem__))
        return removed

    return search


# --------------------------------------------------------------- Shortened PPL


def ppl(lm: CausalLM, ids: torch.Tensor) -> list[int]:
    losses = Thinning(Stream(lm, ids), budget=0).losses(range(len(lm.blocks)))
    return sorted(losses, key=losses.__getitem__)


def ppl_published(lm: CausalLM, ids: torch.Tensor) -> list[int]:
    """A whole forward without each block; the released code also builds a new model for each."""
    losses = {}
    for block in range(len(lm.blocks)):
        with lm.skipping([block]):
            losses[block] = lm.window_nll(ids).mean().item()
    return sorted(losses, key=losses.__getitem__)


# ---------------------------------------------------------- SPRINT's first stage

SUBLAYERS = 14


def sprint(lm: CausalLM, ids: torch.Tensor) -> list[int]:
    state = Search(Sprint(refit=False, latency_aware=False).settings(), lm, ids, (1.0, 1.0))
    for _ in range(SUBLAYERS):
        state.first_stage()
        state.remove(0.0, 0)
    return [r.sublayer for r in state.removed]


def sprint_published(lm: CausalLM, ids: torch.Tensor) -> list[int]:
    """As released: per candidate the path without it, and the path with it and all removed ones on.

    The same places stay and the same sublayer is the restart, so only the passes differ: 3
    attentions and 5 MLPs a dense block. A reference pass also advances the stream.
    """
    state = Search(Sprint(refit=False, latency_aware=False).settings(), lm, ids, (1.0, 1.0))

    state.keep_all = False

    def first_stage() -> None:
        wanted = [s for s in range(state.start, state.count) if state.alive[s]]
        for s in wanted:
            state.ends[s], state.pseudo[s] = state.end_of(s), 0.0
        for batch, saved in zip(state.stream.batches, state.saved, strict=True):
            hidden = saved[state.start]
            for s in range(state.start, state.count):
                if s in state.places:
                    saved[s] = hidden
                if not state.alive[s]:
                    continue
                without = hidden
                for k in range(s + 1, state.ends[s] + 1):
                    if state.alive[k]:
                        without = state.half(batch, k, without)
                reference = advanced = state.half(batch, s, hidden)
                for k in range(s + 1, state.ends[s] + 1):
                    reference = state.half(batch, k, reference)
                state.pseudo[s] += state.distance(reference, without)
                hidden = advanced

    with torch.no_grad():
        for _ in range(SUBLAYERS):
            first_stage()
            state.remove(0.0, 0)
    return [r.sublayer for r in state.removed]


# ------------------------------------------------------- Sliding Layer Merging


def sliding(lm: CausalLM, ids: torch.Tensor) -> Any:
    plan = prunebench.choose(lm, "sliding_layer_merging", threshold=0.9, calibration=ids)
    return [edit.ranges for edit in plan.edits]


def sliding_published(lm: CausalLM, ids: torch.Tensor) -> Any:
    """Every trial a whole merged model, batch 1; the released code also copies it each time."""

    def states(model: CausalLM) -> list[torch.Tensor]:
        with torch.no_grad():
            return [model.hf.base_model(i[None]).last_hidden_state.double().flatten() for i in ids]

    def similarity(ranges: tuple[tuple[int, int], ...]) -> float:
        wide = tuple(r for r in ranges if r[0] < r[1])
        merged = prunebench.apply(lm.share(), Plan((MergeBlocks(wide),)))
        pairs = zip(states(merged), dense, strict=True)
        return statistics.fmean(float(torch.cosine_similarity(a, b, dim=0)) for a, b in pairs)

    dense = states(lm)
    merges: tuple[tuple[int, int], ...] = ()
    high, low = len(lm.blocks) - 2, len(lm.blocks) - 3
    while low >= 0:
        if similarity((*merges, (low, high))) > 0.9:
            low -= 1
        elif low + 1 < high:
            merges, high = (*merges, (low + 1, high)), low
        else:
            high, low = high - 1, low - 1
    return [merges] if merges else []


# --------------------------------------------------------------------- SliceGPT

WIDTH = 96


def kept(trace: Any) -> list[float]:
    """What each stage keeps of the stream, to six digits."""
    return [round(step.scores["kept"], 6) for step in trace]


def slicing(lm: CausalLM, ids: torch.Tensor) -> list[float]:
    return kept(per_block(lm, ids, WIDTH, "exact").trace)


def slicing_published(lm: CausalLM, ids: torch.Tensor) -> list[float]:
    """Every block runs whole twice: for what enters its second norm, and for what leaves it."""
    norms = Norms(lm, "exact")
    stream = Stream(lm, ids)
    states = [batch.entering for batch in stream.batches]
    trace = []

    def cut() -> torch.Tensor:
        axes, step = _axes(states, WIDTH, 0, 0)
        trace.append(step)
        return axes

    attn, mlp = lm.family.halves
    with torch.no_grad():
        for index in range(len(lm.blocks)):
            block = fused(lm, norms, index)
            axes = cut()
            states = [projected(state, axes) for state in states]
            middle = []
            for batch, state in zip(stream.batches, states, strict=True):
                middle.append(state + batch.branch(block, index, attn, state))
                batch.branch(block, index, mlp, middle[-1])  # the first run goes on to the end
            entering, states = states, middle
            axes = cut()
            states = []
            for batch, state in zip(stream.batches, entering, strict=True):
                turned = projected(state + batch.branch(block, index, attn, state), axes)
                states.append(turned + batch.branch(block, index, mlp, turned))
    return kept(trace)


PAIRS = (
    Pair(
        "sleb, as released (batch 1)", tinyworld, lambda lm: own_text(lm, 16, 128),
        Way("shared", sleb), Way("published", sleb_published(1)), ">= 2.0",
    ),
    Pair(
        "sleb, equal batch", tinyworld, lambda lm: own_text(lm, 64, 128),
        Way("shared", sleb), Way("published", sleb_published(None)), ">= 1.5",
    ),
    Pair(
        "shortened ppl, 32 blocks", lambda: random_llama(32), lambda _: random_ids(16, 128),
        Way("shared", ppl), Way("published", ppl_published), ">= 1.7",
    ),
    Pair(
        "sprint stage 1, 32 blocks", lambda: random_llama(32), lambda _: random_ids(8, 128),
        Way("look-ahead", sprint), Way("published", sprint_published), "passes <= 0.72",
    ),
    Pair(
        "sliding layer merging", tinyworld, lambda lm: own_text(lm, 10, 128),
        Way("shared", sliding), Way("published", sliding_published), "",
    ),
    Pair(
        "slicegpt", tinyworld, lambda lm: own_text(lm, 64, 128),
        Way("one pass", slicing), Way("published", slicing_published), "",
    ),
)  # fmt: skip


def forwards(way: Way, lm: CausalLM, ids: torch.Tensor) -> tuple[Any, float]:
    """The decision and the block-forwards, every forward of a block counted, recording included."""
    count = Count(lm)
    decision = way.run(lm, ids)
    return decision, count.stop()


def timed(way: Way, lm: CausalLM, ids: torch.Tensor) -> float:
    start = time.perf_counter()
    way.run(lm, ids)
    return time.perf_counter() - start


def peak(pair: Pair, which: str) -> float:
    """MiB that one run adds to a process that has just loaded the model."""
    program = [sys.executable, __file__, "--peak", f"{PAIRS.index(pair)}:{which}"]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    return float(done.stdout)


def one_peak(text: str) -> None:
    number, which = text.split(":")
    pair = PAIRS[int(number)]
    lm = pair.model()
    ids = pair.windows(lm)
    before = _resident("VmRSS")
    getattr(pair, which).run(lm, ids)
    print(max(0, _resident("VmHWM") - before) / 2**20)


def measure(pair: Pair, rounds: int) -> dict[str, Any]:
    lm = pair.model()
    ids = pair.windows(lm)
    mine, own = forwards(pair.ours, lm, ids)
    theirs, published = forwards(pair.published, lm, ids)
    if mine != theirs:
        raise SystemExit(f"{pair.name}: ours decides {mine}, the published loop {theirs}")
    ours, others = [], []
    for number in range(rounds):
        for way in ("ours", "published") if number % 2 else ("published", "ours"):
            times = ours if way == "ours" else others
            times.append(timed(getattr(pair, way), lm, ids))
    return {
        "search": pair.name,
        "decision": mine,
        "ours_s": statistics.median(ours),
        "published_s": statistics.median(others),
        "ratio": statistics.median(o / m for m, o in zip(ours, others, strict=True)),
        "block_forwards": own,
        "published_block_forwards": published,
        "peak_mib": peak(pair, "ours"),
        "published_peak_mib": peak(pair, "published"),
        "wanted": pair.wanted,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", default="", help="pairs whose name has this in it")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        one_peak(arguments.peak)
        return
    table = Table(title=f"{torch.get_num_threads()} threads, {arguments.rounds} rounds")
    for heading in ("search", "ours", "published", "time ratio", "block-forwards", "of published",
                    "peak", "published", "wanted"):  # fmt: skip
        table.add_column(heading, justify="left" if heading in ("search", "wanted") else "right")
    rows = [measure(p, arguments.rounds) for p in PAIRS if arguments.only in p.name]
    for row in rows:
        part = row["block_forwards"] / row["published_block_forwards"]
        table.add_row(
            row["search"],
            f"{row['ours_s']:.2f} s",
            f"{row['published_s']:.2f} s",
            f"{row['ratio']:.2f}x",
            f"{row['block_forwards']:.0f}",
            f"{part:.3f}",
            f"{row['peak_mib']:.0f} MiB",
            f"{row['published_peak_mib']:.0f} MiB",
            row["wanted"],
        )
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()

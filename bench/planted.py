"""Twenty runs in which nothing changed, and ten regressions planted on purpose, end to end.

    python bench/planted.py [--write docs/verdicts.md] [--only NAME ...]

Every run is a process of its own on the shipped model: it loads, prunes, scores, times and is
judged against one accepted baseline, as `prunebench run` would be. The unchanged ones differ in
threads, batch sizes, the order in which questions are batched, process and moment. Timings are
judged as on a named device, whose own noise is calibrated first, as `prunebench calibrate` does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prunebench.formatting import p_text
from prunebench.system import machine

CASE = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 16, seqlen: 128}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 128}
  - name: accuracy
    tasks: [tinyworld_agreement, tinyworld_recall, tinyworld_facts, tinyworld_order]
tolerance:
  perplexity: {rel: 0.005}
  accuracy: {abs: 0.005}
fail_on: [worse, gone, changed_plan]
method: {name: sleb, calibration_unit: windows}
blocks: 2
"""
TIMED = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 16, seqlen: 128}
metrics:
  - {name: latency, prompt_tokens: 64, new_tokens: 8, rounds: 20, warmup: 2}
tolerance: {latency: {rel: 0.05}}
method: {name: sleb, calibration_unit: windows}
blocks: 2
"""
DEVICE = "bench-machine"

#: What is planted; what the case must be called; and which finding must say so.
PLANTED: dict[str, tuple[str, str]] = {
    "noise of 0.1 % in one block": ("same", "perplexity/tinyworld"),
    "noise of 40 % in one block": ("unsure", "accuracy/mean"),
    "noise of 60 % in one block": ("worse", "perplexity/tinyworld"),
    "noise of 100 % in one block": ("worse", "accuracy/mean"),
    "the runner-up chosen last": ("worse", "perplexity/tinyworld"),
    "the worst block chosen last": ("worse", "accuracy/mean"),
    "two words of the tokenizer exchanged": ("worse", "accuracy/mean"),
    "every word of the tokenizer shifted by one": ("worse", "perplexity/tinyworld"),
    "a kernel slower by a fiftieth of a token": ("same or unsure", "speedup-decode"),
    "a kernel slower by a whole token": ("worse", "speedup-decode"),
}


# ------------------------------------------------------------------------------------- the child


def child(spec: Mapping[str, Any]) -> None:
    """One run; prints the verdicts of its cases as JSON."""
    import torch

    from prunebench.cases import loader
    from prunebench.results import timing_noise as noise
    from prunebench.results.baselines.accept import accepted
    from prunebench.results.baselines.files import Baselines
    from prunebench.results.store import Store
    from prunebench.runs.session import Session

    machine.device_name = lambda device: DEVICE  # type: ignore[assignment]  # noqa: ARG005
    torch.set_num_threads(spec.get("threads", 1))
    root = Path(spec["root"])
    files = [root / "cases" / f"{name}.yaml" for name in spec["cases"]]
    cases = [with_batches(case, spec.get("batch")) for case in loader.load(files)]
    if "order" in spec:
        shuffle_batches(spec["order"])
    if what := spec.get("plant"):
        plant(what)
    store, baselines = Store(root / "store"), Baselines(root / "baselines")
    session = Session(cases, store, baselines, "cpu", fresh=True)
    if spec.get("calibrate"):
        (case,) = cases
        timings = [m for m in case.metrics if type(m).__name__ == "Latency"]
        found = noise.effects(session.worker.repeated(case, timings[0], spec["calibrate"]))
        model = case.asked["model"]["id"]
        kept = noise.Noise(DEVICE, "now", spec["calibrate"], {model: found})
        noise.save(store.root, kept)
        print(json.dumps(found))
        return
    results = session.settled([session.answer(case) for case in cases])
    for result in results if spec.get("accept") else ():
        if result.record:
            baselines.save(result.record, accepted("the baseline of this bench"))
    print(json.dumps([told(result.verdict) for result in results]))


def told(verdict: Any) -> dict[str, Any]:
    """A verdict, with the findings that decide."""
    findings = [
        [f.what, str(f.outcome), f.now, f.was, f.allowed, f.p, f.note]
        for f in verdict.findings
        if not f.diagnostic
    ]
    return {"outcome": verdict.outcome, "error": verdict.error, "findings": findings}


def with_batches(case: Any, size: int | None) -> Any:
    """*case* measured in other batches, which is no other question."""
    from msgspec.structs import replace

    if size is None:
        return case
    batched = [
        replace(m, batch_size=size) if type(m).__name__ in ("Accuracy", "Perplexity") else m
        for m in case.metrics
    ]
    return replace(case, metrics=tuple(batched))


def shuffle_batches(seed: int) -> None:
    """Batch the questions of a task in another order."""
    from prunebench.models import scoring

    batches = scoring.Scorer._batches  # type: ignore[attr-defined]

    def shuffled(self: Any, *args: Any, **more: Any) -> Any:
        found = list(batches(self, *args, **more))
        random.Random(seed).shuffle(found)
        return found

    scoring.Scorer._batches = shuffled  # type: ignore[attr-defined]


def plant(what: str) -> None:
    """Make the pruned model, its plan, its tokenizer or its kernels worse."""
    from prunebench.models import surgery

    if "noise" in what:
        after_surgery(surgery, noisy(float(what.split()[2]) / 100))
    elif "kernel" in what:
        after_surgery(surgery, slower(0.02 if "fiftieth" in what else 1.0))
    elif "chosen" in what:
        choose_otherwise(worst="worst" in what)
    else:
        exchange_words(shifted="every" in what)


def after_surgery(surgery: Any, change: Callable[[Any], None]) -> None:
    """Change every model right after it was pruned."""
    apply = surgery.apply

    def changed(lm: Any, plan: Any) -> Any:
        pruned = apply(lm, plan)
        change(pruned)
        return pruned

    surgery.apply = changed


def noisy(part: float) -> Callable[[Any], None]:
    """Noise on the weights of one block, as a part of their standard deviation."""

    def change(lm: Any) -> None:
        import torch

        generator = torch.Generator().manual_seed(0)
        block = lm.blocks[len(lm.blocks) // 2]
        for module in block.modules():
            for name, weight in list(module.named_parameters(recurse=False)):
                if weight.dim() == 2:
                    noise = torch.randn(weight.shape, generator=generator)
                    worse = weight + part * weight.std() * noise
                    setattr(module, name, torch.nn.Parameter(worse, requires_grad=False))

    return change


def slower(tokens: float) -> Callable[[Any], None]:
    """A block that waits before it runs, by so many times what a token takes."""

    def change(lm: Any) -> None:
        import torch

        def token() -> float:
            start = time.perf_counter()
            lm.hf(torch.ones((1, 1), dtype=torch.long))
            return time.perf_counter() - start

        with torch.no_grad():
            seconds = tokens * sorted(token() for _ in range(21))[10]

        def wait(*_: Any) -> None:
            if seconds > 1e-3:
                time.sleep(seconds)
                return
            end = time.perf_counter() + seconds  # a sleep this short lasts as long as it likes
            while time.perf_counter() < end:
                pass

        lm.blocks[0].register_forward_pre_hook(wait)

    return change


def choose_otherwise(*, worst: bool) -> None:
    """Take the runner-up, or the worst candidate, in place of the last block chosen."""
    from prunebench.edits.drop_blocks import DropBlocks
    from prunebench.methods.sleb import Sleb
    from prunebench.plan import Plan

    choose = Sleb.choose

    def other(self: Any, lm: Any, calibration: Any, target: Any) -> Plan:
        plan = choose(self, lm, calibration, target)
        last = plan.trace[-1]
        ranked = sorted(last.scores, key=lambda block: last.scores[block] or 0.0)
        taken = int(ranked[-1 if worst else 1])
        (edit,) = plan.edits
        return Plan((DropBlocks((*edit.blocks[:-1], taken)),), plan.trace)

    Sleb.choose = other  # type: ignore[method-assign]


def exchange_words(*, shifted: bool) -> None:
    """A tokenizer whose words stand for others: all of them, or a thing and a place."""
    import tokenizers
    import transformers

    from prunebench.runs import worker

    load = worker.load_model

    def loaded(*args: Any, **more: Any) -> Any:
        lm = load(*args, **more)
        backend = json.loads(lm.tokenizer.backend_tokenizer.to_str())
        vocabulary = backend["model"]["vocab"]
        special = {token["id"] for token in backend["added_tokens"]}
        words = [word for word, i in vocabulary.items() if i not in special]
        chosen = words if shifted else ["cup", "garden"]
        numbers = [vocabulary[word] for word in chosen]
        vocabulary.update(zip(chosen, [*numbers[1:], numbers[0]], strict=True))
        own = tokenizers.Tokenizer.from_str(json.dumps(backend))
        named = {k: lm.tokenizer.special_tokens_map.get(k) for k in lm.tokenizer.special_tokens_map}
        lm.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=own, **named)
        return lm

    worker.load_model = loaded


# ------------------------------------------------------------------------------------ the parent


def run(root: Path, *cases: str, **spec: Any) -> Any:
    """A run of some cases in a process of its own: their verdicts, or the noise measured."""
    threads = str(spec.get("threads", 1))
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "HF_HUB_OFFLINE": "1"}
    # Two threads that spin for each other on a busy machine take minutes.
    environment["OMP_WAIT_POLICY"] = "PASSIVE"
    command = [
        sys.executable,
        __file__,
        "--child",
        json.dumps({**spec, "root": str(root), "cases": cases}),
    ]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{spec}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def unchanged(root: Path, count: int) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Runs that differ in everything that must not matter."""
    outcomes: dict[str, int] = {}
    for number in range(count):
        spec = {"threads": 1 + number % 2, "batch": (1, 7, 32, 64)[number % 4], "order": number}
        both = run(root, "planted", "timed", **spec)
        for answer, kind in zip(both, ("scores and plan", "timings"), strict=True):
            outcome = f"{kind}: {answer['outcome']}"
            outcomes[outcome] = outcomes.get(outcome, 0) + 1
        said = [f for answer in both for f in answer["findings"] if f[1] != "same"]
        print(f"  {spec}: {[a['outcome'] for a in both]} {said or ''}", flush=True)
    rows = [(outcome, str(n)) for outcome, n in sorted(outcomes.items())]
    return (f"{count} runs in which nothing changed", "runs"), rows


def planted(root: Path, names: list[str]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Regressions, each with what it must be called."""
    rows = []
    for name in names:
        expected, finding = PLANTED[name]
        (answer,) = run(root, "timed" if "kernel" in name else "planted", plant=name)
        found = next((f for f in answer["findings"] if f[0].endswith(finding)), None)
        rest = [f for f in answer["findings"] if f[1] != "same"]
        told = "; ".join(map(sentence, rest or answer["findings"][1:2]))
        right = found and answer["outcome"] == found[1] and found[1] in expected.split(" or ")
        rows.append((name, expected, answer["outcome"], told, "yes" if right else "NO"))
        print(f"  {rows[-1]}", flush=True)
    return ("planted", "must be", "is", "because", "right"), rows


def sentence(finding: list[Any]) -> str:
    """One finding in words."""
    what, outcome, now, was, allowed, p, note = finding
    if now is None:
        return f"{outcome} {what}: {note}"
    text = (
        f"{outcome} {what.split('/')[-1] if 'latency' in what else what} {now:.4g}, was {was:.4g}"
    )
    return f"{text}, allowed {allowed:.2g}" + ("" if p is None else f", {p_text(p)}")


def main() -> None:
    """Accept a baseline, calibrate, run, print, and write where asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--only", nargs="*", default=list(PLANTED))
    parser.add_argument("--child")
    given = parser.parse_args()
    if given.child:
        child(json.loads(given.child))
        return
    from verdicts import markdown, put

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "cases").mkdir()
        (root / "cases" / "planted.yaml").write_text(CASE)
        (root / "cases" / "timed.yaml").write_text(TIMED)
        run(root, "planted", "timed", accept=True)
        noise = run(root, "timed", calibrate=12)
        print("noise of this machine:", {k.split("/")[-1]: f"{v:.1%}" for k, v in noise.items()})
        tables = {}
        if given.runs:
            tables["unchanged"] = unchanged(root, given.runs)
        tables["planted"] = planted(root, given.only)
    for name, table in tables.items():
        print(f"\n{markdown(*table)}")
        if given.write:
            put(given.write, name, markdown(*table))
    print(f"\n{time.perf_counter() - start:.0f} s")
    if any(row[-1] == "NO" for row in tables["planted"][1]):
        raise SystemExit("a planted regression was not called what it is")


if __name__ == "__main__":
    main()

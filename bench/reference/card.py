"""Measures an exported reference model and writes its model card.

`python -m bench.reference.card MODEL --run DIR --command TEXT` computes every figure of the
card: the curve comes from the training's own record, the scores from lm-eval on the exported
folder, and what each block is worth from removing it.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, LlamaForCausalLM

from prunebench import reference

from . import build, scores, world
from .lean import Lean

#: How long the windows are over which the perplexity is taken.
WINDOW = 128


def test_windows(folder: Path) -> Tensor:
    """Tokenises the test split in one go and cuts it into windows that do not overlap."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("\n".join(reference.documents("test")), verbose=False).input_ids
    return scores.windows(ids, WINDOW)


def shipped_questions(task: str) -> list[world.Question]:
    """Reads a task's shipped questions."""
    text = (reference.TASKS / f"tinyworld_{task}.jsonl").read_text(encoding="utf-8")
    records = [json.loads(line) for line in text.splitlines()]
    return [
        world.Question(r["prompt"], r["answer"], tuple(r.get("choices", ())), r["kind"])
        for r in records
    ]


def without(model: LlamaForCausalLM, block: int) -> LlamaForCausalLM:
    """Gives a copy of a model that lacks one block."""
    smaller = copy.deepcopy(model)
    body: Any = smaller.model
    body.layers = nn.ModuleList(b for i, b in enumerate(body.layers) if i != block)
    return smaller


def measure(
    model: LlamaForCausalLM, text: Tensor, questions: dict[str, list[world.Question]]
) -> dict[str, Any]:
    """Gives a model's test loss and its score on each task, in float32."""
    lean = Lean(model)
    report = scores.report(lean, questions)
    return {
        "test_nll": scores.mean_nll(lean, text),
        "tasks": {task: kinds["all"] for task, kinds in report.items()},
        "kinds": report,
    }


def _main_metric(result: Mapping[str, Any]) -> Any:
    return result["acc,none"] if "acc,none" in result else result["exact_match,none"]


def harness_scores(folder: Path) -> dict[str, float]:
    """Scores the exported folder on all tasks with lm-eval."""
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    lm = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=100)
    manager = TaskManager(include_path=str(reference.TASKS), include_defaults=False)
    out: Any = simple_evaluate(
        model=lm, tasks=list(reference.TASK_NAMES), task_manager=manager, bootstrap_iters=0
    )
    names = {name: name.removeprefix("tinyworld_") for name in reference.TASK_NAMES}
    results: dict[str, dict[str, Any]] = out["results"]
    return {short: float(_main_metric(results[name])) for name, short in names.items()}


def collect(folder: Path, run: Path, command: str) -> dict[str, Any]:
    """Computes all figures of the card."""
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = test_windows(folder)
    questions = {task: shipped_questions(task) for task in world.TASK_KINDS}
    dense = measure(model, text, questions)
    removals = []
    for block in range(model.config.num_hidden_layers):
        cut = measure(without(model, block), text, questions)
        removals.append(
            {
                "block": block,
                "test_nll_increase": cut["test_nll"] - dense["test_nll"],
                "tasks": cut["tasks"],
            }
        )
    record = json.loads((run / "curve.json").read_text(encoding="utf-8"))
    ids = scores.word_ids()
    return {
        "command": command,
        "recipe": record["recipe"],
        "curve": record["curve"],
        "parameters": sum(p.numel() for p in model.parameters()),
        "bytes": (folder / "model.safetensors").stat().st_size,
        "splits": {
            split: {
                "documents": len(reference.documents(split)),
                "tokens": len(scores.encode_documents(reference.documents(split), ids)),
                "seed": build.SEED,
            }
            for split in reference.SPLITS
        },
        "questions": {task: len(items) for task, items in questions.items()},
        "test_windows": list(text.shape),
        "test_perplexity": math.exp(dense["test_nll"]),
        "test_nll": dense["test_nll"],
        "lm_eval": harness_scores(folder),
        "kinds": dense["kinds"],
        "removals": removals,
    }


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Lays out a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _percent(values: Mapping[str, float]) -> list[str]:
    return [f"{100 * value:.1f}" for value in values.values()]


def _digits(parts: Sequence[int]) -> str:
    return "".join(map(str, parts)) or "-"


def _curve_rows(curve: Sequence[Mapping[str, Any]], most: int = 24) -> list[list[object]]:
    """Thins the curve out evenly, but leaves its last point."""
    stride = max(1, math.ceil(len(curve) / most))
    points = list(curve[::-1][::stride][::-1])
    return [
        [
            p["blocks"],
            f"{p['tokens'] / 1e6:.1f}",
            f"{p['minutes']:.1f}",
            f"{p['train_loss']:.3f}",
            f"{p['validation_loss']:.3f}",
            *_percent({task: kinds["all"] for task, kinds in p["tasks"].items()}),
        ]
        for p in points
    ]


def _intro(card: Mapping[str, Any]) -> str:
    recipe = card["recipe"]
    last = card["curve"][-1]
    return f"""---
library_name: transformers
license: apache-2.0
---

# TinyWorld reference model

A Llama-architecture model of {recipe["phases"][-1]["blocks"]} blocks and
{card["parameters"]:,} parameters ({card["bytes"]:,} bytes in float16), trained from scratch on the
generated language of `bench.reference.world`. It exists so that a pruning harness can be
tried, tested and studied offline: its blocks are worth very different amounts, and its tasks need
agreement, recall, facts, order, sums and brackets. It knows nothing but its
{len(world.VOCABULARY)} words.

Trained on {last["tokens"]:,} tokens in {last["minutes"]:.0f} minutes of training steps on a CPU:

```
{card["command"]}
```

The run stopped and went on several times, as its later phases were settled while it ran.

Width {recipe["width"]}, {recipe["heads"]} heads ({recipe["shared_heads"]} for keys and values),
inner width {recipe["inner"]}, {build.POSITIONS} positions, tied embeddings. Seed {recipe["seed"]};
shipped text and questions: seed {build.SEED}. All figures below are of the shipped float16 weights
computed in float32, apart from the training curve."""


def render(card: Mapping[str, Any]) -> str:
    """Writes the card as Markdown."""
    tasks = list(card["lm_eval"])
    windows, length = card["test_windows"]
    kinds = [
        [task, kind, f"{100 * value:.1f}"]
        for task, values in card["kinds"].items()
        for kind, value in values.items()
        if kind != "all"
    ]
    removals = [
        [r["block"], f"{r['test_nll_increase']:.3f}", *_percent(r["tasks"])]
        for r in card["removals"]
    ]
    phases = [
        [p["blocks"], p["steps"], p["rate"], p["decay"], p["emphasis"], _digits(p["parts"])]
        for p in card["recipe"]["phases"]
    ]
    data = [[s, v["documents"], v["tokens"]] for s, v in card["splits"].items()]
    sections = [
        _intro(card),
        "## Scores",
        f"Test perplexity {card['test_perplexity']:.4f} (mean loss {card['test_nll']:.4f}) over "
        f"{windows} windows of {length} tokens that do not overlap. Zero-shot, by lm-eval on all "
        "questions, in percent (accuracy; exact match for `complete`):",
        table(tasks, [_percent(card["lm_eval"])]),
        "By kind of question:",
        table(["task", "kind", "percent"], kinds),
        "## What each block is worth",
        "The rise of the mean test loss, and the scores, when one block is removed:",
        table(["block", "loss rise", *tasks], removals),
        "## Data",
        table(["split", "documents", "tokens"], data),
        "Questions: " + ", ".join(f"{task} {n}" for task, n in card["questions"].items()) + ".",
        "## Training",
        "The model grows: each new block starts with output projections of zero. A phase with "
        "parts begins by dealing the heads and inner units of each old block out to that many new "
        "ones, where 0 drops a block. Emphasis is the weight in the loss of the answers of recall "
        "and order.",
        table(["blocks", "steps", "learning rate", "decay share", "emphasis", "parts"], phases),
        f"Muon with weight decay {card['recipe']['weight_decay']} for the blocks' matrices, Adam "
        f"with betas {card['recipe']['betas']} for the rest, {card['recipe']['batch']} windows of "
        f"{card['recipe']['length']} tokens per step. Scores here are on validation text and on "
        "questions of another seed:",
        table(
            ["blocks", "M tokens", "minutes", "train loss", "validation loss", *tasks],
            _curve_rows(card["curve"]),
        ),
    ]
    return "\n\n".join(sections) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Measures a model and writes its card into its folder."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--run", type=Path, required=True, help="the training's output folder")
    parser.add_argument("--command", required=True, help="the command that made the weights")
    options = parser.parse_args(arguments)
    card = collect(options.model, options.run, options.command)
    text = json.dumps(card, indent=1)
    (options.model / "card.json").write_text(text + "\n", encoding="utf-8")
    (options.model / "README.md").write_text(render(card), encoding="utf-8")


if __name__ == "__main__":
    main()

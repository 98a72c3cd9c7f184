"""Scoring against lm-eval's HFLM, in one run: ``python bench/scoring.py --data FOLDER``.

The questions are real (the pruning papers' seven tasks, as JSON lines with context, choices or
context_options and continuation). The model is an untrained Llama of a size at which arithmetic and
not Python takes the time, with a BPE tokenizer made from the questions. Both sides answer the same
requests in turn and must agree: the same greedy answers, log-likelihoods within 1e-4. Figures are
ratios of the best of some rounds. The last line is perplexity against a bare batched forward.
"""

from __future__ import annotations

import argparse
import gzip
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import tokenizers
import torch
import transformers
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import prunebench

SEVEN = {
    "boolq": ("boolq_validation.jsonl", ("no", "yes")),
    "piqa": ("piqa_validation.jsonl", ()),
    "hellaswag": ("hellaswag_validation.jsonl.gz", ()),
    "winogrande": ("winogrande_xl_validation.jsonl", ()),
    "arc_easy": ("arc_easy_test.jsonl", ()),
    "arc_challenge": ("arc_challenge_test.jsonl", ()),
    "openbookqa": ("openbookqa_test.jsonl", ()),
}
Pairs = list[tuple[str, str]]


def main() -> None:
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    questions = {task: list(_rows(arguments.data, task)) for task in SEVEN}
    lm = _model(arguments, questions)
    print(f"{torch.__version__}, {arguments.device}, {arguments.threads} threads, {_about(lm)}")
    print(f"{'':34}{'requests':>9}{'tokens/s':>10}{'ours s':>9}{'HFLM s':>9}{'ratio':>8}")
    total = [0.0, 0.0]
    for task, rows in questions.items():
        pairs = [pair for row in rows[: arguments.limit] for pair in _pairs(row)]
        taken = _race(lm, task, pairs, arguments)
        total = [t + new for t, new in zip(total, taken, strict=True)]
    print(f"{'the seven tasks':34}{'':9}{'':10}{total[0]:9.2f}{total[1]:9.2f}", end="")
    print(f"{total[1] / total[0]:7.2f}x")
    long = _long(lm, questions["hellaswag"] + questions["arc_challenge"], arguments.limit)
    _race(lm, "4 choices, context of 70 or more", long, arguments)
    _perplexity(lm, arguments)


def _race(lm: prunebench.CausalLM, name: str, pairs: Pairs, arguments: Any) -> tuple[float, float]:
    """Best seconds of ours and of HFLM over the same requests, in turn."""
    asked = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    ours = prunebench.lm_eval_model(lm)
    theirs = HFLM(pretrained=lm.hf, tokenizer=lm.tokenizer, batch_size=arguments.batch_size)
    best = [float("inf")] * 2
    answers: list[Any] = [None, None]
    for _ in range(arguments.rounds):
        for side, model in enumerate((ours, theirs)):
            seconds, answers[side] = _timed(
                lm, lambda model=model: model.loglikelihood(asked, disable_tqdm=True)
            )
            best[side] = min(best[side], seconds)
    apart = max(abs(a - b) for (a, _), (b, _) in zip(*answers, strict=True))
    assert all(a == b for (_, a), (_, b) in zip(*answers, strict=True)), f"{name}: greedy differs"
    assert apart <= 1e-4, f"{name}: log-likelihoods differ by {apart}"
    tokens = sum(len(lm.tokenizer(a + b)["input_ids"]) for a, b in pairs)
    rate = tokens / best[0]
    print(f"{name:34}{len(pairs):9}{rate:10.0f}{best[0]:9.2f}{best[1]:9.2f}", end="")
    print(f"{best[1] / best[0]:7.2f}x  apart {apart:.0e}", flush=True)
    return best[0], best[1]


def _perplexity(lm: prunebench.CausalLM, arguments: Any) -> None:
    windows = torch.randint(
        lm.hf.config.vocab_size, (8, 1024), generator=torch.Generator().manual_seed(0)
    )

    def bare() -> None:
        with torch.no_grad():
            for batch in windows.split(8):
                lm.hf(batch.to(lm.device), use_cache=False)

    best = [float("inf")] * 2
    for _ in range(arguments.rounds):
        for side, run in enumerate((lambda: lm.window_nll(windows, 8), bare)):
            best[side] = min(best[side], _timed(lm, run)[0])
    rate = windows.numel() / best[0]
    print(f"{'perplexity, 8 x 1024':34}{'':9}{rate:10.0f}{best[0]:9.2f}{best[1]:9.2f}", end="")
    print(f"{best[0] / best[1]:7.2f}x a bare forward")


def _timed(lm: prunebench.CausalLM, run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = run()
    if lm.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start, result


def _rows(folder: Path, task: str) -> Iterator[dict[str, Any]]:
    file, choices = SEVEN[task]
    opened = gzip.open if file.endswith(".gz") else open
    with opened(folder / file, "rt", encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            yield row | {"choices": list(choices)} if choices else row


def _pairs(row: dict[str, Any]) -> Pairs:
    if "context_options" in row:
        return [(context, f" {row['continuation']}") for context in row["context_options"]]
    return [(row["context"], f" {choice}") for choice in row["choices"]]


def _long(lm: prunebench.CausalLM, rows: list[dict[str, Any]], limit: int) -> Pairs:
    four = (r for r in rows if len(r["choices"]) == 4)
    long = (r for r in four if len(lm.tokenizer(r["context"])["input_ids"]) >= 70)
    return [pair for row in itertools.islice(long, limit) for pair in _pairs(row)]


def _model(arguments: Any, questions: dict[str, list[dict[str, Any]]]) -> prunebench.CausalLM:
    inner = tokenizers.Tokenizer(tokenizers.models.BPE())
    inner.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=arguments.vocabulary,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (a + b for rows in questions.values() for row in rows[:3000] for a, b in _pairs(row))
    inner.train_from_iterator(texts, trainer)
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=arguments.vocabulary,
        hidden_size=arguments.width,
        intermediate_size=arguments.width * 8 // 3,
        num_hidden_layers=arguments.blocks,
        num_attention_heads=arguments.width // 64,
        num_key_value_heads=arguments.width // 64,
        max_position_embeddings=2048,
    )
    hf = transformers.LlamaForCausalLM(config).eval().requires_grad_(False)
    return prunebench.CausalLM(hf.to(arguments.device), tokenizer)


def _about(lm: prunebench.CausalLM) -> str:
    config = lm.hf.config
    shape = f"{config.num_hidden_layers} blocks of width {config.hidden_size}"
    return f"Llama with {shape}, vocabulary {config.vocab_size}, float32"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the seven tasks")
    parser.add_argument("--limit", type=int, default=32, help="questions per task")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch-size", type=int, default=64, help="of HFLM; ours finds its own")
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    main()

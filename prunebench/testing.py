"""The conformance kit: the rules for methods and metrics, checked on a small model.

For authors: ``check_method(MyMethod())`` and ``check_metric(MyMetric(...))`` in their own tests.
"""

from __future__ import annotations

import torch
import transformers

from . import registry
from .api import AMOUNTS_OF, Method, Metric, tag
from .models.causal_lm import CausalLM
from .models.loading import load_model
from .runs import conformance

__all__ = ["check_method", "check_metric", "tiny_model"]


def check_method(method: Method, lm: CausalLM | None = None) -> None:
    """Check that *method* follows the rules for methods.

    Its options survive a case file; ``choose`` leaves the model bit-identical, is deterministic,
    removes the amount, reads calibration data only if ``calibrated``, and refuses an impossible
    amount; its plan survives a file and gives the same model each time; if ``nested``, a smaller
    amount is a prefix of a larger one.

    Args:
        method: with the options to check.
        lm: a dense model, by default ``tiny_model()``.

    Raises:
        AssertionError: with every problem found, a line each.
    """
    problems = list(conformance.of_plugin(method, registry.method))
    if method.unit not in AMOUNTS_OF:
        problems.append(f"unit is {method.unit!r}, expected one of {', '.join(AMOUNTS_OF)}")
    else:
        problems += conformance.MethodCheck(method, lm or tiny_model()).problems()
    _raise_if_any(method, problems)


def check_metric(metric: Metric, lm: CausalLM | None = None) -> None:
    """Check that *metric* follows the rules for metrics, on a dense model and a pruned one.

    Its options survive a case file; its measurements are called ``<name>/...``, survive a file, are
    deterministic (unless their name says that they vary), have the same questions for both models
    where they are paired, and leave both models bit-identical.

    Args:
        metric: with the options to check, such as ``dataset="tinyworld"``.
        lm: a dense model with its tokenizer, by default the shipped reference model in float32.

    Raises:
        AssertionError: with every problem found, a line each.
    """
    lm = lm or load_model("prunebench/reference", dtype="float32")
    problems = list(conformance.of_plugin(metric, registry.metric))
    _raise_if_any(metric, problems + list(conformance.of_metric(metric, lm)))


def tiny_model(blocks: int = 12) -> CausalLM:
    """A Llama of fixed random weights that runs in milliseconds: 64 tokens, width 32.

    Queries are grouped and the head is tied, so that errors with either show.
    """
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=blocks,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        hf = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
        for parameter in hf.parameters():
            # Default initialisation is so small that every block is nearly the identity.
            parameter.add_(torch.randn_like(parameter) * 0.1)
    hf.requires_grad_(False)
    return CausalLM(hf.eval())


def _raise_if_any(plugin: Method | Metric, problems: list[str]) -> None:
    if problems:
        lines = "".join(f"\n  {problem}" for problem in dict.fromkeys(problems))
        raise AssertionError(f"{tag(plugin)} ({type(plugin).__name__}):{lines}")

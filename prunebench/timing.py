"""Times a model: reading a prompt, and each token generated after it."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor

from .models import CausalLM

Round = dict[str, float]


def random_prompt(lm: CausalLM, batch_size: int, tokens: int) -> Tensor:
    """Token ids, (batch_size, tokens), the same every time: their meaning costs no time."""
    vocabulary = lm.hf.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(0)
    return torch.randint(vocabulary, (batch_size, tokens), generator=generator)


def time_once(lm: CausalLM, prompt: Tensor, new_tokens: int) -> Round:
    """Seconds for one prompt, and seconds per token of the greedy continuation."""
    ids = prompt.to(lm.device)
    with torch.inference_mode():
        start = _clock(lm)
        out: Any = lm.hf(ids, use_cache=True, logits_to_keep=1)
        prefilled = _clock(lm)
        for _ in range(new_tokens):
            token = out.logits[:, -1:].argmax(-1)
            out = lm.hf(token, past_key_values=out.past_key_values, use_cache=True)
        end = _clock(lm)
    return {"prefill": prefilled - start, "decode": (end - prefilled) / new_tokens}


def _clock(lm: CausalLM) -> float:
    """Seconds, once everything that was asked of the device is done."""
    if lm.device.type == "cuda":
        torch.cuda.synchronize(lm.device)
    return time.perf_counter()

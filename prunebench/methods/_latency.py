"""Milliseconds of an attention and of an MLP, from timing three models, as SPRINT does."""

from __future__ import annotations

import statistics

from .. import resume
from ..errors import SearchError
from ..models.causal_lm import CausalLM
from ..models.timing import Shape, Timer
from ..plan import Part
from ..progress import say

PROMPT, NEW, ROUNDS, TRIES = 1024, 512, 3, 3


def saved(lm: CausalLM) -> tuple[float, float]:
    """What *measure* gives, measured once for a search."""
    attn, mlp = resume.part("latency", lambda: measure(lm))
    return attn, mlp


def measure(lm: CausalLM) -> tuple[float, float]:
    """Milliseconds that one attention and one MLP add to reading a prompt and generating.

    The dense model, one without a quarter of its MLPs and one without a quarter of its attentions
    (of the blocks before the last) are timed interleaved; medians of three rounds, repeated up to
    twice if a difference is not positive.

    Raises:
        SearchError: if one never is.
    """
    depth = len(lm.blocks)
    removed = max(1, int(0.25 * depth + 1e-5))
    blocks = range(max(0, depth - 1 - removed), max(1, depth - 1))
    models = [lm, _without(lm, blocks, "attn"), _without(lm, blocks, "mlp")]
    prompt_tokens, new_tokens = PROMPT, NEW
    if (limit := lm.max_length) is not None and prompt_tokens + new_tokens > limit:
        new_tokens = max(1, limit // 3)
        prompt_tokens = max(1, limit - new_tokens)
    shape = Shape(1, prompt_tokens, new_tokens)
    timers = [Timer(model, shape) for model in models]
    times: list[list[float]] = [[] for _ in models]
    found = [0.0, 0.0]
    for attempt in range(TRIES):
        for round_number in range(ROUNDS + (attempt == 0)):
            say(f"latency of a sublayer, round {round_number + 1}")
            for series, timer in zip(times, timers, strict=True):
                taken = timer.time()
                if attempt or round_number:  # the first round of all warms up
                    series.append(1e3 * taken.total)
        dense, *others = map(statistics.median, times)
        found = [(dense - other) / len(blocks) for other in others]
        if min(found) > 0:
            return found[0], found[1]
    raise SearchError(
        f"timing gives {found[0]:.3g} ms for an attention and {found[1]:.3g} ms for an MLP: this "
        f"machine is too noisy; give attn_latency and mlp_latency"
    )


def _without(lm: CausalLM, blocks: range, part: Part) -> CausalLM:
    smaller = lm.share()
    smaller.lose([(block, part) for block in blocks])
    return smaller

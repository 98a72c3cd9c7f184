"""What a model computes: floating point operations of one forward, and its parameters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, ClassVar

from ..api import Metric
from ..record import Direction, Measurement
from ..specs import Count

if TYPE_CHECKING:
    from ..models.causal_lm import CausalLM


class Compute(Metric, frozen=True, tag="compute"):
    """Operations of one forward over one prompt of *tokens* tokens, counted, not timed.

    torch's flop counter watches a forward of the model's own structure on tensors without storage:
    exact, the same on every machine, and free. A multiplication and an addition count two, and
    attention counts all pairs of tokens. ``compute/flops-ratio`` is dense over pruned: what the
    prompt's time could shrink by at best where arithmetic decides it, and, but for the cache that
    attention reads, a generated token's time where reading weights does.
    """

    unit: ClassVar[str] = "FLOP"
    better: ClassVar[Direction] = "lower"

    tokens: Count = 128

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:
        """``compute/parameters``, ``compute/flops``, and of a pruned model ``.../flops-ratio``."""
        yield Measurement("compute/parameters", lm.num_parameters, "", "lower")
        operations = flops(lm, self.tokens)
        yield self.measured("flops", operations)
        if lm is not dense:
            ratio = flops(dense, self.tokens) / operations
            yield Measurement("compute/flops-ratio", ratio, "x", "higher")


def flops(lm: CausalLM, tokens: int) -> int:
    """Floating point operations of one forward of *lm* over (1, *tokens*) token ids.

    Raises:
        PrunebenchError: if the context holds fewer tokens.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from ..models.calibration import check_ids

    check_ids(torch.zeros((1, tokens), dtype=torch.long), lm)
    ghost = lm.ghost()
    # The plain formula of attention: the counter knows no price for the fused one on a CPU.
    ghost.hf.set_attn_implementation("eager")
    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        # With a mask given, transformers does not look for one in the (absent) values of the ids.
        ghost.hf(ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return int(counter.get_total_flops())

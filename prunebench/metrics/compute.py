"""Floating point operations of one forward of a model, and its parameters."""

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

    torch's flop counter counts a forward of the model's own structure on tensors without storage:
    exact, the same on every machine, and fast. A multiplication and an addition count two, and
    attention counts all pairs of tokens. ``compute/flops-ratio`` is dense over pruned: an upper
    bound on the speedup of prefill where it is compute-bound, and, apart from reading the key/value
    cache, of decoding where it is bound by reading weights.
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
    # Eager attention: the counter does not count the fused kernel of a CPU.
    ghost.hf.set_attn_implementation("eager")
    ids = torch.zeros((1, tokens), dtype=torch.long, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        # Without a mask transformers would derive one from the values of the ids, which have none.
        ghost.hf(ids, attention_mask=torch.ones_like(ids), use_cache=False)
    return int(counter.get_total_flops())

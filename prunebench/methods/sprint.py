"""SPRINT (Song et al., IJCAI 2025, arXiv:2506.03510): sublayers by latency and tunability.

One attention or MLP half is removed at a time: the one whose absence, after the next surviving MLP
has been fitted to make up for it, changes that MLP's output least per millisecond saved. A first
stage names *candidates* by the change before any fit; a second fits each candidate's ``down_proj``
in closed form and decides among all fits that still hold. *checkpoints* hidden states let a round
start where the last one changed something.

Where the released code differs from the paper or from its own names, its behaviour is the default:
the metric it calls L2 is L1 (*norm*), and removed sublayers are switched on again in the output
that a candidate is compared with (*reference*). The fit solves the normal equations in float64. The
released default, float32, is kept as an option but repeats neither itself nor a GPU: the equations
have the squared condition number of the activations, which float32 cannot hold. With *refit* the
last MLP stays, for nothing after it could make up for it. *damping* is the released one, least
squares on [A; damping I] against [B; damping W], not a ridge; *ratio* is the fraction of the rows
that is replaced, by Wanda-like scores.

Latencies are milliseconds of one attention and of one MLP. Where they are not given they are
measured as the paper does, from the dense model and one without a quarter of its MLPs or of its
attentions (generation with a prompt of 1,024 tokens and 512 new ones, or what the context holds).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from ..api import Method, Target
from ..plan import Plan
from ..specs import Count

if TYPE_CHECKING:
    from ..models.calibration import Calibration
    from ..models.causal_lm import CausalLM
    from ._sprint_scores import Settings

Latency = Annotated[float, Meta(gt=0)]


class Sprint(Method, frozen=True, tag="sprint"):
    """Greedy removal of halves of blocks; scores are sums over windows of relative distances."""

    unit: ClassVar[str] = "sublayers"
    nested: ClassVar[bool] = True
    stepwise: ClassVar[bool] = True
    sizing: ClassVar[str] = "target_speedup"

    candidates: Count = 5
    refit: bool = True
    refit_dtype: Literal["float64", "float32"] = "float64"
    latency_aware: bool = True
    attn_latency: Latency | None = None
    mlp_latency: Latency | None = None
    target_speedup: Annotated[float, Meta(ge=1)] | None = None
    norm: Literal["l1", "l2"] = "l1"
    reference: Literal["as_released", "current"] = "as_released"
    damping: Annotated[float, Meta(ge=0)] = 0.0
    ratio: Annotated[float, Meta(gt=0, le=1)] = 1.0
    checkpoints: Annotated[int, Meta(ge=0)] = 8

    @property
    def times(self) -> bool:
        """Whether the latencies are needed and not given."""
        needed = self.latency_aware or self.target_speedup is not None
        return needed and None in (self.attn_latency, self.mlp_latency)

    def choose(self, lm: CausalLM, calibration: Calibration, target: Target) -> Plan:
        """Search greedily until the amount, or the estimated speedup, is reached."""
        from ._sprint_amount import Amount, plan_of
        from ._sprint_scores import Search
        from ._sprint_state import rounds
        from ._sublayers import require_whole

        require_whole(lm)
        if self.refit:
            lm.require_one_device("refitting weights")
        amount = Amount(lm, target, self.target_speedup, keep_last=self.refit)
        latencies = self.latencies(lm)
        search = Search(self.settings(), lm, calibration.windows(), latencies)
        for _ in rounds(search, amount):
            search.first_stage()
            if self.refit:
                search.second_stage()
            search.remove_lowest()
        return plan_of(search, amount.count(search), latencies if self.times else ())

    def latencies(self, lm: CausalLM) -> tuple[float, float]:
        """Milliseconds of an attention and of an MLP, measured if needed and not given."""
        from . import _latency

        attn, mlp = _latency.saved(lm) if self.times else (1.0, 1.0)
        return self.attn_latency or attn, self.mlp_latency or mlp

    def settings(self) -> Settings:
        """The options that decide how candidates are scored and fitted."""
        from ._sprint_scores import Settings

        return Settings(*(getattr(self, name) for name in Settings._fields))

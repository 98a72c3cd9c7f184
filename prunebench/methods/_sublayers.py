"""A model that loses one half of a block after another, run from saved hidden states."""

from __future__ import annotations

from torch import Tensor

from ..edits.drop_sublayers import require_pre_norm
from ..errors import PrunebenchError
from ..models.causal_lm import CausalLM
from ..models.stream import Batch, Stream, search_budget
from ..plan import Sublayer


def sublayer(index: int) -> Sublayer:
    """Number 2b is the attention of block b, 2b + 1 its MLP."""
    return index // 2, "mlp" if index % 2 else "attn"


def require_whole(lm: CausalLM) -> None:
    """Refuse a model whose halves of blocks cannot be removed, or that has lost some already.

    Raises:
        PrunebenchError: saying which.
    """
    require_pre_norm(lm)
    if any(not all(lm.halves(block)) for block in lm.blocks):
        raise PrunebenchError(
            "this model has lost halves of blocks already; start from the dense one"
        )


class Sublayers:
    """The attentions and MLPs of a model on fixed windows, numbered; any of them can be removed.

    Args:
        lm: the dense model; it is not changed.
        windows: token ids, (windows, length).
        checkpoints: how many hidden states are saved per batch, next to the first. All are saved
            where there is room.
        batch_size: windows per forward.

    Attributes:
        saved: per batch, the hidden state that enters a sublayer, by the sublayer's number.
        places: the numbers of the *checkpoints*.
        start: where a new computation may start: what is before it has not changed.
    """

    def __init__(
        self, lm: CausalLM, windows: Tensor, checkpoints: int, batch_size: int | None = None
    ) -> None:
        self.lm = lm.share()  # its tensors may be replaced; lm keeps its own
        self.stream = Stream(self.lm, windows, batch_size)
        depth = len(lm.blocks)
        self.count = 2 * depth
        self.alive = [True] * self.count
        parts = checkpoints + 1
        self.places = sorted({2 * (k * depth // parts) for k in range(parts)})
        room = sum(b.entering.numel() * b.entering.element_size() for b in self.stream.batches)
        self.keep_all = room * self.count <= search_budget(lm.device)
        self.saved = [{0: batch.entering} for batch in self.stream.batches]
        self.start = 0

    def removable(self) -> list[int]:
        """The sublayers that are left."""
        return [s for s in range(self.count) if self.alive[s]]

    def end_of(self, s: int) -> int:
        """The first surviving MLP after *s*, whose output a candidate is judged at."""
        after = (k for k in range(s + 1, self.count) if k % 2 and self.alive[k])
        return next(after, min(s + 1, self.count - 1))

    def lose(self, s: int) -> None:
        """Remove sublayer *s*, and the saved states after it."""
        self.alive[s] = False
        for saved in self.saved:
            for place in [p for p in saved if p > s]:
                del saved[place]

    def half(self, batch: Batch, s: int, hidden: Tensor) -> Tensor:
        """Run one sublayer, residual added: (windows, length, hidden) to the same."""
        self.stream.halves += len(hidden)
        half = self.lm.family.halves[s % 2]
        return hidden + batch.branch(self.lm.blocks[s // 2], s // 2, half, hidden)


class Walk:
    """The running stream of one batch: the input of every sublayer, computed on demand."""

    def __init__(
        self, model: Sublayers, batch: Batch, saved: dict[int, Tensor], wanted: list[int]
    ) -> None:
        start = max((p for p in saved if not wanted or p <= wanted[0]), default=0)
        self.model = model
        self.batch = batch
        self.saved = saved
        self.states = {start: saved[start]}
        self.reached = start
        #: The last reference that was run separately: its first and last sublayer, and its output.
        self.again: dict[tuple[int, int], Tensor] = {}

    def at(self, place: int) -> Tensor:
        """What enters the sublayer numbered *place*."""
        while self.reached < place:
            hidden = self.states[self.reached]
            if self.model.alive[self.reached]:
                hidden = self.model.half(self.batch, self.reached, hidden)
            self.reached += 1
            self.states[self.reached] = hidden
            if self.model.keep_all or self.reached in self.model.places:
                self.saved[self.reached] = hidden
        return self.states[place]

    def forget(self, below: int) -> None:
        """Free the states up to *below*, which are not needed again."""
        for place in [p for p in self.states if p <= below and p != self.reached]:
            del self.states[place]

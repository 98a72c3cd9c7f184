"""Runs a model block by block from saved hidden states, so that searches share their prefixes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from .models import CausalLM, batches, nll_of


class Stream:
    """A model over fixed windows, one block at a time.

    One dense forward records what every block is called with (masks, rotary embeddings), whatever
    the family; afterwards any block can be run on any hidden state.

    Args:
        lm: the model; it is not changed.
        windows: token ids, (windows, length).
        batch_size: windows per forward.

    Attributes:
        forwards: block-forwards so far: one block on one window counts one.
    """

    def __init__(self, lm: CausalLM, windows: Tensor, batch_size: int | None = None) -> None:
        self.lm = lm
        self.windows = windows
        self.forwards = 0
        self._batches = [_Batch(lm, ids) for ids in batches(windows, batch_size)]

    @property
    def dense_nll(self) -> float:
        """Mean loss of the dense model, a by-product of the recording pass."""
        return torch.cat([batch.nll for batch in self._batches]).mean().item()

    def noise(self) -> float:
        """How far a loss moves on this machine when nothing but the batching changes, in nats.

        Never below the rounding of one float32, which a lucky repetition can hide.
        """
        other = self.lm.window_nll(self.windows.flip(0), batch_size=1).mean().item()
        rounding = torch.finfo(torch.float32).eps * abs(self.dense_nll)
        return max(abs(other - self.dense_nll), rounding)

    def without_each(self, alive: Sequence[int], candidates: Sequence[int]) -> dict[int, float]:
        """Mean loss of the blocks *alive* with each of *candidates* taken out in turn.

        The states before a candidate are those of every later one, so candidate j costs only the
        blocks after it: (n-2)(n+1)/2 block-forwards per window with one protected block at each
        end, against (n-2)(n-1) for whole forwards.

        Args:
            alive: the blocks the model still has, ascending.
            candidates: some of them, ascending.

        Returns:
            Block to nats per predicted token.
        """
        losses: dict[int, list[Tensor]] = {block: [] for block in candidates}
        last = max(candidates)
        with torch.no_grad():
            for batch in self._batches:
                prefix = batch.entering
                for position, block in enumerate(alive):
                    if block in losses:
                        hidden = self._run(batch, prefix, alive[position + 1 :])
                        losses[block].append(batch.loss(self.lm, hidden))
                    if block == last:
                        break
                    prefix = self._run(batch, prefix, [block])
        return {block: torch.cat(parts).mean().item() for block, parts in losses.items()}

    def influence(self) -> dict[int, float]:
        """One minus the mean cosine between what enters and what leaves each block of the model."""
        angles: dict[int, list[Tensor]] = {block: [] for block in range(len(self.lm.blocks))}
        with torch.no_grad():
            for batch in self._batches:
                entering = batch.entering
                for block, found in angles.items():
                    leaving = self._run(batch, entering, [block])
                    found.append(cosine_similarity(entering.double(), leaving.double(), dim=-1))
                    entering = leaving
        return {block: 1 - torch.cat(found).mean().item() for block, found in angles.items()}

    def _run(self, batch: _Batch, hidden: Tensor, blocks: Sequence[int]) -> Tensor:
        for block in blocks:
            hidden = batch.call(self.lm.blocks[block], block, hidden)
        self.forwards += len(blocks) * len(hidden)
        return hidden


class _Batch:
    """Some windows with the arguments every block is called with for them."""

    def __init__(self, lm: CausalLM, ids: Tensor) -> None:
        self.ids = ids.to(lm.device)
        self._arguments: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
        states: list[Tensor] = []

        def record(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kwargs = dict(kwargs)
            states.append(args[0] if args else kwargs.pop("hidden_states"))
            del states[1:]  # only what enters the first block is needed
            self._arguments.append((args[1:], kwargs))

        hooks = [b.register_forward_pre_hook(record, with_kwargs=True) for b in lm.blocks]
        try:
            with torch.no_grad():
                logits = lm.hf(self.ids, use_cache=False).logits
        finally:
            for hook in hooks:
                hook.remove()
        self.entering = states[0]
        self.nll = nll_of(logits, self.ids)

    def call(self, module: nn.Module, block: int, hidden: Tensor) -> Tensor:
        """Run one block as the dense model would."""
        args, kwargs = self._arguments[block]
        result: Tensor | tuple[Tensor, ...] = module(hidden, *args, **kwargs)
        return result[0] if isinstance(result, tuple) else result

    def loss(self, lm: CausalLM, hidden: Tensor) -> Tensor:
        """Per-window loss of what leaves the last block, through the model's own final layers."""
        with lm.replaced(_Constant(hidden)):
            logits = lm.hf(self.ids, use_cache=False).logits
        return nll_of(logits, self.ids)


class _Constant(nn.Module):
    """Stands in for all blocks and returns a hidden state computed elsewhere."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.hidden

"""Runs a model block by block from saved hidden states, so that searches share their prefixes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from ..resume import part
from .causal_lm import CausalLM, batches, nll_of
from .modeling import run_half

#: Bytes of hidden states that a search may store on the CPU; on a GPU, a quarter of its memory.
#: Independent of the free memory, so that a search always costs the same block-forwards.
CPU_BUDGET = 2 * 2**30

#: The position after the last block.
END = -1


class Batch:
    """Some windows, and the arguments that every block is called with for them."""

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
        """Run *module* with the arguments of the dense model's block number *block*."""
        args, kwargs = self._arguments[block]
        result: Tensor | tuple[Tensor, ...] = module(hidden, *args, **kwargs)
        return result[0] if isinstance(result, tuple) else result

    def branch(
        self, module: nn.Module, block: int, half: tuple[str, ...], hidden: Tensor
    ) -> Tensor:
        """What one half of *module*, called as block *block*, adds to the stream *hidden*."""
        args, kwargs = self._arguments[block]
        return run_half(module, half, hidden, *args, **kwargs)

    def loss(self, lm: CausalLM, hidden: Tensor) -> Tensor:
        """Per-window loss of what leaves the last block, through the model's own final layers."""
        with lm.replaced(_Constant(hidden)):
            logits = lm.hf(self.ids, use_cache=False).logits
        return nll_of(logits, self.ids)

    def final(self, lm: CausalLM, hidden: Tensor) -> Tensor:
        """The input of the head, after the model's final norm: (windows, length, hidden)."""
        with lm.replaced(_Constant(hidden)):
            state: Tensor = lm.hf.base_model(self.ids, use_cache=False).last_hidden_state
        return state


class Stream:
    """A model over fixed windows, one block at a time.

    One dense forward records the arguments of every block (masks, rotary embeddings), for any
    family; afterwards any block can be run on any hidden state.

    Args:
        lm: the model; it is not changed.
        windows: token ids, (windows, length).
        batch_size: windows per forward.

    Raises:
        PrunebenchError: if the model was sliced, so that its blocks have different bases.

    Attributes:
        batches: the windows, in batches.
        halves: half-block-forwards so far: one half of a block on one window counts one.
    """

    def __init__(self, lm: CausalLM, windows: Tensor, batch_size: int | None = None) -> None:
        lm.require_one_basis()
        self.lm = lm
        self.windows = windows
        self.halves = 0
        self.batches = [Batch(lm, ids) for ids in batches(windows, batch_size)]

    @property
    def forwards(self) -> int:
        """Block-forwards so far: one block on one window counts one."""
        return self.halves // 2

    @property
    def dense_nll(self) -> float:
        """Mean loss of the dense model, from the recording pass."""
        return torch.cat([batch.nll for batch in self.batches]).mean().item()

    def noise(self) -> float:
        """How far a loss moves on this machine when only the batching changes, in nats.

        At least the rounding of one float32, which a repetition may by chance not show.
        """
        other = self.lm.window_nll(self.windows.flip(0), batch_size=1).mean().item()
        rounding = torch.finfo(torch.float32).eps * abs(self.dense_nll)
        return max(abs(other - self.dense_nll), rounding)

    def run(self, batch: Batch, hidden: Tensor, blocks: Iterable[int]) -> Tensor:
        """Run blocks of the model one after the other."""
        for block in blocks:
            hidden = batch.call(self.lm.blocks[block], block, hidden)
            self.halves += 2 * len(hidden)
        return hidden

    def influence(self) -> dict[int, float]:
        """One minus the mean cosine between the input and the output of each block of the model."""
        angles: dict[int, list[Tensor]] = {block: [] for block in range(len(self.lm.blocks))}
        with torch.no_grad():
            for batch in self.batches:
                entering = batch.entering
                for block, found in angles.items():
                    leaving = self.run(batch, entering, [block])
                    found.append(cosine_similarity(entering.double(), leaving.double(), dim=-1))
                    entering = leaving
        return {block: 1 - torch.cat(found).mean().item() for block, found in angles.items()}


class Thinning:
    """Removes blocks one by one, and gives the loss of each possible next removal.

    The prefix of hidden states before candidate j is the same for all later candidates, and the
    states after a candidate stay valid when a later block is removed. Both are stored as far as the
    budget allows:

    - with nothing stored, candidate j costs the blocks after it: (n-2)(n+1)/2 block-forwards per
      window and step with one protected block at each end, against (n-2)(n-1) for whole forwards;
    - with the states of all candidates stored, a step resumes each candidate at the block removed
      last.

    Args:
        stream: the model over its windows.
        budget: bytes of hidden states that may be stored; by default as the device allows.
    """

    def __init__(self, stream: Stream, budget: int | None = None) -> None:
        self.stream = stream
        self.alive = list(range(len(stream.lm.blocks)))
        left = search_budget(stream.lm.device) if budget is None else budget
        self._paths: list[_Paths] = []
        for batch in stream.batches:
            state = batch.entering.numel() * batch.entering.element_size()
            count = len(self.alive)
            prefix, everything = state * count, state * count * (count + 1) // 2
            level = 2 if everything <= left else 1 if prefix <= left else 0
            left -= (0, prefix, everything)[level]
            self._paths.append(_Paths(batch, self.alive[0], level))

    def losses(self, candidates: Sequence[int], *, keep: bool = False) -> dict[int, float]:
        """Mean loss with each of *candidates* (ascending) removed in turn: nats per token.

        Args:
            candidates: blocks.
            keep: save the losses of each batch and candidate, so that the search can be resumed.
        """
        found: dict[int, list[Tensor]] = {block: [] for block in candidates}
        with torch.no_grad():
            for number, paths in enumerate(self._paths):
                before: int | None = None
                for block, parts in found.items():
                    if keep:
                        parts.append(self._kept_loss(number, block, before, len(found)))
                    else:
                        parts.append(self._loss(paths, block))
                    before = block
                paths.forget()
        return {block: torch.cat(parts).mean().item() for block, parts in found.items()}

    def _kept_loss(self, number: int, block: int, before: int | None, count: int) -> Tensor:
        """The saved *_loss* of batch *number*; counts forwards as an uninterrupted search would.

        Args:
            number: the batch.
            block: the candidate.
            before: the candidate before it, up to which the stream has been run.
            count: the number of candidates.
        """
        paths, start = self._paths[number], self.stream.halves

        def make() -> tuple[list[float], int]:
            if before is not None:
                self._walk(paths.batch, paths.prefix, before, keep=True)
            halves = self.stream.halves
            return self._loss(paths, block).tolist(), self.stream.halves - halves

        name, of = f"candidate {block} of batch {number + 1}", count * len(self._paths)
        losses, halves = part(name, make, of)
        self.stream.halves = start + halves
        nll = paths.batch.nll
        return torch.tensor(losses, dtype=nll.dtype, device=nll.device)

    def remove(self, block: int) -> None:
        """Remove *block* permanently."""
        after = self._after(block)
        self.alive.remove(block)
        for paths in self._paths:
            paths.cut(block, after)

    def _loss(self, paths: _Paths, block: int) -> Tensor:
        entering = self._walk(paths.batch, paths.prefix, block, keep=True)
        path = paths.without.setdefault(block, {})
        if not path:
            path[self._after(block)] = entering
        hidden = self._walk(paths.batch, path, END, keep=paths.level == 2)
        return paths.batch.loss(self.stream.lm, hidden)

    def _walk(self, batch: Batch, states: dict[int, Tensor], to: int, *, keep: bool) -> Tensor:
        """The state entering *to*, computed from the nearest earlier one in *states*."""
        order = [*self.alive, END]
        at = next(b for b in reversed(order[: order.index(to) + 1]) if b in states)
        hidden = states[at]
        for position in range(order.index(at), order.index(to)):
            hidden = self.stream.run(batch, hidden, [order[position]])
            if keep and order[position + 1] != END:
                states[order[position + 1]] = hidden
        return hidden

    def _after(self, block: int) -> int:
        position = self.alive.index(block) + 1
        return self.alive[position] if position < len(self.alive) else END


class _Paths:
    """The states of one batch entering each block, with all blocks and without each candidate."""

    def __init__(self, batch: Batch, first: int, level: int) -> None:
        self.batch = batch
        self.level = level
        self.first = first
        self.prefix: dict[int, Tensor] = {first: batch.entering}
        self.without: dict[int, dict[int, Tensor]] = {}

    def forget(self) -> None:
        """Drop the states that the budget does not allow to store until the next step."""
        if self.level < 2:
            self.without.clear()
        if self.level < 1:
            self.prefix = {self.first: self.batch.entering}

    def cut(self, block: int, after: int) -> None:
        """After the removal of *block*: its input enters *after*, later states are invalid."""
        self.without = {j: path for j, path in self.without.items() if j < block}
        for states in (self.prefix, *self.without.values()):
            entering = states.get(block)
            for later in [b for b in states if b == END or b >= block]:
                del states[later]
            if entering is not None:
                states[after] = entering
        if block == self.first:
            self.first = after


def search_budget(device: torch.device) -> int:
    """Bytes of hidden states that a search may store on *device*."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // 4
    return CPU_BUDGET


class _Constant(nn.Module):
    """Replaces all blocks and returns a given hidden state."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden

    def forward(self, *_: Any, **__: Any) -> Tensor:
        return self.hidden

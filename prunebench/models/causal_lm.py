"""CausalLM: a Hugging Face causal language model with the verbs pruning needs."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from ..data.families import Family, family_named
from ..errors import PrunebenchError
from ..progress import say
from ..resume import once
from . import modeling
from .config_features import ignored_features

#: Evaluation batches hold about this many tokens: enough to fill a core, little enough for logits.
BATCH_TOKENS = 8192

#: Losses are computed from about so many logits at a time: 2^26 are 256 MiB in float32.
LOSS_LOGITS = 2**26


class CausalLM:
    """A model and its tokenizer.

    Args:
        hf: a transformers causal language model of a known family.
        tokenizer: its tokenizer, or None if only token ids will be used.
        known: False for a model that is only to be scored, of whatever family.
        drawn: whether its weights are random, so that no score of it means anything.

    Raises:
        PrunebenchError: if the family is unknown, or its class ignores a setting of the config.
    """

    def __init__(
        self, hf: Any, tokenizer: Any = None, *, known: bool = True, drawn: bool = False
    ) -> None:
        if ignored := ignored_features(hf):
            raise PrunebenchError(
                f"{type(hf).__name__} would silently ignore what the config says: "
                f"{', '.join(ignored)}"
            )
        self.hf = hf
        self.tokenizer = tokenizer
        self.drawn = drawn
        #: What was measured on this very model and is asked for again, as for every pruned one.
        self.memo: dict[Any, Any] = {}
        if known:
            _ = self.family

    @property
    def family(self) -> Family:
        """Where the parts of this architecture are."""
        return family_named(self.hf.config.model_type)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, first to last."""
        return self.hf.get_submodule(self.family.blocks)  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        hook = getattr(self.hf.get_input_embeddings(), "_hf_hook", None)
        if hook is not None:  # a part that waits on disk or in main memory says "meta" itself
            return torch.device(hook.execution_device)
        return self.hf.device  # type: ignore[no-any-return]

    @property
    def spread(self) -> bool:
        """Whether its parts lie on several devices, or some of them on disk."""
        places = set((getattr(self.hf, "hf_device_map", None) or {}).values())
        return len(places) > 1 or "disk" in places

    @property
    def num_parameters(self) -> int:
        """Unique parameters: tied ones count once, embeddings are included."""
        # A tied head that is fetched for each forward is a tensor of its own afterwards.
        tied = set(self.hf.all_tied_weights_keys) if self.spread else set()
        return sum(p.numel() for name, p in self.hf.named_parameters() if name not in tied)

    @property
    def block_parameters(self) -> list[int]:
        """Unique parameters of each block."""
        return [sum(p.numel() for p in block.parameters()) for block in self.blocks]

    def gone(self, removals: Iterable[int | tuple[int, str]]) -> list[float]:
        """The sparsity after 0, 1, 2, ... removals of blocks or of halves of blocks."""
        total, blocks = self.num_parameters, self.block_parameters
        parts = dict(zip(("attn", "mlp"), self.family.halves, strict=True))
        removed = 0
        result = [0.0]
        for unit in removals:
            if isinstance(unit, int):
                removed += blocks[unit]
            else:
                block, part = unit
                modules = [getattr(self.blocks[block], name) for name in parts[part]]
                removed += sum(p.numel() for m in modules if m is not None for p in _own(m))
            result.append(removed / total)
        return result

    @property
    def max_length(self) -> int | None:
        """The context length, where the config states one."""
        return getattr(self.hf.config, "max_position_embeddings", None)

    def share(self) -> CausalLM:
        """A second model of the same weights: its structure can change, no tensor is copied."""
        same: list[Any] = [*self.hf.parameters(), *self.hf.buffers()]
        for module in self.hf.modules() if self.spread else ():
            # Where the weights that are not on the device come from.
            hook = getattr(module, "_hf_hook", None)
            same += [getattr(hook, name, None) for name in ("weights_map", "tied_params_map")]
        hf = copy.deepcopy(self.hf, {id(t): t for t in same if t is not None})
        return CausalLM(hf, self.tokenizer, known=False, drawn=self.drawn)

    def ghost(self) -> CausalLM:
        """The same structure on tensors without storage (torch's device ``meta``)."""
        stand_ins: dict[int, Any] = {}
        for tensor in [*self.hf.parameters(), *self.hf.buffers()]:
            bare = tensor.detach().to("meta")
            known = isinstance(tensor, nn.Parameter)
            stand_ins[id(tensor)] = nn.Parameter(bare, requires_grad=False) if known else bare
        for module in self.hf.modules():
            for name in ("_hf_hook", "_old_forward", "forward"):  # what spreads a model
                if name in vars(module):
                    stand_ins[id(vars(module)[name])] = None
        hf = copy.deepcopy(self.hf, stand_ins)
        for module in hf.modules():
            for name in ("_hf_hook", "_old_forward", "forward"):
                vars(module).pop(name, None)
        return CausalLM(hf, known=False)

    def require_tokenizer(self) -> Any:
        """The tokenizer.

        Raises:
            PrunebenchError: if there is none.
        """
        if self.drawn:
            raise PrunebenchError(
                "a model of random weights has no meaningful score and reads no text; calibrate on "
                "dataset random, and measure latency, memory or compute"
            )
        if self.tokenizer is None:
            raise PrunebenchError("the model has no tokenizer; give token ids, not a data set")
        return self.tokenizer

    def require_one_device(self, work: str) -> None:
        """Refuse *work* that has to have weights side by side.

        Raises:
            PrunebenchError: if the model is spread over several devices or partly on disk.
        """
        if self.spread:
            raise PrunebenchError(
                f"{work} needs the whole model on one device, and device_map has spread it; "
                f"blocks and halves of blocks can be removed"
            )

    def require_one_basis(self) -> None:
        """Refuse to take apart a model whose stream changes its basis from norm to norm.

        Raises:
            PrunebenchError: if it does: a block or half less would leave what follows it to read a
                stream that is turned otherwise.
        """
        if any(modeling.is_turned(block) for block in self.blocks):
            raise PrunebenchError(
                "this model's stream is turned anew at every norm (SliceGPT): nothing can be taken "
                "out of it any more; start from the dense one"
            )

    def become(self, other: CausalLM) -> None:
        """Be *other* from now on, with the tokenizer that was used so far."""
        self.hf = other.hf

    def keep(self, blocks: Sequence[int]) -> None:
        """Drop every block that is not listed, and renumber the rest.

        ``layer_idx`` (the key/value cache's index), ``num_hidden_layers`` and ``layer_types`` (the
        mask of each position) stay in step; out of step, decoding goes wrong without any error.
        """
        self._install([self.blocks[i] for i in blocks], blocks)

    def lose(self, sublayers: Iterable[tuple[int, str]]) -> None:
        """Take out halves of blocks, and blocks that lost both; the norms go with them.

        Args:
            sublayers: block and ``"attn"`` or ``"mlp"``, in the present numbering.
        """
        parts = dict(zip(("attn", "mlp"), self.family.halves, strict=True))
        for index, part in sublayers:
            modeling.adopt(self.blocks[index], self.family.halves)
            modeling.lose(self.blocks[index], parts[part])
        self.keep([i for i, block in enumerate(self.blocks) if any(self.halves(block))])

    def halves(self, block: nn.Module) -> tuple[bool, bool]:
        """Whether *block* has its attention, and whether it has its MLP."""
        attn, mlp = (getattr(block, half[-1], None) is not None for half in self.family.halves)
        return attn, mlp

    @contextmanager
    def skipping(self, blocks: Iterable[int]) -> Iterator[None]:
        """Run as if *blocks* were not there; nothing is copied, everything is put back."""
        gone = set(blocks)
        before, config = self.blocks, self.hf.config
        types = getattr(config, "layer_types", None)
        try:
            self.keep([i for i in range(len(before)) if i not in gone])
            yield
        finally:
            self._install(list(before), None)
            if types is not None:
                config.layer_types = types

    @contextmanager
    def replaced(self, module: nn.Module) -> Iterator[None]:
        """Run with *module* in place of the whole stack of blocks."""
        before = self.blocks
        try:
            self.hf.set_submodule(self.family.blocks, nn.ModuleList([module]))
            yield
        finally:
            self.hf.set_submodule(self.family.blocks, before)

    def window_nll(self, windows: Tensor, batch_size: int | None = None) -> Tensor:
        """Mean next-token cross entropy of each window.

        Args:
            windows: token ids, (windows, length).
            batch_size: windows per forward; by default as many as make 8,192 tokens.

        Returns:
            Nats per predicted token, (windows,), float64. Losses are computed in float32 whatever
            the model's dtype, for half precision makes ties of near losses.
        """
        results: list[float] = []
        parts = batches(windows, batch_size)
        with torch.no_grad():
            for part in parts:
                say(f"window {len(results)} of {len(windows)}")
                results += once(
                    [self], part.tolist, partial(halving, self._losses, part), len(parts)
                )
        return torch.tensor(results, dtype=torch.float64, device=self.device)

    def _losses(self, windows: Tensor) -> list[float]:
        ids = windows.to(self.device)
        losses: list[float] = nll_of(self.hf(ids, use_cache=False).logits, ids).tolist()
        return losses

    def nll(self, windows: Tensor) -> float:
        """Mean over *windows* of their mean next-token cross entropy, in nats."""
        return self.window_nll(windows).mean().item()

    def _install(self, blocks: Sequence[nn.Module], origin: Sequence[int] | None) -> None:
        config = self.hf.config
        types = getattr(config, "layer_types", None)
        self.hf.set_submodule(self.family.blocks, nn.ModuleList(blocks))
        if types is not None and origin is not None:
            config.layer_types = [types[i] for i in origin]
        config.num_hidden_layers = len(blocks)
        modeling.number(blocks, config)


def _own(module: Any) -> Iterator[nn.Parameter]:
    """The parameters of a module; an activation function may be no module."""
    return module.parameters() if isinstance(module, nn.Module) else iter(())


def batches(windows: Tensor, size: int | None = None, tokens: int = BATCH_TOKENS) -> list[Tensor]:
    """*windows* in batches of *size*, by default as many as make about *tokens* tokens."""
    size = size or max(1, tokens // windows.shape[1])
    return [windows[start : start + size] for start in range(0, len(windows), size)]


def halving(run: Callable[[Any], list[Any]], batch: Any) -> list[Any]:
    """``run(batch)``; where memory runs out, of one half and then of the other.

    What a row gives does not depend on the rows beside it, so no result changes.

    Args:
        run: makes a list of results from a batch, in its order.
        batch: anything that has a length and can be sliced.

    Raises:
        torch.OutOfMemoryError: if a single row is too large.
    """
    try:
        return run(batch)
    except torch.OutOfMemoryError:
        if len(batch) < 2:
            raise
    # Outside the handler: there the traceback still holds what the failed attempt allocated.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(batch) // 2
    return halving(run, batch[:middle]) + halving(run, batch[middle:])


def nll_of(logits: Tensor, ids: Tensor) -> Tensor:
    """Mean next-token cross entropy per window: (windows, length, vocabulary) -> (windows,)."""
    # A few windows at a time: the logits of 8,192 tokens of a large vocabulary are gigabytes.
    few = max(1, LOSS_LOGITS // logits[0].numel())
    losses = [_token_losses(logits[i : i + few], ids[i : i + few]) for i in range(0, len(ids), few)]
    return torch.cat(losses).double().mean(1)


def _token_losses(logits: Tensor, ids: Tensor) -> Tensor:
    flat = logits[:, :-1].float().flatten(0, 1)
    return cross_entropy(flat, ids[:, 1:].flatten(), reduction="none").view(len(ids), -1)


def perplexity_of(loss: float) -> float:
    """The exponential of a loss in nats; infinite, not an error, where a float cannot hold it."""
    return math.exp(loss) if not loss > 709 else math.inf

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

#: Tokens per evaluation batch: enough to use a core fully, few enough for the logits to fit.
BATCH_TOKENS = 8192

#: Logits per loss computation, about: 2^26 are 256 MiB in float32.
LOSS_LOGITS = 2**26


class CausalLM:
    """A model and its tokenizer.

    Args:
        hf: a transformers causal language model of a known family.
        tokenizer: its tokenizer, or None if only token ids will be used.
        known: False for a model of any family that is only scored.
        drawn: whether its weights are random, which makes every score meaningless.

    Raises:
        PrunebenchError: if the family is not supported, or its class ignores a setting of the
            config.
    """

    def __init__(
        self, hf: Any, tokenizer: Any = None, *, known: bool = True, drawn: bool = False
    ) -> None:
        if ignored := ignored_features(hf):
            raise PrunebenchError(
                f"{type(hf).__name__} would silently ignore settings of the config: "
                f"{', '.join(ignored)}"
            )
        self.hf = hf
        self.tokenizer = tokenizer
        self.drawn = drawn
        #: Results of this model that every pruned model is compared with, so measured once.
        self.memo: dict[Any, Any] = {}
        if known:
            _ = self.family

    @property
    def family(self) -> Family:
        """The names of the modules of this architecture."""
        return family_named(self.hf.config.model_type)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, first to last."""
        return self.hf.get_submodule(self.family.blocks)  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """The device of the inputs."""
        hook = getattr(self.hf.get_input_embeddings(), "_hf_hook", None)
        if hook is not None:  # an offloaded part reports the device "meta" itself
            return torch.device(hook.execution_device)
        return self.hf.device  # type: ignore[no-any-return]

    @property
    def spread(self) -> bool:
        """Whether its parts are on several devices, or some of them on disk."""
        places = set((getattr(self.hf, "hf_device_map", None) or {}).values())
        return len(places) > 1 or "disk" in places

    @property
    def num_parameters(self) -> int:
        """Unique parameters: tied ones count once, embeddings are included."""
        # An offloaded tied head becomes a separate tensor after its first forward.
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
        """A second model on the same weights: its structure can be edited, no tensor is copied."""
        same: list[Any] = [*self.hf.parameters(), *self.hf.buffers()]
        for module in self.hf.modules() if self.spread else ():
            # The sources of offloaded weights.
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
            for name in ("_hf_hook", "_old_forward", "forward"):  # of a model on several devices
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
        """Refuse *work* that needs all weights on one device.

        Raises:
            PrunebenchError: if the model is spread over several devices or partly on disk.
        """
        if self.spread:
            raise PrunebenchError(
                f"{work} needs the whole model on one device, and device_map has spread it; "
                f"blocks and halves of blocks can be removed"
            )

    def require_one_basis(self) -> None:
        """Refuse to remove parts of a model whose residual stream has a basis per norm.

        Raises:
            PrunebenchError: if it has: the modules after a removed block or half would read the
                stream in another basis than theirs.
        """
        if any(modeling.is_turned(block) for block in self.blocks):
            raise PrunebenchError(
                "this model's stream is rotated at every norm (SliceGPT): no part of it can be "
                "removed any more; start from the dense one"
            )

    def become(self, other: CausalLM) -> None:
        """Replace this model by *other*; the tokenizer stays."""
        self.hf = other.hf

    def keep(self, blocks: Sequence[int]) -> None:
        """Drop every block that is not listed, and renumber the rest.

        ``layer_idx`` (the key/value cache's index), ``num_hidden_layers`` and ``layer_types`` (the
        mask of each position) are updated together; inconsistent, decoding is wrong without any
        error.
        """
        self._install([self.blocks[i] for i in blocks], blocks)

    def lose(self, sublayers: Iterable[tuple[int, str]]) -> None:
        """Remove halves of blocks with their norms, and blocks that lost both halves.

        Args:
            sublayers: block and ``"attn"`` or ``"mlp"``, in the current numbering.
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
        """Run without *blocks*; nothing is copied, and the blocks are restored afterwards."""
        skipped = set(blocks)
        before, config = self.blocks, self.hf.config
        types = getattr(config, "layer_types", None)
        try:
            self.keep([i for i in range(len(before)) if i not in skipped])
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
            Nats per predicted token, (windows,), float64. Losses are computed in float32 for every
            dtype of the model, because in half precision close losses become equal.
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
    """The parameters of a module; none of an activation that is a plain function."""
    return module.parameters() if isinstance(module, nn.Module) else iter(())


def batches(windows: Tensor, size: int | None = None, tokens: int = BATCH_TOKENS) -> list[Tensor]:
    """*windows* in batches of *size*, by default as many as make about *tokens* tokens."""
    size = size or max(1, tokens // windows.shape[1])
    return [windows[start : start + size] for start in range(0, len(windows), size)]


def halving(run: Callable[[Any], list[Any]], batch: Any) -> list[Any]:
    """``run(batch)``; where memory runs out, of each half of the batch in turn.

    The result of a row does not depend on the other rows, so no result changes.

    Args:
        run: maps a batch to a list of results, in the batch's order.
        batch: anything that has a length and can be sliced.

    Raises:
        torch.OutOfMemoryError: if a single row is too large.
    """
    try:
        return run(batch)
    except torch.OutOfMemoryError:
        if len(batch) < 2:
            raise
    # Outside the handler, where the traceback no longer holds the failed attempt's tensors.
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
    """The exponential of a loss in nats; infinite, not an error, where it exceeds a float."""
    return math.exp(loss) if not loss > 709 else math.inf

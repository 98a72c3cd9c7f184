"""CausalLM: a Hugging Face causal language model with the verbs pruning needs."""

from __future__ import annotations

import copy
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from . import modeling, reference
from .errors import PrunebenchError
from .families import Family, family_of, ignored_features
from .watching import say

DTYPES = {
    "auto": "auto",
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}

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

    Raises:
        PrunebenchError: if the family is unknown, or its class ignores a setting of the config.
    """

    def __init__(self, hf: Any, tokenizer: Any = None, *, known: bool = True) -> None:
        if ignored := ignored_features(hf):
            raise PrunebenchError(
                f"{type(hf).__name__} would silently ignore what the config says: "
                f"{', '.join(ignored)}"
            )
        self.hf = hf
        self.tokenizer = tokenizer
        #: What was measured on this very model and is asked for again, as for every pruned one.
        self.memo: dict[Any, Any] = {}
        if known:
            _ = self.family

    @property
    def family(self) -> Family:
        """Where the parts of this architecture are."""
        return family_of(self.hf.config)

    @property
    def blocks(self) -> nn.ModuleList:
        """The decoder blocks, first to last."""
        return self.hf.get_submodule(self.family.blocks)  # type: ignore[no-any-return]

    @property
    def device(self) -> torch.device:
        """Where the inputs go."""
        return self.hf.device  # type: ignore[no-any-return]

    @property
    def num_parameters(self) -> int:
        """Unique parameters: tied ones count once, embeddings are included."""
        return sum(p.numel() for p in self.hf.parameters())

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
        tensors = [*self.hf.parameters(), *self.hf.buffers()]
        hf = copy.deepcopy(self.hf, {id(t): t for t in tensors})
        return CausalLM(hf, self.tokenizer, known=False)

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
            modeling.adopt(self.blocks[index], self.family.model_type)
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
        results: list[Tensor] = []
        with torch.no_grad():
            for batch in batches(windows, batch_size):
                say(f"window {len(results)} of {len(windows)}")
                results += halving(self._losses, batch)
        return torch.stack(results)

    def _losses(self, windows: Tensor) -> list[Tensor]:
        ids = windows.to(self.device)
        return list(nll_of(self.hf(ids, use_cache=False).logits, ids))

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


def folder_of(model_id: str) -> Path | None:
    """The folder of a model that is no hub id."""
    if model_id == reference.MODEL_ID:
        return reference.MODEL
    return Path(model_id) if model_id.startswith((".", "/")) else None


def load_model(
    model_id: str | Path,
    *,
    revision: str | None = None,
    dtype: str = "auto",
    device: str = "cpu",
    known: bool = True,
) -> CausalLM:
    """Load a model and its tokenizer for evaluation.

    Args:
        model_id: a folder, a hub id, or ``prunebench/reference``.
        revision: the hub revision to pin.
        dtype: ``auto`` (the checkpoint's), ``float32``, ``float16`` or ``bfloat16``.
        device: a torch device.
        known: False for a model that is only to be scored, of whatever family.

    Raises:
        PrunebenchError: if it is not there, not safetensors, or of an unknown family.
    """
    import transformers

    device = available(device)
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    name = str(model_id)
    source = str(folder_of(name) or name)
    options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
    if Path(source).is_dir():
        options = {"trust_remote_code": False}
    try:
        # A checkpoint of our own needs our classes; they are these, not those in its folder.
        modeling.register(source, options)
        # Pickled weights can run code when opened, so only safetensors are.
        hf = transformers.AutoModelForCausalLM.from_pretrained(
            source, dtype=DTYPES[dtype], use_safetensors=True, **options
        )
    except (OSError, ValueError, KeyError) as error:
        raise PrunebenchError(f"model {name!r} cannot be loaded: {_first_line(error)}") from error
    except Exception as error:  # safetensors raises its own kind for a damaged file
        if type(error).__module__.split(".")[0] not in ("safetensors", "safetensors_rust"):
            raise
        raise PrunebenchError(f"model {name!r} cannot be loaded: {_first_line(error)}") from error
    hf.requires_grad_(False)
    return CausalLM(hf.to(device).eval(), _tokenizer(source, options), known=known)


def available(device: str | None) -> str:
    """*device*, or by default a GPU if there is one and else the CPU.

    Raises:
        PrunebenchError: if there is no such device.
    """
    if device is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise PrunebenchError(f"--device {device}: {reason}") from None
    return device


def perplexity_of(loss: float) -> float:
    """The exponential of a loss in nats; infinite, not an error, where a float cannot hold it."""
    return math.exp(loss) if not loss > 709 else math.inf


def _tokenizer(source: str, options: dict[str, Any]) -> Any:
    import transformers

    try:
        return transformers.AutoTokenizer.from_pretrained(source, **options)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # token ids can still be scored


def _first_line(error: Exception) -> str:
    text = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    offline = os.environ.get("HF_HUB_OFFLINE", "")
    return f"{text.strip()} (HF_HUB_OFFLINE={offline})" if offline else text.strip()

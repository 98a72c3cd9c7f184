"""Blocks that lost a half or had their stream narrowed, and classes that rebuild them.

This file imports torch and transformers only, for a copy of it is saved with the weights of a
checkpoint that plain classes cannot express, where
``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`` finds it. It knows no model
family: the names of modules come from the caller, or from the checkpoint's ``config.json``.
"""

from __future__ import annotations

from functools import cache
from types import MethodType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

#: The key of ``config.json`` under which the differences from the plain model are.
SPEC = "prunebench"

#: The names of the modules that run in a block's attention half and in its MLP half, norm first.
Halves = tuple[tuple[str, ...], tuple[str, ...]]


class Normalize(nn.Module):
    """Root mean square normalisation without weights: x / sqrt(sum(x^2) / width + eps).

    *width* is the dense model's, also where the stream is narrower: coordinates that were sliced
    off count as zeros. Computed in float32 at least.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.width, self.eps = width, eps

    def forward(self, hidden: Tensor) -> Tensor:
        """(..., stream) to the same shape."""
        wide = hidden if hidden.dtype == torch.float64 else hidden.float()
        square = wide.pow(2).sum(-1, keepdim=True) / self.width
        return (wide * torch.rsqrt(square + self.eps)).to(hidden.dtype)

    def extra_repr(self) -> str:
        """As torch prints modules."""
        return f"width={self.width}, eps={self.eps}"


class PrunedBlock(nn.Module):
    """The forward of a pre-norm block that may lack a half or rotate the stream in its shortcuts.

    A mixin over the family's own block class: names, hooks and recorded outputs do not change.
    """

    halves: Halves
    attn_shortcut: Any
    mlp_shortcut: Any

    def forward(self, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """(batch, length, stream) to (batch, length, stream), as the block's own forward."""
        for half, shortcut in zip(
            self.halves, (self.attn_shortcut, self.mlp_shortcut), strict=True
        ):
            if getattr(self, half[-1]) is not None:
                branch = run_half(self, half, hidden_states, *args, **kwargs)
                if shortcut is not None:
                    hidden_states = hidden_states @ shortcut
                hidden_states = hidden_states + branch
        return hidden_states


def run_half(
    block: nn.Module, half: tuple[str, ...], hidden: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """What one half of a block adds to the stream that enters it.

    Args:
        block: a decoder block.
        half: the names of the modules of the half, in order.
        hidden: (batch, length, stream).
        args: the block's other arguments, which its attention takes too.
        kwargs: likewise.

    Returns:
        (batch, length, stream).
    """
    for name in half:
        module = getattr(block, name)
        # Attentions alone have a place in the key/value cache.
        if hasattr(module, "layer_idx"):
            hidden = module(hidden, *args, **kwargs)[0]
        else:
            hidden = module(hidden)
    return hidden


def adopt(block: Any, halves: Halves) -> None:
    """Give *block* the forward above; its results do not change until it is edited."""
    if not isinstance(block, PrunedBlock):
        kind: Any = type(block)
        block.__class__ = _pruned_class(kind)
        if "_old_forward" in vars(block):  # accelerate calls it in a model on several devices
            block._old_forward = MethodType(type(block).forward, block)
        block.halves = halves
        block.register_parameter("attn_shortcut", None)
        block.register_parameter("mlp_shortcut", None)


def is_turned(block: Any) -> bool:
    """Whether a block has shortcut matrices."""
    return any(getattr(block, n, None) is not None for n in ("attn_shortcut", "mlp_shortcut"))


def lose(block: nn.Module, half: tuple[str, ...]) -> None:
    """Remove one half of an adopted block, its norm included."""
    for name in half:
        setattr(block, name, None)


def number(blocks: Any, config: Any) -> None:
    """Give every attention its index in the key/value cache.

    transformers reads the cache's length and the masks from index 0, or from the first index of
    each layer type, so these must be in use: where the first block has no attention, the first
    attention of the model takes index 0, and blocks without attention take its layer type.
    """
    has = [_has_attention(block) for block in blocks]
    first = next((i for i, attention in enumerate(has) if attention), None)
    for index, block in enumerate(blocks):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = 0 if index == first else index
    types = getattr(config, "layer_types", None)
    if types is not None and first is not None:
        config.layer_types = [t if has[i] else types[first] for i, t in enumerate(types)]


def _has_attention(block: Any) -> bool:
    return not isinstance(block, PrunedBlock) or getattr(block, block.halves[0][-1]) is not None


def restructure(model: Any, spec: dict[str, Any]) -> None:
    """Rebuild the structure of a pruned model from a plain one; the weights are loaded later.

    Args:
        model: a freshly built causal language model of the plain class.
        spec: ``blocks``, the name of the list of blocks, empty if all are plain; ``halves``, the
            modules of a block's halves; ``without``, block to the halves it lost ("attn", "mlp");
            ``turned``, the blocks with shortcut matrices; ``norms``, module name to
            ``[width, eps]``; ``tensors``, parameter name to its shape where that is not the plain
            one.
    """
    if spec["blocks"]:
        _restructure_blocks(model.get_submodule(spec["blocks"]), spec, model.config)
    for name, (width, eps) in spec["norms"].items():
        model.set_submodule(name, Normalize(width, eps))
    for name, shape in spec["tensors"].items():
        place, _, own = name.rpartition(".")
        replace(model.get_submodule(place), own, torch.empty(shape, dtype=model.dtype))


def _restructure_blocks(blocks: Any, spec: dict[str, Any], config: Any) -> None:
    attn, mlp = (tuple(half) for half in spec["halves"])
    without = {int(index): lost for index, lost in spec["without"].items()}
    for index in {*without, *spec["turned"]}:
        adopt(blocks[index], (attn, mlp))
    for index, lost in without.items():
        for part in lost:
            lose(blocks[index], attn if part == "attn" else mlp)
    number(blocks, config)


def replace(module: Any, name: str, tensor: Tensor) -> None:
    """Replace a parameter by *tensor*, and update the sizes that the module prints."""
    old = getattr(module, name, None)
    grad = bool(old is not None and old.requires_grad)
    device = tensor.device if old is None else old.device
    setattr(module, name, nn.Parameter(tensor.to(device), requires_grad=grad))
    if name == "weight" and isinstance(module, nn.Linear):
        module.out_features, module.in_features = tensor.shape
    if name == "weight" and isinstance(module, nn.Embedding):
        module.embedding_dim = tensor.shape[1]


@cache
def _pruned_class(base: Any) -> Any:
    return type(f"Pruned{base.__name__}", (PrunedBlock, base), {"__module__": base.__module__})


def spec_of(model: Any) -> dict[str, Any]:
    """The spec from which ``restructure`` rebuilds *model*; empty for a plain model.

    Args:
        model: a causal language model, its structure as edited.
    """
    plain = plain_class(model)
    with torch.device("meta"):
        skeleton = plain(plain.config_class.from_dict(_plain_config(model.config)))
    usual = {n: tuple(p.shape) for n, p in skeleton.named_parameters(remove_duplicate=False)}
    own = {n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)}
    blocks: str = ""
    halves: Any = ()
    without: dict[str, list[str]] = {}
    turned = []
    for path, block in model.named_modules():
        if isinstance(block, PrunedBlock):
            blocks, _, index = path.rpartition(".")
            halves = block.halves
            for part, half in zip(("attn", "mlp"), halves, strict=True):
                if getattr(block, half[-1]) is None:
                    without.setdefault(index, []).append(part)
            if is_turned(block):
                turned.append(int(index))
    differences = {
        "without": without,
        "turned": turned,
        "norms": {
            n: [m.width, m.eps] for n, m in model.named_modules() if isinstance(m, Normalize)
        },
        "tensors": {n: list(shape) for n, shape in own.items() if usual.get(n) != shape},
    }
    if not any(differences.values()):
        return {}
    return {"blocks": blocks, "halves": halves, **differences}


def plain_class(model: Any) -> Any:
    """The class of transformers that *model* is or descends from."""
    return next(c for c in type(model).__mro__ if c.__module__.startswith("transformers.models."))


def _plain_config(config: Any) -> dict[str, Any]:
    return {k: v for k, v in config.to_dict().items() if k not in (SPEC, "model_type", "auto_map")}


@cache
def classes(family: str) -> tuple[Any, Any]:
    """Config and model class of a pruned model, with a model type that no plain class has.

    Args:
        family: the prefix of the names of transformers' classes: ``Llama``, ``OPT``.
    """
    plain_config = getattr(transformers, f"{family}Config")
    plain = getattr(transformers, f"{family}ForCausalLM")

    def init(self: Any, config: Any) -> None:
        plain.__init__(self, config)
        restructure(self, {**self.layout, **getattr(config, SPEC)})

    kind = {"model_type": f"{SPEC}_{plain_config.model_type}", "__module__": __name__}
    config = type(f"Pruned{family}Config", (plain_config,), kind)
    body = {"__init__": init, "config_class": config, "__module__": __name__}
    # Specs of before 0.2 leave out where the blocks and their halves are.
    body["layout"] = {}
    return config, type(f"Pruned{family}ForCausalLM", (plain,), body)


def register(architecture: str, blocks: str, halves: Halves) -> None:
    """Register the classes of a checkpoint that needs this file with transformers.

    Args:
        architecture: as its config names it: ``PrunedLlamaForCausalLM``.
        blocks: the name of the list of blocks, for a spec that does not give it.
        halves: the modules of a block's halves, likewise.
    """
    config, model = classes(architecture.removeprefix("Pruned").removesuffix("ForCausalLM"))
    model.layout = {"blocks": blocks, "halves": halves}
    transformers.AutoConfig.register(config.model_type, config, exist_ok=True)
    transformers.AutoModelForCausalLM.register(config, model, exist_ok=True)


def __getattr__(name: str) -> Any:
    # Classes are created on first use: each imports its family's code, which takes time.
    if name.startswith("Pruned"):
        for place, ending in enumerate(("Config", "ForCausalLM")):
            family = name.removeprefix("Pruned").removesuffix(ending)
            if name.endswith(ending) and hasattr(transformers, f"{family}ForCausalLM"):
                return classes(family)[place]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""Blocks that lost a half or had their stream narrowed, and classes that rebuild them.

This file stands alone: it is also saved beside the weights of a checkpoint that plain classes
cannot express, where ``AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)`` finds
it. It needs torch and transformers only.
"""

from __future__ import annotations

from functools import cache
from types import MethodType
from typing import Any

import torch
import transformers
from torch import Tensor, nn

#: The key of ``config.json`` that tells how the model differs from the plain one.
SPEC = "prunebench"

#: What runs in a block, by model type: norm and attention; norm and the modules of the MLP.
HALVES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "opt": (
        ("self_attn_layer_norm", "self_attn"),
        ("final_layer_norm", "fc1", "activation_fn", "fc2"),
    ),
}
USUAL = (("input_layernorm", "self_attn"), ("post_attention_layernorm", "mlp"))

#: Where the blocks are, by model type.
STACKS = {"opt": "model.decoder.layers"}


class Normalize(nn.Module):
    """Root mean square normalisation without weights: x / sqrt(sum(x^2) / width + eps).

    *width* is the dense model's, also where the stream is narrower: what was sliced off counts as
    zeros. Computed in float32 at least.
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
    """The forward of a pre-norm block whose halves may be missing and whose shortcuts may turn.

    A mixin over the family's own block: names, hooks and recorded outputs stay what they are.
    """

    halves: Any
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
    """What one half of a block adds to the stream that enters it."""
    hidden = getattr(block, half[0])(hidden)
    if len(half) == 2 and half[1].endswith("attn"):
        result: Tensor = getattr(block, half[1])(hidden, *args, **kwargs)[0]
        return result
    for name in half[1:]:
        hidden = getattr(block, name)(hidden)
    return hidden


def halves_of(model_type: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The modules of the attention half and of the MLP half of a family's blocks."""
    return HALVES.get(model_type.removeprefix(f"{SPEC}_"), USUAL)


def adopt(block: Any, model_type: str) -> None:
    """Give *block* the forward above; what it computes does not change until it is edited."""
    if not isinstance(block, PrunedBlock):
        kind: Any = type(block)
        block.__class__ = _pruned_class(kind)
        if "_old_forward" in vars(block):  # what accelerate calls where it has spread a model
            block._old_forward = MethodType(type(block).forward, block)
        block.halves = halves_of(model_type)
        block.register_parameter("attn_shortcut", None)
        block.register_parameter("mlp_shortcut", None)


def is_turned(block: Any) -> bool:
    """Whether a block has shortcut matrices."""
    return any(getattr(block, n, None) is not None for n in ("attn_shortcut", "mlp_shortcut"))


def lose(block: nn.Module, half: tuple[str, ...]) -> None:
    """Take one half out of an adopted block, its norm included."""
    for name in half:
        setattr(block, name, None)


def number(blocks: Any, config: Any) -> None:
    """Give every attention its place in the key/value cache.

    The cache's length and the masks are read from its first place, or from the first of each layer
    type, so these places must be in use: where the first block has no attention, the first
    attention there is moves to place 0, and blocks without attention take that one's type.
    """
    has = [getattr(b, halves_of(config.model_type)[0][-1], None) is not None for b in blocks]
    first = next((i for i, attention in enumerate(has) if attention), None)
    for index, block in enumerate(blocks):
        for module in block.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = 0 if index == first else index
    types = getattr(config, "layer_types", None)
    if types is not None and first is not None:
        config.layer_types = [t if has[i] else types[first] for i, t in enumerate(types)]


def restructure(model: Any, spec: dict[str, Any]) -> None:
    """Turn a freshly built plain model into the shape that *spec* tells; the weights come after.

    Args:
        model: a causal language model of the plain class.
        spec: ``without``, block to the halves it lost ("attn", "mlp"); ``norms``, module name to
            ``[width, eps]``; ``tensors``, parameter name to its shape where that is not the plain
            one; ``turned``, the blocks with shortcuts.
    """
    kind = model.config.model_type.removeprefix(f"{SPEC}_")
    blocks = model.get_submodule(STACKS.get(kind, "model.layers"))
    halves = dict(zip(("attn", "mlp"), halves_of(kind), strict=True))
    touched = {int(i) for i in spec.get("without", {})} | {int(i) for i in spec.get("turned", ())}
    for index in touched:
        adopt(blocks[index], kind)
    for index, lost in spec.get("without", {}).items():
        for part in lost:
            lose(blocks[int(index)], halves[part])
    for name, (width, eps) in spec.get("norms", {}).items():
        model.set_submodule(name, Normalize(width, eps))
    for name, shape in spec.get("tensors", {}).items():
        place, _, own = name.rpartition(".")
        replace(model.get_submodule(place), own, torch.empty(shape, dtype=model.dtype))
    number(blocks, model.config)


def replace(module: Any, name: str, tensor: Tensor) -> None:
    """Put *tensor* in the place of a parameter; the sizes that a module prints follow."""
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
    """What ``restructure`` needs to make *model*'s shape out of the plain one; empty if it is that.

    Args:
        model: a causal language model, its structure as edited.
    """
    plain = plain_class(model)
    with torch.device("meta"):
        skeleton = plain(plain.config_class.from_dict(_plain_config(model.config)))
    usual = {n: tuple(p.shape) for n, p in skeleton.named_parameters(remove_duplicate=False)}
    own = {n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)}
    kind = model.config.model_type.removeprefix(f"{SPEC}_")
    blocks = model.get_submodule(STACKS.get(kind, "model.layers"))
    without: dict[str, list[str]] = {}
    turned = []
    for index, block in enumerate(blocks):
        for part, half in zip(("attn", "mlp"), halves_of(kind), strict=True):
            if getattr(block, half[-1], None) is None:
                without.setdefault(str(index), []).append(part)
        if is_turned(block):
            turned.append(index)
    spec = {
        "without": without,
        "turned": turned,
        "norms": {
            n: [m.width, m.eps] for n, m in model.named_modules() if isinstance(m, Normalize)
        },
        "tensors": {n: list(shape) for n, shape in own.items() if usual.get(n) != shape},
    }
    return spec if any(spec.values()) else {}


def plain_class(model: Any) -> Any:
    """The class of transformers that *model* is or descends from."""
    return next(c for c in type(model).__mro__ if c.__module__.startswith("transformers.models."))


def _plain_config(config: Any) -> dict[str, Any]:
    return {k: v for k, v in config.to_dict().items() if k not in (SPEC, "model_type", "auto_map")}


@cache
def classes(family: str) -> tuple[Any, Any]:
    """Config and model class of a family, under a model type that no plain class answers to.

    Args:
        family: as transformers names its classes: ``Llama``, ``OPT``.
    """
    plain_config = getattr(transformers, f"{family}Config")
    plain = getattr(transformers, f"{family}ForCausalLM")

    def init(self: Any, config: Any) -> None:
        plain.__init__(self, config)
        restructure(self, getattr(config, SPEC))

    kind = {"model_type": f"{SPEC}_{plain_config.model_type}", "__module__": __name__}
    config = type(f"Pruned{family}Config", (plain_config,), kind)
    body = {"__init__": init, "config_class": config, "__module__": __name__}
    return config, type(f"Pruned{family}ForCausalLM", (plain,), body)


def register(source: str, options: dict[str, Any]) -> None:
    """Make transformers know the class of a checkpoint of ours, if *source* is one.

    Args:
        source: a folder or hub id.
        options: for ``PreTrainedConfig.get_config_dict``.
    """
    config, _ = transformers.PreTrainedConfig.get_config_dict(source, **options)
    name = (config.get("architectures") or [""])[0]
    if str(config.get("model_type")).startswith(f"{SPEC}_") and name.startswith("Pruned"):
        family = name.removeprefix("Pruned").removesuffix("ForCausalLM")
        own_config, own = classes(family)
        transformers.AutoConfig.register(own_config.model_type, own_config, exist_ok=True)
        transformers.AutoModelForCausalLM.register(own_config, own, exist_ok=True)


def __getattr__(name: str) -> Any:
    # The classes are made when asked for: each needs its family's code, which takes time to import.
    if name.startswith("Pruned"):
        for place, ending in enumerate(("Config", "ForCausalLM")):
            family = name.removeprefix("Pruned").removesuffix(ending)
            if name.endswith(ending) and hasattr(transformers, f"{family}ForCausalLM"):
                return classes(family)[place]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

"""The sizes that a model's ``config.json`` describes, without loading the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import PrunebenchError
from .families import family_named
from .model_shape import Shape

__all__ = ["Shape", "shape_of"]


def shape_of(config: Mapping[str, Any]) -> Shape:
    """The shape that a ``config.json`` describes.

    Raises:
        PrunebenchError: if its family is not supported, or a size is missing or invalid.
    """
    family = family_named(str(config.get("model_type")))
    given = {key: value for key, value in config.items() if value is not None}
    try:
        return family.shape({**family.defaults, **given})
    except (TypeError, KeyError, ArithmeticError):
        raise PrunebenchError(
            f"the config of this {family.model_type} model has a missing or invalid size"
        ) from None

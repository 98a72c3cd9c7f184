from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import torch

import prunebench
from prunebench import Method, PrunebenchError

WINDOWS = [[5, 6, 7, 8], [9, 10, 11, 12]]


@pytest.mark.parametrize(
    ("method", "asked", "said"),
    [
        ("first", {"blocks": -1}, "blocks: found -1, expected a whole number at least 1"),
        ("random", {"blocks": 0}, "blocks: found 0, expected a whole number at least 1"),
        ("last", {"blocks": 1.5}, "blocks: found 1.5, expected a whole number"),
        ("first", {"sparsity": 1.5}, "sparsity: found 1.5, expected a number above 0 and below 1"),
        ("first", {"sparsity": float("nan")}, "sparsity: found nan, expected a number"),
        ("slicegpt", {"slicing": -0.1}, "slicing: found -0.1, expected a number above 0"),
        ("first", {"blocks": 1, "sparsity": 0.2}, "give exactly one of sparsity, blocks for first"),
        ("first", {}, "give exactly one of sparsity, blocks for first; found none"),
        ("first", {"sublayers": 1}, "first takes 'sparsity' or 'blocks', not 'sublayers'"),
        (None, {"blocks": 1}, "method: found None, expected a name or a Method object"),
    ],
)
def test_amounts_are_checked_as_in_a_case(
    method: Any, asked: dict[str, Any], said: str, tiny: Callable[..., Any]
) -> None:
    """Minus one block removed all but one, and two amounts were told by taking either."""
    with pytest.raises(PrunebenchError) as error:
        prunebench.choose(tiny("llama"), method, calibration=WINDOWS, **asked)
    assert str(error.value).startswith(said)


def test_options_beside_a_method_object_are_refused(tiny: Callable[..., Any]) -> None:
    """They were dropped without a word."""
    from prunebench.methods.sleb import Sleb

    with pytest.raises(PrunebenchError, match=r"keep_first: give options to Sleb\(\.\.\.\) itself"):
        prunebench.choose(tiny("llama"), Sleb(), blocks=1, calibration=WINDOWS, keep_first=2)


@pytest.mark.parametrize(
    ("ids", "said"),
    [
        (torch.tensor([1, 2, 3]), "found the shape 3, expected windows x length"),
        (torch.zeros(0, 5, dtype=torch.long), "found the shape 0x5"),
        ([], "found the shape 0"),
        ([[1], [2]], r"equally long; found lengths \[1\]"),
        ([[1, 2], [1, 2, 3]], r"equally long; found lengths \[2, 3\]"),
        ([1, 2, 3], "found list, expected lists of token ids"),
        ([["a", "b"]], "found list, expected lists of token ids"),
        ([[1.5, 2.0]], "found float32 numbers, expected whole token ids"),
        (torch.rand(2, 4), "found float32 numbers, expected whole token ids"),
        (torch.ones(2, 4, dtype=torch.bool), "found bool numbers"),
    ],
)
def test_windows_that_are_none_are_one_line(ids: Any, said: str, tiny: Callable[..., Any]) -> None:
    """For the calibration as for perplexity."""
    lm = tiny("llama")
    with pytest.raises(PrunebenchError, match=said):
        prunebench.perplexity(lm, ids)
    with pytest.raises(PrunebenchError, match=said):
        prunebench.choose(lm, "sleb", blocks=1, calibration=ids)


@pytest.mark.parametrize("given", ["tinyworld", {"dataset": "tinyworld"}])
def test_calibration_by_name_says_what_is_taken(given: Any, tiny: Callable[..., Any]) -> None:
    """It was told as windows of unequal length."""
    with pytest.raises(PrunebenchError, match=r"expected token windows or a \S*CalibrationSpec"):
        prunebench.choose(tiny("llama"), "sleb", blocks=1, calibration=given)


def test_any_kind_of_whole_numbers_gives_the_same(tiny: Callable[..., Any]) -> None:
    """Lists, int32 and NumPy arrays are the same windows."""
    lm = tiny("llama")
    ids = torch.tensor(WINDOWS)
    values = {prunebench.perplexity(lm, x) for x in (WINDOWS, ids, ids.int(), ids.numpy())}

    assert len(values) == 1


def test_a_unit_that_is_none_is_told() -> None:
    """A class of somebody else's that counts in heads."""

    class Heads(Method, frozen=True, tag="heads_of_mine"):
        unit: ClassVar[str] = "block"

    says = "^heads_of_mine: its class says unit 'block'; did you mean 'blocks'?"
    with pytest.raises(PrunebenchError, match=says):
        Heads().amount({"blocks": 1})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"dtype": "float3"}, "dtype 'float3': did you mean 'float32'? allowed: auto, bfloat16,"),
        ({"dtype": None}, "dtype None: allowed: auto"),
        ({"weights": "radnom"}, "weights 'radnom': allowed: random, or None"),
    ],
)
def test_words_that_load_model_does_not_know_are_told(given: dict[str, Any], said: str) -> None:
    """Not taken for a fault of the model, nor for the default."""
    with pytest.raises(PrunebenchError) as caught:
        prunebench.load_model("prunebench/reference", **given)

    assert str(caught.value).startswith(said)

"""Token windows: what a method may look at, and what perplexity is measured on."""

from __future__ import annotations

import random
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from . import texts
from .case import CalibrationSpec
from .errors import PrunebenchError
from .models import CausalLM

Unit = Literal["windows", "lines"]


class Calibration:
    """The calibration tokens of one case, drawn when first asked for.

    Args:
        spec: data set, number, length and seed.
        lm: the model whose tokenizer cuts the text.
    """

    def __init__(self, spec: CalibrationSpec, lm: CausalLM) -> None:
        self.spec = spec
        self._lm = lm
        self._drawn: dict[Unit, Tensor] = {}

    @classmethod
    def of_ids(cls, ids: Tensor, lm: CausalLM) -> Calibration:
        """Calibration on given token windows, (windows, length), whatever unit is asked for."""
        check_ids(ids, lm)
        spec = CalibrationSpec(dataset="ids", nsamples=len(ids), seqlen=ids.shape[1])
        calibration = cls(spec, lm)
        calibration._drawn = {"windows": ids, "lines": ids}
        return calibration

    def windows(self, unit: Unit = "windows") -> Tensor:
        """Token ids, (windows, seqlen).

        *windows* are *nsamples* random windows of the whole text. *lines* are SLEB's released
        draw: *nsamples* shuffled documents, joined, tokenised once and cut without overlap. Of the
        data set ``random``, both are ids drawn evenly from the vocabulary by the seed.
        """
        if unit not in self._drawn:
            if self.spec.dataset == texts.RANDOM:
                self._drawn["windows"] = self._drawn["lines"] = _random_ids(self.spec, self._lm)
            else:
                draw = _lines if unit == "lines" else _windows
                self._drawn[unit] = draw(self.spec, self._lm.require_tokenizer())
            check_ids(self._drawn[unit], self._lm)
        return self._drawn[unit]

    @property
    def tokens(self) -> int:
        """How many tokens were drawn so far."""
        return sum(ids.numel() for ids in {id(t): t for t in self._drawn.values()}.values())


def evaluation_windows(dataset: str, lm: CausalLM, seqlen: int, nsamples: int | None) -> Tensor:
    """The text cut into windows without overlap, tail dropped: (windows, seqlen)."""
    tokenizer = lm.require_tokenizer()
    tokens = tokenise(texts.joined(dataset, "evaluation"), tokenizer)
    windows = cut(tokens, seqlen)[:nsamples]
    if not len(windows):
        raise PrunebenchError(
            f"dataset {dataset!r} has {len(tokens)} tokens, fewer than one window of {seqlen}"
        )
    check_ids(windows, lm)
    return windows


def tokenise(text: str, tokenizer: Any) -> Tensor:
    """*text* tokenised once, with the tokenizer's own special tokens: (tokens,)."""
    # A whole corpus is longer than any context, which is what windows are for: no warning.
    ids = tokenizer(text, verbose=False)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def cut(tokens: Tensor, seqlen: int) -> Tensor:
    """Windows without overlap, tail dropped: (tokens,) -> (windows, seqlen)."""
    count = len(tokens) // seqlen
    return tokens[: count * seqlen].view(count, seqlen)


def check_ids(ids: Tensor, lm: CausalLM) -> None:
    """Refuse windows that the model cannot take.

    Raises:
        PrunebenchError: if they are longer than the context or outside the vocabulary.
    """
    limit = lm.max_length
    if limit is not None and ids.shape[1] > limit:
        raise PrunebenchError(f"windows of {ids.shape[1]} tokens, but the context holds {limit}")
    vocabulary = lm.hf.get_input_embeddings().num_embeddings
    if ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocabulary:
        worst = int(ids.max()) if int(ids.max()) >= vocabulary else int(ids.min())
        raise PrunebenchError(f"token id {worst}, but the vocabulary has 0 to {vocabulary - 1}")


def _random_ids(spec: CalibrationSpec, lm: CausalLM) -> Tensor:
    vocabulary = lm.hf.get_input_embeddings().num_embeddings
    generator = torch.Generator().manual_seed(spec.seed)
    return torch.randint(vocabulary, (spec.nsamples, spec.seqlen), generator=generator)


def _windows(spec: CalibrationSpec, tokenizer: Any) -> Tensor:
    tokens = tokenise(texts.joined(spec.dataset, "calibration"), tokenizer)
    last = len(tokens) - spec.seqlen
    if last < 0:
        raise PrunebenchError(
            f"dataset {spec.dataset!r} has {len(tokens)} tokens, fewer than one of {spec.seqlen}"
        )
    rng = random.Random(spec.seed)
    starts = [rng.randint(0, last) for _ in range(spec.nsamples)]
    return torch.stack([tokens[s : s + spec.seqlen] for s in starts])


def _lines(spec: CalibrationSpec, tokenizer: Any) -> Tensor:
    rows = texts.documents(spec.dataset, "calibration")
    order = np.random.default_rng(spec.seed).permutation(len(rows))[: spec.nsamples]
    join = texts.JOINS.get(spec.dataset, "\n\n")
    windows = cut(tokenise(join.join(rows[i] for i in order), tokenizer), spec.seqlen)
    if not len(windows):
        raise PrunebenchError(
            f"{spec.nsamples} lines of {spec.dataset!r} are fewer than one window of {spec.seqlen}"
        )
    return windows

"""Token windows: for calibration, and for perplexity."""

from __future__ import annotations

import random
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..data import datasets
from ..errors import PrunebenchError
from ..specs import CalibrationSpec
from .causal_lm import CausalLM

Unit = Literal["windows", "lines"]

#: Where a beginning-of-sequence token is put: where the tokenizer puts one, at the start of the
#: whole text, before every window, or nowhere.
Bos = Literal["tokenizer", "stream", "window", "none"]


class Calibration:
    """The calibration tokens of one case, drawn on first use.

    Args:
        spec: data set, number, length and seed.
        lm: the model whose tokenizer is used.
    """

    def __init__(self, spec: CalibrationSpec, lm: CausalLM) -> None:
        self.spec = spec
        self._lm = lm
        self._drawn: dict[Unit, Tensor] = {}

    @classmethod
    def of_ids(cls, ids: Tensor, lm: CausalLM) -> Calibration:
        """Calibration on given token windows, (windows, length), the same for every unit."""
        check_ids(ids, lm)
        spec = CalibrationSpec(dataset="ids", nsamples=len(ids), seqlen=ids.shape[1])
        calibration = cls(spec, lm)
        calibration._drawn = {"windows": ids, "lines": ids}
        return calibration

    def windows(self, unit: Unit = "windows") -> Tensor:
        """Token ids, (windows, seqlen).

        *windows* are *nsamples* random windows of the whole text. *lines* follow SLEB's released
        code: *nsamples* shuffled documents, joined, tokenised once and cut without overlap. For the
        data set ``random``, both are ids drawn uniformly from the vocabulary with the seed.
        """
        if unit not in self._drawn:
            if self.spec.dataset == datasets.RANDOM:
                self._drawn["windows"] = self._drawn["lines"] = _random_ids(self.spec, self._lm)
            else:
                draw = _lines if unit == "lines" else _windows
                self._drawn[unit] = draw(self.spec, self._lm.require_tokenizer())
            check_ids(self._drawn[unit], self._lm)
        return self._drawn[unit]

    @property
    def tokens(self) -> int:
        """The number of tokens drawn so far."""
        return sum(ids.numel() for ids in {id(t): t for t in self._drawn.values()}.values())


def evaluation_windows(
    dataset: str,
    lm: CausalLM,
    seqlen: int,
    nsamples: int | None,
    *,
    bos: Bos = "tokenizer",
    join: str | None = None,
    whole_batches: int = 1,
) -> Tensor:
    """The text joined, tokenised once, and cut into windows without overlap, tail dropped.

    Args:
        dataset: a named text or a file.
        lm: the model whose tokenizer is used.
        seqlen: tokens of the text per window.
        nsamples: the most windows.
        bos: where a beginning-of-sequence token is put; before a window it makes it one longer.
        join: the separator of documents, instead of the usual one of the text.
        whole_batches: a batch size; windows that do not fill a batch are dropped.

    Returns:
        Token ids, (windows, seqlen), or (windows, seqlen + 1) with a BOS before every window.

    Raises:
        PrunebenchError: if the text is missing or too short, or the tokenizer has no BOS.
    """
    tokenizer = lm.require_tokenizer()
    bare = bos != "tokenizer"
    tokens = _stream(dataset, datasets.fingerprint(dataset), "evaluation", join, bare, tokenizer)
    if bos == "stream":
        tokens = torch.cat([_bos(tokenizer), tokens])
    windows = cut(tokens, seqlen)[:nsamples]
    windows = windows[: len(windows) // whole_batches * whole_batches]
    if not len(windows):
        least = f"{whole_batches} windows" if whole_batches > 1 else "one window"
        raise PrunebenchError(
            f"dataset {dataset!r} has {len(tokens)} tokens, fewer than {least} of {seqlen}"
        )
    if bos == "window":
        windows = torch.cat([_bos(tokenizer).expand(len(windows), 1), windows], 1)
    check_ids(windows, lm)
    return windows


@lru_cache(maxsize=8)
def _stream(
    dataset: str,
    fingerprint: str,
    purpose: datasets.Purpose,
    join: str | None,
    bare: bool,
    tokenizer: Any,
) -> Tensor:
    del fingerprint  # of the content: a file that was rewritten is read again
    return tokenise(datasets.joined(dataset, purpose, join), tokenizer, special=not bare)


def _bos(tokenizer: Any) -> Tensor:
    if tokenizer.bos_token_id is None:
        raise PrunebenchError("bos: the tokenizer has no beginning-of-sequence token")
    return torch.tensor([tokenizer.bos_token_id])


def tokenise(text: str, tokenizer: Any, *, special: bool = True) -> Tensor:
    """*text* tokenised once: (tokens,).

    Args:
        text: any length.
        tokenizer: of transformers.
        special: with the tokenizer's own special tokens.
    """
    # Without the warning that a corpus is longer than the context: it is cut into windows.
    ids = tokenizer(text, verbose=False, add_special_tokens=special)["input_ids"]
    return torch.tensor(ids, dtype=torch.long)


def cut(tokens: Tensor, seqlen: int) -> Tensor:
    """Windows without overlap, tail dropped: (tokens,) -> (windows, seqlen)."""
    count = len(tokens) // seqlen
    return tokens[: count * seqlen].view(count, seqlen)


def check_ids(ids: Tensor, lm: CausalLM) -> None:
    """Refuse windows that the model cannot read.

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
    name = spec.dataset
    tokens = _stream(name, datasets.fingerprint(name), "calibration", spec.join, False, tokenizer)
    last = len(tokens) - spec.seqlen
    if last < 0:
        raise PrunebenchError(
            f"dataset {spec.dataset!r} has {len(tokens)} tokens, fewer than one of {spec.seqlen}"
        )
    rng = random.Random(spec.seed)
    starts = [rng.randint(0, last) for _ in range(spec.nsamples)]
    return torch.stack([tokens[s : s + spec.seqlen] for s in starts])


def _lines(spec: CalibrationSpec, tokenizer: Any) -> Tensor:
    def shuffled(count: int) -> list[int]:
        order = np.random.default_rng(spec.seed).permutation(count)[: spec.nsamples]
        return [int(i) for i in order]

    rows = datasets.documents(spec.dataset, "calibration", shuffled)
    join = datasets.joint(spec.dataset) if spec.join is None else spec.join
    windows = cut(tokenise(join.join(rows), tokenizer), spec.seqlen)
    if not len(windows):
        raise PrunebenchError(
            f"{spec.nsamples} lines of {spec.dataset!r} are fewer than one window of {spec.seqlen}"
        )
    return windows

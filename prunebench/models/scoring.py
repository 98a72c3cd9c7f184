"""A fast exact scorer: an lm-eval model that runs shared prefixes only once.

Encoding, rolling windows, chat templates and generation are lm-eval's own (``HFLM``); only the
computation of log-likelihoods is ours. lm-eval runs the context of a question once per choice and
computes logits of every token; here all choices of a question share one context, as the branches of
a tree (see ``packing``), and the head is applied to scored tokens only.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from torch import Tensor
from torch.nn.functional import log_softmax

from ..errors import PrunebenchError, PrunebenchWarning
from ..progress import say
from ..resume import once
from .causal_lm import CausalLM, halving
from .packing import Pack, Request, pack

#: Tokens per forward, padding included: enough to use a device fully, few enough for its cache.
BATCH_TOKENS = {"cpu": 1024, "cuda": 16384}

#: Logits per forward: 2^28 are a gibibyte in float32.
BATCH_LOGITS = 2**28

#: The largest difference between log-likelihoods of packed and of plain rows.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-4}

Encoded = tuple[tuple[str, str], list[int], list[int]]


class Scorer(HFLM):  # type: ignore[misc]  # lm-eval is untyped
    """An lm-eval ``LM`` over a model in memory, with the same answers as ``HFLM``.

    The same means: in float32 every log-likelihood within 1e-4 and every greedy answer the same; in
    half precision the log-softmax is still computed in float32, where HFLM rounds it. Scores do not
    depend on *batch_size* beyond rounding.

    Args:
        lm: the model and its tokenizer.
        batch_size: the most rows per forward; a row is a question with all its choices. When
            memory runs out a batch is halved, which changes no score.
        max_length: context length, by default the model's own.
        packed: whether choices share one context; by default if the model supports the mask.
        **options: further options of ``HFLM``: ``add_bos_token``, ``prefix_token_id``,
            ``chat_template_args``, ``softmax_dtype`` and so on.

    Raises:
        PrunebenchError: if the model has no tokenizer.
    """

    def __init__(
        self,
        lm: CausalLM,
        batch_size: int = 64,
        max_length: int | None = None,
        *,
        packed: bool | None = None,
        **options: Any,
    ) -> None:
        if lm.tokenizer is None:
            raise PrunebenchError("the model has no tokenizer, which tasks need")
        logger = logging.getLogger("lm_eval.models.huggingface")
        level, logger.level = logger.level, logging.ERROR  # it warns about models in memory
        try:
            super().__init__(
                pretrained=lm.hf,
                tokenizer=lm.tokenizer,
                batch_size=batch_size,
                max_length=max_length,
                **options,
            )
        finally:
            logger.level = level
        self.lm = lm
        # For an offloaded model HFLM would use the device of the first part, which may be "meta".
        self._device = lm.device
        self._packed = packed
        self._encodings: dict[str, list[int]] = {}

    # ---------------------------------------------------------------- encoding

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """Log-likelihood and greediness of each ``(context, continuation)``."""
        self._encodings = self._encoded(requests)
        try:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)  # type: ignore[no-any-return]
        finally:
            self._encodings = {}

    def tok_encode(
        self,
        string: str,
        add_special_tokens: bool | None = None,
        left_truncate_len: int | None = None,
        **kwargs: Any,
    ) -> list[int]:
        """lm-eval's encoding, looked up among those made in one call where that is the same."""
        if add_special_tokens is None and left_truncate_len is None and string in self._encodings:
            return self._encodings[string]
        return super().tok_encode(  # type: ignore[no-any-return]
            string, add_special_tokens, left_truncate_len=left_truncate_len, **kwargs
        )

    def _encoded(self, requests: Any) -> dict[str, list[int]]:
        """The strings that lm-eval would encode one by one, encoded in one call."""
        texts: dict[str, None] = {}
        for request in requests:
            context, continuation = request.args
            if context:
                texts[context.rstrip()] = None
                texts[context + continuation] = None
        prefix = self.tokenizer.decode(self.prefix_token_id)
        # lm-eval adds no second BOS to a text that begins with one; such texts are left to it.
        plain = [text for text in texts if text and not text.startswith(prefix)]
        if not plain or not self.tokenizer.is_fast:
            return {}
        given = self.add_bos_token
        special = {} if given is None else {"add_special_tokens": given}
        return dict(zip(plain, self.tokenizer(plain, **special)["input_ids"], strict=True))

    # ----------------------------------------------------------------- scoring

    def _loglikelihood_tokens(
        self,
        requests: Sequence[Encoded],
        disable_tqdm: bool = False,  # noqa: ARG002  # progress is reported with say()
        override_bs: int | None = None,
        **rest: Any,  # noqa: ARG002
    ) -> list[tuple[float, bool]]:
        """Scores of encoded requests, in their order.

        Raises:
            PrunebenchError: if a continuation has no tokens, or more than the context length.
        """
        asked = [self._request(*request) for request in requests]
        self._warn_of_cuts(requests)
        rows = override_bs or self.batch_size
        answers: dict[int, tuple[float, bool]] = {}
        batches = list(self._batches(asked, rows if isinstance(rows, int) else 64))
        for batch in batches:
            say(f"answer {len(answers)} of {len(asked)}")
            given = partial(_given, batch, asked)
            score = partial(halving, partial(self._answers, asked=asked), batch)
            for i, value, greedy in once([self.lm], given, score, len(batches)):
                answers[i] = (value, greedy)
        for i, (text, _, _) in enumerate(requests):
            if text is not None:
                self.cache_hook.add_partial("loglikelihood", text, answers[i])
        return [answers[i] for i in range(len(asked))]

    def _request(self, text: Any, context: list[int], continuation: list[int]) -> Request:
        longest = self.max_length
        if not continuation:
            raise PrunebenchError(f"the choice {text[1]!r} adds no token to its context")
        if len(continuation) > longest:
            raise PrunebenchError(
                f"a continuation of {len(continuation)} tokens, but the context holds {longest}"
            )
        return Request((context + continuation)[-(longest + 1) :], len(continuation))

    def _warn_of_cuts(self, requests: Sequence[Encoded]) -> None:
        lengths = [len(context) + len(continuation) - 1 for _, context, continuation in requests]
        longer = [length for length in lengths if length > self.max_length]
        if longer:
            warnings.warn(
                f"{len(longer)} of {len(lengths)} requests, of up to {max(longer)} tokens, are cut "
                f"from the left to the {self.max_length} that the model holds, as lm-eval does",
                PrunebenchWarning,
                stacklevel=2,
            )

    def _batches(self, asked: Sequence[Request], rows: int) -> Iterator[list[Pack]]:
        config = self.lm.hf.config
        windows = (getattr(config, n, None) for n in ("sliding_window", "attention_chunk_size"))
        window = min((w for w in windows if w), default=None)
        # With a sliding window the model itself has to build the masks of its layers.
        slides = window is not None and any(len(r.tokens) > window for r in asked)
        share = not slides and self.packs
        most_tokens = BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cuda"])
        most_reads = max(1, BATCH_LOGITS // self.lm.hf.get_input_embeddings().num_embeddings)
        batch: list[Pack] = []
        reads = 0
        for row in pack(asked, share=share):
            new = sum(len(places) for _, places in row.reads)
            width = len(batch[0].tokens) if batch else 0  # the longest is first
            full = len(batch) >= rows or (len(batch) + 1) * width > most_tokens
            if batch and (full or reads + new > most_reads):
                yield batch
                batch, reads = [], 0
            batch.append(row)
            reads += new
        if batch:
            yield batch

    def _answers(
        self, packs: Sequence[Pack], asked: Sequence[Request]
    ) -> list[tuple[int, float, bool]]:
        """Request number, log-likelihood and greediness of all requests in *packs*."""
        return [(i, *answer) for i, answer in self._scores(packs, asked).items()]

    def _scores(
        self, packs: Sequence[Pack], asked: Sequence[Request]
    ) -> dict[int, tuple[float, bool]]:
        """Request number to log-likelihood and greediness, from one forward."""
        width = max(len(p.tokens) for p in packs)
        places = [row * width + at for row, p in enumerate(packs) for _, r in p.reads for at in r]
        wanted = [i for p in packs for i, _ in p.reads]
        targets = [t for i in wanted for t in asked[i].tokens[-asked[i].scored :]]
        all_places = torch.tensor(places, device=self.device)
        read, which = torch.unique(all_places, return_inverse=True)
        logits = self._logits(packs, width, read)
        gold = torch.tensor(targets, device=self.device)
        # Like HFLM, but never in half precision, where rounding makes different answers equal.
        chosen = log_softmax(logits, -1, dtype=self.softmax_dtype or torch.float32)[which, gold]
        greedy = (logits.argmax(-1)[which] == gold).tolist()
        values = chosen.double().tolist()
        answers = {}
        start = 0
        for i in wanted:
            stop = start + asked[i].scored
            answers[i] = (sum(values[start:stop]), all(greedy[start:stop]))
            start = stop
        return answers

    @torch.no_grad()
    def _logits(self, packs: Sequence[Pack], width: int, read: Tensor) -> Tensor:
        """Logits at positions *read* of the flattened batch: (len(read), vocabulary)."""
        ids, depth, end = (
            torch.tensor([p + fill * (width - len(p)) for p in rows], device=self.device)
            for rows, fill in (
                ([p.tokens for p in packs], [0]),
                ([p.depth for p in packs], [0]),
                ([p.end for p in packs], [width]),
            )
        )
        inputs: dict[str, Tensor] = {}
        if not all(p.is_chain for p in packs):
            inputs = {"position_ids": depth, "attention_mask": tree_mask(end, self.lm.hf.dtype)}
        with _only(self.lm.hf, read):
            logits: Tensor = self.lm.hf(ids, use_cache=False, **inputs).logits
        flat = logits.flatten(0, 1).to(self.device)
        return flat if len(flat) == len(read) else flat[read]

    @property
    def packs(self) -> bool:
        """Whether the model gives the same scores under a tree mask; tested once, on 10 tokens.

        Not for a model that ignores the mask, or whose layers pass a state from token to token.
        """
        if self._packed is None:
            self._packed = self._takes_trees()
            if not self._packed:
                warnings.warn(
                    f"{type(self.lm.hf).__name__} does not support a tree mask: every choice is "
                    "run with its own context, which is slower and gives the same scores",
                    PrunebenchWarning,
                    stacklevel=2,
                )
        return self._packed

    def _takes_trees(self) -> bool:
        vocabulary = self.lm.hf.get_input_embeddings().num_embeddings
        stem = [(7 * i + 3) % vocabulary for i in range(4)]
        choices = ([(11 * i + j + 1) % vocabulary for i in range(3)] for j in range(3))
        asked = [Request([*stem, *choice], 3) for choice in choices]
        try:
            together = self._scores(pack(asked), asked)
        except (RuntimeError, ValueError, TypeError, KeyError, AttributeError, NotImplementedError):
            return False
        alone = self._scores(pack(asked, share=False), asked)
        apart = max(abs(together[i][0] - alone[i][0]) for i in alone)
        return apart <= TOLERANCE.get(self.lm.hf.dtype, 0.1)

    # -------------------------------------------------------------- generation

    def _model_generate(
        self, context: Tensor, max_length: int, stop: list[str], **options: Any
    ) -> Tensor:
        mask = options.pop("attention_mask")
        width = context.shape[1]

        def run(rows: Tensor) -> list[list[int]]:
            out = super(Scorer, self)._model_generate(
                context[rows], max_length, stop, attention_mask=mask[rows], **options
            )
            written: list[list[int]] = out[:, width:].tolist()
            return written

        def given() -> object:
            return (context.tolist(), mask.tolist(), max_length, stop, sorted(options.items()))

        generate = partial(halving, run, torch.arange(len(context), device=context.device))
        # A sampled answer depends on all that were sampled before it, so it is not stored.
        rows = generate() if options.get("do_sample") else once([self.lm], given, generate)
        longest = max(map(len, rows))
        padded = [row + [self.tokenizer.pad_token_id] * (longest - len(row)) for row in rows]
        return torch.cat([context, context.new_tensor(padded)], dim=1)


def _given(packs: Sequence[Pack], asked: Sequence[Request]) -> object:
    """Everything that the scores of *packs* depend on, except the model."""
    return [(*p, [asked[i].tokens[-asked[i].scored :] for i, _ in p.reads]) for p in packs]


def tree_mask(end: Tensor, dtype: torch.dtype) -> Tensor:
    """The additive attention mask under which a token sees only its own branch.

    Args:
        end: (rows, length); token i of a row is seen by tokens i to end[i] - 1.
        dtype: of the model.

    Returns:
        (rows, 1, length, length): zero where the query, the third axis, sees the key.
    """
    at = torch.arange(end.shape[1], device=end.device)
    sees = (at[:, None] >= at) & (at[None, :, None] < end[:, None, :])
    mask = torch.full(sees.shape, torch.finfo(dtype).min, dtype=dtype, device=end.device)
    return mask.masked_fill_(sees, 0)[:, None]


class _only:  # noqa: N801  # reads as a verb: with _only(model, places)
    """Within the block, the head is applied only at the given positions of the flattened batch."""

    def __init__(self, hf: Any, read: Tensor) -> None:
        self._head = hf.get_output_embeddings()
        self._read = read
        self._handle: Any = None

    def __enter__(self) -> None:
        if self._head is not None:
            self._handle = self._head.register_forward_pre_hook(self._pick)

    def _pick(self, _: Any, given: tuple[Tensor, ...]) -> tuple[Tensor]:
        hidden = given[0].flatten(0, 1)
        return (hidden[self._read.to(hidden.device)][None],)

    def __exit__(self, *_: object) -> None:
        if self._handle is not None:
            self._handle.remove()

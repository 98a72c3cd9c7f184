"""Loops and empty answers in generated text, which multiple choice does not show."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from msgspec import Meta

from ..api import Metric
from ..progress import say
from ..record import Direction, Measurement, Tolerance
from ..resume import once
from ..specs import Count

if TYPE_CHECKING:
    from torch import Tensor

    from ..models.causal_lm import CausalLM


class Repetition(Metric, frozen=True, tag="repetition"):
    """Greedy continuations of *nsamples* prompts: the share that repeats, the share that is empty.

    ``repetition/ngrams`` is one minus the share of distinct *n*-grams of tokens in a continuation,
    mean over prompts (seq-rep-n; Welleck et al., arXiv:1908.04319, section 6). An answer shorter
    than *n* tokens repeats nothing. ``repetition/empty`` is the fraction of answers of white space
    only. Prompts are the beginnings of the windows that perplexity is measured on. Dense models
    loop too when decoded greedily: the change is what matters.
    """

    unit: ClassVar[str] = "of n-grams"
    better: ClassVar[Direction] = "lower"
    tolerance: ClassVar[Tolerance] = Tolerance(abs=0.05)

    dataset: str
    prompt_tokens: Annotated[int, Meta(ge=1)] = 32
    new_tokens: Annotated[int, Meta(ge=2)] = 128
    nsamples: Count = 32
    n: Annotated[int, Meta(ge=1)] = 4
    bos: Literal["tokenizer", "stream", "window", "none"] = "tokenizer"
    join: str | None = None
    batch_size: Count = 16

    def measure(self, lm: CausalLM, dense: CausalLM) -> Iterator[Measurement]:  # noqa: ARG002
        """``repetition/ngrams`` and ``repetition/empty``."""
        from ..models.calibration import check_ids, evaluation_windows
        from ..models.causal_lm import batches, halving

        total = self.prompt_tokens + self.new_tokens
        windows = evaluation_windows(
            self.dataset, lm, total, self.nsamples, bos=self.bos, join=self.join
        )
        check_ids(windows, lm)
        prompts = windows[:, : windows.shape[1] - self.new_tokens]
        written: list[list[int]] = []
        parts = batches(prompts, self.batch_size)
        write = partial(_continuations, lm, new_tokens=self.new_tokens)
        for part in parts:
            say(f"prompt {len(written)} of {len(prompts)}")
            written += once([lm], part.tolist, partial(halving, write, part), len(parts))
        loops = [repeated(ids, self.n) for ids in written]
        empty = [
            float(not lm.tokenizer.decode(ids, skip_special_tokens=True).strip()) for ids in written
        ]
        yield self.measured("ngrams", sum(loops) / len(loops), loops)
        share = sum(empty) / len(empty)
        yield Measurement("repetition/empty", share, "of answers", "lower", tuple(empty), True)


def repeated(ids: Sequence[int], n: int) -> float:
    """One minus the share of distinct *n*-grams; 0 where there is none."""
    grams = [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else 0.0


def _continuations(lm: CausalLM, prompts: Tensor, new_tokens: int) -> list[list[int]]:
    """The tokens generated after each prompt, up to the end of text: (prompts, length) -> ids."""
    import torch

    end = lm.tokenizer.eos_token_id
    ids = prompts.to(lm.device)
    with torch.no_grad():
        out = lm.hf.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=new_tokens,
            do_sample=False,
            num_beams=1,
            repetition_penalty=1.0,  # that of a generation config would hide loops
            no_repeat_ngram_size=0,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=end,
            pad_token_id=end if lm.tokenizer.pad_token_id is None else lm.tokenizer.pad_token_id,
        )
    answers = out[:, ids.shape[1] :].tolist()
    return [a[: a.index(end)] if end in a else a for a in answers]

"""The model card of a pruned checkpoint as Markdown. Pure text from data.

Everything that comes from files is shown inert: no markup, no link, no mention of anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..errors import inert
from ..reports.formats.markdown import code, fenced
from . import card_metadata
from .card import Card

#: What Markdown or the hub would act on: anywhere, and at the start of a line.
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$@&]|:(?=//)|(?<=www)\.)")
_LEADING = re.compile(r"^([-+=]|\d+(?=[.)](?:\s|$)))")


def plain(text: object) -> str:
    """*text* from outside as one line of Markdown that shows exactly its letters."""
    line = _SPECIAL.sub(r"\\\1", inert(str(text)).strip())
    return _LEADING.sub(_unlisted, line)


def _unlisted(found: re.Match[str]) -> str:
    """What would begin a list, as text: of a number it is the dot that can be escaped."""
    start = found[0]
    return f"\\{start}" if start in "-+=" else f"{start}\\"


def render(card: Card) -> str:
    """The README.md: metadata that the hub reads, then what a person does."""
    import yaml

    case = yaml.safe_dump(dict(card.case), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{card_metadata.metadata(card).to_yaml()}\n---",
        f"# {plain(card.title)}",
        _intro(card),
        "## What was removed",
        "\n".join(f"- {plain(edit.words())}" for edit in card.plan),
        f"{card.parameters:,} of {card.dense_parameters:,} parameters are left, tied ones counted "
        f"once: an achieved sparsity of {card.sparsity:.2%}.",
        *_numbers(card),
        "## How to reload it",
        *_reload(card),
        "## How to make it again",
        "The question, as a case file asks it:",
        fenced(case.rstrip(), "yaml"),
        fenced(f"pip install prunebench\n{inert(card.command)}", "sh"),
    ]
    if card.facts:
        parts += ["## Provenance", "\n".join(f"- {plain(fact)}" for fact in card.facts)]
    return "\n\n".join(parts) + "\n"


def _intro(card: Card) -> str:
    base = card.base
    shown = f"[{plain(base.hub_id)}](https://huggingface.co/{base.hub_id})"
    of = shown if base.hub_id else code(base.shown, cell=False)
    at = f" at revision {code(base.revision, cell=False)}" if base.revision else ""
    by = code(card.method, cell=False)
    text = f"{of}{at}, structurally pruned by {by} with prunebench."
    if licence := base.licence:
        known = licence.get("license_name") or licence.get("license") or ""
        return f"{text} It carries the licence of the dense model: {plain(known)}."
    return f"{text} The licence of the dense model is not known here; look it up before sharing."


def _numbers(card: Card) -> Iterator[str]:
    yield "## Measured"
    if not card.scores:
        yield "Nothing was measured when this checkpoint was made."
        return
    rows = []
    for score in card.scores:
        half = f" ± {score.half}" if score.half else ""
        rows.append(
            [code(score.metric), plain(score.dense), plain(score.pruned) + half, score.over]
        )
    yield table(["metric", "dense", "this model", "over"], rows)
    yield " ".join(plain(line if line.endswith(".") else f"{line}.") for line in card.about)
    if card.papers:
        yield "Published, by the same protocol:"
        papers = [[code(p.metric), p.theirs, plain(p.ours), plain(p.source)] for p in card.papers]
        yield table(["metric", "published", "this model", "source"], papers)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; its cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _reload(card: Card) -> Iterator[str]:
    trust = ", trust_remote_code=True" if card.code else ""
    yield fenced(
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'name = "FOLDER-OR-HUB-ID"  # this repository\n'
        f'model = AutoModelForCausalLM.from_pretrained(name, dtype="auto"{trust})\n'
        "tokenizer = AutoTokenizer.from_pretrained(name)",
        "python",
    )
    if card.code:
        yield (
            "Plain classes cannot express this shape, so the repository carries the small file "
            "`modeling_prunebench.py`, which `trust_remote_code=True` runs. "
            "`prunebench.load_model(name)` reloads it with its own copy and runs no code from here."
        )
    else:
        yield "Plain transformers classes load it; no code of ours is needed."

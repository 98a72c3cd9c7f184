"""The model card of a pruned checkpoint as Markdown. Pure text from data.

Everything that comes from files is shown inert: no markup, no link, no mention of anybody.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from ..errors import inert
from ..plan import Edit
from . import card_metadata
from .card import Base, Card, Score

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


def code(text: object) -> str:
    """*text* as a code span."""
    line = inert(str(text)) or " "
    ticks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    room = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{ticks}{room}{line}{room}{ticks}"


def cell(text: object) -> str:
    """*text* as a code span in a table, where a bar ends a cell even in code."""
    return code(text).replace("|", "\\|")


def fence(text: str, language: str = "") -> str:
    """*text* as a block of code that nothing in it can end."""
    ticks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{ticks}{language}\n{text.rstrip()}\n{ticks}"


def render(card: Card) -> str:
    """The README.md: metadata that the hub reads, then what a person does."""
    import yaml

    case = yaml.safe_dump(dict(card.case), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{card_metadata.metadata(card).to_yaml()}\n---",
        f"# {plain(card.title)}",
        _intro(card),
        "## What was removed",
        "\n".join(f"- {line}" for line in in_words(card.plan)),
        f"{card.parameters:,} of {card.dense_parameters:,} parameters are left, tied ones counted "
        f"once: an achieved sparsity of {card.sparsity:.2%}.",
        *_numbers(card),
        "## How to reload it",
        *_reload(card),
        "## How to make it again",
        "The question, as a case file asks it:",
        fence(case, "yaml"),
        fence(f"pip install prunebench\n{inert(card.command)}", "sh"),
    ]
    if card.facts:
        parts += ["## Provenance", "\n".join(f"- {plain(fact)}" for fact in card.facts)]
    return "\n\n".join(parts) + "\n"


def _intro(card: Card) -> str:
    base = card.base
    shown = f"[{plain(base.hub_id)}](https://huggingface.co/{base.hub_id})"
    of = shown if base.hub_id else code(base.shown)
    at = f" at revision {code(base.revision)}" if base.revision else ""
    text = f"{of}{at}, structurally pruned by {code(card.method)} with prunebench."
    if base.licence:
        return f"{text} It carries the licence of the dense model: {plain(_licence(base))}."
    return f"{text} The licence of the dense model is not known here; look it up before sharing."


def _licence(base: Base) -> str:
    given = base.licence
    return given.get("license_name") or given.get("license") or ""


def in_words(plan: Sequence[Edit]) -> Iterator[str]:
    """What each edit did, as Markdown for a reader who does not know the edits; from 0."""
    return (plain(edit.words()) for edit in plan)


def _numbers(card: Card) -> Iterator[str]:
    yield "## Measured"
    if not card.scores:
        yield "Nothing was measured when this checkpoint was made."
        return
    rows = [
        [cell(s.metric), plain(s.dense), plain(s.pruned) + _half(s), s.over] for s in card.scores
    ]
    yield table(["metric", "dense", "this model", "over"], rows)
    yield " ".join(plain(line if line.endswith(".") else f"{line}.") for line in card.about)
    if card.papers:
        yield "Published, by the same protocol:"
        papers = [[cell(p.metric), p.theirs, plain(p.ours), plain(p.source)] for p in card.papers]
        yield table(["metric", "published", "this model", "source"], papers)


def _half(score: Score) -> str:
    return f" ± {score.half}" if score.half else ""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; its cells are Markdown already."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _reload(card: Card) -> Iterator[str]:
    trust = ", trust_remote_code=True" if card.code else ""
    yield fence(
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

"""Writes everything of the reference model that is generated and not trained.

`python -m bench.reference.build` writes the text splits, the task files' questions and, with
`--tokenizer DIR`, the tokenizer. The outcome is the same every time.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from prunebench import reference

from . import world

#: How many documents each shipped split has.
COUNTS: dict[str, int] = {"validation": 400, "test": 1000, "calibration": 1000}
#: How many questions each task has.
QUESTIONS: dict[str, int] = {
    "agreement": 600,
    "recall": 600,
    "facts": 602,
    "order": 600,
    "complete": 600,
}
#: The seed of the shipped splits and questions.
SEED = 0
#: The longest text that the model has positions for.
POSITIONS = 512
#: The special words, in the order of their ids.
SPECIAL = ("<unk>", "<pad>", "<bos>", "\n")


def split_text(split: str) -> str:
    """Generates the file of a split: one document per line."""
    return "".join(f"{text}\n" for text in world.documents(split, COUNTS[split], SEED))


def task_lines(task: str, count: int) -> list[str]:
    """Generates the first lines of a task's file: one question as JSON per line."""
    lines = []
    for question in world.questions(task, count, SEED):
        record: dict[str, object] = {"prompt": question.prompt, "answer": question.answer}
        if question.choices:
            record |= {"choices": question.choices, "gold": question.gold}
        lines.append(json.dumps(record | {"kind": question.kind}))
    return lines


def write_tokenizer(folder: Path) -> None:
    """Writes a word-level tokenizer over the vocabulary, as an ordinary fast tokenizer."""
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: index for index, word in enumerate((*SPECIAL, *world.VOCABULARY))}
    unknown, padding, beginning, end = SPECIAL
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=unknown))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    inner.add_special_tokens([AddedToken(word, normalized=False) for word in SPECIAL])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        unk_token=unknown,
        pad_token=padding,
        bos_token=beginning,
        eos_token=end,
        model_max_length=POSITIONS,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.save_pretrained(folder)


def write_all(folder: Path) -> None:
    """Writes the splits to `data` and the questions to `tasks` below a folder."""
    for split in COUNTS:
        path = folder / "data" / f"{split}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(split_text(split), encoding="utf-8")
    for task, count in QUESTIONS.items():
        path = folder / "tasks" / f"tinyworld_{task}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("\n".join(task_lines(task, count)) + "\n", encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Writes the generated files, by default over the shipped ones."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--output", type=Path, default=reference.MODEL.parent)
    parser.add_argument("--tokenizer", type=Path, help="also write the tokenizer to this folder")
    options = parser.parse_args(arguments)
    write_all(options.output)
    if options.tokenizer:
        write_tokenizer(options.tokenizer)


if __name__ == "__main__":
    main()

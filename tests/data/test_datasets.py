"""Named texts: which rows of which repository, how they are joined, and where a BOS goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from prunebench import CausalLM, PrunebenchError
from prunebench.data import datasets as texts
from prunebench.metrics.perplexity import Perplexity
from prunebench.models.calibration import evaluation_windows


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """The hub's side of load_dataset: what was asked for, and a few numbered rows."""
    asked: list[dict[str, Any]] = []

    def load_dataset(**arguments: Any) -> Any:
        asked.append(arguments)
        column = "sentence" if "ptb" in arguments["path"] else "text"
        rows = [f"row {i}" for i in range(1200)]
        return datasets.Dataset.from_dict({column: rows, "other": rows})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    return asked


@pytest.mark.parametrize(
    ("name", "purpose", "expected", "start"),
    [
        (
            "wikitext2",
            "evaluation",
            {"path": "Salesforce/wikitext", "name": "wikitext-2-raw-v1", "split": "test"},
            "row 0\n\nrow 1\n\n",
        ),
        (
            "c4",
            "evaluation",
            {
                "path": "allenai/c4",
                "split": "validation",
                "data_files": {"validation": "en/c4-validation.00000-of-00008.json.gz"},
            },
            "row 0 row 1 ",
        ),
        (
            "c4",
            "calibration",
            {
                "path": "allenai/c4",
                "split": "train",
                "data_files": {"train": "en/c4-train.00000-of-01024.json.gz"},
            },
            "row 0 row 1 ",
        ),
        (
            "ptb",
            "evaluation",
            {
                "path": "ptb-text-only/ptb_text_only",
                "name": "penn_treebank",
                "split": "validation",
                "revision": "refs/convert/parquet",
            },
            "row 0\n\nrow 1\n\n",
        ),
    ],
)
def test_what_the_hub_is_asked_for(name, purpose, expected, start, hub) -> None:
    """The repositories, files and splits that the dossiers read in the authors' loaders."""
    text = texts.joined(name, purpose)

    assert hub == [expected]
    assert text.startswith(start)
    # SLEB reads the first 1,100 documents of C4's validation shard; of the others, all of these.
    last = 1100 if (name, purpose) == ("c4", "evaluation") else 1200
    assert text.endswith(f"row {last - 1}")


def test_a_shard_is_not_tokenised_whole_and_its_lines_come_from_anywhere(hub) -> None:
    """Windows are cut from the first documents, SLEB's lines are drawn from all of them."""
    from prunebench.data.datasets import HUB

    assert HUB["c4"].first == (20_000, 1_100)
    assert len(texts.documents("c4", "evaluation")) == 1_100
    assert texts.documents("c4", "calibration", lambda n: [n - 1, 3]) == ("row 1199", "row 3")


def test_lines_are_numpys_permutation(model) -> None:
    """The released draw: default_rng(seed).permutation over all rows, the first of them joined."""
    import numpy as np

    from prunebench.models.calibration import Calibration
    from prunebench.specs import CalibrationSpec

    lm, file = model
    rows = [f"{word} " * 3 for word in ("ab", "cd", "ef", "gh", "ij", "kl")]
    Path(file).write_text("\n".join(rows))
    spec = CalibrationSpec(dataset=file, nsamples=3, seqlen=10, seed=7, join=".")
    windows = Calibration(spec, lm).windows("lines")
    chosen = [rows[i] for i in np.random.default_rng(7).permutation(6)[:3]]

    expected = lm.tokenizer(".".join(chosen))["input_ids"]
    assert windows.flatten().tolist() == expected[: len(expected) // 10 * 10]


def test_a_text_that_is_not_there_is_one_line(monkeypatch) -> None:
    """The repository, the reason, the offline flag, and a way out; doubts are not hidden."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def load_dataset(**_: Any) -> Any:
        raise ConnectionError("Couldn't reach the Hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(PrunebenchError) as stop:
        texts.documents("ptb", "evaluation")

    assert "\n" not in str(stop.value)
    for part in ("'ptb' (ptb-text-only/ptb_text_only)", "Couldn't reach", "HF_HUB_OFFLINE=1",
                 "unverified: that the hub keeps", "dataset: ./file.txt"):  # fmt: skip
        assert part in str(stop.value)


def test_a_newline_between_lines_gives_a_file_as_it_stands(tmp_path: Path) -> None:
    """Blank lines and odd separators included: no line is invented or lost."""
    content = "one\n\ntwo\u2028still two\n \nthree"
    (tmp_path / "text.txt").write_text(content + "\n", encoding="utf-8")

    assert texts.joined(str(tmp_path / "text.txt"), "evaluation", "\n") == content


@pytest.fixture
def model(tiny, letters, tmp_path: Path) -> tuple[CausalLM, str]:
    """A tiny model whose tokenizer puts a BOS before a text, and a text of 50 letters."""
    lm = tiny("llama")
    lm.tokenizer = letters
    file = tmp_path / "text.txt"
    file.write_text("abcdefghij" * 5)
    return lm, str(file)


@pytest.mark.parametrize(
    ("bos", "first", "second"),
    [
        ("tokenizer", "<s>abcdefg", "hijabcde"),
        ("stream", "<s>abcdefg", "hijabcde"),
        ("none", "abcdefgh", "ijabcdef"),
        ("window", "<s>abcdefgh", "<s>ijabcdef"),
    ],
)
def test_where_a_bos_goes(bos, first, second, model) -> None:
    """Once at the start, before every window of the text, or nowhere."""
    lm, file = model
    windows = evaluation_windows(file, lm, 8, None, bos=bos)

    assert [lm.tokenizer.decode(w) for w in windows[:2]] == [first, second]


def test_a_stream_gets_a_bos_even_if_the_tokenizer_gives_none(model) -> None:
    """Which is how 'stream' differs from 'tokenizer'."""
    lm, file = model
    lm.tokenizer.add_bos_token = False
    windows = evaluation_windows(file, lm, 8, 1, bos="stream")

    assert windows[0, 0] == lm.tokenizer.bos_token_id


def test_an_incomplete_batch_is_dropped(model) -> None:
    """Of 51 tokens come six windows of 8, and of these one batch of four."""
    lm, file = model

    assert len(evaluation_windows(file, lm, 8, None)) == 6
    assert len(evaluation_windows(file, lm, 8, None, whole_batches=4)) == 4
    with pytest.raises(PrunebenchError, match="51 tokens, fewer than 7 windows of 8"):
        evaluation_windows(file, lm, 8, None, whole_batches=7)


def test_perplexity_with_a_bos_before_every_window_has_its_own_name(model) -> None:
    """And is that of the windows one by one."""
    lm, file = model
    (plain,) = Perplexity(dataset=file, seqlen=8).measure(lm, lm)
    (every,) = Perplexity(dataset=file, seqlen=8, bos="window").measure(lm, lm)
    window = torch.tensor([lm.tokenizer("ijabcdef")["input_ids"]])
    with torch.no_grad():
        logs = lm.hf(window).logits[0].log_softmax(-1)
    by_hand = -sum(logs[t, window[0, t + 1]].item() for t in range(8)) / 8

    assert (plain.metric, every.metric) == ("perplexity/text", "perplexity/text-bos")
    assert every.samples[1] == pytest.approx(by_hand, rel=1e-5)


def test_a_file_that_was_rewritten_is_read_again(model) -> None:
    """Windows are kept by content, not by name."""
    lm, file = model
    before = evaluation_windows(file, lm, 8, 1, bos="none")
    Path(file).write_text("zyxwvuts" * 4)

    assert lm.tokenizer.decode(before[0]) == "abcdefgh"
    assert lm.tokenizer.decode(evaluation_windows(file, lm, 8, 1, bos="none")[0]) == "zyxwvuts"

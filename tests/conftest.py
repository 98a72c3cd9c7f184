"""Tiny random models of every family, the oracle folder, and the command line in this process."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from factories import EIGHT_CASES, SMALL_CASE, HubCache, tiny_config

from prunebench.case import Case
from prunebench.cases import loader

pytest_plugins = ["pytester"]

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Tests of runs annotate nobody's pull request.
for name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(name, None)
# One thread each: tests are many and small, and may run side by side.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Hashes are remembered beside the tests' other files, not in the home of who runs them."""
    os.environ["PRUNEBENCH_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """Outputs of the authors' own code, where this checkout has them beside it."""
    default = Path(__file__).resolve().parents[2] / "shared"
    folder = Path(os.environ.get("PRUNEBENCH_SHARED", default))
    if not (folder / "oracles").is_dir():
        pytest.skip("the oracle folder is not beside this checkout (PRUNEBENCH_SHARED names it)")
    return folder


@pytest.fixture(scope="session")
def tiny() -> Callable[..., Any]:
    """A fresh random model: ``tiny("qwen2", blocks=6)`` is the same every time."""
    import torch
    import transformers

    from prunebench import CausalLM

    def build(family: str, blocks: int = 6) -> CausalLM:
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(
            tiny_config(family, blocks), dtype=torch.float32
        )
        with torch.no_grad():
            for parameter in model.parameters():
                # Default initialisation is so small that every block is nearly the identity.
                parameter.add_(torch.randn_like(parameter) * 0.2)
        return CausalLM(model.eval())

    return build


@pytest.fixture
def letters() -> Any:
    """A tokenizer for the tiny models: a token per letter, a BOS before every text."""
    import tokenizers
    import transformers

    special = ["<pad>", "<s>", "</s>", "<unk>"]
    characters = [chr(c) for c in range(ord("a"), ord("z") + 1)]
    tokens = [*special, *characters, " ", ".", "\n"]
    inner = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token="<unk>")
    )
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Split("", "isolated")
    inner.decoder = tokenizers.decoders.Fuse()
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
    )


@pytest.fixture(scope="session")
def ids() -> Any:
    """Random token windows, (6, 24)."""
    import torch

    return torch.randint(3, 64, (6, 24), generator=torch.Generator().manual_seed(1))


# Where the tests run in the background of a script, Ctrl-C is ignored, by what they start too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def cli(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """The console entry point in this process; a call gives exit code, output and errors."""

    def call(*arguments: object) -> tuple[int, str, str]:
        from prunebench.cli import main

        monkeypatch.setattr("sys.argv", ["prunebench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        captured = capsys.readouterr()
        return int(stop.value.code or 0), captured.out, captured.err

    return call


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with one small case on the shipped model."""
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "small.yaml").write_text(SMALL_CASE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubCache:
    """An empty hub cache, offline; the hub client reads both settings when it is called."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return HubCache(tmp_path / "hub")


@pytest.fixture
def cases(tmp_path: Path) -> dict[str, Case]:
    """Eight of the smoke cases, by label."""
    (tmp_path / "tiny.yaml").write_text(EIGHT_CASES)
    return {case.label: case for case in loader.load([tmp_path])}

"""How fast the command line starts and collects: pairs of bare Python or pytest against ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prunebench.cases import loader

CASE = """\
protocol: tinyworld@1
method: {{name: sleb, keep_first: {0}}}
blocks: 2
"""


def run(*program: str) -> None:
    subprocess.run([sys.executable, *program], check=True, capture_output=True)


@pytest.mark.benchmark(group="start")
@pytest.mark.parametrize(
    "program",
    [
        ["-c", "pass"],
        ["-c", "import typer, rich.table, msgspec, yaml"],
        ["-m", "prunebench", "--help"],
        ["-m", "prunebench", "list"],
    ],
    ids=["bare-python", "its-libraries", "help", "list"],
)
def test_start(benchmark, program: list[str]) -> None:
    """Whole processes, side by side."""
    benchmark.pedantic(run, args=program, rounds=7, warmup_rounds=1)


@pytest.mark.benchmark(group="collect-1000")
def test_collect_a_thousand_cases(benchmark, tmp_path: Path) -> None:
    """A thousand files, each checked and expanded."""
    for i in range(1000):
        folder = tmp_path / "cases" / f"group{i % 10}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"case{i}.yaml").write_text(CASE.format(i % 4))
    cases = benchmark.pedantic(loader.load, args=([tmp_path],), rounds=3)

    assert len(cases) == 1000


@pytest.mark.benchmark(group="collect-1000")
def test_collect_a_matrix_of_a_thousand(benchmark, tmp_path: Path) -> None:
    """One file whose matrix has a thousand cells."""
    methods = ", ".join(f"{{name: random, seed: {i}}}" for i in range(100))
    path = tmp_path / "many.yaml"
    path.write_text(
        f"protocol: tinyworld@1\nmatrix: {{method: [{methods}], "
        f"blocks: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}\n"
    )
    cases = benchmark.pedantic(loader.load, args=([path],), rounds=3)

    assert len(cases) == 1000

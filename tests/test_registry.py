from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from factories import read

from prunebench import discovery

Cli = Callable[..., tuple[int, str, str]]

MODULES = {
    "absent": "import nosuchmodule\n",
    "spelt": "def x(:\n",
    "broken": "\n1 / 0\n",
    "nothing": "X = 1\n",
    "theirs": """\
from typing import ClassVar

import numpy
import torch

from prunebench import DropBlocks, Method, Metric, Plan, PrunebenchError


class Theirs(Method, frozen=True, tag="theirs"):
    calibrated: ClassVar[bool] = False
    nested: ClassVar[bool] = True
    how: str = "well"

    def choose(self, lm, calibration, target):
        if self.how == "none":
            return None
        if self.how == "words":
            return Plan(("drop it",))
        if self.how == "torch":
            return torch.zeros(2) @ torch.zeros(3)
        if self.how in ("takes", "refuses"):
            lm.keep(range(7))
        if self.how == "refuses" and target.blocks == 2:
            raise PrunebenchError("two are too many")
        return Plan((DropBlocks((5, 6)[: target.block_count(lm)]),))


class TheirMetric(Metric, frozen=True, tag="theirs"):
    how: str = "well"

    def measure(self, lm, dense):
        if self.how == "junk":
            yield 3
        elif self.how == "well":
            yield self.measured("array", numpy.float32(3.5), numpy.arange(3))
            yield self.measured("tensor", torch.tensor(3.5), torch.arange(3.0))
""",
}
CASE = """\
model: {{id: prunebench/reference, dtype: float32}}
metrics: [{metric}]
method: {method}
blocks: 2
"""
SIZE = "{name: compute, tokens: 8}"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder to work in, and an installed package with entry points, good ones and bad ones."""
    site = tmp_path / "site"
    info = site / "theirs-1.0.dist-info"
    info.mkdir(parents=True)
    for name, text in MODULES.items():
        (site / f"package_{name}.py").write_text(text)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    points = "".join(f"{name} = package_{name}\n" for name in (*MODULES, "gone"))
    info.joinpath("entry_points.txt").write_text(
        f"[prunebench.methods]\n{points}[prunebench.metrics]\ntheirs = package_theirs\n"
    )
    monkeypatch.syspath_prepend(site)
    (tmp_path / "cases").mkdir()
    monkeypatch.chdir(tmp_path)
    discovery.installed.cache_clear()
    yield tmp_path
    discovery.installed.cache_clear()
    for name in [n for n in sys.modules if n.startswith("package_")]:
        del sys.modules[name]


def ask(folder: Path, name: str, method: str, metric: str = SIZE) -> None:
    (folder / "cases" / f"{name}.yaml").write_text(CASE.format(method=method, metric=metric))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "absent",
            "ModuleNotFoundError: No module named 'nosuchmodule' (at {}/package_absent.py:1)",
        ),
        (
            "spelt",
            "SyntaxError: invalid syntax (package_spelt.py, line 1) (at {}/package_spelt.py:1)",
        ),
        ("broken", "ZeroDivisionError: division by zero (at {}/package_broken.py:2)"),
        ("gone", "ModuleNotFoundError: No module named 'package_gone'"),
    ],
)
def test_a_package_that_cannot_be_imported_is_one_line(
    package: Path, cli: Cli, name: str, said: str
) -> None:
    """With the case's line, the entry point, the package and the place in its file."""
    ask(package, "a", f"{{name: {name}}}")
    code, _, errors = cli("check", "cases")

    assert code == 2
    (line,) = errors.splitlines()
    start = f"cases/a.yaml:3:10: method '{name}' (package_{name} of theirs) cannot be loaded: "
    assert line.startswith(start + said.format(package / "site"))


def test_a_package_without_the_class_is_told(package: Path, cli: Cli) -> None:
    """It was: unknown method 'nothing'; did you mean 'nothing'?"""
    ask(package, "a", "{name: nothing}")
    code, _, errors = cli("check", "cases")

    assert code == 2
    assert errors.strip().endswith(
        "'nothing': package_nothing of theirs has no class with that tag"
    )


def test_broken_packages_do_not_disturb_others(package: Path, cli: Cli) -> None:
    """Arrays and tensors of a metric become plain numbers; nothing else is even imported."""
    ask(package, "a", "{name: theirs}", "{name: theirs}")
    assert cli("run", "cases", "--json", "out.json", "-q")[0] == 0
    (record,) = read(package / "out.json")["records"]
    values = {m["metric"]: (m["value"], m["samples"]) for m in record["measurements"]}

    assert values == {"theirs/array": (3.5, [0, 1, 2]), "theirs/tensor": (3.5, [0, 1, 2])}
    assert "package_broken" not in sys.modules


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "metric", "said"),
    [
        ("{name: theirs, how: none}", SIZE, "theirs: choose() returned None, expected a Plan"),
        ("{name: theirs, how: words}", SIZE, "theirs: the plan has 'drop it' among its edits"),
        ("{name: theirs, how: torch}", SIZE, "(at package_theirs.py:20; PRUNEBENCH_DEBUG=1 shows"),
        ("{name: first}", "{name: theirs, how: junk}", "measure() gave 3, expected a Measurement"),
        ("{name: first}", "{name: theirs, how: none}", "theirs: measure() gave no measurement"),
    ],
)
def test_what_is_no_plan_and_no_measurement_is_told(
    package: Path, cli: Cli, method: str, metric: str, said: str
) -> None:
    """A crash of that case, with whose code it was; nothing is kept."""
    ask(package, "a", method, metric)
    code, out, errors = cli("run", "cases", "-q")

    assert code == 3
    assert said in out + errors
    assert not list((package / ".prunebench").rglob("records/**/*.json"))


@pytest.mark.slow
def test_a_method_that_takes_the_model_apart_spoils_its_own_case_alone(
    package: Path, cli: Cli
) -> None:
    """The next case of the run has the whole model again."""
    ask(package, "a", "{name: theirs, how: takes}")
    ask(package, "b", "{name: first}")
    code, out, errors = cli("run", "cases", "--json", "out.json", "-q")
    (record,) = read(package / "out.json")["records"]

    assert code == 3
    assert "theirs: choose() changed the dense model" in out + errors
    assert record["dense_parameters"] == 1_797_760
    assert record["parameters"] < record["dense_parameters"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "said"), [("takes", ""), ("refuses", " and then refused: two are")]
)
def test_a_smaller_amount_is_not_searched_in_what_the_larger_left(
    package: Path, cli: Cli, how: str, said: str
) -> None:
    """A search for both amounts takes the model apart: neither is measured on the remains."""
    case = CASE.format(metric=SIZE, method=f"{{name: theirs, how: {how}}}")
    case = case.replace("blocks: 2", "matrix: {blocks: [1, 2]}")
    (package / "cases" / "a.yaml").write_text(case)
    code, out, errors = cli("run", "cases", "--json", "out.json", "-q")

    assert code == 3
    assert read(package / "out.json")["records"] == []
    assert f"theirs: choose() changed the dense model{said}" in out + errors

"""A kind of edit that an installed package adds in one file."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from factories import accuracy, read, record

import prunebench
from prunebench import Plan, PrunebenchError, Tolerance, discovery
from prunebench.checkpoints import card_text
from prunebench.leaderboard.site import block_map_svg
from prunebench.methods.external import External
from prunebench.models import plan_files
from prunebench.models.tensors import Tensors
from prunebench.plan import describe, read_edits
from prunebench.record import Record
from prunebench.reports.block_map import strip
from prunebench.reports.block_map_text import drawing
from prunebench.results import answer_key, code_reach
from prunebench.results.store import Store
from prunebench.system import console
from prunebench.verdicts.verdict import compare

Cli = Callable[..., tuple[int, str, str]]

EDIT = '''\
from typing import ClassVar

from prunebench import PrunebenchError
from prunebench.plan import Edit, Mark


class NarrowMlp(Edit, frozen=True, tag="narrow_mlp"):
    """The MLPs of *blocks* keep *width* columns each, which *tensors* lists as ``mlp.<block>``."""

    verb: ClassVar[str] = "narrows"

    blocks: tuple[int, ...]
    width: int
    tensors: str = ""

    def touched(self):
        return tuple((block, "mlp") for block in self.blocks)

    def check(self, lm, tensors):
        for block in self.blocks:
            kept = tensors.get(f"mlp.{block}")
            if kept is None or kept.shape != (self.width,):
                raise PrunebenchError(f"the plan narrows block {block} to no {self.width} columns")

    def apply(self, lm, tensors):
        from prunebench.models import modeling

        for block in self.blocks:
            kept = tensors[f"mlp.{block}"].long()
            mlp = lm.blocks[block].mlp
            for linear in (mlp.gate_proj, mlp.up_proj):
                modeling.replace(linear, "weight", linear.weight[kept])
            modeling.replace(mlp.down_proj, "weight", mlp.down_proj.weight[:, kept])

    def detail(self):
        return f"{' '.join(map(str, self.blocks))} to {self.width}"

    def words(self):
        return f"MLPs of {len(self.blocks)} blocks cut to {self.width} columns"

    def marks(self, blocks, left):
        return (Mark(half, "cut", self.width) for half in self.touched())
'''
METHOD = """\
from typing import ClassVar

import torch

from package_edit import NarrowMlp
from prunebench import Method, Plan
from prunebench.models.tensors import Tensors


class Narrow(Method, frozen=True, tag="narrow"):
    calibrated: ClassVar[bool] = False
    unit: ClassVar[str] = "given"
    width: int = 16

    def choose(self, lm, calibration, target):
        tensors = Tensors()
        kept = torch.arange(self.width, dtype=torch.int32)
        edit = NarrowMlp((3, 1), self.width, tensors.add({"mlp.3": kept, "mlp.1": kept + 2}))
        return Plan((edit,), tensors=tensors)
"""
CASE = """\
model: {id: prunebench/reference, dtype: float32}
metrics: [{name: perplexity, dataset: tinyworld, nsamples: 2, seqlen: 64}]
method: {name: narrow}
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An installed package with an edit and a method that makes it; nothing of it is imported."""
    site = tmp_path_factory.mktemp("site")
    info = site / "theirs-1.0.dist-info"
    info.mkdir()
    (site / "package_edit.py").write_text(EDIT)
    (site / "package_method.py").write_text(METHOD)
    info.joinpath("METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    info.joinpath("entry_points.txt").write_text(
        "[prunebench.edits]\nnarrow_mlp = package_edit\n"
        "[prunebench.methods]\nnarrow = package_method\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(site)
        discovery.installed.cache_clear()
        yield site
    discovery.installed.cache_clear()
    for name in ("package_edit", "package_method"):
        sys.modules.pop(name, None)


def narrowed(blocks: tuple[int, ...], width: int, first: int = 0) -> Plan:
    """A plan with that edit, as JSON data has it: its class is found by its tag."""
    tensors = Tensors()
    kept = range(first, first + width)
    sha256 = tensors.add({f"mlp.{b}": torch.tensor(kept, dtype=torch.int32) for b in blocks})
    data = {"edit": "narrow_mlp", "blocks": list(blocks), "width": width, "tensors": sha256}
    return Plan(read_edits([data]), tensors=tensors)


@pytest.mark.usefixtures("package")
def test_it_is_found_by_its_tag() -> None:
    """Not before a plan names it; a wrong field is one line that says where."""
    assert "package_edit" not in sys.modules
    (edit,) = narrowed((4, 1), 16).edits

    assert type(edit).__module__ == "package_edit"
    with pytest.raises(
        ValueError, match=r"^Expected `int`, got `str` - at `\$\.plan\[0\]\.width`$"
    ):
        read_edits([{"edit": "narrow_mlp", "blocks": [1], "width": "x"}], ".plan")


@pytest.mark.usefixtures("package")
def test_it_is_applied(tiny: Any, ids: Any) -> None:
    """Cutting columns is silencing them; together with a removal, in the dense numbering."""
    lm, silent = tiny("llama"), tiny("llama")
    with torch.no_grad():
        silent.blocks[4].mlp.down_proj.weight[:, 16:] = 0
    plan = narrowed((4,), 16)
    both = Plan((prunebench.DropBlocks((1,)), *plan.edits), tensors=plan.tensors)
    for model in (silent, lm):
        prunebench.apply(model, both if model is lm else Plan(both.edits[:1]))

    assert torch.allclose(lm.window_nll(ids), silent.window_nll(ids), atol=1e-6)
    assert lm.blocks[3].mlp.up_proj.weight.shape[0] == 16


@pytest.mark.parametrize(
    ("blocks", "more", "message"),
    [
        ((9,), (), "narrows a sublayer of block 9; this model has 0 to 5"),
        ((4, 4), (), "narrows sublayer 4.mlp twice"),
        ((4,), (prunebench.DropBlocks((4,)),), "block 4 twice"),
        ((4,), (prunebench.DropSublayers(((4, "mlp"),)),), "drops sublayer 4.mlp twice"),
    ],
)
@pytest.mark.usefixtures("package")
def test_it_is_checked_against_the_model_and_the_other_edits(
    tiny: Any, blocks: tuple[int, ...], more: tuple[Any, ...], message: str
) -> None:
    """By what it says it touches; its own check comes on top."""
    plan = narrowed(blocks, 16)
    with pytest.raises(PrunebenchError, match=message):
        prunebench.apply(tiny("llama"), Plan((*plan.edits, *more), tensors=plan.tensors))
    with pytest.raises(PrunebenchError, match="to no 16 columns"):
        prunebench.apply(tiny("llama"), Plan(narrowed((4,), 16).edits, tensors=None))


@pytest.mark.usefixtures("package")
def test_it_is_described_and_drawn() -> None:
    """In a line, on a model card, in a terminal and on a page."""
    plan = narrowed((4, 1), 16).edits
    rows = [line.plain for line in drawing(strip(plan, 6), 80, console.ASCII)]
    picture = block_map_svg.draw(plan, 6, block_map_svg.widest([plan]))

    assert describe(plan) == "narrow_mlp 4 1 to 16"
    assert [card_text.plain(edit.words()) for edit in plan] == [
        "MLPs of 2 blocks cut to 16 columns"
    ]
    assert rows[1].split() == ["attn", *"######"]
    assert rows[2].split() == ["mlp", *"#=##=#"]
    assert "cut to width 16" in rows[3]
    assert picture.kept.count("M") == 2
    assert picture.whole.count("M") == 10
    assert len(strip(plan).blocks) == 5  # as far as the plan names blocks


@pytest.mark.usefixtures("package")
def test_it_is_saved_with_its_tensors(tiny: Any, ids: Any, tmp_path: Path) -> None:
    """As a plan file and in a record; what is read back makes the same model, bit for bit."""
    plan = narrowed((4, 1), 16)
    plan.tensors.save(tmp_path)
    path = tmp_path / "plan.json"
    prunebench.system.files.write_json(path, {"plan": plan.edits})
    again = plan_files.read(path)
    one, two = (prunebench.apply(tiny("llama"), p) for p in (plan, again))
    saved = Store(tmp_path).save(record(accuracy(9), plan=plan.edits))

    assert again.edits == plan.edits
    assert torch.equal(one.window_nll(ids), two.window_nll(ids))
    assert prunebench.system.files.read_json(saved, Record).plan == plan.edits


@pytest.mark.usefixtures("package")
def test_it_is_compared() -> None:
    """Another width is another plan, the last bits of its tensors are not."""
    was, other_bits, other = (
        record(accuracy(9), plan=narrowed(*what).edits)
        for what in (((4, 1), 16), ((4, 1), 16, 1), ((4, 1), 8))
    )

    def changed(now: Record) -> bool:
        verdict = compare(now, was, lambda _: Tolerance())
        return any(str(f.outcome) == "changed_plan" for f in verdict.findings)

    assert was.plan != other_bits.plan
    assert not changed(other_bits)
    assert changed(other)


@pytest.mark.usefixtures("package")
def test_a_case_whose_method_makes_it_runs_and_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    """From the case file to the drawing; the second run finds the same plan as the accepted one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cases").mkdir()
    (tmp_path / "cases" / "a.yaml").write_text(CASE)
    assert cli("run", "cases", "--json", "out.json", "-q")[0] == 0
    assert cli("accept", "cases", "--because", "first")[0] == 0
    code, _, errors = cli("run", "cases", "--fresh", "-q")
    (made,) = read(tmp_path / "out.json")["records"]

    assert (code, errors) == (0, "")
    assert made["plan"][0] | {"tensors": ""} == {
        "edit": "narrow_mlp", "blocks": [3, 1], "width": 16, "tensors": "",
    }  # fmt: skip
    assert made["parameters"] < made["dense_parameters"]
    shown = cli("show", made["case_id"])[1]
    assert "narrow_mlp 3 1 to 16" in shown
    assert "cut to width 16" in shown


def test_the_edits_count_for_every_answer() -> None:
    """A plan in a file may have any edit: a change in one of them asks every case again."""
    counted = set(code_reach.reached(code_reach.PACKAGE / "runs" / "worker.py"))
    edits = set((code_reach.PACKAGE / "edits").glob("*.py"))

    assert len(edits) >= 7
    assert edits <= counted


def test_an_edit_of_a_package_counts_for_the_plans_that_name_it(
    package: Path, tmp_path: Path
) -> None:
    """A changed edit asks a plan in a file again, and no other case."""
    plan = tmp_path / "plan.json"
    edit = {"edit": "narrow_mlp", "blocks": [3], "width": 16, "tensors": "0" * 64}
    plan.write_text(json.dumps({"plan": [edit]}))
    ours = tmp_path / "ours.json"
    ours.write_text(json.dumps({"plan": [{"edit": "drop_blocks", "blocks": [3]}]}))
    methods = [External(plan=str(file)) for file in (plan, ours)]
    before = [answer_key.code_hash(method) for method in methods]
    source = package / "package_edit.py"
    text = source.read_text()
    try:
        source.write_text(text + "# changed\n")
        for cached in (code_reach.digest, code_reach._imports):
            cached.cache_clear()
        after = [answer_key.code_hash(method) for method in methods]
    finally:
        source.write_text(text)

    assert after[0] != before[0]
    assert after[1] == before[1]

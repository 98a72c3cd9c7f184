"""The latency cases and their table of ideals, on the tiny shape that any machine can time."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
import yaml
from factories import ROOT, flops_of, read

from prunebench.data.model_config import shape_of

CASES = ROOT / "cases" / "latency"


@pytest.mark.slow
def test_the_tiny_shape_goes_the_way_of_the_large_ones(tmp_path: Path, cli, capsys) -> None:
    """Timed on random weights; ideals are those of the closed form; a failed verdict exits 1."""
    result = tmp_path / "a.json"
    code, _, err = cli(
        "run", CASES / "tiny.yaml", "-k", "middle-0.3 or slice_global-0.3",
        "--store", tmp_path / "store", "--json", result, "-q",
    )  # fmt: skip
    assert code == 0, err
    ideal = runpy.run_path(str(ROOT / "bench" / "ideal.py"))
    found = {(r.case.split("/")[-1], r.setting, r.part): r for r in ideal["rows"](read(result))}
    config = read(CASES / "shapes" / "tiny" / "config.json")
    dense, narrow = shape_of(config), shape_of({**config, "hidden_size": 24, "head_dim": 8})

    assert len(found) == 2 * 3
    assert found["middle-0.3", "hf-eager-1x32+0", "prefill"].ideal == pytest.approx(
        flops_of(dense, 1, 32) / flops_of(dense, 1, 32, attn=7, mlp=7)
    )
    assert found["middle-0.3", "hf-eager-4x8+4", "decode"].ideal == pytest.approx(
        dense.parameters() / dense.parameters(attn=7, mlp=7)
    )
    assert found["slice_global-0.3", "hf-eager-4x8+4", "decode"].ideal == pytest.approx(
        dense.parameters() / narrow.parameters()
    )
    assert all(row.measured > 0 for row in found.values())
    assert ideal["main"](result) == 0
    data = read(result)
    data["verdicts"][0]["ok"] = False
    result.write_text(json.dumps(data))
    assert ideal["main"](result) == 1
    assert "failed: latency/tiny/middle-0.3" in capsys.readouterr().err


def test_every_large_shape_is_timed_alike_and_as_the_papers_do() -> None:
    """Same metrics in every file; SLEB's, Shortened LLaMA's, SPRINT's shapes on both backends."""
    files = [yaml.safe_load(p.read_text()) for p in CASES.glob("*.yaml") if p.stem != "tiny"]
    timed = [m for m in files[0]["metrics"] if m["name"] == "latency"]
    shapes = [
        (m["backend"], m.get("batch_size", 1), m["prompt_tokens"], m["new_tokens"]) for m in timed
    ]

    assert len(files) == 4
    assert all(file["metrics"] == files[0]["metrics"] for file in files)
    assert sorted(shapes) == sorted(
        (backend, *shape)
        for backend in ("hf-eager", "hf-compiled")
        for shape in ((64, 64, 128), (1, 2048, 0), (1, 12, 128), (1, 1024, 512))
    )

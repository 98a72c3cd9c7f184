from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest
from factories import SMALL_CASE

#: Every test starts pytest in a process of its own.
pytestmark = pytest.mark.slow


@pytest.fixture
def user(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's project: an ini file that names the cases folder, and one case file.

    Runs go into processes of their own: one in this process would forget the modules that it was
    the first to import, and leave halves of libraries to the tests after it.
    """
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    pytester.makeini("[pytest]\nprunebench_cases = cases\naddopts = --strict-markers")
    folder = pytester.path / "cases"
    folder.mkdir()
    folder.joinpath("small.yaml").write_text(SMALL_CASE)
    return pytester


def test_every_case_is_an_item(user: pytest.Pytester) -> None:
    """Collected by name, selectable by -k."""
    result = user.runpytest_subprocess("cases", "--collect-only", "-q")
    result.stdout.fnmatch_lines(["cases/small.yaml::sleb-windows-2blocks"])

    assert user.runpytest_subprocess("cases", "--collect-only", "-q", "-k", "random").ret == 5


def test_an_accept_that_was_cut_off_is_told_and_ended(user: pytest.Pytester) -> None:
    """A session warns of it and writes nothing; one that accepts judges by what it ended."""
    accept = ["--prunebench-accept", "--prunebench-because", "first"]
    user.runpytest_subprocess("cases", *accept).assert_outcomes(passed=1)
    path = user.path / "baselines/quality/small/sleb-windows-2blocks.json"
    counted = user.path / "baselines/.prunebench-counted"
    counted.mkdir()
    path.rename(counted / "x.0")
    (counted / "x.json").write_text(
        json.dumps({"put": ["quality/small/sleb-windows-2blocks.json"]})
    )

    result = user.runpytest_subprocess("cases")
    result.assert_outcomes(passed=1, warnings=1)
    result.stdout.fnmatch_lines(["*baselines: an accept was cut off in the middle, *ends it*"])
    assert not path.exists()
    result = user.runpytest_subprocess("cases", *accept, "--junitxml=a.xml")
    result.assert_outcomes(passed=1)
    (told,) = [
        p.get("value")
        for p in ElementTree.parse(user.path / "a.xml").iter("property")  # noqa: S314
        if p.get("name") == "outcome"
    ]
    assert told == "same"
    assert not counted.exists()


def test_a_case_passes_and_a_regression_fails_with_its_findings(user: pytest.Pytester) -> None:
    """Accept, pass, then a baseline that was better: metric, both values, allowed, command."""
    accept = ["--prunebench-accept", "--prunebench-because", "first"]
    user.runpytest_subprocess("cases", *accept).assert_outcomes(passed=1)
    user.runpytest_subprocess("cases", "--junitxml=a.xml").assert_outcomes(passed=1)
    told = {
        p.get("name"): p.get("value")
        for p in ElementTree.parse(user.path / "a.xml").iter("property")  # noqa: S314
    }
    assert told["outcome"] == "same"
    assert float(told["perplexity/tinyworld"] or "") == float(
        told["perplexity/tinyworld.was"] or ""
    )
    assert float(told["sparsity"] or "") > 0

    path = user.path / "baselines/quality/small/sleb-windows-2blocks.json"
    data = json.loads(path.read_text())
    (ppl,) = [m for m in data["measurements"] if m["metric"] == "perplexity/tinyworld"]
    ppl["value"] /= 2
    del data["accepted"]["sha256"]  # as files before there were hashes
    path.write_text(json.dumps(data))
    samples = path.with_name("sleb-windows-2blocks.samples.gz")
    import base64
    import gzip
    from array import array

    packed = json.loads(gzip.decompress(samples.read_bytes()))
    losses = array("f", base64.b64decode(packed["perplexity/tinyworld"]["float32"]))
    shifted = array("f", [loss - 0.69 for loss in losses])
    packed["perplexity/tinyworld"]["float32"] = base64.b64encode(shifted.tobytes()).decode()
    samples.write_bytes(gzip.compress(json.dumps(packed).encode()))
    result = user.runpytest_subprocess("cases")

    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*small/sleb-windows-2blocks: worse perplexity/tinyworld: *, was *, allowed *, p = *",
            "*reproduce: pytest cases/small.yaml::sleb-windows-2blocks",
        ]
    )
    assert "Traceback" not in result.stdout.str()


def test_bad_case_files_are_collection_errors_in_one_line(user: pytest.Pytester) -> None:
    """The place and the nearest word, no traceback."""
    (user.path / "cases" / "bad.yaml").write_text("modle: 1\n")
    result = user.runpytest_subprocess("cases")

    assert result.ret == 2
    result.stdout.fnmatch_lines(["*bad.yaml:1:1: unknown key 'modle'; did you mean 'model'?*"])
    assert "Traceback" not in result.stdout.str()


def test_only_the_named_folders_are_collected(user: pytest.Pytester) -> None:
    """Another YAML file, such as a stranger's, is left alone."""
    other = user.path / "elsewhere"
    other.mkdir()
    other.joinpath("small.yaml").write_text(SMALL_CASE)

    assert user.runpytest_subprocess("elsewhere", "--collect-only").ret == 5


def test_an_unused_plugin_imports_nothing(tmp_path: Path) -> None:
    """Loaded into a pytest run without cases, it brings in two modules of ours and no library."""
    tmp_path.joinpath("test_theirs.py").write_text("def test_theirs(): pass\n")
    program = (
        "import sys, pytest\n"
        "assert pytest.main(['-q', '-p', 'no:cacheprovider', '.']) == 0\n"
        "ours = {name for name in sys.modules if name.startswith('prunebench')}\n"
        "print(sorted(ours | ({'msgspec', 'torch'} & set(sys.modules))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=tmp_path
    )

    assert done.stdout.splitlines()[-1] == "['prunebench', 'prunebench.plugin']"


def test_every_public_name_arrives_when_asked_for() -> None:
    """The package's table of homes and its __all__ are one list."""
    import prunebench

    assert all(getattr(prunebench, name) is not None for name in prunebench.__all__)
    assert set(prunebench.__all__) <= set(dir(prunebench))
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = prunebench.nonsense


def test_accepting_needs_a_reason(user: pytest.Pytester) -> None:
    """As on the command line."""
    result = user.runpytest_subprocess("cases", "--prunebench-accept")

    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--prunebench-accept needs --prunebench-because TEXT*"])


def test_cases_share_the_store_under_xdist(user: pytest.Pytester) -> None:
    """Two workers, four cases: each is run once and its record kept."""
    case = user.path / "cases" / "small.yaml"
    case.write_text(SMALL_CASE.replace("blocks: [2]", "blocks: [1, 2, 3, 4]"))
    user.runpytest_subprocess("cases", "-n", "2").assert_outcomes(passed=4)
    records = list((user.path / ".prunebench").rglob("*.json"))

    assert len(records) == 4


def test_bad_options_are_plain_lines(user: pytest.Pytester) -> None:
    """A setting that cannot be read, a device that is not there, an impossible limit."""
    result = user.runpytest_subprocess("cases", "--prunebench-set", "blocks")
    result.stdout.fnmatch_lines(["*--set blocks: found no '=', expected KEY=VALUE*"])
    assert "Traceback" not in result.stdout.str()

    result = user.runpytest_subprocess("cases", "--prunebench-device", "abacus")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["--device abacus: *"])

    assert user.runpytest_subprocess("cases", "--prunebench-limit", "0").ret == 4


def test_fail_on_takes_outcomes_and_conditions(user: pytest.Pytester) -> None:
    """As on the command line: a new case passes, fails by a condition, and mistakes are lines."""
    option = "--prunebench-fail-on"
    user.runpytest_subprocess("cases", option, "gone, sparsity < 0.1").assert_outcomes(passed=1)
    result = user.runpytest_subprocess("cases", option, "gone; sparsity < 0.5")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["small/sleb-windows-2blocks: worse sparsity: now < 0.5: 0.16*, allowed 0.5000"]
    )

    result = user.runpytest_subprocess("cases", option, "sparsity < lots")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--prunebench-fail-on: 'sparsity < lots', column 12: found *"])
    result = user.runpytest_subprocess("cases", option, "acuracy/mean < 1")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        ["--prunebench-fail-on: *no metric 'acuracy' is measured; did you *"]
    )
    assert "Traceback" not in result.stdout.str()


OWN_METHOD = """\
from typing import ClassVar

from prunebench import Method, PrunebenchError


class Never(Method, frozen=True, tag="never"):
    calibrated: ClassVar[bool] = False

    def choose(self, lm, calibration, target):
        raise PrunebenchError("never")
"""
OWN_CASE = """\
model: {id: prunebench/reference, dtype: float32}
metrics: [{name: perplexity, dataset: tinyworld, seqlen: 128, nsamples: 2}]
method: {name: never}
blocks: 1
"""


def test_the_line_that_reproduces_a_failure_does(user: pytest.Pytester) -> None:
    """A method of conftest.py, a name with a blank, an ini file and options: the line has it all.

    It was `prunebench run` on half of a name, which knows no method of a conftest.py.
    """
    user.makeconftest(OWN_METHOD)
    (user.path / "other.ini").write_text("[pytest]\nprunebench_cases = 'my cases'\n")
    (user.path / "my cases").mkdir()
    (user.path / "my cases" / "own.yaml").write_text(OWN_CASE)
    options = (
        "--prunebench-store=my store",
        "--prunebench-set=model.dtype=float32",
        "--prunebench-limit=5",
    )
    result = user.runpytest_subprocess("-c", "other.ini", "my cases", *options)
    result.assert_outcomes(failed=1)
    # Once with the failure, and where CI is set pytest shows it whole in its summary too.
    (line,) = {x for x in result.outlines if x.startswith("reproduce: ")}
    program, *arguments = shlex.split(line.removeprefix("reproduce: "))

    assert program == "pytest"
    assert set(options) < set(arguments)
    again = user.runpytest_subprocess(*arguments)
    again.assert_outcomes(failed=1)
    assert line in again.outlines


def test_a_case_that_cannot_run_is_skipped_at_its_place(user: pytest.Pytester) -> None:
    """With the reason and the line of the case file, not of the plugin."""
    case = OWN_CASE.replace("never", "first") + "needs: {memory: 900000 GiB}\n"
    (user.path / "cases" / "small.yaml").write_text(case)
    result = user.runpytest_subprocess("cases", "-rs")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED * cases/small.yaml:3: needs 900000 GiB *"])


def test_mistakes_across_files_are_told_with_their_lines(user: pytest.Pytester) -> None:
    """An id that two files have, and a marker that is not registered."""
    cases = user.path / "cases"
    (cases / "small.yml").write_text(SMALL_CASE)
    (cases / "marked.yaml").write_text(OWN_CASE.replace("never", "first") + "marks: [heavy]\n")
    result = user.runpytest_subprocess("cases")

    assert result.ret == 2
    result.stdout.fnmatch_lines(
        [
            "cases/marked.yaml:3:1: 'heavy' not found in `markers` configuration option",
            "cases/small.yml:7:1: duplicate case id 'small/sleb-windows-2blocks', also "
            "cases/small.yaml:7",
        ]
    )
    named = user.runpytest_subprocess(
        "--co", "cases/small.yaml::sleb-windows-2blocks", "cases/small.yaml"
    )
    assert named.ret == 0  # the same file, named twice


def test_timings_go_to_pytest_benchmark(
    user: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its JSON has every round of the record in seconds, also of a stored one; compare reads it."""
    # Where this test runs under xdist, the one that it starts does not.
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    (user.path / "cases" / "small.yaml").write_text(
        OWN_CASE.replace("never", "first").split("metrics")[0]
        + "metrics: [{name: latency, prompt_tokens: 4, new_tokens: 2, rounds: 3, warmup: 0}]\n"
        "method: {name: first}\nblocks: 6\n"
    )
    for name in ("one.json", "two.json"):
        user.runpytest_subprocess("cases", f"--benchmark-json={name}").assert_outcomes(passed=1)
    (file,) = (user.path / ".prunebench/records").rglob("*.json")
    timed = {
        m["metric"]: m["samples"]
        for m in json.loads(file.read_text())["measurements"]
        if m["unit"] == "ms"
    }
    told = json.loads((user.path / "two.json").read_text())["benchmarks"]

    assert len(timed) == len(told) == 3
    for one in told:
        node, _, metric = one["fullname"].removesuffix("]").partition("[")
        assert node == "cases/small.yaml::first-6blocks"
        assert one["stats"]["data"] == pytest.approx([ms / 1e3 for ms in timed[metric]])
    compare = [sys.executable, "-m", "pytest_benchmark", "compare", "one.json", "two.json"]
    done = subprocess.run(compare, capture_output=True, text=True, check=True, cwd=user.path)
    assert done.stdout.count("first-6blocks[latency/hf-eager-1x4+2/ttft]") == 2

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml
from factories import ROOT

import prunebench
from prunebench import CaseError, PrunebenchError, reference
from prunebench.cases import keys, loader

GOOD = """\
model: {id: prunebench/reference, dtype: float32}
calibration: {dataset: tinyworld, nsamples: 8, seqlen: 64}
metrics:
  - {name: perplexity, dataset: tinyworld, seqlen: 64}
"""


def write(folder: Path, text: str, name: str = "cases/group/file.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def ids(path: Path, *settings: str, limit: int | None = None) -> list[str]:
    return [case.id for case in loader.load([path], settings, limit)]


def test_the_matrix_is_a_product_with_included_and_excluded(tmp_path: Path) -> None:
    """2 methods x 2 amounts, less one excluded, plus two included, dense first."""
    path = write(
        tmp_path,
        GOOD
        + """
matrix:
  method: [{name: sleb}, {name: shortened_llama, criterion: ppl, keep_first: 2}]
  sparsity: [0.2, 0.3]
exclude:
  - {method: {name: sleb}, sparsity: 0.3}
include:
  - {method: {name: random, seed: 3}, blocks: 2}
  - {method: {name: dense}}
""",
    )

    assert ids(path) == [
        "group/file/dense",
        "group/file/sleb-0.2",
        "group/file/shortened_llama-ppl-keep_first2-0.2",
        "group/file/shortened_llama-ppl-keep_first2-0.3",
        "group/file/random-seed3-2blocks",
    ]


def test_other_axes_enter_the_id(tmp_path: Path) -> None:
    """An axis that is neither method nor amount keeps ids apart."""
    path = write(
        tmp_path,
        GOOD
        + "method: {name: sleb}\nblocks: 2\n"
        + "matrix: {calibration: [{seed: 0}, {seed: 1}]}\n",
    )

    assert ids(path) == ["group/file/sleb-2blocks-seed0", "group/file/sleb-2blocks-seed1"]
    assert [c.calibration.seed for c in loader.load([path])] == [0, 1]


def test_layers_lie_protocol_parent_defaults_own(tmp_path: Path) -> None:
    """Each layer overrides the one below it, key by key."""
    write(
        tmp_path,
        "protocol: tinyworld@1\ncalibration: {nsamples: 64, seed: 5}\nmethod: {name: sleb}\n"
        "sparsity: 0.2\n",
        "cases/parent.yaml",
    )
    path = write(
        tmp_path,
        "extends: ../parent.yaml\ndefaults: {calibration: {seqlen: 32, seed: 6}}\n"
        "calibration: {seed: 7}\n",
    )
    (case,) = loader.load([path])

    calibration = case.calibration
    assert (calibration.dataset, calibration.nsamples) == ("tinyworld", 64)
    assert (calibration.seqlen, calibration.seed) == (32, 7)
    assert case.asked["protocol"] == "tinyworld@1"


def test_a_parents_paths_stay_its_own(tmp_path: Path) -> None:
    """A relative path in an extended file is relative to that file."""
    write(tmp_path, "some text\n", "cases/text.txt")
    write(
        tmp_path,
        "model: {id: prunebench/reference}\nmethod: {name: dense}\n"
        "metrics: [{name: perplexity, dataset: ./text.txt}]\n",
        "cases/parent.yaml",
    )
    path = write(tmp_path, "extends: ../parent.yaml\n")
    (case,) = loader.load([path])

    assert case.metrics[0].dataset == str((tmp_path / "cases/text.txt").resolve())
    assert case.asked["metrics"][0]["dataset"] == "../text.txt"


def test_settings_override_any_key_and_mark_the_id(tmp_path: Path) -> None:
    """--set reaches nested keys, list items and matrix axes; the id says so."""
    path = write(tmp_path, GOOD + "matrix: {method: [{name: sleb}], sparsity: [0.2, 0.3]}\n")
    (case,) = loader.load([path], ["calibration.seed=4", "metrics.0.nsamples=3", "sparsity=0.25"])

    assert (case.calibration.seed, case.metrics[0].nsamples) == (4, 3)
    assert case.target.sparsity == 0.25
    suffix = "@calibration.seed=4@metrics.0.nsamples=3@sparsity=0.25"
    assert case.id == f"group/file/sleb-0.25{suffix}"
    assert case.reproduce.endswith(
        "--set calibration.seed=4 --set metrics.0.nsamples=3 --set sparsity=0.25"
    )


def test_cases_that_a_setting_makes_alike_are_one(tmp_path: Path) -> None:
    """Listed under `include` as in a matrix; what still differs keeps both, and is refused."""
    one, two = "{method: {name: random}, sparsity: 0.2}", "{method: {name: random}, blocks: 1}"
    path = write(tmp_path, f"{GOOD}include: [{one}, {two}]\n")
    (case,) = loader.load([path], ["sparsity=0.5"])

    assert (case.id, case.target.sparsity) == ("group/file/random-0.5@sparsity=0.5", 0.5)
    path.write_text(path.read_text().replace("blocks: 1", "blocks: 1, fail_on: [gone]"))
    with pytest.raises(CaseError, match="duplicate case id 'group/file/random-0"):
        loader.load([path], ["sparsity=0.5"])


def test_an_amount_replaces_another_amount(tmp_path: Path) -> None:
    """--set blocks=2 on a case that gave sparsity asks for blocks only."""
    path = write(tmp_path, GOOD + "method: {name: sleb}\nsparsity: 0.2\n")
    (case,) = loader.load([path], ["blocks=2"])

    assert (case.target.blocks, case.target.sparsity) == (2, None)


def test_limit_changes_the_question(tmp_path: Path) -> None:
    """A limited run asks fewer questions and cannot be taken for the whole."""
    text = GOOD + "  - {name: accuracy, tasks: [tinyworld_facts]}\nmethod: {name: dense}\n"
    path = write(tmp_path, text)
    (whole,), (part,) = loader.load([path]), loader.load([path], limit=5)

    assert part.metrics[1].limit == 5
    assert part.asked != whole.asked


def test_policy_is_not_part_of_the_question(tmp_path: Path) -> None:
    """Changing a tolerance does not invalidate a baseline; changing an option does."""
    base = GOOD + "method: {name: sleb}\nblocks: 2\n"
    asked = [
        loader.load([write(tmp_path, base + extra)])[0].asked
        for extra in ("", "tolerance: {perplexity: {rel: 0.1}}\nfail_on: [worse]\n")
    ]

    assert asked[0] == asked[1]


BAD = {
    "": "file.yaml:1:1: found an empty file",
    "- a\n- b\n": "file.yaml:1:1: found a list or a single value",
    "model: {id: x\nmethod: y\n": "file.yaml:2:",
    "a: 1\na: 2\n": "file.yaml:2:1: duplicate key 'a'",
    "model: {id: prunebench/reference, dtyp: float32}\n": "file.yaml:1:35: unknown key 'dtyp'; "
    "did you mean 'dtype'?",
    "modle: {}\n": "file.yaml:1:1: unknown key 'modle'; did you mean 'model'?",
    "model: {id: prunebench/reference, dtype: float8}\n": "1:35: found 'float8'; did you mean",
    "model: {}\n": "file.yaml:1:1: missing key 'id'",
    "model: {id: 3}\n": "file.yaml:1:9: found 3, expected text",
    "model: {id: ./nowhere}\n": "file.yaml:1:9: no such model folder: './nowhere'",
    "model: {id: ./}\n": "file.yaml:1:9: model folder './' has no config.json",
    "sparsity: 1.5\n": "file.yaml:1:1: found 1.5, expected a number above 0 and below 1",
    "sparsity: .nan\n": "file.yaml:1:1: found nan, expected a number",
    "sparsity: .inf\n": "file.yaml:1:1: found inf",
    "sparsity: 1e-3\n": "file.yaml:1:1: found '1e-3', expected a number (YAML reads 1e-3 as text",
    "blocks: -1\n": "file.yaml:1:1: found -1, expected a whole number at least 1",
    "blocks: 2.0\n": "file.yaml:1:1: found 2.0, expected a whole number",
    "blocks: yes\n": "file.yaml:1:1: found True, expected a whole number",
    "method: {name: slep}\n": "file.yaml:1:10: unknown method 'slep'; did you mean 'sleb'?",
    "method: {nam: sleb}\n": "file.yaml:1:1: missing key 'name' of a method",
    "method: {name: sleb, keep_frist: 1}\n": "1:22: unknown key 'keep_frist'; did you mean "
    "'keep_first'?",
    "method: {name: shortened_llama, criterion: tailor}\n": "1:33: found 'tailor'; did you mean "
    "'taylor'?",
    "metrics: []\n": "file.yaml:1:1: found an empty list",
    "metrics: [{name: speed}]\n": "file.yaml:1:12: unknown metric 'speed'",
    "metrics: [{name: perplexity, dataset: wikitxt2}]\n": "unknown dataset 'wikitxt2'; did you",
    "metrics: [{name: perplexity, dataset: ./no.txt}]\n": "no such text file: './no.txt'",
    "metrics: [{name: perplexity, dataset: tinyworld, seqlen: 1}]\n": "expected a whole number at "
    "least 2",
    "matrix: {method: []}\n": "file.yaml:1:10: found an empty list",
    "matrix: {spasity: [0.1]}\n": "file.yaml:1:10: unknown key 'spasity'",
    "matrix: {sparsity: [0.1, 2]}\n": "file.yaml:1:26: found 2, expected a number above 0",
    "matrix: {include: [1]}\n": "file.yaml:1:10: 'include' cannot vary",
    "matrix: {blocks: [1]}\nexclude: [{block: 1}]\n": "2:12: 'block' is no axis of the matrix; did",
    "matrix: {blocks: [1]}\nexclude: [{blocks: {a: 1}}]\n": "missing key 'model'",
    "matrix: {blocks: 3}\n": "1:10: found 3, expected a list",
    "include: {a: 1}\n": "1:1: found a mapping, expected a list",
    "include: [3]\n": "1:11: found 3, expected a mapping",
    "defaults: [1]\n": "1:1: found a list, expected a mapping",
    "method: [1]\n": "found a list, expected a mapping",
    "model: 2024-01-01\n": "found '2024-01-01', expected a mapping",
    "protocol: tinywrld@1\n": "unknown protocol 'tinywrld@1'; did you mean 'tinyworld@1'?",
    "extends: ./nothing.yaml\n": "file.yaml:1:1: no such file: './nothing.yaml'",
    "tolerance: {perplexity: {relative: 1}}\n": "unknown key 'relative'",
    "fail_on: [worst]\n": "1:11: unknown outcome 'worst'; did you mean 'worse'?",
    "needs: {gpu_memory: lots}\n": "file.yaml:1:9: found 'lots', expected text of the form",
    "metrics: [{name: accuracy, tasks: []}]\n": "1:28: found 0 items, expected at least 1",
    "1: 2\n": "file.yaml:1:1: found a key that is not text",
    "model: !!python/object:os.system {}\n": "file.yaml:1:",
}


@pytest.mark.parametrize("text", BAD, ids=lambda text: text.strip()[:40] or "empty")
def test_bad_input_is_one_plain_line_with_its_place(tmp_path: Path, text: str) -> None:
    """Each mistake is named with file, line, column, what was found and what is allowed."""
    path = write(tmp_path, text)
    with pytest.raises(CaseError) as caught:
        loader.load([path])

    assert any(BAD[text] in problem for problem in caught.value.problems), caught.value.problems
    assert all(p.startswith(str(path)) and "\n" not in p for p in caught.value.problems)


def test_all_problems_of_all_files_are_reported_at_once(tmp_path: Path) -> None:
    """Two files with two mistakes each give four lines."""
    write(tmp_path, "modle: 1\nsparsity: 7\n", "cases/a.yaml")
    write(tmp_path, "blocks: 0\nmarks: [1]\n", "cases/b.yaml")
    with pytest.raises(CaseError) as caught:
        loader.load([tmp_path / "cases"])

    places = [p.removeprefix(str(tmp_path)).split(": ")[0] for p in caught.value.problems]
    expected = ["/cases/a.yaml:1:1", "/cases/a.yaml:2:1", "/cases/b.yaml:1:1", "/cases/b.yaml:2:9"]
    assert sorted(places) == expected


AMOUNTS = {
    "method: {name: sleb}\n": "give exactly one of sparsity, blocks for sleb; found none",
    "method: {name: sleb}\nsparsity: 0.1\nblocks: 2\n": "found sparsity, blocks",
    "method: {name: sleb}\nslicing: 0.1\n": "sleb takes 'sparsity' or 'blocks', not 'slicing'",
    "method: {name: dense}\nblocks: 1\n": "dense removes nothing; leave out 'blocks'",
    "blocks: 1\n": "missing key 'method'",
}


@pytest.mark.parametrize("text", AMOUNTS)
def test_a_case_gives_exactly_one_fitting_amount(tmp_path: Path, text: str) -> None:
    """Sparsity or the method's own unit, one of them, and none for dense."""
    with pytest.raises(CaseError, match=r"file\.yaml:\d+:\d+: ") as caught:
        loader.load([write(tmp_path, GOOD + text)])

    assert AMOUNTS[text] in str(caught.value)


def test_duplicate_ids_are_an_error(tmp_path: Path) -> None:
    """Two cases of one name would overwrite each other's baseline."""
    path = write(tmp_path, GOOD + "blocks: 2\nmatrix: {method: [{name: sleb}, {name: sleb}]}\n")
    with pytest.raises(CaseError, match="duplicate case id 'group/file/sleb-2blocks'"):
        loader.load([path])


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    """Nine levels of nine aliases are four hundred million values, and are refused in no time."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 9)]
    with pytest.raises(CaseError, match="more than 20000 values"):
        loader.load([write(tmp_path, "\n".join(lines))])


@pytest.mark.parametrize("depth", [50, 50_000])
def test_deep_nesting_is_refused(tmp_path: Path, depth: int) -> None:
    """However deep a file is nested, the answer is one line."""
    with pytest.raises(CaseError, match=r"deeply|more than 20 levels"):
        loader.load([write(tmp_path, "a: " + "[" * depth + "]" * depth)])


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    """A binary file is named as such."""
    path = tmp_path / "x.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(CaseError, match="not UTF-8"):
        loader.load([path])


def test_every_case_in_the_repository_loads() -> None:
    """All files below cases/, however deep, are valid."""
    root = ROOT / "cases"
    if not root.is_dir():
        pytest.skip("the tests run without the repository around them")
    files = list(root.rglob("*.yaml"))

    assert files
    assert loader.load([root])


def test_the_shipped_json_schema_is_the_current_one() -> None:
    """prunebench/case.schema.json is what `prunebench check --schema` prints."""
    shipped = Path(prunebench.__file__).with_name("case.schema.json")

    assert json.loads(shipped.read_text()) == keys.json_schema()


def test_the_json_schema_takes_good_files_and_refuses_bad_keys() -> None:
    """Another library's validator agrees on the shipped cases and on a misspelt key."""
    validator = jsonschema.Draft202012Validator(keys.json_schema())
    for path in loader.PROTOCOLS.glob("*.yaml"):
        data = yaml.safe_load(path.read_text())
        data["model"].setdefault("id", "any/model")  # which a protocol leaves to the case
        assert list(validator.iter_errors(data)) == []
    assert list(validator.iter_errors({"modle": 1}))
    assert list(validator.iter_errors({"method": {"name": "sleb", "keep_frist": 1}}))


MIXED = """
matrix:
  method: [{name: sleb}, {name: shortened_llama}]
  sparsity: [0.2, 0.3]
include:
  - {method: {name: dense}}
"""


def test_an_amount_set_from_outside_leaves_dense_alone(tmp_path: Path) -> None:
    """--set sparsity or blocks replaces that axis, whichever it was; dense has no amount."""
    path = write(tmp_path, GOOD + MIXED)

    for text, name in (("sparsity=0.5", "0.5"), ("blocks=3", "3blocks")):
        assert ids(path, text) == [
            "group/file/dense",
            f"group/file/sleb-{name}@{text}",
            f"group/file/shortened_llama-{name}@{text}",
        ]


def test_a_setting_need_only_fit_the_cases_that_are_wanted(tmp_path: Path) -> None:
    """An option of one method is no mistake of another that was not asked for."""
    path = write(tmp_path, GOOD + MIXED)
    setting = ["method.criterion=ppl"]
    chosen = loader.load([path], setting, select=lambda case_id: "shortened" in case_id)

    assert [case.label for case in chosen] == [
        f"shortened_llama-ppl-{amount}@method.criterion=ppl" for amount in ("0.2", "0.3")
    ]
    with pytest.raises(CaseError, match=r"--set method.criterion=ppl: unknown key 'criterion'"):
        loader.load([path], setting)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("model.id=./nowhere", "--set model.id=./nowhere: no such model folder"),
        ("metrics.0.dataset=foo", "--set metrics.0.dataset=foo: unknown dataset 'foo'"),
        ("metrics.0.dataset=./foo", "no such text file"),
        ("metrics.0.seqlen=0", "--set metrics.0.seqlen=0: found 0"),
        ("metrics.7.seqlen=8", "metrics has 1 items"),
        ("protocol=nothing", "unknown protocol 'nothing'"),
        ("matrix.sparsity=[0.1]", "shapes the file"),
        ("calibration.nsamples=2024-01-01", "expected a whole number"),
        ("calibration.dataset=2024-01-01", "unknown dataset '2024-01-01'"),
        ("sparsity=[", "not valid YAML"),
    ],
)
def test_bad_settings_are_plain_lines(tmp_path: Path, text: str, says: str) -> None:
    """What a setting breaks is told with the setting, before anything runs."""
    path = write(tmp_path, GOOD + "method: {name: sleb}\nblocks: 2\n")
    with pytest.raises(PrunebenchError) as caught:
        loader.load([path], [text])

    assert says in str(caught.value)


def test_a_path_in_a_setting_is_relative_to_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file named on the command line is looked for where the command is given."""
    path = write(tmp_path, GOOD + "method: {name: dense}\n")
    (tmp_path / "text.txt").write_text("some text\n")
    monkeypatch.chdir(tmp_path)
    (case,) = loader.load([path], ["metrics.0.dataset=./text.txt"])

    assert case.metrics[0].dataset == str((tmp_path / "text.txt").resolve())


def test_a_default_that_is_written_out_is_no_other_question(tmp_path: Path) -> None:
    """Numbers above 256 are where identity and equality part."""
    short = (
        "model: {id: some/model}\nmethod: {name: sleb}\nblocks: 2\n"
        "metrics: [{name: perplexity, dataset: c4}, {name: latency}]\n"
    )
    long = (
        "model: {id: some/model, dtype: auto}\nmethod: {name: sleb, keep_first: 1}\nblocks: 2\n"
        "calibration: {dataset: wikitext2, nsamples: 128, seqlen: 2048, seed: 0}\n"
        "metrics: [{name: perplexity, dataset: c4, seqlen: 2048, bos: tokenizer},"
        " {name: latency, max_seconds: 120.0, max_rounds: 200}]\n"
    )
    asked = [loader.load([write(tmp_path, text)])[0].asked for text in (short, long)]

    assert asked[0] == asked[1]


def test_tasks_of_lm_eval_among_case_files_are_none(tmp_path: Path) -> None:
    """Ours and lm-eval's own are told from every case file of ours; one that is named is read."""
    import lm_eval

    tasks = Path(lm_eval.__file__).parent / "tasks"
    own = [p for name in ("arc", "piqa", "mmlu/default") for p in (tasks / name).glob("*.yaml")]
    ours = sorted(reference.TASKS.glob("*.yaml"))
    assert len(own) > 50
    assert [p for p in [*own, *ours] if not loader.is_task(p) and "group" not in p.name] == []
    cases = loader.find([ROOT / "cases"])
    assert len(cases) > 20

    folder = tmp_path / "cases"
    shutil.copytree(ours[0].parent, folder / "tasks")
    shutil.copy(ROOT / "cases/smoke/tinyworld.yaml", folder)
    assert loader.find([folder]) == [folder / "tinyworld.yaml"]
    named = folder / "tasks" / ours[0].name
    assert loader.find([named]) == [named]
    with pytest.raises(CaseError, match="the tag '!function': a case file holds plain data"):
        loader.load([named])


def test_the_command_of_a_case_names_its_file_as_a_shell_reads_it(tmp_path: Path) -> None:
    """A blank in a folder's name made two files of one."""
    folder = tmp_path / "my cases"
    folder.mkdir()
    file = folder / "a b.yaml"
    file.write_text(
        "model: {id: prunebench/reference}\nmethod: {name: first}\nblocks: 1\n"
        "metrics: [{name: compute}]\n"
    )
    (case,) = loader.load([file])

    assert shlex.split(case.reproduce) == ["prunebench", "run", str(file), "-k", "first-1blocks"]

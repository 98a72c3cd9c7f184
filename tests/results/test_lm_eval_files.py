"""Results that lm-eval itself wrote, read and compared question by question."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest

from prunebench import PrunebenchError, reference
from prunebench.results import compare, lm_eval_pairing, readers
from prunebench.results.lm_eval_files import Answer, Results, load, newest
from prunebench.results.lm_eval_pairing import align

TASKS = ["tinyworld_recall", "tinyworld_order", "tinyworld_complete"]
LIMIT = 40


def evaluate(lm: Any, **options: Any) -> dict[str, Any]:
    """What ``lm_eval run`` computes on the shipped tasks."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    from prunebench import lm_eval_model

    found: dict[str, Any] = lm_eval.simple_evaluate(
        lm_eval_model(lm),
        tasks=list(TASKS),
        task_manager=TaskManager(include_path=str(reference.TASKS), include_defaults=False),
        bootstrap_iters=10,  # of a mean it is a formula; none would leave standard errors out
        verbosity="ERROR",
        **{"limit": LIMIT, **options},
    )
    return found


def write(found: dict[str, Any], into: Path, name: str, *, samples: bool = True) -> None:
    """What its ``--output_path`` writes, and with *samples* its ``--log_samples``."""
    from lm_eval.loggers import EvaluationTracker

    tracker = EvaluationTracker(output_path=str(into))
    tracker.general_config_tracker.log_experiment_args(
        model_source="hf",
        model_args=f"pretrained={name}",
        system_instruction=None,
        chat_template=None,
        fewshot_as_multiturn=False,
    )
    results = {k: v for k, v in found.items() if k != "samples"}
    logged = found["samples"] if samples else {}
    tracker.save_results_aggregated(results=results, samples=logged or None)
    for task, rows in logged.items():
        tracker.save_results_samples(task_name=task, samples=rows)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four runs: the dense model, one that lacks two blocks, the dense one on other prompts, and
    the pruned one without samples.
    """
    import lm_eval.evaluator

    import prunebench
    from prunebench import DropBlocks, Plan

    folder = tmp_path_factory.mktemp("lm-eval")
    lm = prunebench.load_model("prunebench/reference", dtype="float32")
    with pytest.MonkeyPatch.context() as patch:
        # What it says of the machine takes a second each time, and is not read.
        patch.setattr(lm_eval.evaluator, "add_env_info", lambda _: None)
        write(evaluate(lm), folder / "dense", "org/dense")
        told = evaluate(lm, system_instruction="the dog sees .", limit=4)
        write(told, folder / "told", "org/dense")
        pruned = evaluate(prunebench.apply(lm.share(), Plan((DropBlocks((3, 8)),))))
    write(pruned, folder / "bare", "org/pruned", samples=False)
    write(pruned, folder / "pruned", "org/pruned")
    return folder


def of(folder: Path) -> Results:
    found = newest(folder)
    assert found is not None
    return load(*found)


def copied(folder: Path, to: Path) -> Path:
    """A copy that a test may damage; its results file."""
    shutil.copytree(folder, to)
    found = newest(to)
    assert found is not None
    return found[0]


def edited(path: Path, **changes: Any) -> None:
    data = json.loads(path.read_text())
    for key, value in changes.items():
        data[key].update(value) if isinstance(data[key], dict) else data.update({key: value})
    path.write_text(json.dumps(data))


def test_the_samples_are_those_behind_lm_evals_own_score(runs: Path) -> None:
    """Per task the mean of the answers read is the aggregate that lm-eval wrote."""
    results = of(runs / "pruned")

    assert results.model == "org/pruned"
    assert list(results.tasks) == TASKS
    for task in results.tasks.values():
        for name, score in task.scores.items():
            right = [answer.right for answer in task.answers[name]]
            assert len(right) == LIMIT
            assert sum(right) / LIMIT == pytest.approx(score.value)
            # lm-eval's standard error of a mean, with its n - 1.
            p = score.value
            assert score.stderr == pytest.approx(math.sqrt(p * (1 - p) / (LIMIT - 1)))


def test_a_margin_is_positive_exactly_where_the_answer_is_right(runs: Path) -> None:
    """The lead of the right choice, from the responses; none for generated text."""
    tasks = of(runs / "pruned").tasks
    choices = tasks["tinyworld_recall"].answers["accuracy/tinyworld_recall"]

    assert {answer.right for answer in choices} == {0.0, 1.0}
    assert all((a.margin or 0.0) > 0 for a in choices if a.right)
    assert all((a.margin or 0.0) < 0 for a in choices if not a.right)
    texts = tasks["tinyworld_complete"].answers["generation/tinyworld_complete"]
    assert {answer.margin for answer in texts} == {None}


def test_our_own_metric_measures_what_the_reader_reads(runs: Path) -> None:
    """The same questions through prunebench's accuracy: same answers, same margins."""
    import prunebench
    from prunebench.metrics.accuracy import Accuracy

    lm = prunebench.load_model("prunebench/reference", dtype="float32")
    metric = Accuracy(
        tasks=("tinyworld_recall", "tinyworld_order"),
        tasks_folder=str(reference.TASKS),
        limit=LIMIT,
    )
    ours = {m.metric: m for m in metric.measure(lm, lm)}
    theirs = align(of(runs / "dense"), of(runs / "pruned"), "x").now

    for name in ("accuracy/tinyworld_recall", "accuracy/tinyworld_order", "accuracy/mean"):
        found = theirs.find(name)
        assert found is not None
        assert (found.value, found.samples) == (ours[name].value, ours[name].samples)
        assert found.instead == ours[name].instead
        assert found.margins == pytest.approx(ours[name].margins, abs=1e-5)


def test_a_pruned_model_is_found_worse_and_itself_the_same(runs: Path, project: Path, cli) -> None:
    """Exit 1 with the paired test over all questions; exit 0 against itself, strictly too."""
    code, out, err = cli("compare", runs / "dense", runs / "pruned")

    assert (code, err) == (1, "")
    assert "lm-eval: worse accuracy/mean: " in out
    assert "A: org/dense, results_" in out
    assert "1 case, 1 in both: 1 worse" in out
    data = json.loads(cli("compare", runs / "dense", runs / "pruned", "--json")[1])
    (found,) = data["verdicts"]
    mean = next(f for f in found["findings"] if f["what"] == "accuracy/mean")
    assert mean["evidence"]["test"] == "sign flips"
    assert mean["evidence"]["p_margins"] < 1e-4
    assert cli("compare", runs / "dense", runs / "dense", "--strict")[0] == 0
    better = cli("compare", runs / "pruned", runs / "dense")
    assert better[0] == 0
    assert "better accuracy/mean" in better[1]


def test_without_samples_standard_errors_decide(runs: Path, project: Path, cli) -> None:
    """A z-test by hand; a small loss that pairing would find stays unsure."""
    data = json.loads(cli("compare", runs / "dense", runs / "bare", "--json")[1])
    findings = {f["what"]: f for f in data["verdicts"][0]["findings"]}
    dense, bare = (of(runs / name).tasks["tinyworld_recall"] for name in ("dense", "bare"))
    now, was = (t.scores["accuracy/tinyworld_recall"] for t in (bare, dense))
    z = (was.value - now.value) / math.hypot(now.stderr or 0, was.stderr or 0)

    recall = findings["accuracy/tinyworld_recall"]
    assert recall["p"] == pytest.approx(math.erfc(z / math.sqrt(2)) / 2)
    assert recall["diagnostic"]
    assert findings["accuracy/mean"]["outcome"] == "worse"
    assert any("B has no samples to pair questions by" in note for note in data["notes"])


@pytest.mark.parametrize("b", ["pruned", "bare"])
def test_conditions_hold_of_lm_evals_scores(runs: Path, project: Path, cli, b: str) -> None:
    """With samples and without: the value below a limit fails, above it does not."""
    score = of(runs / b).tasks["tinyworld_recall"].scores["accuracy/tinyworld_recall"].value
    for limit, code in ((score + 0.001, 1), (score - 0.001, 0)):
        condition = f"accuracy/tinyworld_recall < {limit}"
        assert cli("compare", runs / "dense", runs / b, "--fail-on", condition)[0] == code


def test_other_prompts_are_not_comparable(runs: Path, project: Path, cli) -> None:
    """A system instruction changes every prompt: said per task, no verdict, 6 when strict."""
    code, out, _ = cli("compare", runs / "dense", runs / "told")

    assert code == 0
    assert "not_comparable tinyworld_recall: the prompts of 4 of 4 questions differ" in out
    assert cli("compare", runs / "dense", runs / "told", "--strict")[0] == 6


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"versions": {"tinyworld_recall": 2.0}}, "the task's version is 2.0, was 1.0"),
        ({"n-shot": {"tinyworld_recall": 5}}, "few-shot examples are 5, were 0"),
    ],
)
def test_another_version_or_number_of_examples_is_not_comparable(
    runs: Path, tmp_path: Path, changes: dict[str, Any], says: str
) -> None:
    """Only that task; the others are judged."""
    edited(copied(runs / "dense", tmp_path / "other"), **changes)
    found = compare.compare(readers.read(runs / "dense"), readers.read(tmp_path / "other"), {})
    findings = {f.what: (str(f.outcome), f.note) for f in found.verdicts[0].findings}

    assert findings["tinyworld_recall"] == ("not_comparable", says)
    assert findings["accuracy/tinyworld_order"][0] == "same"
    assert "accuracy/mean" not in findings


def test_only_shared_questions_are_compared(runs: Path, tmp_path: Path) -> None:
    """In another order, with ten missing and one that nobody else has: matched by their hash."""
    path = copied(runs / "dense", tmp_path / "part")
    (file,) = path.parent.glob("samples_tinyworld_recall_*")
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    alien = {**rows[0], "doc_hash": "0" * 64}
    file.write_text("\n".join(json.dumps(row) for row in [alien, *rows[:9:-1]]) + "\n")
    aligned = align(of(tmp_path / "part"), of(runs / "dense"), "x")
    now, was = (r.find("accuracy/tinyworld_recall") for r in (aligned.now, aligned.was))

    assert now is not None
    assert was is not None
    assert now.samples == was.samples
    assert len(now.samples) == LIMIT - 10
    assert aligned.notes == [
        "accuracy/tinyworld_recall: 30 questions on both sides, 10 only in A, 1 only in B"
    ]


def test_the_newest_of_several_results_is_taken(runs: Path, tmp_path: Path) -> None:
    """By the date in the name, and said."""
    path = copied(runs / "dense", tmp_path / "many")
    shutil.copy(path, path.with_name("results_2020-01-01T00-00-00.000000.json"))
    results = of(tmp_path / "many")

    assert results.path == path
    assert results.older == 1
    assert readers.read(path).results == load(path)


def test_a_normalised_accuracy_leads_and_its_margin_is_per_character(tmp_path: Path) -> None:
    """Both acc and acc_norm: own measurements, the latter judged, scores worked out by hand."""
    stamp = "2026-11-24T12-00-00.000000"
    for side, scores in (("a", (-2.0, -3.0)), ("b", (-4.0, -3.0))):
        folder = tmp_path / side
        folder.mkdir()
        row = {"acc,none": 1.0, "acc_norm,none": 0.0, "f1,none": 0.3}
        data = {"results": {"t": row}, "versions": {"t": 1}, "n-shot": {"t": 0}}
        (folder / f"results_{stamp}.json").write_text(json.dumps(data))
        sample = {
            "doc_hash": "d",
            "prompt_hash": "p",
            "target": "0",
            "resps": [[[str(score), "False"]] for score in scores],
            "arguments": {
                f"gen_args_{i}": {"arg_1": text} for i, text in enumerate((" ab", " abcd"))
            },
            "acc": float(scores[0] > scores[1]),
            "acc_norm": float(scores[0] / 2 > scores[1] / 4),
        }
        (folder / f"samples_t_{stamp}.jsonl").write_text(json.dumps(sample) + "\n")
    aligned = align(of(tmp_path / "b"), of(tmp_path / "a"), "x")
    plain, norm = aligned.was.measurements

    assert (plain.metric, plain.margins, plain.instead) == ("accuracy/t", (1.0,), "accuracy/t-norm")
    assert (norm.metric, norm.margins, norm.instead) == ("accuracy/t-norm", (-0.25,), "")
    assert of(tmp_path / "a").others == ("f1",)


def test_what_lm_eval_writes_of_broken_models_is_read(runs: Path, tmp_path: Path) -> None:
    """A perplexity that is not a number, and a question with one among its fields."""
    path = copied(runs / "dense", tmp_path / "nan")
    edited(path, results={"wikitext": {"word_perplexity,none": math.nan}})
    (file,) = path.parent.glob("samples_tinyworld_recall_*")
    file.write_text(file.read_text().replace('"doc": {', '"doc": {"year": NaN, '))

    assert "NaN" in path.read_text()
    assert "NaN" in file.read_text()
    assert of(tmp_path / "nan").tasks == of(runs / "dense").tasks
    assert of(tmp_path / "nan").others == ("word_perplexity",)


def test_repeated_questions_are_paired_in_their_order() -> None:
    """Three of one hash against two: two pairs, one left over."""
    mine = [Answer("q", "p", right, None) for right in (1.0, 0.0, 1.0)]
    old = [Answer("r", "p", 1.0, None), *(Answer("q", "p", right, None) for right in (0.0, 1.0))]
    pairs, only = lm_eval_pairing._pairs(mine, old)

    assert [(a.right, b.right) for a, b in pairs] == [(1.0, 0.0), (0.0, 1.0)]
    assert only == (1, 1)


def test_damaged_results_and_samples_are_one_line(runs: Path, tmp_path: Path) -> None:
    """Cut off in the middle: the file, and of samples the line."""
    path = copied(runs / "dense", tmp_path / "broken")
    (file,) = path.parent.glob("samples_tinyworld_recall_*")
    whole = file.read_text()
    file.write_text(whole[: len(whole) // 2])
    with pytest.raises(PrunebenchError, match=r"samples_tinyworld_recall.*jsonl:\d+: damaged"):
        of(tmp_path / "broken")
    path.write_text(path.read_text()[:500])
    with pytest.raises(PrunebenchError, match=r"results_.*json: damaged") as caught:
        of(tmp_path / "broken")
    assert "\n" not in str(caught.value)
    path.write_text(json.dumps({"results": {"t": 3}, "versions": {}}))
    with pytest.raises(PrunebenchError, match=r"no results that lm-eval 0.4 wrote"):
        of(tmp_path / "broken")

"""Every format read back by a parser that is not ours."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import jsonschema
import pytest
from factories import CPU, accuracy, record
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from msgspec.structs import replace

import prunebench
from prunebench import Measurement, Record
from prunebench.errors import inert
from prunebench.record import Provenance
from prunebench.reports.formats import (
    csv_table,
    github,
    grid,
    junit,
    latex,
    lm_eval,
    markdown,
    rows,
    schema,
    trackers,
)
from prunebench.reports.formats.items import Item, Judged
from prunebench.results import lm_eval_files, readers
from prunebench.results.baselines import published
from prunebench.results.baselines.files import Baselines, shipped
from prunebench.results.store import Store
from prunebench.system import files
from prunebench.verdicts.verdict import Finding, Outcome, Verdict, compare

ANY = st.text(st.characters(codec=None, exclude_categories=()), max_size=40)
#: What each format has a meaning for, more often than chance would have it.
NASTY = st.text(st.sampled_from("|`\\<>&@#[]()!*_~\n\r\t\0\x1b\u202e%:,\"'=+-{}$^ ab"), max_size=30)
TEXT = ANY | NASTY
#: The same texts every time; other work on the machine is no failure.
calm = settings(derandomize=True, deadline=None, database=None)


@pytest.fixture(scope="module")
def accepted() -> list[Record]:
    """The accepted records of the shipped model, with their samples."""
    baselines = Baselines(shipped("baselines"))
    found = [baselines.load(case_id, "cpu") for case_id in baselines.case_ids()]
    assert len(found) >= 17
    return [one for one in found if one is not None]


def asked(method: str = "sleb", **more: Any) -> dict[str, Any]:
    return {
        "protocol": "sleb@1",
        "model": {"id": "org/model"},
        "method": {"name": method},
        "amount": {"blocks": 2},
        "calibration": {"dataset": "wikitext2"},
        "metrics": [{"name": "accuracy", "tasks": ["t"]}],
        **more,
    }


def finding(outcome: Outcome = Outcome.WORSE, what: str = "accuracy/t", **more: Any) -> Finding:
    numbers = {"now": 0.9, "was": 0.96, "allowed": 0.01, "p": 0.002}
    return Finding(what, outcome, **{**numbers, **more})


def item(case_id: str = "a/b", *findings: Finding, **more: Any) -> Item:
    found = findings or (finding(),)
    failing = any(f.outcome in ("worse", "gone") for f in found)
    own: dict[str, Any] = {
        "verdict": Verdict(case_id, ok=not failing, findings=found),
        "record": record(accuracy(90), case_id=case_id),
        "file": "cases/a.yaml",
        "line": 7,
        "reproduce": "prunebench run cases/a.yaml -k 'b'",
    }
    return Item(**{**own, **more})


def crashed(case_id: str, error: str) -> Item:
    return item(case_id, verdict=Verdict(case_id, ok=False, error=error), record=None)


# ------------------------------------------------------------------------------------ JSON Schema


def of_kind(kind: str) -> jsonschema.Draft202012Validator:
    whole = schema.json_schema()
    alone = {"$ref": f"#/$defs/{kind}", "$defs": whole["$defs"]}
    return jsonschema.Draft202012Validator(alone)


def test_the_shipped_schema_is_the_current_one() -> None:
    """prunebench/record.schema.json is what `prunebench export --schema` prints, and a schema."""
    shipped_file = Path(prunebench.__file__).with_name("record.schema.json")
    current = schema.json_schema()

    again = "prunebench export --schema > prunebench/record.schema.json"
    assert json.loads(shipped_file.read_text()) == current, f"write it again: {again}"
    jsonschema.Draft202012Validator.check_schema(current)


def test_every_baseline_is_as_the_schema_says() -> None:
    """All accepted files, as baselines, as records, and by the schema as a whole."""
    found = list((shipped("baselines") / "quality").rglob("*.json"))
    assert len(found) >= 17
    whole = jsonschema.Draft202012Validator(schema.json_schema())
    validators = [of_kind("Baseline"), of_kind("Record"), whole]
    for path in found:
        data = json.loads(path.read_text())
        for validator in validators:
            assert next(validator.iter_errors(data), None) is None, path


def test_what_is_not_finite_is_null_and_valid(tmp_path: Path) -> None:
    """A broken model's record, and the interval without an end of its verdict."""
    was = record(Measurement("perplexity/t", 2.0, "ppl", "lower", (0.5, 0.7, 0.9), True))
    now = record(Measurement("perplexity/t", 1e300, "ppl", "lower", (800.0, 900.0, 1e3), True))
    none = record(Measurement("perplexity/t", None, "ppl", "lower"))
    judged = [compare(one, was, lambda _: prunebench.Tolerance()) for one in (now, none)]
    data = json.loads(files.as_json(schema.Run((now, none), tuple(judged))))

    assert data["verdicts"][0]["findings"][1]["evidence"]["high"] is None
    assert data["records"][1]["measurements"][0]["value"] is None
    assert list(of_kind("Run").iter_errors(data)) == []
    path = tmp_path / "run.json"
    files.write_json(path, data)
    assert readers.read(path).record("a/b", "cpu") == none


@pytest.mark.parametrize(
    ("where", "value"),
    [
        (("measurements", 0, "value"), "0.9"),
        (("measurements", 0, "better"), "up"),
        (("plan", 0, "edit"), "explode"),
        (("environment", "threads"), 1.5),
        (("created",), None),
    ],
)
def test_the_schema_refuses_what_no_record_has(where: tuple[Any, ...], value: object) -> None:
    """Each mistake is found at its place or above it."""
    data = json.loads(files.as_json(record(accuracy(90))))
    assert list(of_kind("Record").iter_errors(data)) == []
    spot = data
    for key in where[:-1]:
        spot = spot[key]
    spot[where[-1]] = value

    (error,) = of_kind("Record").iter_errors(data)
    assert tuple(error.absolute_path) == where[: len(error.absolute_path)]


# ------------------------------------------------------------------------------------------- rows


def test_rows_have_lm_evals_own_standard_errors(accepted: list[Record]) -> None:
    """Of a task without clusters it is the textbook's; of other values none is made up."""
    from lm_eval.api.metrics import mean_stderr

    tasks = 0
    for one in accepted:
        for m, row in zip(one.measurements, rows.rows([one]), strict=True):
            if m.instead == "accuracy/mean" and m.unit == "acc":
                tasks += 1
                assert row.standard_error == pytest.approx(mean_stderr(list(m.samples)), abs=1e-12)
    assert tasks >= 68

    median = Measurement("latency/x/ttft", 5.0, "ms", "lower", (1.0, 5.0, 20.0))
    bare = Measurement("accuracy/t", 0.5, "acc", "higher")
    found = list(rows.rows([record(median, bare, asked=asked())]))
    assert [row.standard_error for row in found] == [None, None]


def test_the_mean_of_tasks_has_the_error_of_independent_tasks() -> None:
    """The root of the summed squares over the number of tasks, not that of all questions pooled."""
    one, two = (
        replace(accuracy(k), metric=f"accuracy/{k}", instead="accuracy/mean") for k in (90, 50)
    )
    mean = Measurement("accuracy/mean", 0.7, "acc", "higher", one.samples + two.samples, True)
    *_, row = rows.rows([record(one, two, mean, asked=asked())])
    parts = [p * (1 - p) / 99 for p in (0.9, 0.5)]

    assert row.standard_error == pytest.approx(math.sqrt(sum(parts)) / 2)


# ----------------------------------------------------------------------------------------- lm-eval


def test_lm_evals_own_table_shows_an_export(accepted: list[Record]) -> None:
    """Every task of every record, with value and standard error to lm-eval's digits."""
    from lm_eval.api.metrics import mean_stderr
    from lm_eval.utils import make_table

    for one in accepted[:3]:
        table = make_table(json.loads(files.as_json(lm_eval.results(one))))
        for m in one.measurements:
            if m.instead == "accuracy/mean" and m.unit == "acc":
                task = m.metric.removeprefix("accuracy/")
                lines = [[c.strip() for c in x.split("|")[1:-1]] for x in table.splitlines()]
                (line,) = (x for x in lines if x[0] == task)
                error = mean_stderr(list(m.samples))
                assert (line[4:6], line[7]) == (["acc", "↑"], "±")
                assert float(line[6]) == pytest.approx(m.value, abs=5.1e-5)
                assert float(line[8]) == pytest.approx(error, abs=5.1e-5)


def test_an_export_has_every_key_of_lm_eval_and_one_more(accepted: list[Record]) -> None:
    """But groups, samples and the tokenizer's, which a record has nothing of."""
    from lm_eval.result_schema import EvalResults

    known = set(EvalResults.__annotations__)
    left_out = {k for k in known if k.startswith("tokenizer_")}
    left_out |= {"groups", "samples", "eot_token_id", "max_length"}

    assert set(lm_eval.results(accepted[0])) == known - left_out | {"prunebench"}


def test_lm_evals_functions_find_the_files(accepted: list[Record], tmp_path: Path) -> None:
    """A folder per model, the newest by its name; records of one second have two files."""
    from lm_eval.utils import get_latest_filename, get_results_filenames, sanitize_model_name

    one = accepted[0]
    older = replace(one, created="2020-01-01T00:00:00+00:00")
    layout = lm_eval.layout([one, older, one])
    for name, data in layout.items():
        files.write_json(tmp_path / name, data)
    paths = [str(path) for path in tmp_path.rglob("*") if path.is_file()]

    assert sorted(get_results_filenames(paths)) == sorted(paths)
    assert len(paths) == 3
    newest = json.loads(Path(get_latest_filename(paths)).read_text())
    assert newest["prunebench"]["record"]["created"] == one.created
    assert Path(paths[0]).parent.name == sanitize_model_name(newest["model_name"])
    assert newest["prunebench"]["schema_version"] == 1
    assert list(of_kind("Record").iter_errors(newest["prunebench"]["record"])) == []


def test_our_reader_of_lm_eval_gives_the_scores_back(
    accepted: list[Record], tmp_path: Path
) -> None:
    """Value, standard error and number of questions of each task and generation."""
    from lm_eval.api.metrics import mean_stderr

    one = next(r for r in accepted if r.find("accuracy/recovery"))
    for name, data in lm_eval.layout([one]).items():
        files.write_json(tmp_path / name, data)
    found = lm_eval_files.newest(tmp_path)
    assert found is not None
    results = lm_eval_files.load(*found)
    scores = {name: s for task in results.tasks.values() for name, s in task.scores.items()}

    wanted = [m for m in one.measurements if m.unit in ("acc", "match") and "mean" not in m.metric]
    assert set(scores) == {m.metric for m in wanted}
    for m in wanted:
        value, error, questions = scores[m.metric]
        assert (value, questions) == (m.value, len(m.samples))
        assert error == pytest.approx(mean_stderr(list(m.samples)), abs=1e-12)


def test_an_export_stays_in_its_folder() -> None:
    """A record from elsewhere may name its model anything, and say anything of its metrics."""
    odd = {
        **asked("dense"),
        "model": {"id": ".."},
        "metrics": [{"name": "accuracy", "acc_norm": 3, "num_fewshot": "x", "limit": "all"}],
        "calibration": {"seed": "one"},
        "amount": {"blocks": "two"},
    }
    one = record(accuracy(90), asked=odd, created="yesterday")
    (name,) = lm_eval.layout([one])
    (row,) = rows.rows([one])

    assert name == "model../results_1970-01-01T00-00-00.000000.json"
    assert (row.seed, row.amount, row.value) == (None, None, 0.9)
    assert prunebench.frame(one)["seed"].isna().all()
    assert "org" not in markdown.table(grid.grid([one]))


# ------------------------------------------------------------------------------------------- JUnit


def test_junit_counts_and_numbers() -> None:
    """Passed, failed, crashed and skipped, each as its kind, with the findings and the numbers."""
    skipped = Verdict("a/s", ok=True, skipped="needs a GPU")
    run = Judged(
        (
            item("a/ok", finding(Outcome.SAME), seconds=1.5),
            item("a/bad", seconds=2.0),
            crashed("a/crash", "no such model"),
            item("a/s", verdict=skipped, record=None),
            item("other/unsure", finding(Outcome.UNSURE)),
        )
    )
    root = ET.fromstring(junit.text(run))  # noqa: S314

    assert root.attrib == {
        "name": "prunebench",
        "tests": "5",
        "failures": "1",
        "errors": "1",
        "skipped": "1",
        "time": "3.500",
    }
    suites = root.findall("testsuite")
    assert [(s.get("name"), s.get("tests")) for s in suites] == [("a", "4"), ("other", "1")]
    kinds = [[child.tag for child in case if child.tag != "properties"] for case in suites[0]]
    assert kinds == [[], ["failure"], ["error"], ["skipped"]]
    bad = suites[0][1]
    failure = bad.find("failure")
    assert failure is not None
    assert failure.get("message") == "worse accuracy/t: 0.9000, was 0.9600 (-0.06), allowed " + (
        "0.0100, p = 0.002"
    )
    assert (failure.text or "").endswith("reproduce: prunebench run cases/a.yaml -k 'b'")
    told = {p.get("name"): p.get("value") for p in bad.iter("property")}
    assert told["accuracy/t"] == "0.9"
    assert told["accuracy/t.was"] == "0.96"
    assert told["accuracy/t.p"] == "0.002"
    assert told["outcome"] == "worse"


def test_doubt_fails_junit_only_when_strict() -> None:
    """As it does the run."""
    items = (item("a/b", finding(Outcome.UNSURE)),)
    for strict in (False, True):
        root = ET.fromstring(junit.text(Judged(items, strict=strict)))  # noqa: S314
        assert root.get("failures") == str(int(strict))


@calm
@given(TEXT.filter(bool))
def test_junit_is_valid_xml_whatever_stands_in_it(text: str) -> None:
    """Read by expat; what XML cannot hold is there as its escape."""
    run = Judged((crashed("a/x", text), item("a/y", finding(note=text), reproduce=text)))
    root = ET.fromstring(junit.text(run))  # noqa: S314

    error = root.find(".//error")
    assert error is not None
    shown = re.sub("[\ufffe\uffff]", lambda m: m[0].encode("unicode_escape").decode(), inert(text))
    assert error.get("message") == shown


@pytest.mark.slow
def test_junit_has_the_form_of_pytests(pytester: pytest.Pytester) -> None:
    """The same elements below the same, and no attribute that pytest's has not."""
    pytester.makepyfile(
        "import pytest\n"
        "def test_a(record_property): record_property('x', 1); assert 0\n"
        "def test_b(): pytest.skip('why')\n"
        "@pytest.fixture\n"
        "def bad(): 1 / 0\n"
        "def test_c(bad): pass\n"
    )
    pytester.runpytest_subprocess("--junitxml=theirs.xml", "-p", "no:cacheprovider")
    theirs = ET.parse(pytester.path / "theirs.xml").getroot()  # noqa: S314
    skipped = Verdict("a/s", ok=True, skipped="needs a GPU")
    run = Judged((item(), crashed("a/c", "x"), item("a/s", verdict=skipped)))
    ours = ET.fromstring(junit.text(run))  # noqa: S314

    def shapes(root: ET.Element) -> dict[tuple[str, str], set[str]]:
        found: dict[tuple[str, str], set[str]] = {}
        for parent in root.iter():
            for child in parent:
                found.setdefault((parent.tag, child.tag), set()).update(child.attrib)
        return found

    mine, known = shapes(ours), shapes(theirs)
    assert set(mine) == set(known)
    for place, attributes in mine.items():
        assert attributes - known[place] <= (
            {"type"} if place[1] in ("failure", "error") else set()
        )


# ---------------------------------------------------------------------------------------- Markdown

GFM = MarkdownIt("commonmark", {"html": True}).enable(["table"])


def cells(text: str) -> list[list[tuple[str, str]]]:
    """Each row of the tables in a text: per cell the kind of its only content, and that."""
    found: list[list[tuple[str, str]]] = []
    for token in GFM.parse(text):
        if token.type == "tr_open":
            found.append([])
        elif token.type == "inline" and found and token.level > 3:
            inner = [(c.type, c.content) for c in token.children or () if c.type or c.content]
            found[-1].append(inner[0] if len(inner) == 1 else ("mixed", token.content))
    return found


@calm
@given(TEXT.filter(bool))
def test_text_in_a_cell_is_shown_and_does_nothing(text: str) -> None:
    """One code span with exactly that text: no link, mention, HTML, other cell or row."""
    table = f"| a | b |\n| --- | --- |\n| {markdown.code(text)} | end |"
    head, row = cells(table)

    assert len(head) == 2
    kind, content = row[0]
    shown = inert(text, markdown.MOST)
    # CommonMark has one space where code has a line end, and trims cells; nothing else is lost.
    assert kind == "code_inline"
    assert content.strip() == shown.strip()
    assert row[1] == ("text", "end")


@calm
@given(st.lists(TEXT, min_size=1, max_size=3))
def test_commands_stay_in_their_block(lines: list[str]) -> None:
    """One fenced block, whose lines are the commands."""
    (token,) = GFM.parse(markdown.fenced("\n".join(map(inert, lines))))

    assert token.type == "fence"
    assert token.content == "".join(f"{inert(line)}\n" for line in lines)


def test_a_comment_says_the_worst_first() -> None:
    """Summary, crash, losses with their numbers, doubt, everything, the commands."""
    run = Judged(
        (
            item("a/fine", finding(Outcome.SAME)),
            item("a/doubt", finding(Outcome.UNSURE, now=0.95, p=0.2)),
            item("a/bad"),
            crashed("a/crash", "no such model"),
        )
    )
    text = markdown.comment(run)

    assert text.startswith(
        "### prunebench: 2 of 4 cases failed\n\n"
        "4 cases: 1 crashed, 1 worse, 1 unsure, 1 same (`a`, `cpu`).\n"
    )
    parts = ["Crashed", "Got worse", "Unsure, changed or better", "<details>", "Run again"]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    assert (
        "| `bad` | `accuracy/t` | **worse** | 96.0% | 90.0% | \u22126.0\u00a0pp "
        "| 1.00\u00a0pp | 0.002 |" in text
    )
    whole = cells(text[text.index("<details>") :])
    assert [row[0] for row in whole[1:]] == [
        ("code_inline", name) for name in ("fine", "doubt", "bad", "crash")
    ]
    assert "```\nprunebench run cases/a.yaml -k 'b'\n```" in text


def test_a_run_that_was_stopped_says_so() -> None:
    """In its second line."""
    run = Judged((item("a/b", finding(Outcome.SAME)),), left=3)

    assert "1 case: 1 same; stopped with 3 more to go" in markdown.comment(run)


@pytest.mark.slow
@calm
@given(st.integers(1500, 30_000), st.integers(1, 150), st.sampled_from(["x", "\u00e9\U0001f600`|"]))
def test_a_comment_keeps_its_limit(limit: int, count: int, filler: str) -> None:
    """In letters and bytes; rows are whole, and those left out are counted."""
    names = [f"a/{i:03}" for i in range(count)]
    run = Judged(tuple(item(n, finding(note=filler * 50), reproduce=filler * 9) for n in names))
    text = markdown.comment(run, limit)

    assert len(text) <= len(text.encode()) <= limit
    tables = [row for row in cells(text) if row and row[0][0] == "code_inline"]
    for what, marker in (("findings", "Got worse"), ("cases", "<details>")):
        section = text[text.index(marker) :]
        section = re.split("\n\n#|</details>|(?<!^)<details>", section)[0]
        shown = sum(row[0][0] == "code_inline" for row in cells(section) if row)
        left = re.search(rf"^(\d+) more {what} left out", text, re.M)
        assert shown + (int(left[1]) if left else 0) == count
    assert len(tables) <= 2 * count
    assert text.count("<details>") == text.count("</details>") == 1


def test_a_table_of_records_has_the_papers_numbers(accepted: list[Record]) -> None:
    """Value, standard error, published number and its source; a table per case file."""
    ppl = Measurement("perplexity/wikitext2", math.exp(2.6), "ppl", "lower", (2.5, 2.7), True)
    one = record(ppl, asked=asked())
    row = published.Row(
        "SLEB", "Table 2", "sleb@1", "org/model", {"name": "sleb"}, ppl.metric, 12.9
    )
    shown = grid.grid([one, *accepted], ["perplexity/*"], lambda r: [row] if r is one else [])
    text = markdown.table(shown)

    assert "| `sleb` | 20.0% | 13.464 ± 1.3 (published 12.900) |" in text
    assert "Published numbers: `SLEB, Table 2`." in text
    assert len(cells(text)) == len(accepted) + 1 + len({line.group for line in shown.lines})


# ------------------------------------------------------------------------------------------ GitHub


def parsed(line: str) -> tuple[str, dict[str, str], str]:
    """A workflow command as actions/runner reads one: ActionCommand.TryParseV2."""
    match = re.fullmatch(r"::([a-z-]+)(?: (.*?))?::(.*)", line, re.S)
    assert match is not None, line

    def back(text: str, escapes: str) -> str:
        for letter in escapes:
            text = text.replace(f"%{ord(letter):02X}", letter)
        return text.replace("%25", "%")

    pairs = (pair.partition("=") for pair in (match[2] or "").split(",") if pair)
    properties = {key: back(value, "\r\n:,") for key, _, value in pairs}
    return match[1], properties, back(match[3], "\r\n")


@calm
@given(TEXT, TEXT.filter(bool), TEXT.filter(bool))
def test_a_workflow_command_comes_back(message: str, title: str, file: str) -> None:
    """Message and properties, of whatever they are made; on one line."""
    line = github.command("error", message, file=file, title=title)

    assert "\n" not in line
    assert "\r" not in line
    assert parsed(line) == ("error", {"file": file, "title": title}, message)


def test_at_most_ten_annotations_with_the_summary_first(tmp_path: Path) -> None:
    """Errors before warnings, each at the line of its case, and what was left out is said."""
    doubt = [item(f"a/d{i}", finding(Outcome.UNSURE)) for i in range(8)]
    bad = [item(f"a/b{i}", file=str(tmp_path / "x/cases/a.yaml")) for i in range(5)]
    fine = [item("a/ok", finding(Outcome.SAME))]
    lines = [
        parsed(line) for line in github.commands(Judged((*doubt, *fine, *bad)), tmp_path / "x")
    ]

    assert len(lines) == 10
    kind, properties, message = lines[0]
    assert (kind, properties) == ("error", {"title": "prunebench"})
    assert message == "14 cases: 5 worse, 8 unsure, 1 same; 4 more have no annotation, see the log"
    assert [kind for kind, *_ in lines[1:]] == ["error"] * 5 + ["warning"] * 4
    kind, properties, message = lines[1]
    assert properties == {"file": "cases/a.yaml", "line": "7", "title": "worse: a/b0"}
    assert message.splitlines() == [
        "worse accuracy/t: 0.9000, was 0.9600 (-0.06), allowed 0.0100, p = 0.002",
        "reproduce: prunebench run cases/a.yaml -k 'b'",
    ]


def test_nothing_is_annotated_where_nothing_is_wrong() -> None:
    """A green run is quiet; one that was stopped is not."""
    items = (item("a/ok", finding(Outcome.SAME)),)

    assert github.commands(Judged(items)) == []
    assert len(github.commands(Judged(items, left=2))) == 1


# --------------------------------------------------------------------------------- tables of papers


def unlatex(text: str) -> str:
    """What LaTeX prints of a text without maths: its commands and escapes, one by one."""
    symbols = {
        "textbackslash": "\\",
        "textasciitilde": "~",
        "textasciicircum": "^",
        "textbar": "|",
        "textless": "<",
        "textgreater": ">",
        "textasciigrave": "`",
        "textquotedbl": '"',
        "textquotesingle": "'",
    }
    shown, rest = "", text
    while rest:
        if match := re.match(r"\\([a-zA-Z]+)\{\}|\\([{}$&#_%])|(-)\{\}|([^\\{}$&#_%~^])", rest):
            name, escape, dash, plain = match.groups()
            shown += symbols[name] if name else escape or dash or plain
            rest = rest[match.end() :]
        else:
            raise AssertionError(f"LaTeX would do something with {rest[:20]!r}")
    return shown


@calm
@given(TEXT)
def test_latex_prints_the_text(text: str) -> None:
    """No letter is left that LaTeX does something with."""
    assert unlatex(latex.escaped(text)) == inert(text)


def test_a_latex_table_has_as_many_cells_in_every_row() -> None:
    """Value with its uncertainty, published number as a note; braces and environments close."""
    ppl = Measurement("perplexity/wiki_2", math.exp(2.6), "ppl", "lower", (2.5, 2.7), True)
    own = {**asked(), "method": {"name": "sleb", "criterion": "a_b"}}
    bare = replace(accuracy(90), samples=())
    records = [record(ppl, asked=own), record(bare, case_id="a/c", asked=asked("dense"))]
    row = published.Row(
        "SLEB", "Table 2", "sleb@1", "org/model", {"name": "sleb"}, ppl.metric, 12.9
    )
    text = latex.text(grid.grid(records, lookup=lambda r: [row] if r is records[0] else []))

    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert [line.count("&") - line.count(r"\&") for line in body] == [3, 3, 0, 3, 3]
    assert (
        r"sleb (criterion=a\_b) & 20.0 &  & $13.464 \pm 1.3$\textsuperscript{a} \\" in text
        or r"sleb (criterion=a\_b) & 20.0 & $13.464 \pm 1.3$\textsuperscript{a} &  \\" in text
    )
    assert r"dense & 20.0 &  & $90.0$ \\" in text
    assert r"\textsuperscript{a} published 12.900, SLEB, Table 2" in text
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 1


def test_small_numbers_in_latex_are_powers_of_ten() -> None:
    """4.6e-07 in mathematics is 4.6 times e, less 07."""
    spread = (4.0e-7, 5.2e-7)
    tiny_one = Measurement("divergence/wiki", 4.6e-7, "nats", "lower", spread, True)
    text = latex.text(grid.grid([record(tiny_one)]))
    (cell,) = re.findall(r"\$([^$]*\\pm[^$]*)\$", text)
    powers = re.sub(r" \\times 10\^\{(-?\d+)\}", r"e\1", cell)

    assert "e" not in cell.replace(r"\times", "")
    assert [float(part) for part in powers.split(r" \pm ")] == pytest.approx([4.6e-7, 6e-8])


def test_csv_comes_back_with_every_digit(accepted: list[Record]) -> None:
    """By the csv module and by pandas; lines end as RFC 4180 has them."""
    import pandas as pd

    text = csv_table.long(accepted)
    assert text.count("\r\n") == text.count("\n")
    found = list(csv.DictReader(io.StringIO(text, newline="")))
    values = [m.value for r in accepted for m in r.measurements]
    assert [float(row["value"]) for row in found] == values
    assert [row["case_id"] for row in found] == [
        r.case_id for r in accepted for _ in r.measurements
    ]

    wide = pd.read_csv(io.StringIO(csv_table.wide(accepted)))
    assert len(wide) == len(accepted)
    by_case = {r.case_id: r for r in accepted}
    for _, row in wide.iterrows():
        mean = by_case[row["case_id"]].find("accuracy/mean")
        assert mean is not None
        assert row["accuracy/mean"] == mean.value


@calm
@given(TEXT)
def test_no_cell_is_a_formula(text: str) -> None:
    """Whatever a spreadsheet would compute has a ' before it; all else comes back as it was."""
    (cell,) = next(csv.reader(io.StringIO(csv_table.written([text], []), newline="")), [""])

    assert not re.match(r" *[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]", cell)
    assert cell.removeprefix("'") in (inert(text), inert(text).removeprefix("'"))


def test_a_frame_of_a_folder_without_records_is_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its columns; what there is by default is read."""
    monkeypatch.chdir(tmp_path)
    assert len(prunebench.frame()) == 0
    assert "metric" in prunebench.frame()
    Store(tmp_path / ".prunebench").save(record(accuracy(90)))
    assert list(prunebench.frame()["value"]) == [0.9]


def test_a_frame_is_the_csv(accepted: list[Record], tmp_path: Path) -> None:
    """From records, from a folder, from several places: a row per measurement, typed."""
    import pandas as pd

    from_records = prunebench.frame(accepted)
    from_folder = prunebench.frame(shipped("baselines"))
    pd.testing.assert_frame_equal(
        from_records.sort_values(["case_id", "metric"], ignore_index=True),
        from_folder.sort_values(["case_id", "metric"], ignore_index=True),
    )
    read = pd.read_csv(io.StringIO(csv_table.long(accepted)))
    assert list(read.columns) == list(from_records.columns)
    for name in ("value", "standard_error", "sparsity", "n", "chance"):
        pd.testing.assert_series_equal(read[name], from_records[name])
    assert from_records["seed"].dtype == "Int64"
    one = prunebench.frame(accepted[0])
    assert len(one) == len(accepted[0].measurements)
    with pytest.raises(prunebench.PrunebenchError, match="no such file or folder"):
        prunebench.frame(tmp_path / "nothing")


# ---------------------------------------------------------------------------------------- trackers


def test_trackers_get_every_finite_number_once(accepted: list[Record]) -> None:
    """github-action-benchmark by direction, bencher with the ends of an interval."""
    broken = record(Measurement("perplexity/t", None, "ppl", "lower"), case_id="x/y")
    records = [*accepted, broken]
    lower, higher = (trackers.action_benchmark(records, way) for way in ("lower", "higher"))
    finite = [(r.case_id, m) for r in accepted for m in r.measurements]

    assert {e["name"] for e in lower + higher} == {f"{c} {m.metric}" for c, m in finite}
    assert len(lower + higher) == len(finite)
    assert all(set(e) <= {"name", "unit", "value", "range", "extra"} for e in lower)
    assert all(" perplexity/" not in e["name"] for e in higher)

    metric_format = trackers.bencher(records)
    assert "x/y" not in metric_format
    case_id = accepted[0].case_id
    ppl = metric_format[case_id]["perplexity/tinyworld"]
    row = next(iter(rows.rows([accepted[0]])))
    assert row.standard_error is not None
    assert ppl["upper_value"] - ppl["lower_value"] == pytest.approx(2 * 1.96 * row.standard_error)


def test_rows_say_what_was_asked() -> None:
    """Options as JSON, the amount with its unit, where and when."""
    one = record(
        accuracy(90),
        asked={**asked(), "method": {"name": "sleb", "keep_first": 2}},
        provenance=Provenance(dtype="float16"),
        environment=replace(CPU, packages={"prunebench": "0.1"}, commit="abc"),
    )
    (row,) = rows.rows([one])

    assert (row.method, row.options) == ("sleb", '{"keep_first": 2}')
    assert (row.amount, row.amount_unit, row.sparsity) == (2, "blocks", 0.2)
    assert (row.calibration, row.seed, row.n) == ("wikitext2", 0, 100)
    assert (row.dtype, row.commit, row.prunebench) == ("float16", "abc", "0.1")

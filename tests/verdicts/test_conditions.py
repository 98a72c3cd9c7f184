"""Conditions: the language against an oracle of its own, then judged, then through the commands."""

from __future__ import annotations

import json
import math
from decimal import Context, Decimal, Inexact, localcontext
from pathlib import Path
from typing import Any

import pytest
import yaml
from factories import CPU, ROOT, accuracy, read, record
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from prunebench import CaseError, Measurement, PrunebenchError
from prunebench.cases import loader
from prunebench.verdicts import conditions
from prunebench.verdicts import fail_on as gating
from prunebench.verdicts.conditions import Facts, parse, parse_list
from prunebench.verdicts.verdict import Finding, Outcome, passes, settle

quick = settings(derandomize=True, deadline=None, database=None, max_examples=100)

# ------------------------------------------------------------ an oracle: nested tuples, Decimal

COMPARATORS = ("<", "<=", ">", ">=", "==", "!=")
QUANTITIES = ("now", "was", "drop", "rise", "loss", "gain", "p")

#: Thousandths, so that ties happen; and numbers far apart.
numbers = st.one_of(
    st.integers(0, 40).map(lambda n: Decimal(n) / 1000),
    st.decimals(-1000, 1000, places=6),
)
comparisons = st.tuples(
    st.sampled_from(QUANTITIES),
    st.sampled_from(COMPARATORS),
    numbers,
    st.sampled_from(("", "pp", "%", "x")),
)
trees = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(st.just("not"), inner),
        st.tuples(st.sampled_from(("and", "or")), inner, inner),
    ),
    max_leaves=6,
)
maybe = st.none() | numbers.map(float)
facts = st.builds(
    Facts,
    now=maybe,
    was=maybe,
    better=st.sampled_from(("lower", "higher")),
    p=st.none() | st.integers(0, 40).map(lambda n: n / 1000),
)


def spelt(tree: Any) -> str:
    """A tree as text, with brackets around everything."""
    if tree[0] == "not":
        return f"not ({spelt(tree[1])})"
    if tree[0] in ("and", "or"):
        return f"(({spelt(tree[1])}) {tree[0]} {spelt(tree[2])})"
    name, comparator, number, unit = tree
    return f"{name}{comparator} {number}{unit}"


def truth(tree: Any, given: Facts) -> float:
    """1, 0, or a half for unknown: Kleene's logic is min, max and 1 - x."""
    if tree[0] == "not":
        return 1 - truth(tree[1], given)
    if tree[0] in ("and", "or"):
        return (min if tree[0] == "and" else max)(truth(t, given) for t in tree[1:])
    name, comparator, number, unit = tree
    left, scale = measured(name, given), Decimal(1)
    if unit in ("pp", "%"):
        scale = Decimal("0.01")
    if unit == "%" and name in ("drop", "rise", "loss", "gain") and given.was is not None:
        scale *= abs(Decimal(repr(given.was)))
    if left is None:
        return 0.5
    order = left.compare(number * scale)
    wanted = {"<": (-1,), "<=": (-1, 0), ">": (1,), ">=": (1, 0), "==": (0,), "!=": (-1, 1)}
    return float(order in wanted[comparator])


def measured(name: str, given: Facts) -> Decimal | None:
    if name in ("now", "was", "p"):
        value = getattr(given, name)
        return None if value is None else Decimal(repr(value))
    if given.now is None or given.was is None:
        return None
    drop = Decimal(repr(given.was)) - Decimal(repr(given.now))
    loss = drop if given.better == "higher" else -drop
    return {"drop": drop, "rise": -drop, "loss": loss, "gain": -loss}[name]


# --------------------------------------------------------------------------------- properties


@quick
@given(trees, facts)
def test_a_condition_means_what_the_oracle_says(tree: Any, given: Facts) -> None:
    """Every quantity, unit, operator and word, known or not, by exact decimal arithmetic."""
    with localcontext(Context(prec=60, traps=[Inexact])):
        expected = truth(tree, given)

    assert parse(f"a/b: {spelt(tree)}").holds(given) is {1: True, 0: False, 0.5: None}[expected]


@quick
@given(trees, facts)
def test_the_canonical_text_reads_back_as_the_same_condition(tree: Any, given: Facts) -> None:
    """The same structure, hence the same text and the same answers."""
    condition = parse(f"*/mean  {spelt(tree)} ")
    again = parse(condition.text)

    assert again == condition
    assert again.text == condition.text
    assert again.holds(given) is condition.holds(given)


@quick
@given(trees, trees, facts)
def test_kleenes_laws(one: Any, other: Any, given: Facts) -> None:
    """De Morgan and double negation, unknown values included."""

    def holds(text: str) -> bool | None:
        return parse(f"a: {text}").holds(given)

    a, b = spelt(one), spelt(other)
    assert holds(f"not ({a} and {b})") is holds(f"not ({a}) or not ({b})")
    assert holds(f"not ({a} or {b})") is holds(f"not ({a}) and not ({b})")
    assert holds(f"not not ({a})") is holds(a)


@quick
@given(st.sampled_from(QUANTITIES), numbers, numbers, st.sampled_from(("", "pp", "%", "x")), facts)
def test_a_looser_threshold_never_fails_more(
    name: str, one: Decimal, other: Decimal, unit: str, given: Facts
) -> None:
    """What is below a threshold is below every higher one, and the other way round."""
    low, high = sorted((one, other))

    def holds(comparator: str, limit: Decimal) -> bool | None:
        return parse(f"a: {name} {comparator} {limit}{unit}").holds(given)

    for comparator, strict, loose in (("<", low, high), (">", high, low)):
        for sign in ("", "="):
            if holds(comparator + sign, strict):
                assert holds(comparator + sign, loose)
        if holds(comparator, strict):
            assert holds(comparator + "=", strict)


@quick
@given(st.integers(0, 10_000), st.integers(0, 10_000))
def test_differences_are_those_of_the_decimals(now: int, was: int) -> None:
    """Four decimals each: the drop is exactly that of whole ten-thousandths, no more, no less."""
    given = Facts(now / 10_000, was / 10_000)
    limit = f"{(was - now) / 100:.2f}pp"

    assert parse(f"a: drop > {limit}").holds(given) is False
    assert parse(f"a: drop == {limit}").holds(given) is True
    assert parse(f"a: rise == {(now - was) / 10_000:.4f}").holds(given) is True


PIECES = [
    *QUANTITIES,
    *COMPARATORS,
    "and",
    "or",
    "not",
    "(",
    ")",
    ":",
    ",",
    "1",
    "2%",
    "5pp",
    "-1x",
]
PIECES += ["accuracy/*", "[!a", "1e9", "1e999", "nan", "=", "!", "0x1", "1__0", "\n", "x"]
fragments = st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join)


@pytest.mark.slow
@quick
@given(st.text(max_size=60) | fragments | fragments.map("a: ".__add__), facts, st.text(max_size=20))
def test_any_text_is_a_condition_or_one_plain_line(text: str, given: Facts, metric: str) -> None:
    """No other error; and what was read can be used and written."""
    for reader in (parse, gating.read, lambda text: gating.parted(parse_list(text))):
        try:
            found = reader(text)
        except PrunebenchError as error:
            found = str(error)
        if isinstance(found, str):
            assert found in list(Outcome) or len(found.splitlines()) == 1
        if isinstance(found, conditions.Condition):
            assert parse(found.text) == found
            assert found.holds(given) in (True, False, None)
            assert found.matches(metric) in (True, False)


@pytest.mark.parametrize("opening", ["(", "not ", "not (", "drop > 1 and ("])
def test_deep_nesting_is_one_plain_line(opening: str) -> None:
    """Far below what Python's stack holds; and a text of any length is refused at once."""
    nested = "nested more than 20 deep"
    with pytest.raises(PrunebenchError, match=nested):
        parse("a: " + opening * 21 + "p < 1")
    with pytest.raises(PrunebenchError, match="at most 1000") as caught:
        parse("a: " + opening * 100_000)
    assert len(str(caught.value)) < 200
    assert parse("a: " + "(" * 20 + "p < 1" + ")" * 20) == parse("a: p < 1")


# ------------------------------------------------------------------------------------ by hand


@pytest.mark.parametrize(
    ("text", "now", "was", "holds"),
    [
        ("a < 0.95", 0.9499, None, True),
        ("a < 0.95", 0.95, None, False),
        ("a < 95%", 0.9499999999999999, None, True),
        ("a: drop > 1pp", 0.89, 0.90, False),  # floats: 0.90 - 0.89 is 0.010000000000000009
        ("a: drop > 1pp", 0.8899, 0.90, True),
        ("a: drop >= 10%", 0.81, 0.90, True),
        ("a: drop > 10%", 0.81, 0.90, False),
        ("a: rise > 0.5%", -9.9, -10, True),  # of the size of the baseline
        ("a: rise > 5%", 0.0, 0.0, False),
        ("a: rise > 5%", 1e-9, 0.0, True),
        ("a >= 1.2x", 1.2, None, True),
        ("a > 1_000", 1000.5, None, True),
        ("a > 1e-3", 0.001, None, False),
        ("a < 0.5 or drop > 1pp", 0.6, None, None),
        ("a < 0.5 or drop > 1pp", 0.4, None, True),
        ("a < 0.5 and drop > 1pp", 0.6, None, False),
        ("a: not drop > 1pp and drop > 1pp", 0.6, None, None),
    ],
)
def test_values_by_hand(text: str, now: float, was: float | None, holds: bool | None) -> None:
    """No slack, decimals as they are written, unknown where a number is missing."""
    assert parse(text).holds(Facts(now, was)) is holds


def test_loss_and_gain_follow_the_metrics_direction() -> None:
    """What rises is a loss of a perplexity and a gain of an accuracy."""
    up = {better: Facts(3.0, 2.0, better) for better in ("lower", "higher")}

    assert [parse("a: loss == 1").holds(up[better]) for better in up] == [True, False]
    assert [parse("a: gain == 50%").holds(up[better]) for better in up] == [False, True]


def test_what_is_not_finite_is_unknown() -> None:
    """Neither side of nan."""
    for value in (math.nan, math.inf):
        assert parse("a < 1 or now >= 1").holds(Facts(value)) is None


def test_the_canonical_form() -> None:
    """`now` is spelt out, numbers have one form, brackets only where they matter."""
    for text, expected in {
        "a<0.950": "a: now < 0.95",
        " a : (drop>1_0.0 pp)": "a: drop > 10pp",
        "a: ((p<1 or p>2) and not(not p<3))": "a: (p < 1 or p > 2) and not not p < 3",
        "a: p<1 or (p>2 and (p<3 and p<4))": "a: p < 1 or p > 2 and p < 3 and p < 4",
        "a: not (p<1 and p<2)": "a: not (p < 1 and p < 2)",
        "a > -0.0e5": "a: now > 0",
        "a > +1e-300": "a: now > 1E-300",
    }.items():
        assert parse(text).text == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("accuracy/mean: drp > 1pp", "column 16: found 'drp'; did you mean 'drop'? allowed: drop,"),
        ("a/b =< 3", "column 5: found '=<'; the comparisons are <, <=, >, >=, ==, !="),
        ("a/b = 3", "column 5: found '='; the comparisons are <,"),
        ("a/b <", "column 6: found the end; expected a finite number"),
        ("a/b < much", "column 7: found 'much'; expected a finite number"),
        ("a/b < inf", "found 'inf'; expected a finite number"),
        ("a/b < 1e999", "found '1e999'; expected a finite number"),
        ("a/b < 12ms", "found '12ms'; the units are pp, %, x or none"),
        ("a/b < 1 nor p < 1", "column 9: found 'nor'; did you mean 'or'? allowed: and, or"),
        ("a/b: (p < 1", "found the end; allowed: ), and, or"),
        ("a/b: p < 1)", "column 11: found ')'; allowed: and, or"),
        ("a/b: drop > 1 and < 5", "column 19: found '<'; allowed: drop,"),
        ("< 5", "column 1: found '<'; expected a metric or a pattern"),
        ("a/b", "column 4: found the end; allowed: drop,"),
    ],
)
def test_mistakes_name_the_item_the_column_and_what_is_allowed(text: str, message: str) -> None:
    """One line each."""
    with pytest.raises(PrunebenchError) as caught:
        parse(text)

    assert str(caught.value).startswith(f"{text!r}, column ")
    assert message in str(caught.value)


def test_patterns() -> None:
    """As the shell's, with case; a family is what stands before the first slash or wildcard."""
    assert parse("latency/*/speedup-decode < 1").matches("latency/hf-1x8+8/speedup-decode")
    assert not parse("accuracy/m* < 1").matches("accuracy/Mean")
    for pattern, fits in {
        "accuracy/x": True,
        "acc*": True,
        "*": True,
        "accu/x": False,
        "ac/*": False,
        "[ap]*/x": True,
    }.items():
        assert parse(f"{pattern} < 1").fits("accuracy") is fits


def test_a_list_is_split_outside_brackets() -> None:
    """At commas and semicolons."""
    assert parse_list("worse, a: (p < 1, 2); gone") == ("worse", "a: (p < 1, 2)", "gone")
    assert gating.parted(parse_list("worse;a<1,gone")) == (
        (Outcome.WORSE, Outcome.GONE),
        (parse("a < 1"),),
    )


def test_the_examples_of_the_documentation_can_be_read() -> None:
    """Every item, and every quantity of the table."""
    page = (ROOT / "docs" / "cases.md").read_text().split("## Conditions")[1]
    items = yaml.safe_load(page.split("```yaml")[1].split("```")[0])["fail_on"]

    assert len(gating.parted(items)[1]) == len(items) - 1 == 5
    assert all(f"`{name}`" in page for name in QUANTITIES)


# ------------------------------------------------------------------------------------- judged


def judged(text: str, now: Any, was: Any = None) -> list[Finding]:
    return list(gating.findings(now, was, [parse(text)]))


def only(text: str, now: Any, was: Any = None) -> Finding:
    (finding,) = judged(text, now, was)
    return finding


def test_a_condition_that_holds_is_worse_and_tells_its_numbers() -> None:
    """Value, baseline, threshold in the metric's unit, p: McNemar's closed form."""
    now, was = record(accuracy(85)), record(accuracy(90))
    found = only("accuracy/*: drop > 2%", now, was)
    assert found == Finding(
        "accuracy/t: drop > 2%", Outcome.WORSE, 0.85, 0.9, 0.018, note="drop = 0.05", fails=True
    )

    found = only("accuracy/*: drop > 1pp and p < 0.05", now, was)
    assert (found.outcome, found.allowed, found.p) == ("worse", None, pytest.approx(1 / 32))
    assert only("accuracy/*: drop > 1pp and p < 0.03", now, was).outcome == "same"


def test_a_miss_by_less_than_is_printed_shows_its_digits() -> None:
    """0.94999 prints as 0.9500."""
    found = only("x/y < 0.95", record(Measurement("x/y", 0.94999, "", "higher")))

    assert (found.outcome, found.note) == ("worse", "now = 0.94999")


def test_what_is_missing_is_said() -> None:
    """No verdict without a number, and the reason why there is none."""
    now = record(accuracy(90))
    bare = record(replace(accuracy(90), samples=()))
    other = record(accuracy(90), asked={"method": {"name": "first"}})
    asked = [{**now.asked, "metrics": [{"name": "accuracy", "limit": n}]} for n in (3, 4)]
    for text, was, note in (
        ("accuracy/t: drop > 1", None, "no baseline"),
        ("accuracy/t: drop > 1", other, "the baseline answers another question"),
        ("accuracy/t: drop > 1", record(), "the baseline has no such measurement"),
        ("accuracy/t: p < 1", bare, "no samples on both sides, so no p"),
        ("sparsity: drop > 1", other, "the baseline answers another question"),
    ):
        assert only(text, now, was).outcome == "not_comparable"
        assert only(text, now, was).note == note
    found = only("accuracy/t: rise > 1", replace(now, asked=asked[0]), replace(now, asked=asked[1]))
    assert found.note == "the baseline was measured otherwise"
    # What does not need the baseline is judged without.
    assert only("accuracy/t < 0.95", now, other).fails


def test_no_measurement_of_that_name_is_said_with_those_there_are() -> None:
    """Not comparable; of the dense model, which has no recovery, it decides nothing."""
    now = record(accuracy(90))
    found = only("accuracy/recovery < 1", now)
    dense = only("accuracy/recovery < 1", replace(now, plan=(), parameters=100))

    assert (found.outcome, found.fails, found.diagnostic) == ("not_comparable", False, False)
    assert found.note == "no measurement matches 'accuracy/recovery'; measured: accuracy/t"
    assert dense.diagnostic


def test_a_value_that_is_not_finite_fails() -> None:
    """Whatever the condition; but not where neither run could measure, for a reason."""
    broken = Measurement("x/y", None, "", "lower")
    full = replace(broken, note="out of memory")
    fine = replace(broken, value=3.0)

    for text in ("x/y > 5", "x/y: rise > 5", "x/y: rise > 5 or now > 9"):
        found = only(text, record(broken), record(fine))
        assert (found.outcome, found.fails, found.note) == ("worse", True, "not a finite number")
    assert only("x/y: rise > 5", record(full), record(fine)).fails
    assert only("x/y > 5", record(full), record(full)).note == "out of memory"
    assert only("x/y > 5", record(full), record(full)).fails
    assert only("x/y: rise > 5", record(full), record(full)).outcome == "not_comparable"
    assert only("x/y: rise > 5", record(fine), record(broken)).note == (
        "the baseline has no finite value"
    )
    assert only("x/y > 5", record(replace(fine, note="busy"))).note == "busy"


def test_timings_are_judged_on_a_named_device_only() -> None:
    """On cpu a slow one is told, and never fails."""
    slow = Measurement("latency/a/speedup-decode", 1.0, "x", "higher")
    on_gpu = record(slow, environment=replace(CPU, device="nvidia-h100"))
    found = only("latency/*/speedup-decode < 1.2", record(slow))

    assert (found.outcome, found.fails, found.now) == ("same", False, 1.0)
    assert found.note == "on cpu it is only reported"
    assert only("latency/*/speedup-decode < 1.2", on_gpu).fails


def test_sparsity_is_the_exact_quotient() -> None:
    """80 of 100 left is 0.2, and not below it."""
    assert only("sparsity < 0.2", record()).outcome == "same"
    assert only("sparsity < 0.2", record(parameters=81)).outcome == "worse"
    assert only("sparsity: drop >= 1pp", record(parameters=81), record()).outcome == "worse"


def test_a_condition_fails_whatever_outcomes_do_and_settling_keeps_it() -> None:
    """Also where `worse` is not among the outcomes that fail."""
    from prunebench import Tolerance
    from prunebench.verdicts.verdict import compare

    now = record(accuracy(90))
    more = judged("accuracy/t < 0.95", now)
    result = compare(now, now, lambda _: Tolerance(), (Outcome.GONE,), more)

    assert (result.ok, result.outcome) == (False, "worse")
    assert not settle([(result, (Outcome.GONE,))])[0].ok
    assert passes(judged("accuracy/t < 0.9", now), tuple(set(Outcome) - {Outcome.SAME}))


# ------------------------------------------------------------------------- files and commands

HOLDS = "accuracy/recovery < 0.9999"
OPEN = "accuracy/recovery < 0.5"


def fail_on(project: Path, items: str) -> Path:
    path = project / "cases" / "small.yaml"
    path.write_text(f"fail_on: {items}\n" + path.read_text())
    return path


def test_conditions_of_a_case_file(project: Path) -> None:
    """Outcomes and conditions apart; neither is part of the question; none given is the default."""
    (plain,) = loader.load([project / "cases"])
    path = fail_on(project, f"[gone, '{HOLDS}', 'sparsity: now < 10%']")
    (case,) = loader.load([path])

    assert (plain.fail_on, plain.conditions) == ((Outcome.WORSE, Outcome.GONE), ())
    assert case.fail_on == (Outcome.GONE,)
    assert [c.text for c in case.conditions] == [
        "accuracy/recovery: now < 0.9999",
        "sparsity: now < 10%",
    ]
    assert (case.id, case.asked) == (plain.id, plain.asked)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ("[worse, worst]", "1:18: unknown outcome 'worst'; did you mean 'worse'?"),
        (
            "[gone, 'accuracy/mean: drp > 1pp']",
            "1:17: 'accuracy/mean: drp > 1pp', column 16: found",
        ),
        (
            "[gone, acuracy/mean < 1]",
            "1:17: 'acuracy/mean: now < 1': no metric 'acuracy' is measur",
        ),
        (
            "[latency/* < 1]",
            "no metric 'latency' is measured; allowed: accuracy, perplexity, spars",
        ),
        (
            "[accuracy/mean: drop > 1]",
            "1:11: found a mapping, expected text: put the condition in q",
        ),
        ("['spars* < 1']", "1:11: 'spars*: now < 1': no metric 'spars' is measured; did you mean"),
        ("[3]", "1:11: found 3, expected text"),
        ("worse", "1:1: found 'worse', expected a list"),
        ("['']", "1:11: unknown outcome ''"),
    ],
)
def test_mistakes_in_a_case_file_have_their_place(items: str, message: str, project: Path) -> None:
    """File, line and column of the item, then what is wrong with it."""
    path = fail_on(project, items)
    with pytest.raises(CaseError) as caught:
        loader.load([path])

    (problem,) = caught.value.problems
    assert problem.startswith(f"{path}:1:")
    assert message in problem


def test_mistakes_in_a_setting_or_a_matrix_are_found_too(project: Path) -> None:
    """Each names the flag, or the item of the axis."""
    with pytest.raises(CaseError, match=r"--set fail_on=\[acuracy/x<1\]: 'acuracy/x: now < 1': no"):
        loader.load([project / "cases"], ["fail_on=[acuracy/x<1]"])
    with pytest.raises(CaseError, match=r"--set fail_on=\[worst\]: unknown outcome 'worst'"):
        loader.load([project / "cases"], ["fail_on=[worst]"])
    path = project / "cases" / "small.yaml"
    path.write_text(path.read_text() + "  fail_on: [[worse], [p <]]\n")
    with pytest.raises(CaseError, match=r"small.yaml:9:23: 'p <', column 4: found the end"):
        loader.load([path])


@pytest.mark.slow
def test_conditions_through_the_commands(project: Path, cli) -> None:
    """A condition fails a run from the file and from the option, which replaces the file's."""
    assert cli("run", "cases", "-q", "--fail-on", f"{OPEN}; sparsity < 0.01")[0] == 0
    code, out, _ = cli("run", "cases", "-q", "--fail-on", f"gone, {HOLDS}", "--json", "a.json")
    assert code == 1
    assert "worse accuracy/recovery: now < 0.9999: 0." in out
    (verdict,) = read(project / "a.json")["verdicts"]
    record = read(project / "a.json")["records"][0]
    (value,) = [m["value"] for m in record["measurements"] if m["metric"] == "accuracy/recovery"]
    assert not verdict["ok"]
    assert [(f["now"], f["allowed"]) for f in verdict["findings"] if f["fails"]] == [
        (value, 0.9999)
    ]

    # Exactly the value is not below it; the next smaller threshold is no matter of rounding.
    assert cli("run", "cases", "-q", "--fail-on", f"accuracy/recovery < {value!r}")[0] == 0
    assert cli("run", "cases", "-q", "--fail-on", f"accuracy/recovery <= {value!r}")[0] == 1

    fail_on(project, f"[gone, '{HOLDS}']")
    code, out, _ = cli("run", "cases", "-q")
    assert (code, "worse accuracy/recovery: now < 0.9999" in out) == (1, True)
    assert "worse accuracy/recovery: now < 0.9999" in cli("show", "2blocks")[1]
    assert cli("run", "cases", "-q", "--fail-on", OPEN)[0] == 0
    assert cli("run", "cases", "-q", "--fail-on", "worse")[0] == 0
    assert cli("check", "cases")[0] == 0


@pytest.mark.slow
def test_conditions_on_the_baseline_through_the_commands(project: Path, cli) -> None:
    """Without one it is not comparable, which --strict tells; a better one fails the drop."""
    text = "accuracy/mean: drop >= 1pp"
    code, out, _ = cli("run", "cases", "-q", "--fail-on", text)
    assert (
        code,
        "not_comparable accuracy/mean: drop >= 1pp: 0.9500, allowed 0.0100: no baseline" in out,
    ) == (
        0,
        True,
    )
    cli("run", "cases", "--accept", "--because", "first", "-q")
    assert cli("run", "cases", "-q", "--strict", "--fail-on", text)[0] == 0

    path = project / "baselines/quality/small/sleb-windows-2blocks.json"
    data = read(path)
    (mean,) = [m for m in data["measurements"] if m["metric"] == "accuracy/mean"]
    mean["value"] = 0.96
    del data["accepted"]["sha256"]  # as files before there were hashes
    path.write_text(json.dumps(data))
    assert cli("run", "cases", "-q", "--fail-on", text)[0] == 1
    assert cli("run", "cases", "-q", "--fail-on", "accuracy/mean: drop > 1pp")[0] == 0

    # A damaged baseline leaves what needs none standing.
    path.write_text("{")
    code, out, _ = cli("run", "cases", "-q", "--fail-on", f"{HOLDS}, {text}")
    assert (code, "not_comparable baseline: " in out, "no baseline" in out) == (1, True, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("worst", "--fail-on: unknown outcome 'worst'; did you mean 'worse'?"),
        ("worse, accuracy/mean < ", "--fail-on: 'accuracy/mean <', column 16: found the end"),
        (
            "acuracy/mean < 1",
            "--fail-on: 'acuracy/mean: now < 1': no metric 'acuracy' is measured;",
        ),
    ],
)
def test_mistakes_in_the_option_are_plain_lines(
    text: str, message: str, project: Path, cli
) -> None:
    """Exit 2 before anything is measured."""
    code, out, err = cli("run", "cases", "--fail-on", text)

    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert len(err.splitlines()) == 1
    assert not (project / ".prunebench").exists()


def test_a_mistake_in_a_file_is_told_by_check(project: Path, cli) -> None:
    """With its place, and exit 2."""
    fail_on(project, "[worst, accuracy/mean < ]")
    code, _, err = cli("check", "cases")

    assert code == 2
    assert [line.split(": ")[0] for line in err.splitlines()] == [
        "cases/small.yaml:1:11",
        "cases/small.yaml:1:18",
    ]

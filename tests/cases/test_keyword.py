from __future__ import annotations

import itertools

import pytest
from _pytest.mark.expression import Expression

from prunebench import PrunebenchError
from prunebench.cases.keyword import matcher

IDS = ("smoke/tinyworld/sleb-0.15", "smoke/tinyworld/random-0.3", "paper/llama/sleb-7blocks")


def expressions() -> list[str]:
    words = ["sleb", "0.3", "RANDOM", "paper"]
    pairs = itertools.permutations(words, 2)
    forms = ["{a} and {b}", "{a} or not {b}", "not ({a} or {b})", "({a} and not {b}) or {b}"]
    return [form.format(a=a, b=b) for (a, b), form in itertools.product(pairs, forms)]


@pytest.mark.parametrize("expression", expressions())
@pytest.mark.parametrize("case_id", IDS)
def test_selects_what_pytest_selects(expression: str, case_id: str) -> None:
    """A -k expression means the same to the command line as to pytest."""
    theirs = Expression.compile(expression).evaluate(
        lambda name, **_: name.lower() in case_id.lower()
    )

    assert matcher(expression)(case_id) == theirs


def test_no_expression_selects_all() -> None:
    """Nothing given selects everything."""
    assert all(map(matcher(""), IDS))


@pytest.mark.parametrize("expression", ["and sleb", "sleb or", "(sleb", "sleb)", "not", "a b"])
def test_bad_expressions_are_named(expression: str) -> None:
    """What cannot be read is refused with the expression in the message."""
    with pytest.raises(PrunebenchError, match="-k"):
        matcher(expression)

"""``-k`` expressions: words joined by and, or, not and brackets, matched inside case ids."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Sequence
from functools import partial

from ..errors import PrunebenchError

_TOKEN = re.compile(r"[()]|[^\s()]+")
_OPERATORS = ("and", "or", "not", "(", ")")
_NODES = (ast.BoolOp, ast.UnaryOp, ast.boolop, ast.unaryop, ast.Constant)

Matcher = Callable[[str], bool]


def matcher(expression: str) -> Matcher:
    """A predicate on case ids, as pytest's ``-k`` reads them (case does not matter).

    Raises:
        PrunebenchError: if the expression cannot be read.
    """
    tokens = _TOKEN.findall(expression)
    if not tokens:
        return lambda _: True
    words = [token.lower() for token in tokens if token not in _OPERATORS]
    numbers = map(str, range(len(words)))
    # Python's own operators, with the number of a word in its place.
    text = " ".join(token if token in _OPERATORS else next(numbers) for token in tokens)
    try:
        tree = ast.parse(text, mode="eval").body
        readable = all(isinstance(node, _NODES) for node in ast.walk(tree))
        if readable:
            _matches(tree, words, "")  # more nested than Python's stack is deep
    except (SyntaxError, RecursionError, MemoryError):
        readable = False
    if not readable:
        allowed = "expected a word, or words joined by and, or, not and brackets"
        raise PrunebenchError(f"-k {expression!r}: {allowed}")
    return partial(_matches, tree, words)


def _matches(node: ast.expr, words: Sequence[str], case_id: str) -> bool:
    if isinstance(node, ast.UnaryOp):
        return not _matches(node.operand, words, case_id)
    if isinstance(node, ast.BoolOp):
        several = all if isinstance(node.op, ast.And) else any
        return several(_matches(value, words, case_id) for value in node.values)
    return words[int(ast.unparse(node))] in case_id.lower()

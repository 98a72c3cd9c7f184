"""Values, differences and p-values in words, with as many digits as a reader can use."""

from __future__ import annotations

from ..verdicts.verdict import Finding
from .explain import FRACTIONS
from .sentences import number

#: The smallest p-value that is told: nobody's decision hangs on a smaller one.
LEAST = 0.0001


def value(amount: float | None, unit: str) -> str:
    """``96.8 %``, ``2.393``, ``1.24x``, ``12.3 ms``; an empty text for nothing."""
    if amount is None:
        return ""
    if unit in FRACTIONS:
        return f"{amount * 100:.1f} %"
    if unit == "x":
        return f"{amount:.2f}x"
    text = bare(amount, unit)
    return text if unit in ("", "ppl") else f"{text} {unit}"


def bare(amount: float, unit: str) -> str:
    """The number alone, a fraction in per cent."""
    if unit in FRACTIONS:
        return f"{amount * 100:.1f}"
    if unit == "ppl":
        return f"{amount:.3f}" if amount < 100 else f"{amount:.4g}"
    return f"{amount:.2f}" if unit == "x" else number(amount)


def difference(amount: float, unit: str) -> str:
    """A signed difference: percentage points for fractions."""
    if unit in FRACTIONS:
        return f"{amount * 100:+.1f} pp"
    return f"{amount:+.4g}"


def room(amount: float | None, unit: str) -> str:
    """How much may be lost."""
    if amount is None:
        return ""
    return f"{amount * 100:.2g} pp" if unit in FRACTIONS else f"{amount:.3g}"


def chance(finding: Finding) -> str:
    """The p-value that decides: among all tests of the run where there were several."""
    seen = finding.evidence
    p = finding.p if seen is None or seen.adjusted is None else seen.adjusted
    if p is None:
        return ""
    return f"{p:.2g}" if p >= LEAST else f"< {LEAST:f}".rstrip("0")

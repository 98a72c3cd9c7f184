"""A table for a paper: LaTeX with booktabs, standard errors, and published numbers as notes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from ... import formatting
from ...errors import inert
from ...formatting import FRACTIONS
from ...record import Measurement
from .export_format import Format
from .grid import Cell, Grid, Line

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "'": r"\textquotesingle{}",
    '"': r"\textquotedbl{}",
    "-": "-{}",  # two in a row would become one long one
    **{letter: f"\\{letter}" for letter in "{}$&#_%"},
}


def text(shown: Grid) -> str:
    """A ``tabular`` with a part per case file; needs booktabs and T1 fonts.

    Values have their standard error; a letter at a value refers to the published number below the
    table.
    """
    columns = shown.columns
    notes: dict[str, str] = {}
    body: list[str] = []
    for group, lines in groupby(shown.lines, key=lambda line: line.group):
        title = ", ".join(escaped(part) for part in group if part)
        body.append(rf"\multicolumn{{{len(columns) + 2}}}{{l}}{{{title}}} \\")
        body += [_row(line, columns, notes) for line in lines]
        body.append(r"\midrule")
    units = ["", r"\%", *(_unit(c) for c in columns)]
    arrows = {"lower": r"$\downarrow$", "higher": r"$\uparrow$"}
    heads = ["method", "sparsity", *(f"{escaped(c.metric)} {arrows[c.better]}" for c in columns)]
    whole = [
        r"% \usepackage[T1]{fontenc} \usepackage{textcomp} \usepackage{booktabs}",
        rf"\begin{{tabular}}{{l{'r' * (len(columns) + 1)}}}",
        r"\toprule",
        rf"{' & '.join(heads)} \\",
        rf"{' & '.join(units)} \\",
        r"\midrule",
        *body[:-1],
        r"\bottomrule",
        r"\end{tabular}",
    ]
    if notes:
        listed = [rf"\textsuperscript{{{mark}}} {note}" for note, mark in notes.items()]
        whole += ["", rf"\par\smallskip{{\footnotesize {'; '.join(listed)}.\par}}"]
    return "\n".join(whole) + "\n"


def escaped(text: str) -> str:
    """*text* as LaTeX prints it, on one line."""
    return "".join(_SPECIAL.get(letter, letter) for letter in inert(text))


def _unit(column: Measurement) -> str:
    if column.unit in FRACTIONS:
        return r"\%"
    return r"$\times$" if column.unit == "x" else escaped(column.unit)


def _row(line: Line, columns: Sequence[Measurement], notes: dict[str, str]) -> str:
    sparsity = f"{line.record.sparsity * 100:.1f}"
    cells = [_cell(line.cells.get(column.metric), notes) for column in columns]
    return rf"{' & '.join([escaped(line.label), sparsity, *cells])} \\"


def _cell(cell: Cell | None, notes: dict[str, str]) -> str:
    if cell is None:
        return ""
    measured = cell.measurement
    if measured.value is None:
        return escaped(measured.note) or "not finite"
    value = _math(formatting.bare(measured.value, measured.unit))
    error = formatting.error(cell.error or 0.0, measured.unit, measured.value)
    shown = rf"${value} \pm {_math(error)}$" if error else f"${value}$"
    marks = []
    for row in cell.published:
        number = escaped(formatting.value(row.value, measured.unit))
        note = f"published {number}, {escaped(f'{row.credit}, {row.where}')}"
        marks.append(notes.setdefault(note, _mark(len(notes))))
    return shown + (rf"\textsuperscript{{{','.join(marks)}}}" if marks else "")


def _math(number: str) -> str:
    """A number in math mode, where the e of ``4.6e-07`` would be a variable."""
    digits, power, exponent = number.partition("e")
    return rf"{digits} \times 10^{{{int(exponent)}}}" if power else digits


def _mark(number: int) -> str:
    """``a`` to ``z``, then ``aa``."""
    return (_mark(number // 26 - 1) if number >= 26 else "") + chr(ord("a") + number % 26)


FORMATS = (Format("latex", ".tex", lambda export: text(export.grid())),)

"""Output for people: the rich console, its width and signs, and lines on stdout and stderr.

Text from files is made inert: it cannot steer a terminal or a CI server.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from typing import IO, Any

from msgspec import Struct
from rich import box
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from ..errors import PrunebenchWarning, disarmed, inert, inert_lines

#: Every outcome with its colour, its sign, and its sign in ASCII.
_OUTCOMES = {
    "better": ("green", "▲", "^"),
    "same": ("green", "✓", "="),
    "new": ("cyan", "+", "+"),
    "skipped": ("dim", "–", "-"),  # noqa: RUF001
    "unsure": ("yellow", "?", "?"),
    "changed_plan": ("yellow", "≠", "~"),
    "interval": ("dim", "·", "."),
    "not_comparable": ("magenta", "∅", "#"),
    "worse": ("bold red", "▼", "v"),
    "gone": ("bold red", "✗", "x"),
    "crashed": ("bold red", "✗", "x"),
}
COLOURS = {word: colour for word, (colour, _, _) in _OUTCOMES.items()}

#: Columns where neither a terminal nor ``COLUMNS`` gives a width.
WIDE = 100


# A line under the headings and between groups, nothing else. The eight lines are: top, heading,
# below it, rows, between rows, between sections, last row, bottom.
_FRAME = "    \n    \n {} \n    \n {} \n    \n    \n    \n"


class Signs(Struct, frozen=True):
    """The signs of outcomes and block maps, so that colour is never the only sign.

    *outcomes* are by word. *kept*, *removed*, *joined* (into a block before it), *cut* and *refit*
    are states of half a block; *line* leads from a merged block to those merged into it.
    """

    outcomes: dict[str, str]
    plus_minus: str = "±"
    dot: str = "·"
    times: str = "×"  # noqa: RUF001
    branch: str = "└"
    ellipsis: str = "…"
    kept: str = "■"
    removed: str = "□"
    joined: str = "◂"
    cut: str = "▬"
    refit: str = "◆"
    line: str = "─"
    heading: box.Box = box.Box(_FRAME.format("──", "──"))

    def grid(self) -> Table:
        """An empty table: a line below its head, no frame."""
        return Table(
            box=self.heading,
            show_edge=False,
            pad_edge=False,
            padding=(0, 1, 0, 0),
            safe_box=False,
            header_style="bold",
            border_style="dim",
        )


UNICODE = Signs(outcomes={word: sign for word, (_, sign, _) in _OUTCOMES.items()})
ASCII = Signs(
    outcomes={word: sign for word, (_, _, sign) in _OUTCOMES.items()},
    plus_minus="+-",
    dot="-",
    times="x",
    branch="`",
    ellipsis="...",
    kept="#",
    removed=".",
    joined="<",
    cut="=",
    refit="*",
    line="-",
    heading=box.Box(_FRAME.format("--", "--"), ascii=True),
)


class InertConsole(Console):
    """A console that shows text from files as it is: no markup, no control characters.

    With ``NO_COLOR`` it writes no escape codes. Characters that its encoding lacks become ``?``.
    """

    def __init__(self, **options: Any) -> None:
        if os.environ.get("NO_COLOR"):
            options = {**options, "color_system": None}
        super().__init__(**options)

    def render_str(self, text: str, **options: Any) -> Text:
        """Make a string inert before rich measures its width."""
        return super().render_str(inert_lines(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterator[Segment]:
        """Make each piece of text inert; what rich itself adds is left."""
        blank = True  # nothing on this line yet: a CI server looks for commands at its start
        for segment in super().render(renderable, options):
            if segment.control:
                yield segment
                continue
            parts = []
            for i, part in enumerate(segment.text.split("\n")):
                blank = blank or i > 0
                text = inert(part, limit=10**6)
                parts.append(disarmed(text) if blank else text)
                blank = blank and not text.strip()
            yield segment._replace(text=self._encodable("\n".join(parts)))

    def _encodable(self, text: str) -> str:
        try:
            return text.encode(self.encoding, "replace").decode(self.encoding)
        except LookupError:  # an encoding that Python does not know
            return text


def console() -> Console:
    """A console on standard output; WIDE where neither a terminal nor ``COLUMNS`` gives a width."""
    plain: dict[str, Any] = {"markup": False, "emoji": False, "highlight": False}
    found = InertConsole(**plain)
    given = os.environ.get("COLUMNS", "").isdigit() and int(os.environ["COLUMNS"]) > 0
    if watched(found.file) or given:
        return found
    return InertConsole(width=max(WIDE, found.width), **plain)


def watched(file: IO[str]) -> bool:
    """Whether *file* is a terminal."""
    try:
        return file.isatty()
    except (AttributeError, ValueError):  # closed, or no file at all
        return False


def signs(console: Console) -> Signs:
    """The signs that *console* can show: plain ASCII where its encoding lacks others."""
    return ASCII if console.options.ascii_only else UNICODE


def outcome(word: str, signs: Signs) -> Text:
    """``✓ same``: an outcome's sign and word in its colour."""
    text = f"{signs.outcomes.get(word, signs.dot)} {word.replace('_', ' ')}"
    return Text(text, style=COLOURS.get(word, "dim"))


def print_wrapped(console: Console, text: str | Text, style: str = "", hang: int = 4) -> None:
    """Print a line: wrapped at words on a terminal, whole otherwise."""
    line = Text(text, style=style) if isinstance(text, str) else text
    if not watched(console.file):
        console.print(line, soft_wrap=True)
        return
    for i, part in enumerate(line.wrap(console, max(20, console.width - hang))):
        part.rstrip()
        console.print(Text(" " * hang).append_text(part) if i else part, soft_wrap=True)


def findings(console: Console, case_id: str, lines: Sequence[str]) -> None:
    """Print lines that begin with a case's id: below the id on a terminal, unchanged otherwise."""
    if not watched(console.file):
        for line in lines:
            console.print(Text(line), soft_wrap=True)
        return
    if lines:
        print_wrapped(console, inert(case_id), "bold")
    for line in lines:
        finding = line.removeprefix(f"{inert(case_id)}:")
        word = finding.split()[0].rstrip(":") if finding.split() else ""
        text = Text(f" {finding}", style="dim" if finding.startswith("   ") else "")
        text.highlight_words([word] if word in COLOURS else [], COLOURS.get(word, ""))
        print_wrapped(console, text, hang=6)


def plain_warnings() -> None:
    """Print prunebench's own warnings as plain lines from now on; others as Python shows them."""
    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *rest: Any, **more: Any) -> None:
        if issubclass(category, PrunebenchWarning):
            print_note(f"warning: {message}")
        else:
            others(message, category, *rest, **more)

    warnings.showwarning = show


def print_note(text: str) -> None:
    """Print *text* on standard error, inert: progress, warnings, errors."""
    print(inert_lines(text), file=sys.stderr, flush=True)  # noqa: T201


def print_line(text: str) -> None:
    """Print *text* on standard output, inert: the result of a command."""
    print(inert_lines(text))  # noqa: T201


def warn(text: str) -> None:
    """Warn of lost or ignored data; front ends print it as one plain line."""
    warnings.warn(text, PrunebenchWarning, stacklevel=3)

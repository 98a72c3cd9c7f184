"""What changed since it was last told: a case that became worse, recovered, crashed; a step found.

Pure but for the state file, which remembers what was told. A change is told once; a night in which
nothing changes says nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from msgspec import Struct, field
from msgspec.structs import replace

from ..errors import PrunebenchError, inert
from ..record import Record
from ..system import files
from ..verdicts.history import Change as Step
from ..verdicts.history import History, Series
from ..verdicts.verdict import Finding, Outcome, Verdict
from .sentences import sentence

Kind = Literal[
    "worse",
    "gone",
    "changed plan",
    "crashed",
    "not comparable",
    "recovered",
    "comparable again",
    "step",
]

#: Outcomes that are told when they begin and when they end; the others are as they should be.
BAD = (Outcome.WORSE, Outcome.GONE, Outcome.CHANGED_PLAN, Outcome.NOT_COMPARABLE)
#: What a crash is kept as, and a condition that holds.
CRASHED, FAILS = "crashed", "fails"
KINDS: dict[str, Kind] = {
    Outcome.GONE: "gone",
    Outcome.CHANGED_PLAN: "changed plan",
    Outcome.NOT_COMPARABLE: "not comparable",
}
#: The direction of whatever step goes with a verdict.
ANY = "any"
#: Steps of a metric that are remembered as told.
REMEMBERED = 20
#: Nights by which the place of a step may move as more of them come in.
DRIFT = 3

_LINK = re.compile(r"https?://[!-;=?-{}~]+", re.ASCII)


class Known(Struct, omit_defaults=True):
    """What was told of a case: its bad items with their outcomes, and where its metrics stepped.

    *steps* are per metric the directions, and the times of the first nights at the new level.
    """

    bad: dict[str, str] = {}
    steps: dict[str, list[str]] = {}


class State(Struct):
    """What was told, by case id."""

    cases: dict[str, Known] = field(default_factory=dict)
    schema: int = 1


class Results(Struct, frozen=True):
    """A file of ``run --json``, as far as it is read here."""

    records: tuple[Record, ...]
    verdicts: tuple[Verdict, ...]


class Notice(Struct, frozen=True, omit_defaults=True):
    """One change.

    *outcome* is what is kept of it, empty where all is well again. *at* is the step that it tells:
    its direction and night; a verdict tells whichever is near it.
    """

    case_id: str
    what: str
    kind: Kind
    text: str
    outcome: str = ""
    at: str = ""

    def remember(self, state: State) -> None:
        """Add it to what was posted."""
        known = state.cases.setdefault(self.case_id, Known())
        if self.at:
            known.steps[self.what] = [*known.steps.get(self.what, []), self.at][-REMEMBERED:]
        if self.kind == "step":
            return
        if self.outcome:
            known.bad[self.what] = self.outcome
        else:
            known.bad.pop(self.what, None)


# --------------------------------------------------------------------------------- files


def path(store: Path) -> Path:
    """Where it is remembered, below the results folder."""
    return store / "notified.json"


def load(store: Path) -> tuple[State, str]:
    """What was told, and a sentence where the file that says so is damaged and counts as lost."""
    place = path(store)
    if not place.exists():
        return State(), ""
    try:
        return files.read_json(place, State), ""
    except PrunebenchError as error:
        return State(), f"{error}; what is bad now is told anew"


def save(store: Path, state: State) -> None:
    """Write what was told, whole or not at all.

    Raises:
        PrunebenchError: if the place cannot be written.
    """
    files.write_json(path(store), state)


# --------------------------------------------------------------------------------- changes


def changes(
    verdicts: Iterable[Verdict], state: State, made: Mapping[str, str] | None = None
) -> list[Notice]:
    """What is new in *verdicts*, case by case. Skipped cases and doubt change nothing.

    Args:
        verdicts: of one night.
        state: what was told.
        made: when the record of each case was made, so that its step is not told once more.
    """
    found: list[Notice] = []
    for verdict in verdicts:
        if not verdict.skipped and not verdict.seed_of:
            known = state.cases.get(verdict.case_id, Known())
            when = (made or {}).get(verdict.case_id, "")
            at = f"{ANY} {when}" if when else ""
            found += (replace(n, at=at) for n in _of_case(verdict, known))
    return found


def _of_case(verdict: Verdict, known: Known) -> Iterator[Notice]:
    case_id, was = verdict.case_id, known.bad
    if verdict.error:
        if was.get("case") != CRASHED:
            yield Notice(case_id, "case", "crashed", f"crashed: {verdict.error}", CRASHED)
        return  # of its metrics nothing is known
    judged: dict[str, Finding] = {f.what: f for f in verdict.findings if not f.diagnostic}
    if was.get("case") == CRASHED:
        yield Notice(case_id, "case", "recovered", "recovered: runs again")
    for what, finding in judged.items():
        now = FAILS if finding.fails else str(finding.outcome) if finding.outcome in BAD else ""
        before = was.get(what, "") if was.get(what) != CRASHED else ""
        if now and now != before:
            yield Notice(case_id, what, KINDS.get(now, "worse"), sentence(finding), now)
        elif before and not now and finding.outcome != Outcome.UNSURE:
            yield _recovered(case_id, what, before, sentence(finding))
    if not any(_hides(finding) for finding in judged.values()):
        for what, before in was.items():
            if what not in judged and before != CRASHED:
                yield _recovered(case_id, what, before, f"{what} is no longer reported")


def _recovered(case_id: str, what: str, before: str, text: str) -> Notice:
    kind: Kind = "comparable again" if before == Outcome.NOT_COMPARABLE else "recovered"
    return Notice(case_id, what, kind, f"{kind}: {text}")


def _hides(finding: Finding) -> bool:
    """Whether the other findings of its case are not there because of it."""
    return finding.outcome == Outcome.NOT_COMPARABLE


def stepped(
    histories: Iterable[History],
    state: State,
    tell: Callable[[Series, Step], str],
    others: Sequence[Notice] = (),
) -> list[Notice]:
    """Steps that were found and not told yet; of a case first seen they count as told.

    Args:
        histories: one per case.
        state: what was told; the steps of cases that it does not know are written into it.
        tell: a step in words.
        others: changes that are told this time, with the steps that go with them.
    """
    found = []
    for history in histories:
        case_id = history.case_id
        steps = {m: list(told) for m, told in state.cases.get(case_id, Known()).steps.items()}
        for notice in others:
            if notice.case_id == case_id and notice.at:
                steps.setdefault(notice.what, []).append(notice.at)
        new = list(_new_steps(history, steps, tell))
        if case_id in state.cases:
            found += new
            continue
        state.cases[case_id] = Known()
        for notice in new:
            notice.remember(state)
    return found


def _new_steps(
    history: History, known: Mapping[str, Sequence[str]], tell: Callable[[Series, Step], str]
) -> Iterator[Notice]:
    for series in history.series:
        times = [night.created for night in series.nights]
        told = [one.split(" ", 1) for one in known.get(series.metric, ()) if " " in one]
        for step in series.steps:
            way = "up" if step.after > step.before else "down"
            places = [times.index(at) for old, at in told if old in (way, ANY) and at in times]
            if all(abs(step.at - place) > DRIFT for place in places):
                text = f"{series.metric}: {tell(series, step)}"
                at = f"{way} {times[step.at]}"
                yield Notice(history.case_id, series.metric, "step", text, at=at)


# --------------------------------------------------------------------------------- messages

#: So many changes are told in a message each; of more, a message per case, and then a summary.
SINGLE, MESSAGES = 5, 10
#: Cases that a summary lists.
LISTED = 20
#: What Slack takes: characters of a section, blocks of a message, characters shown elsewhere.
SECTION, BLOCKS, FALLBACK = 3000, 50, 300


class Message(Struct, frozen=True):
    """What is posted at once, the changes that are then told, and where to read more."""

    text: str
    notices: tuple[Notice, ...]
    link: str = ""

    def payload(self) -> dict[str, Any]:
        """As Slack's incoming webhooks take it."""
        sections = _sections(self.text)
        if len(sections) >= BLOCKS:
            sections = [*sections[: BLOCKS - 2], "..."]
        # verbatim: nothing in it becomes a link, a channel or a mention of somebody.
        texts = [{"type": "mrkdwn", "text": s, "verbatim": True} for s in sections]
        if self.link:
            texts.append({"type": "mrkdwn", "text": f"<{self.link}|more>"})
        blocks = [{"type": "section", "text": text} for text in texts]
        return {"text": escaped(self.text.split("\n")[0][:FALLBACK]), "blocks": blocks}


def _sections(text: str) -> list[str]:
    """The lines of *text*, escaped, in pieces that a section can hold."""
    made: list[str] = []
    for line in text.split("\n"):
        # An escaped letter is at most five long, and none is to be cut in two.
        short = SECTION // 5
        for piece in [escaped(line[i : i + short]) for i in range(0, len(line), short)]:
            if made and len(made[-1]) + 1 + len(piece) <= SECTION:
                made[-1] += f"\n{piece}"
            else:
                made.append(piece)
    return made


def escaped(text: str) -> str:
    """*text* without the three characters that Slack acts on."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def messages(notices: Sequence[Notice], link: str = "") -> list[Message]:
    """The changes as messages: one each, or where they are many one per case and a summary.

    Raises:
        PrunebenchError: if *link* is no web address.
    """
    if link and not _LINK.fullmatch(link):
        raise PrunebenchError("--link is no address that begins with https:// or http://")
    if len(notices) <= SINGLE:
        return [Message(_line(n), (n,), link) for n in notices]
    groups: dict[str, list[Notice]] = {}
    for notice in notices:
        groups.setdefault(notice.case_id, []).append(notice)
    ids = list(groups)
    alone = ids if len(ids) <= MESSAGES else ids[: MESSAGES - 1]
    made = [Message("\n".join(map(_line, groups[i])), tuple(groups[i]), link) for i in alone]
    if rest := ids[len(alone) :]:
        left = tuple(n for i in rest for n in groups[i])
        lines = [f"{len(left)} more changes in {len(rest)} cases:"]
        lines += [inert(f"{i}: {_counted(groups[i])}") for i in rest[:LISTED]]
        lines += [f"and {len(rest) - LISTED} more cases"] if len(rest) > LISTED else []
        made.append(Message("\n".join(lines), left, link))
    return made


def _line(notice: Notice) -> str:
    return inert(f"{notice.case_id}: {notice.text}")


def _counted(notices: Sequence[Notice]) -> str:
    counts: dict[str, int] = {}
    for notice in notices:
        counts[notice.kind] = counts.get(notice.kind, 0) + 1
    return ", ".join(f"{n} {kind}" for kind, n in counts.items())

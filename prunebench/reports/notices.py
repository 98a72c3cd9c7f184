"""``notify``: changes since the last message, and the messages that report them.

Pure except for the state file, which holds what was posted. Each change is reported once.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from msgspec import Struct, field
from msgspec.structs import replace

from ..errors import PrunebenchError, inert
from ..record import Record
from ..system import files
from ..verdicts.history import Change as Step
from ..verdicts.history import History, Series
from ..verdicts.verdict import Finding, Outcome, Verdict
from .sentences import sentence

#: Outcomes that are reported when they begin and when they end.
BAD = (Outcome.WORSE, Outcome.GONE, Outcome.CHANGED_PLAN, Outcome.NOT_COMPARABLE)
#: Words of the state file for a crash, and for a condition that holds.
CRASHED, FAILS = "crashed", "fails"
#: Stands for both directions: a reported verdict covers any step near its record.
ANY = "any"
#: How many reported steps of a metric are remembered.
REMEMBERED = 20
#: By how many records the place of a step may move as later records come in.
DRIFT = 3

_LINK = re.compile(r"https?://[!-;=?-{}~]+", re.ASCII)


class Known(Struct, omit_defaults=True):
    """What was reported of a case: its bad items with their outcomes, and its metrics' steps.

    *steps* has per metric the direction and the time of the first record at the new level.
    """

    bad: dict[str, str] = {}
    steps: dict[str, list[str]] = {}


class State(Struct):
    """What was reported, by case id."""

    cases: dict[str, Known] = field(default_factory=dict)
    schema: int = 1


class Results(Struct, frozen=True):
    """The parts of a ``run --json`` file that are read here."""

    records: tuple[Record, ...]
    verdicts: tuple[Verdict, ...]


class Notice(Struct, frozen=True, omit_defaults=True):
    """One change.

    *kind* is an outcome's words, crashed, recovered, comparable again, or step. *outcome* is what
    the state file gets, empty after a recovery. *at* is the step that it reports, as direction and
    time; a verdict covers any step near it.
    """

    case_id: str
    what: str
    kind: str
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


def path(store: Path) -> Path:
    """The state file, below the results folder."""
    return store / "notified.json"


def load(store: Path) -> tuple[State, str]:
    """The state, and a line to print if its file is damaged and therefore ignored."""
    place = path(store)
    if not place.exists():
        return State(), ""
    try:
        return files.read_json(place, State), ""
    except PrunebenchError as error:
        return State(), f"{error}; what is bad now is reported again"


def save(store: Path, state: State) -> None:
    """Write the state atomically.

    Raises:
        PrunebenchError: if the file cannot be written.
    """
    files.write_json(path(store), state)


def changes(
    verdicts: Iterable[Verdict], state: State, made: Mapping[str, str] | None = None
) -> list[Notice]:
    """What is new in the *verdicts* of a run; skipped and unsure ones change nothing.

    *made* is when the record of each case was made, so that its step is not reported as well.
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
        return  # its metrics are unknown
    judged: dict[str, Finding] = {f.what: f for f in verdict.findings if not f.diagnostic}
    if was.get("case") == CRASHED:
        yield Notice(case_id, "case", "recovered", "recovered: runs again")
    for what, finding in judged.items():
        now = FAILS if finding.fails else str(finding.outcome) if finding.outcome in BAD else ""
        before = was.get(what, "") if was.get(what) != CRASHED else ""
        if now and now != before:
            kind = "worse" if now == FAILS else now.replace("_", " ")
            yield Notice(case_id, what, kind, sentence(finding), now)
        elif before and not now and finding.outcome != Outcome.UNSURE:
            yield _recovered(case_id, what, before, sentence(finding))
    # A case that is not comparable has no other findings.
    if all(finding.outcome != Outcome.NOT_COMPARABLE for finding in judged.values()):
        for what, before in was.items():
            if what not in judged and before != CRASHED:
                yield _recovered(case_id, what, before, f"{what} is no longer reported")


def _recovered(case_id: str, what: str, before: str, text: str) -> Notice:
    kind = "comparable again" if before == Outcome.NOT_COMPARABLE else "recovered"
    return Notice(case_id, what, kind, f"{kind}: {text}")


def stepped(
    histories: Iterable[History],
    state: State,
    describe: Callable[[Series, Step], str],
    others: Sequence[Notice] = (),
) -> list[Notice]:
    """Steps that were not reported yet; those of a new case count as reported.

    *describe* says a step as a sentence; *others* are changes that are reported this time, with the
    steps that they cover. The steps of new cases are added to *state*.
    """
    found = []
    for history in histories:
        case_id = history.case_id
        known = state.cases.get(case_id, Known())
        steps = {metric: list(reported) for metric, reported in known.steps.items()}
        for notice in others:
            if notice.case_id == case_id and notice.at:
                steps.setdefault(notice.what, []).append(notice.at)
        new = list(_new_steps(history, steps, describe))
        if case_id in state.cases:
            found += new
            continue
        state.cases[case_id] = Known()
        for notice in new:
            notice.remember(state)
    return found


def _new_steps(
    history: History, known: Mapping[str, Sequence[str]], describe: Callable[[Series, Step], str]
) -> Iterator[Notice]:
    for series in history.series:
        times = [point.created for point in series.points]
        reported = [s.split(" ", 1) for s in known.get(series.metric, ()) if " " in s]
        for step in series.steps:
            way = "up" if step.after > step.before else "down"
            places = [times.index(at) for old, at in reported if old in (way, ANY) and at in times]
            if all(abs(step.at - place) > DRIFT for place in places):
                text = f"{series.metric}: {describe(series, step)}"
                at = f"{way} {times[step.at]}"
                yield Notice(history.case_id, series.metric, "step", text, at=at)


#: Up to SINGLE changes get a message each; more get one per case, and after MESSAGES a summary.
SINGLE, MESSAGES = 5, 10
#: Cases that a summary lists.
LISTED = 20
#: Limits of Slack: characters of a section, blocks of a message, characters of a notification.
SECTION, BLOCKS, FALLBACK = 3000, 50, 300


class Message(Struct, frozen=True):
    """One post: its text, the changes that it reports, and where to read more."""

    text: str
    notices: tuple[Notice, ...]
    link: str = ""

    def payload(self) -> dict[str, Any]:
        """As Slack's incoming webhooks take it."""
        sections = _sections(self.text)
        if len(sections) >= BLOCKS:
            sections = [*sections[: BLOCKS - 2], "..."]
        # verbatim: Slack makes no link, channel or mention of it.
        texts = [{"type": "mrkdwn", "text": s, "verbatim": True} for s in sections]
        if self.link:
            texts.append({"type": "mrkdwn", "text": f"<{self.link}|more>"})
        blocks = [{"type": "section", "text": text} for text in texts]
        first = self.text.split("\n")[0][:FALLBACK]
        return {"text": escape(first, quote=False), "blocks": blocks}


def _sections(text: str) -> list[str]:
    """The lines of *text*, escaped, in pieces that a section can hold."""
    made: list[str] = []
    for line in text.split("\n"):
        # An escaped character has at most five letters, and none may be cut in two.
        short = SECTION // 5
        for i in range(0, len(line), short):
            piece = escape(line[i : i + short], quote=False)
            if made and len(made[-1]) + 1 + len(piece) <= SECTION:
                made[-1] += f"\n{piece}"
            else:
                made.append(piece)
    return made


def messages(notices: Sequence[Notice], link: str = "") -> list[Message]:
    """The changes as messages: one each, or if they are many one per case and a summary.

    Raises:
        PrunebenchError: if *link* is not a web address.
    """
    if link and not _LINK.fullmatch(link):
        raise PrunebenchError("--link is not an address that begins with https:// or http://")
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
    counts = Counter(notice.kind for notice in notices)
    return ", ".join(f"{n} {kind}" for kind, n in counts.items())

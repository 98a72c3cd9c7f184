"""``prunebench notify``: a message for each change since the last one, none for a quiet night."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import PrunebenchError
from ..reports import notices, sentences
from ..reports.notices import Results, State
from ..results.store import Store
from ..runs.session import CRASHED
from ..system import files, webhook
from ..system.console import print_line, print_note
from ..verdicts import history
from ..verdicts.history import History
from .history import sentence
from .options import JsonFile, StoreDir
from .paths import DEFAULT_STORE

VARIABLE = "PRUNEBENCH_WEBHOOK"


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command()(notify)


def notify(
    results: Annotated[
        list[Path],
        typer.Argument(metavar="RESULTS", help="Files of run --json.", show_default=False),
    ],
    url: Annotated[
        str,
        typer.Option(
            "--webhook",
            metavar="URL",
            help=f"Slack-compatible address; better given as {VARIABLE}, which no list of "
            "processes shows.",
        ),
    ] = "",
    link: Annotated[
        str, typer.Option(metavar="URL", help="Where to read more; ends each message.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the messages; post and remember nothing.")
    ] = False,
    json_file: JsonFile = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Post what changed since it was last told: one message per change.

    A case that becomes worse, recovers, crashes or can be compared again, and a step found in its
    history. What was told is remembered in the results folder.
    """
    address = url or os.environ.get(VARIABLE, "")
    if not dry_run:
        if not address:
            raise PrunebenchError(f"give --webhook URL or set {VARIABLE}, or look with --dry-run")
        webhook.check(address)
    state, lost = notices.load(store)
    if lost:
        print_note(lost)
    read = [files.read_json(path, Results) for path in results]
    verdicts = {verdict.case_id: verdict for one in read for verdict in one.verdicts}
    made = {record.case_id: record.created for one in read for record in one.records}
    found = notices.changes(verdicts.values(), state, made)
    past = _histories(made, Store(store))
    found += notices.stepped(past, state, sentence, found)
    said = notices.messages(found, link)
    if json_file:
        payloads = [message.payload() for message in said]
        files.write_json(json_file, {"changes": found, "messages": payloads})
    if dry_run:
        for message in said:
            print_line(message.text + (f"\n{link}" if link else ""))
    else:
        _post(said, address, state, store)
    if not found:
        print_line("nothing changed since it was last told")
        return
    many = f"{len(found)} change{'s' * (len(found) != 1)}"
    posts = f"{len(said)} message{'s' * (len(said) != 1)}"
    print_line(f"{many}, {posts} {'not posted' if dry_run else 'posted'}")


def _post(said: Sequence[notices.Message], address: str, state: State, store: Path) -> None:
    """Post each message and remember it; one that fails is told the next time, with the rest."""
    notices.save(store, state)
    for number, message in enumerate(said):
        try:
            webhook.post(address, message.payload())
        except webhook.PostError as error:
            left = len(said) - number
            print_note(f"{error}; {left} message{'s' * (left != 1)} will be told the next time")
            raise typer.Exit(CRASHED) from None
        for notice in message.notices:
            notice.told(state)
        notices.save(store, state)


def _histories(ids: Iterable[str], store: Store) -> Iterator[History]:
    """The history of each case, of what the table shows; on the CPU without timings."""

    def choose(names: Sequence[str]) -> list[str]:
        return history.first_of_each(names, [patterns for _, patterns in sentences.COLUMNS])

    for case_id in ids:
        answers = store.answers(case_id)
        if not answers:
            continue
        past = history.history(answers, choose)
        newest = answers[0]
        if newest.environment.device == "cpu":
            varying = {m.metric for m in newest.measurements if m.varies}
            kept = tuple(s for s in past.series if s.metric not in varying)
            past = History(past.case_id, past.device, kept, past.left_out)
        yield past

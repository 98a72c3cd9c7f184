"""``prunebench notify``: a message for each change since the last one."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from ..errors import PrunebenchError
from ..formatting import counted
from ..reports import notices, sentences
from ..reports.notices import Results, State
from ..results.store import Store
from ..runs.result import CRASHED
from ..system import files, webhook
from ..system.console import print_line, print_note
from ..verdicts import history
from ..verdicts.history import History
from .history import sentence
from .options import JsonFile, StoreDir
from .paths import DEFAULT_STORE

VARIABLE = "PRUNEBENCH_WEBHOOK"


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
            help=f"Slack-compatible address; {VARIABLE} hides it from process lists.",
        ),
    ] = "",
    link: Annotated[
        str, typer.Option(metavar="URL", help="Where to read more, at the end of each message.")
    ] = "",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the messages; post and remember nothing.")
    ] = False,
    json_file: JsonFile = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Post what changed since the last message.

    There is one message per change: a case that becomes worse, recovers, crashes or can be compared
    again, or a step in its history. What was posted is remembered in the results folder.
    """
    address = url or os.environ.get(VARIABLE, "")
    if not dry_run:
        if not address:
            raise PrunebenchError(f"give --webhook URL or set {VARIABLE}, or try --dry-run")
        webhook.check(address)
    state, lost = notices.load(store)
    if lost:
        print_note(lost)
    found = _changes(results, state, Store(store))
    messages = notices.messages(found, link)
    if json_file:
        payloads = [message.payload() for message in messages]
        files.write_json(json_file, {"changes": found, "messages": payloads})
    if dry_run:
        for message in messages:
            print_line(message.text + (f"\n{link}" if link else ""))
    else:
        _post(messages, address, state, store)
    if not found:
        print_line("nothing changed since the last message")
        return
    posted = "not posted" if dry_run else "posted"
    print_line(f"{counted(len(found), 'change')}, {counted(len(messages), 'message')} {posted}")


def _changes(paths: Sequence[Path], state: State, store: Store) -> list[notices.Notice]:
    """What *state* does not know: outcomes of the runs in *paths*, steps in the histories."""
    runs = [files.read_json(path, Results) for path in paths]
    verdicts = {verdict.case_id: verdict for run in runs for verdict in run.verdicts}
    created = {record.case_id: record.created for run in runs for record in run.records}
    found = notices.changes(verdicts.values(), state, created)
    return found + notices.stepped(_histories(created, store), state, sentence, found)


def _post(messages: Sequence[notices.Message], address: str, state: State, store: Path) -> None:
    """Post each message and remember it; after a failure the rest is posted the next time."""
    notices.save(store, state)
    for number, message in enumerate(messages):
        try:
            webhook.post(address, message.payload())
        except webhook.PostError as error:
            left = counted(len(messages) - number, "message")
            print_note(f"{error}; {left} will be posted the next time")
            raise typer.Exit(CRASHED) from None
        for notice in message.notices:
            notice.remember(state)
        notices.save(store, state)


def _histories(ids: Iterable[str], store: Store) -> Iterator[History]:
    """The history of each case's table columns; on the CPU without timings."""
    for case_id in ids:
        answers = store.answers(case_id)
        if not answers:
            continue
        past = history.history(answers, sentences.table_metrics)
        newest = answers[0]
        if newest.environment.device == "cpu":
            varying = {m.metric for m in newest.measurements if m.varies}
            steady = tuple(s for s in past.series if s.metric not in varying)
            past = History(past.case_id, past.device, steady, past.left_out)
        yield past

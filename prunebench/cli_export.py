"""``prunebench export``: what was measured, as files for other places."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from . import published
from .baseline import Baselines
from .errors import PrunebenchError, did_you_mean
from .machine import before_torch
from .options import (
    DEFAULT_STORE,
    BaselineDir,
    StoreDir,
    default_baselines,
    defined,
    tell,
)
from .record import Record
from .store import Store


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""
    app.command()(export)


def export(
    case_id: Annotated[str, typer.Argument(metavar="CASE", help="A case id, or the end of one.")],
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", metavar="DIR", help="Save the pruned model here.")
    ],
    search_again: Annotated[
        bool,
        typer.Option("--search-again", help="Where the plan's tensors are gone, make them anew."),
    ] = False,
    device: Annotated[str, typer.Option(metavar="D", help="cpu, cuda, ...")] = "cpu",
    baselines: BaselineDir = None,
    store: StoreDir = DEFAULT_STORE,
) -> None:
    """Save the pruned model of a case as a checkpoint with its model card, ready for the hub.

    The plan of the newest stored record is applied, or else that of the baseline. Nothing is
    uploaded.
    """
    save_checkpoint(
        case_id,
        checkpoint,
        Baselines(baselines or default_baselines()),
        Store(store),
        search_again=search_again,
        device=device,
    )


def save_checkpoint(
    case_id: str,
    folder: Path,
    baselines: Baselines,
    store: Store,
    *,
    search_again: bool,
    device: str,
) -> None:
    """Save what the case *case_id* measured to *folder*, and say where and how to share it.

    Raises:
        PrunebenchError: if there is no such record, or its checkpoint cannot be made.
    """
    found = _case_id(case_id, [*store.case_ids(), *baselines.all_case_ids()])
    record = store.latest(found) or baselines.load(found, "cpu")
    if record is None:
        raise PrunebenchError(f"the records of {found!r} are damaged; run it again")
    case = defined([found]).get(found)
    before_torch()
    from . import publishing

    beside = [store.path(found, record.key or "x").parent, baselines.quality(found).parent]
    rows = published.matching(record, published.rows(baselines.published))
    dense = publishing.dense_record(
        record, _dense(found, baselines, store, record.environment.device)
    )
    card = publishing.checkpoint(
        record,
        folder,
        case=case,
        dense=dense,
        rows=rows,
        beside=beside,
        search_again=search_again,
        device=device,
    )
    tell(f"{folder}: {card.title}")
    tell(f"not uploaded; read {folder / 'README.md'}, then: hf upload ORGANISATION/NAME {folder}")


def _case_id(text: str, ids: list[str]) -> str:
    known = sorted(set(ids))
    matches = [i for i in known if i == text] or [i for i in known if i.endswith(text)]
    if not matches:
        raise PrunebenchError(f"no record or baseline of {text!r}; {did_you_mean(text, known)}")
    if len(matches) > 1:
        raise PrunebenchError(f"{len(matches)} cases end in {text!r}: {', '.join(matches)}")
    return matches[0]


def _dense(case_id: str, baselines: Baselines, store: Store, device: str) -> Iterator[Record]:
    """Records that may be the dense model's: of the same case file first."""
    mine = case_id.rpartition("/")[0]
    known = {*store.case_ids(), *baselines.case_ids()}
    dense = [i for i in known if i.rpartition("/")[2].startswith("dense")]
    for one in sorted(dense, key=lambda i: (i.rpartition("/")[0] != mine, i)):
        with suppress(PrunebenchError):  # a damaged one is none; nothing here rests on it
            if found := store.latest(one) or baselines.load(one, device):
                yield found

"""``export CASE --checkpoint DIR``: the pruned model of a case, ready for the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ..errors import PrunebenchError
from ..record import Record
from ..results.baselines import published
from ..results.baselines.files import Baselines
from ..results.store import Store
from ..system.console import print_line
from ..system.machine import before_torch
from .options import defined, one_case


def save_checkpoint(
    case_id: str,
    folder: Path,
    baselines: Baselines,
    store: Store,
    *,
    search_again: bool,
    device: str,
) -> None:
    """Save the pruned model of *case_id* to *folder*, and print how to upload it.

    Raises:
        PrunebenchError: if there is no such record, or its checkpoint cannot be made.
    """
    known = {*store.case_ids(), *baselines.all_case_ids()}
    found = one_case(case_id, sorted(known), "record or baseline")
    record = store.latest(found) or baselines.load(found, "cpu")
    if record is None:
        raise PrunebenchError(f"the records of {found!r} are damaged; run it again")
    case = defined([found]).get(found)
    before_torch()
    from ..checkpoints import publish

    places = [store.path(found, record.key or "x").parent, baselines.quality(found).parent]
    rows = published.matching(record, published.rows(baselines.published))
    dense = publish.dense_record(record, _dense(found, baselines, store, record.environment.device))
    card = publish.checkpoint(
        record,
        folder,
        case=case,
        dense=dense,
        rows=rows,
        tensor_folders=places,
        search_again=search_again,
        device=device,
    )
    print_line(f"{folder}: {card.title}")
    print_line(
        f"not uploaded; read {folder / 'README.md'}, then: hf upload ORGANISATION/NAME {folder}"
    )


def _dense(case_id: str, baselines: Baselines, store: Store, device: str) -> Iterator[Record]:
    """Records that may be the dense model's, those of the same case file first."""
    file = case_id.rpartition("/")[0]
    known = {*store.case_ids(), *baselines.case_ids()}
    dense = [i for i in known if i.rpartition("/")[2].startswith("dense")]
    for one in sorted(dense, key=lambda i: (i.rpartition("/")[0] != file, i)):
        with suppress(PrunebenchError):  # a damaged record is passed over: the card can do without
            if found := store.latest(one) or baselines.load(one, device):
                yield found

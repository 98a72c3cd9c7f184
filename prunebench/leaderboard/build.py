"""Builds boards from records: one per model and protocol, dense first, with ranks.

Numbers of different models, protocols, limits or data are never on one board. Pure.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean
from typing import Any

import msgspec

from ..edits.drop_blocks import DropBlocks
from ..errors import PrunebenchError
from ..plan import Step
from ..record import Record
from ..reports.formats.rows import options
from ..results.baselines import published
from ..system.files import slug
from . import ranking, row_values
from .board import Board, Row
from .ranking import Place

#: The metrics whose settings must be equal for two records to be on one board.
RANKED = ("accuracy", "generation", "perplexity")
#: How near two sparsities must be to be ranked together, if no plan gives the size of a block.
NEAR = 0.01
Published = Callable[[Record], Sequence[published.Row]]


def boards(records: Iterable[Record], lookup: Published = lambda _: ()) -> list[Board]:
    """The boards of the newest record of each case, those with most rows first.

    Args:
        records: of any number of runs, cases and devices, in any order.
        lookup: finds the papers' numbers about a record.
    """
    cases: dict[str, list[Record]] = {}
    for record in sorted(records, key=_age, reverse=True):
        cases.setdefault(record.case_id, []).append(record)
    gathered: dict[str, list[tuple[dict[str, str], list[Record]]]] = {}
    for runs in cases.values():
        _add(runs[0], gathered.setdefault(_key(runs[0]), []))
    found = [
        _board(newest, cases, lookup)
        for boards_of_key in gathered.values()
        for _, newest in boards_of_key
        if newest
    ]
    return sorted(found, key=lambda b: (-len(b.rows), b.model, b.protocol, b.name))


def _age(record: Record) -> tuple[str, int, bytes]:
    # A baseline is the record it was accepted from, without timings and with fewer digits.
    return record.created, len(record.measurements), msgspec.json.encode(record)


def _add(record: Record, boards_of_key: list[tuple[dict[str, str], list[Record]]]) -> None:
    """Add *record* to the board whose texts and tasks have the same hashes, as far as is known."""
    own = record.provenance.data
    for data, records in boards_of_key:
        if all(data.get(name, digest) == digest for name, digest in own.items()):
            data.update(own)
            records.append(record)
            return
    boards_of_key.append((dict(own), [record]))


def _key(record: Record) -> str:
    """What records must have in common to be on one board."""
    model = {k: v for k, v in (record.asked.get("model") or {}).items() if k != "device_map"}
    weights = [record.model_hash, record.dense_parameters]
    asked = [model, weights, record.asked.get("protocol"), _ranked_metrics(record)]
    return json.dumps(asked, sort_keys=True)


def _ranked_metrics(record: Record) -> list[dict[str, Any]]:
    return [
        # The batch size changes the last bits only.
        {k: v for k, v in metric.items() if k != "batch_size"}
        for metric in record.asked.get("metrics") or ()
        if metric.get("name") in RANKED
    ]


def _board(newest: Sequence[Record], cases: dict[str, list[Record]], lookup: Published) -> Board:
    rows = _rows(newest, cases, lookup)
    near = _near(rows)
    groups = _groups(rows, near)
    rank_by = _rank_by(rows)
    ranked = _ranked(rows, groups, rank_by)
    first = newest[0]
    model = first.asked.get("model") or {}
    ends = ([rows[i].sparsity for i in group] for group in groups)
    return Board(
        name=_name(first),
        model=first.model_id,
        revision=str(model.get("revision") or ""),
        model_hash=first.model_hash,
        protocol=str(first.asked.get("protocol") or ""),
        dtype=str(model.get("dtype", "auto")),
        metrics=tuple(_ranked_metrics(first)),
        rank_by=rank_by,
        rows=ranked,
        groups=tuple((min(own), max(own)) for own in ends),
        blocks=max((_blocks(record) for row in rows for record in row.records), default=0),
        near=near,
        notes=tuple(_notes(ranked)),
    )


def _name(first: Record) -> str:
    """A file name: model, protocol and a hash of what the records of a board share."""
    digest = hashlib.sha256(f"{_key(first)}{sorted(first.provenance.data.items())}".encode())
    model, protocol = first.model_id or "model", first.asked.get("protocol") or "own"
    return f"{slug(model)}-{slug(protocol)}-{digest.hexdigest()[:6]}"


def _rows(newest: Sequence[Record], cases: dict[str, list[Record]], lookup: Published) -> list[Row]:
    """A row for the seeds of each question, dense first, then from least to most sparse."""
    entries: dict[str, dict[str, Record]] = {}
    for record in newest:
        question, seed = _unseeded(record)
        entries.setdefault(question, {}).setdefault(seed, record)
    rows = [
        _row([own[seed] for seed in sorted(own, key=_by_seed)], cases, lookup)
        for own in entries.values()
    ]
    return sorted(rows, key=lambda r: (not r.dense, r.sparsity, r.label, r.record.case_id))


def _groups(rows: Sequence[Row], near: float) -> list[list[int]]:
    """The numbers of the rows to rank among each other: dense, then by sparsity."""
    dense = [i for i, row in enumerate(rows) if row.dense]
    pruned = [i for i, row in enumerate(rows) if not row.dense]
    found = ranking.by_sparsity([rows[i].sparsity for i in pruned], near)
    groups = [[pruned[i] for i in group] for group in found]
    return [dense, *groups] if dense else groups


def _ranked(
    rows: Sequence[Row], groups: Sequence[Sequence[int]], rank_by: Sequence[str]
) -> tuple[Row, ...]:
    """*rows* with their groups and places, in order."""
    entries = [row.records for row in rows]
    placed = {name: ranking.places(entries, groups, name) for name in rank_by}
    group_of = {i: number for number, group in enumerate(groups) for i in group}

    def ranked(i: int, row: Row) -> Row:
        places = {name: place for name in rank_by if (place := placed[name][i])}
        return msgspec.structs.replace(row, group=group_of[i], places=places)

    return _in_order([ranked(i, row) for i, row in enumerate(rows)], rank_by)


def _in_order(rows: Sequence[Row], rank_by: Sequence[str]) -> tuple[Row, ...]:
    """*rows* group by group, the best first, with the row numbers in their places updated."""

    def sort_key(i: int) -> tuple[float, ...]:
        row, unranked = rows[i], (math.inf, math.inf)
        places = (row.places.get(name) for name in rank_by)
        ranks = ((p.rank, p.last) if p else unranked for p in places)
        return (row.group, *(end for pair in ranks for end in pair))

    order = sorted(range(len(rows)), key=sort_key)
    new = {old: number for number, old in enumerate(order)}

    def renumbered(place: Place) -> Place:
        sides = (tuple(sorted(new[i] for i in side)) for side in (place.better, place.worse))
        better, worse = sides
        return msgspec.structs.replace(place, better=better, worse=worse)

    return tuple(
        msgspec.structs.replace(
            rows[i], places={name: renumbered(p) for name, p in rows[i].places.items()}
        )
        for i in order
    )


def _unseeded(record: Record) -> tuple[str, str]:
    """The question without metrics and seeds, and the seeds of calibration and method, as JSON."""
    question = {k: v for k, v in record.asked.items() if k != "metrics"}
    method, calibration = (dict(question.get(k) or {}) for k in ("method", "calibration"))
    drawn = [part.pop("seed", 0) for part in (calibration, method)]
    return (
        json.dumps({**question, "method": method, "calibration": calibration}, sort_keys=True),
        json.dumps(drawn),
    )


def _by_seed(text: str) -> tuple[float, ...]:
    drawn = json.loads(text)
    return tuple(s if isinstance(s, int | float) else math.inf for s in drawn)


def _row(records: Sequence[Record], cases: dict[str, list[Record]], lookup: Published) -> Row:
    first = records[0]
    method = first.asked.get("method") or {}
    external = method.get("name") == "external"
    mark = ("imported plan" if method.get("plan") else "external checkpoint") if external else ""
    timed = [r for r in cases[first.case_id] if _same_model(r, first)]
    memories = (m for r in timed if (m := r.find("memory/peak")))
    memory = next((one for m in memories if (one := row_values.value([m], [first]))), None)
    return Row(
        records=tuple(records),
        method=str(method.get("name") or first.case_id),
        options={k: v for k, v in options(first.asked).items() if k != "seed"},
        mark=mark,
        sparsity=fmean(r.sparsity for r in records),
        values=dict(row_values.values(records)),
        timings=tuple(row_values.timings(timed)),
        memory=memory,
        published=_papers(first, lookup),
    )


def _papers(record: Record, lookup: Published) -> tuple[published.Row, ...]:
    try:
        return tuple(published.compared(record, lookup(record)))
    except PrunebenchError:
        return ()  # a record from elsewhere, of an unknown protocol or settings


def _same_model(record: Record, newest: Record) -> bool:
    """Whether both records are of the same pruned model, so that the timed one was scored."""
    plans = [[edit.bare() for edit in r.plan] for r in (record, newest)]
    return plans[0] == plans[1] and record.model_hash == newest.model_hash


def _rank_by(rows: Sequence[Row]) -> tuple[str, ...]:
    """The first two of accuracy, perplexity and generation; of each the mean, else the first."""
    names = dict.fromkeys(
        name for row in rows for name, value in row.values.items() if value.unit != "of dense"
    )
    chosen = []
    for family in ("accuracy", "perplexity", "generation"):
        own = [n for n in names if n.split("/")[0] == family and n != "accuracy/flips"]
        chosen += [f"{family}/mean"] if f"{family}/mean" in own else own[:1]
    return tuple(chosen[:2])


def _near(rows: Sequence[Row]) -> float:
    """Half a block as a fraction of the parameters: matching by whole blocks gets no nearer.

    The median over the plans that only drop blocks.
    """
    sizes = sorted(
        row.record.sparsity / len(plan[0].blocks)
        for row in rows
        if len(plan := row.record.plan) == 1
        and isinstance(plan[0], DropBlocks)
        and plan[0].blocks
        and row.record.sparsity > 0
    )
    return sizes[len(sizes) // 2] / 2 if sizes else NEAR


def _blocks(record: Record) -> int:
    """The least number of blocks that the model of this plan and trace has."""
    named = [edit.last_block() for edit in record.plan]
    named += [block for step in record.trace for block in _candidates(step)]
    return max(named, default=-1) + 1


def _candidates(step: Step) -> Iterator[int]:
    for name in (*step.scores, *(step.first_stage or ())):
        number = name.split(".")[0]
        if number.isdecimal() and len(number) < 6:
            yield int(number)


def _notes(rows: Sequence[Row]) -> Iterator[str]:
    """Warnings about differences between the records of one board."""
    for package in ("lm_eval", "transformers", "torch"):
        found = {r.environment.packages.get(package) for row in rows for r in row.records}
        if len(found - {None}) > 1:
            versions = ", ".join(sorted(filter(None, found)))
            yield f"made with more than one {package}: {versions}"

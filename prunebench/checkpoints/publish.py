"""Makes the checkpoint of a record again, with its model card."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from .. import registry
from ..api import Method, Target
from ..case import Case
from ..data import fingerprints
from ..errors import PrunebenchError
from ..models import export, modeling
from ..models.calibration import Calibration
from ..models.causal_lm import CausalLM
from ..models.loading import load_model
from ..models.surgery import apply
from ..models.tensors import Tensors
from ..plan import Edit, Plan, describe
from ..record import Record
from ..results.baselines.published import Row
from ..specs import CalibrationSpec, ModelSpec
from ..verdicts.verdict import split_question
from . import card, card_metadata, card_text, dense_card
from .card import Card

T = TypeVar("T")


def checkpoint(
    record: Record,
    folder: Path,
    *,
    case: Case | None = None,
    dense: Record | None = None,
    rows: Sequence[Row] = (),
    tensor_folders: Iterable[Path] = (),
    search_again: bool = False,
    device: str = "cpu",
) -> Card:
    """Apply the plan of *record* to its dense model and save the result with a model card.

    Nothing is searched, unless tensors of the plan are missing and *search_again* is given; the
    plan found must then be the recorded one, its tensors equal bit for bit.

    Args:
        record: the record of the pruned model.
        folder: where to save; missing or empty.
        case: the case as it is defined now, with resolved paths.
        dense: the dense model's record by the same protocol (see *dense_record*).
        rows: the papers' numbers.
        tensor_folders: folders to look for the plan's tensors in.
        search_again: search again if tensors of the plan are missing.
        device: where to load the model.

    Raises:
        PrunebenchError: if nothing was removed, the dense model is not the one that was measured,
            the plan's tensors are missing, or *folder* is not empty.
    """
    _require_plan(record)
    export.require_free(folder)
    if case is not None and {**case.asked, "metrics": 0} != {**record.asked, "metrics": 0}:
        case = None  # it has changed since
    spec = case.model if case else _convert(record, "model", ModelSpec)
    lm = _load_dense(record, spec, device)
    tensors = _tensors(record, tensor_folders)
    if tensors is None and _tensor_names(record.plan):
        tensors = _search(record, lm, case, search_again=search_again).tensors
    pruned = apply(lm, Plan(record.plan, record.trace, tensors=tensors))
    if pruned.num_parameters != record.parameters:
        counts = f"{pruned.num_parameters:,} parameters, the record says {record.parameters:,}"
        raise PrunebenchError(f"{record.case_id}: the pruned model has {counts}")
    own = card.of_record(
        record,
        dense_card.read(spec.id, spec.revision, record.provenance.model_commit),
        code=bool(modeling.spec_of(pruned.hf)),
        dense=dense,
        rows=rows,
        dtype=str(pruned.hf.dtype).removeprefix("torch."),
    )
    extra = {"README.md": card_text.render(own).encode(), **card_metadata.benchmark_files(record)}
    export.save(pruned, folder, {"case": own.case, "plan": record.plan}, extra)
    return own


def _load_dense(record: Record, spec: ModelSpec, device: str) -> CausalLM:
    """The dense model, which must be the one that was measured."""
    if spec.weights is not None:
        raise PrunebenchError(f"{record.case_id}: its weights are random")
    _require_same(record, fingerprints.model_hash(spec))  # before anything is loaded
    lm = load_model(spec.id, revision=spec.revision, dtype=spec.dtype, device=device)
    _require_same(record, fingerprints.model_hash(spec) or "")
    return lm


def dense_record(record: Record, candidates: Iterable[Record]) -> Record | None:
    """The first dense record of the same weights and protocol, with what both measured equally."""
    _, mine = split_question(record.asked)
    for other in candidates:
        asked = other.asked
        named = (asked.get("method") or {}).get("name")
        same_protocol = asked.get("protocol") == record.asked.get("protocol")
        if named != "dense" or not same_protocol or other.model_hash != record.model_hash:
            continue
        _, theirs = split_question(asked)
        same = [m for m in other.measurements if mine.get(m.family) == theirs.get(m.family)]
        if same:
            return replace(other, measurements=tuple(same))
    return None


def _require_plan(record: Record) -> None:
    if not record.plan:
        raise PrunebenchError(f"{record.case_id}: nothing was removed from the model")
    if any(edit.foreign for edit in record.plan):
        raise PrunebenchError(
            f"{record.case_id}: it measured an external checkpoint, which needs no export"
        )


def _require_same(record: Record, found: str | None) -> None:
    if found not in (None, record.model_hash):
        raise PrunebenchError(
            f"{record.case_id}: the dense model here ({(found or 'unknown')[:12]}) is not the one "
            f"that was measured ({record.model_hash[:12]}); pin its revision, or run the case again"
        )


def _convert(record: Record, key: str, kind: type[T]) -> T:
    try:
        return msgspec.convert(record.asked.get(key) or {}, kind)
    except msgspec.ValidationError as error:
        raise PrunebenchError(f"{record.case_id}: damaged: asked: {key}: {error}") from None


def _tensor_names(edits: Sequence[Edit]) -> list[str]:
    return [e.bundle for e in edits if e.bundle is not None]


def _tensors(record: Record, tensor_folders: Iterable[Path]) -> Tensors | None:
    """The tensors that the plan names, from the first folder that has them all; else None."""
    names = _tensor_names(record.plan)
    if any(len(name) != 64 or not name.isalnum() for name in names):
        raise PrunebenchError(f"{record.case_id}: damaged: its plan names tensors without a hash")
    for folder in tensor_folders:
        if names and all((folder / f"{name}.safetensors").is_file() for name in names):
            found = Tensors()
            for name in names:
                found.load(folder, name)
            return found
    return None


def _search(record: Record, lm: CausalLM, case: Case | None, *, search_again: bool) -> Plan:
    """Search again; the plan found must be the recorded one, and its tensors equal bit for bit."""
    if not search_again:
        raise PrunebenchError(
            f"{record.case_id}: the tensors of its plan are not saved with the record; "
            f"--search-again makes them again and checks that they are the same"
        )
    method, target, spec = _question(record, case)
    found = method.choose(lm, Calibration(spec, lm), target)
    if [e.bare() for e in found.edits] != [e.bare() for e in record.plan]:
        now, was = describe(found.edits), describe(record.plan)
        raise PrunebenchError(f"{record.case_id}: the search now finds {now}, it was {was}")
    if _tensor_names(found.edits) != _tensor_names(record.plan):
        raise PrunebenchError(
            f"{record.case_id}: the search finds the same plan with other tensors, as another "
            f"machine's last bits are: run the case here first, so that what was measured is saved"
        )
    return found


def _question(record: Record, case: Case | None) -> tuple[Method, Target, CalibrationSpec]:
    """Method, amount and calibration: of *case* if given, else as the record has them."""
    if case is not None:
        return case.method, case.target, case.calibration
    name = str((record.asked.get("method") or {}).get("name", ""))
    if name not in registry.names("methods"):
        raise PrunebenchError(f"{record.case_id}: there is no method {name!r} here")
    kind: type[Method] = registry.method(name)
    return (
        _convert(record, "method", kind),
        _convert(record, "amount", Target),
        _convert(record, "calibration", CalibrationSpec),
    )

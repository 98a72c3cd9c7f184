"""Plans on disk: our own JSON with its tensors next to it, and other people's removal lists."""

from __future__ import annotations

import json
import re
from collections import Counter
from json import JSONDecodeError
from pathlib import Path
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from ..errors import PrunebenchError
from ..plan import (
    MAX_BLOCKS,
    AnyEdit,
    Edit,
    Plan,
    Step,
    Unit,
    block_of,
    decode_edits,
    implausible,
    read_edits,
)
from ..system import files

#: Keys under which other projects keep what was removed, in order of removal.
LISTS = ("removal_list", "removed", "pruned", "pruned_blocks", "removed_blocks", "blocks", "order")

_WORD = re.compile(r"[^\s,;\[\]()\"']+")
_SUBLAYER = re.compile(r"([0-9]+)\.(attn|mlp)")
_SHA256 = re.compile(r"[0-9a-f]{64}")

#: A list of what was removed from a model is shorter than this.
MAX_LIST_BYTES = 100_000_000


class PlanFile(Struct, frozen=True):
    """What a file of ours must have to be a plan; ``prune --json`` writes more keys."""

    plan: tuple[AnyEdit, ...]
    trace: tuple[Step, ...] = ()

    def __post_init__(self) -> None:
        decode_edits(self, "plan")


def read(path: Path) -> Plan:
    """The plan in a file of ours, with the tensors that it names from the same folder.

    Raises:
        PrunebenchError: if the file or a tensor is missing, damaged or something else.
    """
    found = files.read_json(path, PlanFile)
    return with_tensors(path, Plan(_checked(path, found.plan), found.trace))


def with_tensors(path: Path, plan: Plan) -> Plan:
    """*plan* with the tensors that it names, which are files next to *path*.

    Raises:
        PrunebenchError: if one is missing or damaged.
    """
    named = [edit.bundle for edit in plan if edit.bundle is not None]
    if not named:
        return plan
    from .tensors import Tensors

    tensors = Tensors()
    for sha256 in named:
        # The name is part of a path, so only a hash will do.
        if not _SHA256.fullmatch(sha256):
            found = repr(sha256[:40]) if sha256 else "none"
            raise PrunebenchError(f"{path}: expected tensors named by their sha256, found {found}")
        tensors.load(path.parent, sha256)
    return replace(plan, tensors=tensors)


def imported(path: Path, unit: str = "blocks", count: int | None = None) -> Plan:
    """The plan of somebody's removal list, or a plan of ours with its tensors.

    Args:
        path: JSON (a plan of ours, a list, or a mapping with a list under a known key, or with
            ``drop_attn_list`` and ``drop_mlp_list``) or plain text and CSV.
        unit: what a number alone means: ``blocks``, or ``sublayers`` as SPRINT numbers them, 2b
            for the attention of block b and 2b + 1 for its MLP.
        count: only the first *count* removals, of a file that ranks all of them.

    Raises:
        PrunebenchError: saying what is wrong with the file.
    """
    try:
        # Spreadsheets write a byte order mark.
        text = files.read(path, MAX_LIST_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise PrunebenchError(f"{path}: cannot be read: not UTF-8 text") from None
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith(("{", "[")):
            place = f":{error.lineno}:{error.colno}" if isinstance(error, JSONDecodeError) else ""
            raise PrunebenchError(f"{path}{place}: damaged: not valid JSON") from None
        data = None
    if not isinstance(data, dict | list):
        data = _WORD.findall(text)
    if edits := _own(path, data):
        plan = with_tensors(path, Plan(edits))
    else:
        plan = Plan(_edits(path, [_unit(path, item, unit) for item in _items(path, data)]))
    if count is None:
        return plan
    if count > plan.size:
        raise PrunebenchError(f"{path}: {count} are asked for, it lists {plan.size}")
    try:
        return plan.prefix(count)
    except ValueError as error:
        raise PrunebenchError(f"{path}: {error}") from None


def _own(path: Path, data: Any) -> tuple[Edit, ...]:
    """The edits of a plan of ours; none if it is something else."""
    edits = data.get("plan") if isinstance(data, dict) else data
    if isinstance(edits, list) and edits and all(isinstance(e, dict) for e in edits):
        try:
            return _checked(path, read_edits(edits))
        except ValueError as error:
            raise PrunebenchError(f"{path}: no plan: {error}") from None
    return ()


def _checked(path: Path, edits: tuple[Edit, ...]) -> tuple[Edit, ...]:
    """*edits*, if some model could have them."""
    if wrong := implausible(edits):
        raise PrunebenchError(f"{path}: no plan: {wrong}")
    return edits


def _items(path: Path, data: Any) -> list[Any]:
    if isinstance(data, dict):
        dropped = [
            f"{block}.{part}"
            for part in ("attn", "mlp")
            for block in _listed(path, data, f"drop_{part}_list")
        ]
        if dropped:
            return dropped
        keys = [key for key in LISTS if isinstance(data.get(key), list)]
        if len(keys) != 1:
            had = ", ".join(keys) or "none of them"
            known = ", ".join(LISTS)
            raise PrunebenchError(f"{path}: expected a list under one of {known}; found {had}")
        data = data[keys[0]]
    return _sequence(path, data)


def _listed(path: Path, data: dict[str, Any], key: str) -> list[Any]:
    if not isinstance(found := data.get(key) or [], list):
        raise PrunebenchError(f"{path}: expected a list under {key}")
    return found


def _sequence(path: Path, data: Any) -> list[Any]:
    if not isinstance(data, list) or not data:
        raise PrunebenchError(f"{path}: found no list of what was removed")
    return data


def _unit(path: Path, item: Any, unit: str) -> Unit:
    if isinstance(item, list) and len(item) == 2:
        item = f"{item[0]}.{item[1]}"
    text = str(item)
    match = _SUBLAYER.fullmatch(text)
    if len(text.split(".")[0]) > len(str(MAX_BLOCKS)):
        raise PrunebenchError(f"{path}: found {text[:40]!r}; no model has that many blocks")
    if match:
        return int(match[1]), "attn" if match[2] == "attn" else "mlp"
    if text.isascii() and text.isdigit() and not isinstance(item, bool):
        number = int(text)
        return number if unit == "blocks" else (number // 2, "mlp" if number % 2 else "attn")
    raise PrunebenchError(f"{path}: found {text[:40]!r}, expected a number or like '3.attn'")


def _edits(path: Path, units: list[Unit]) -> tuple[Edit, ...]:
    if len(set(units)) < len(units):
        twice = next(unit for unit, count in Counter(units).items() if count > 1)
        raise PrunebenchError(f"{path}: {twice} is listed twice")
    blocks = [unit for unit in units if isinstance(unit, int)]
    sublayers = [unit for unit in units if not isinstance(unit, int)]
    edits = ({"edit": "drop_blocks", "blocks": blocks},) if blocks else ()
    more = ({"edit": "drop_sublayers", "sublayers": sublayers},) if sublayers else ()
    return read_edits((*edits, *more))


def check_fits(edits: tuple[Edit, ...], model: str) -> None:
    """Refuse edits that remove blocks which *model* (a folder or hub id) does not have.

    Raises:
        PrunebenchError: if they do, or the model's config cannot be read.
    """
    import transformers

    from ..data import hub

    hub.require(model, weights=False)
    try:
        config = transformers.AutoConfig.from_pretrained(
            str(hub.folder_of(model) or model), trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise PrunebenchError(hub.explained(model, None, error)) from None
    depth = config.num_hidden_layers
    for edit in edits:
        for block in map(block_of, edit.units()):
            if block >= depth:
                raise PrunebenchError(f"the plan drops block {block}; {model} has 0 to {depth - 1}")

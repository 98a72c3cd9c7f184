"""Reads the dense model's own card: its id on the hub, revision and licence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from .. import reference
from ..data import hub
from ..errors import PrunebenchError
from ..system import files
from .card import Base

#: The form of an id on the hub.
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
#: The metadata that a card begins with.
_METADATA = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|\Z)", re.DOTALL)
_LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]{0,60}")
MAX_BYTES = 5_000_000


def read(model_id: str, revision: str | None = None, commit: str = "") -> Base:
    """Id, revision (branch, tag or commit) and licence of a dense model; empty if not known.

    Of a folder only its name is published. The card of a hub model is downloaded if it is not
    cached and the process is not offline.
    """
    folder = hub.folder_of(model_id)
    if folder is not None:
        own = model_id == reference.MODEL_ID
        shown = model_id if own else folder.resolve().name or "a folder"
        return Base(shown, licence=licence(folder / "README.md"))
    known = hub.place(model_id, revision).folder
    card = known / "README.md" if known else None
    if card is None or not card.is_file():
        card = _fetched(model_id, revision)
    known_licence = licence(card) if card else {}
    hub_id = model_id if HUB_ID.fullmatch(model_id) else ""
    return Base(model_id, hub_id, commit or revision or "", known_licence)


def licence(card: Path) -> dict[str, str]:
    """The licence in a model card's metadata, by the hub's keys; empty if there is none."""
    import yaml

    try:
        found = _METADATA.match(files.read(card, MAX_BYTES).decode("utf-8"))
        data: Any = yaml.safe_load(found[1]) if found else None
    except (PrunebenchError, UnicodeDecodeError, yaml.YAMLError, RecursionError, ValueError):
        return {}
    given = data.get("license") if isinstance(data, dict) else None
    if not isinstance(given, str) or not _LICENCE.fullmatch(given):
        return {}
    stated = {"license": given}
    for key in ("license_name", "license_link"):
        if isinstance(value := data.get(key), str) and len(value) <= 300:
            stated[key] = value
    return stated


def _fetched(model_id: str, revision: str | None) -> Path | None:
    """The card from the hub, or None if it cannot be downloaded."""
    if hub.offline():
        return None
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(model_id, "README.md", revision=revision))
    except Exception:  # whatever the network, the hub or its client raises
        return None

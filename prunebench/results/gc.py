"""Garbage collection of a results folder. Files are removed, never moved."""

from __future__ import annotations

import contextlib
import re
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from ..errors import PrunebenchError
from ..system import files
from . import inventory
from .baselines import review
from .baselines.files import Baselines
from .inventory import Head, Item, StoredRecord, items, stored_records
from .store import Store

DAY = 86_400
#: The age, in seconds since the last write, beyond which no run will resume from a file.
LEFT = {"partial": 30 * DAY, "lock": DAY, "temporary": DAY, "hash": 90 * DAY}

_HEX = re.compile(rb"[0-9a-f]{64}")
_AMOUNT = re.compile(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)")
_SECONDS = {"h": 3600, "d": DAY, "w": 7 * DAY}
_BYTES = {f"{p}B": 1000**n for n, p in enumerate(("", "k", "M", "G", "T"))}
_BYTES |= {f"{p}iB": 1024**n for n, p in enumerate("kMGT", 1)}


class Removed(Struct, frozen=True):
    """A file that was removed, or would be, and why."""

    path: str
    kind: str
    size: int
    why: str


def removable(
    store: Store,
    baselines: Baselines,
    cases: Collection[str] | None = None,
    *,
    older_than: float | None = None,
    keep_last: int | None = None,
    max_size: float | None = None,
) -> list[Removed]:
    """What can be removed: records beyond the given limits, and what runs left behind.

    Never the record that a baseline was accepted from, nor the newest answer to a question on a
    device, unless its case is no longer one of *cases*. Without a limit no record is removed.

    Args:
        store: the results folder.
        baselines: what was accepted.
        cases: the ids of all cases, None where they are not known.
        older_than: seconds; younger records stay.
        keep_last: so many of the newest records of a case on a device stay.
        max_size: bytes; of the rest the oldest are removed until no more than that is left.
    """
    found, now = items(store.root), time.time()
    known, _ = stored_records(found)
    free = _unprotected(known, baselines, cases, keep_last)
    going: dict[Path, Removed] = {}
    for record in free:
        age = now - _seconds(record.head.created)
        if (older_than is not None or keep_last is not None) and age > (older_than or 0):
            going[record.item.path] = _removed(record.item, "an old record")
    finished = {record.head.key[:20] for record in known}
    named = _named(found)
    # A long search writes its journal all the time, and a tensor that does not change only once.
    touched: dict[Path, float] = {}
    for item in found:
        if item.kind == "partial":
            last = touched.get(item.path.parent, 0.0)
            touched[item.path.parent] = max(item.modified, last)
    for item in found:
        rest = now - touched.get(item.path.parent, item.modified)
        if why := _left_behind(item, store.root, finished, named, rest, older_than):
            going[item.path] = _removed(item, why)
    if max_size is not None:
        left = sum(item.size for item in found if item.path not in going)
        for record in reversed(free):
            if left > max_size and record.item.path not in going:
                going[record.item.path] = _removed(record.item, "more than the size allowed")
                left -= record.item.size
    for path, stat, outdated in inventory.memory():
        if outdated and now - stat.st_mtime > LEFT["hash"]:
            going[path] = Removed(str(path), "hash", stat.st_size, "its file has changed")
    return list(going.values())


def remove(going: Iterable[Removed], root: Path) -> list[Removed]:
    """Remove these files, and folders below *root* that this leaves empty.

    Returns:
        Those that were removed; a lock that is held stays.

    Raises:
        PrunebenchError: if one cannot be removed.
    """
    removed = []
    for one in going:
        path = Path(one.path)
        if one.kind == "lock" and _is_held(path):
            continue
        review.unlink(path, root)
        removed.append(one)
    return removed


def seconds_of(text: str, option: str) -> float:
    """``90d``, ``12h`` or ``2w`` in seconds.

    Raises:
        PrunebenchError: if *text* is nothing of the kind; one line that begins with *option*.
    """
    return _amount(text, option, _SECONDS, "h, d or w, such as 90d")


def bytes_of(text: str, option: str) -> float:
    """``5GB`` or ``500 MiB`` in bytes; errors as for ``seconds_of``."""
    return _amount(text, option, _BYTES, "a unit, such as 5GB")


def _amount(text: str, option: str, units: dict[str, int], expected: str) -> float:
    match = _AMOUNT.fullmatch(text)
    if match is None or match[2] not in units:
        raise PrunebenchError(f"{option} {text}: expected a number and {expected}")
    return float(match[1]) * units[match[2]]


def _unprotected(
    known: Sequence[StoredRecord],
    baselines: Baselines,
    cases: Collection[str] | None,
    keep_last: int | None,
) -> list[StoredRecord]:
    """The records that may be removed, newest first."""
    cited, unsure = _cited(baselines)
    seen: set[tuple[str, str, bytes]] = set()
    count: Counter[tuple[str, str]] = Counter()
    free = []
    for record in known:
        head = record.head
        place = (head.case_id, head.environment.device)
        count[place] += 1
        question = (*place, bytes(head.asked))
        wanted = cases is None or review.is_known(head.case_id, cases)
        newest = question not in seen and wanted
        seen.add(question)
        recent = count[place] <= (keep_last or 0)
        if not (newest or recent or head.identity in cited or head.case_id in unsure):
            free.append(record)
    return free


def _cited(baselines: Baselines) -> tuple[set[tuple[str, str, str]], set[str]]:
    """The records that baselines cite as their source, and cases whose baseline cannot be read."""
    named: set[tuple[str, str, str]] = set()
    unsure: set[str] = set()
    paths = [(i, path) for i in baselines.all_case_ids() for path in baselines.files(i)]
    for case_id, path in paths:
        if path.suffix == ".json":
            try:
                named.add(files.read_json(path, Head).identity)
            except PrunebenchError:
                unsure.add(case_id)
    return named, unsure


def _left_behind(
    item: Item,
    root: Path,
    finished: Collection[str],
    named: Collection[str],
    rest: float,
    older_than: float | None,
) -> str:
    """Why nothing will ask for *item*, untouched for *rest* seconds, again; or an empty text."""
    if item.kind == "partial":
        key = item.path.relative_to(root).parts[1]
        if key in finished and rest > DAY:
            return "its case is finished"
        limit = LEFT["partial"] if older_than is None else max(older_than, DAY)
        return "never resumed" if rest > limit else ""
    if item.kind == "lock" and item.path.suffix in (".lock", ".owner"):
        return "held by nobody" if rest > LEFT["lock"] else ""
    if item.kind == "temporary":
        return "never finished" if rest > LEFT["temporary"] else ""
    if item.kind == "tensors":
        return "" if rest < DAY or item.path.stem in named else "no plan names it"
    return ""


def _named(found: Sequence[Item]) -> set[str]:
    """The tensors among *found* that any JSON file among them names."""
    tensors = {item.path.stem for item in found if item.kind == "tensors"}
    named: set[str] = set()
    for item in found if tensors else ():
        if item.path.suffix == ".json":
            with contextlib.suppress(OSError):  # another process may have moved it
                named.update(h.decode() for h in _HEX.findall(item.path.read_bytes()))
    return named & tensors


def _is_held(path: Path) -> bool:
    """Whether somebody holds the lock that *path* is of; one that nobody holds is removed."""
    import filelock

    lock = path.with_suffix(".lock")
    if path != lock:
        return lock.exists()
    try:
        with filelock.FileLock(path, timeout=0):
            path.unlink(missing_ok=True)  # before the file that says whose lock it was
    except (filelock.Timeout, NotImplementedError, OSError):
        return True
    return False


def _removed(item: Item, why: str) -> Removed:
    return Removed(str(item.path), item.kind, item.size, why)


def _seconds(created: str) -> float:
    """The time a record names, as seconds since 1970; now, if it names none."""
    try:
        when = datetime.fromisoformat(created)
    except ValueError:
        return time.time()
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()

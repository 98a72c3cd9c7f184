"""Multi-file transactions: a change of many files is whole or absent, wherever it is interrupted.

New files are written to a draft folder below the root, with a list of where each belongs. One
rename of that folder commits all of them; only then is each moved to its place. The next process
that changes files there first completes a committed change, and deletes uncommitted drafts.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from msgspec import Struct

from ..errors import PrunebenchError
from . import files

#: Folders below the root: a committed change, and the prefix of uncommitted ones.
COUNTED = ".prunebench-counted"
DRAFT = ".prunebench-draft-"

#: Seconds after which a draft is abandoned, where the file system has no locks to tell.
LEFT = 86_400


class _Listing(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the files of a change belong, in order, and which files it removes.

    It is ``<id>.json`` in the change's folder, and the files are ``<id>.0``, ``<id>.1``, ...: a
    name is never used twice, so that two processes that complete a change cannot mix up two.
    """

    put: tuple[str, ...]
    gone: tuple[str, ...] = ()


@contextmanager
def turn(root: Path) -> Iterator[bool]:
    """Change files below *root* within the block, one process at a time.

    An interrupted change is completed first.

    Yields:
        Whether an earlier change was completed.

    Raises:
        PrunebenchError: if nothing can be written there, or an earlier change cannot be completed.
    """
    made = not root.is_dir()
    with files.reported(root, "written"):
        handle = _locked(root)
    try:
        ended = _end(root)
        for draft in root.glob(f"{DRAFT}*"):
            with suppress(OSError):
                if handle is not None or time.time() - draft.stat().st_mtime > LEFT:
                    shutil.rmtree(draft, ignore_errors=True)
        yield ended
    finally:
        if made:
            with suppress(OSError):  # removed again if it stayed empty
                root.rmdir()
        if handle is not None:
            os.close(handle)


def write(root: Path, contents: Mapping[str, bytes], gone: Iterable[str] = ()) -> None:
    """Write files below *root*, all of them or none; must be called within its `turn`.

    *contents* are by names of plain parts below it (``files.is_name``), in the order in which they
    are moved to their places; *gone* are names of files to remove.

    Raises:
        PrunebenchError: if they cannot be written. Nothing is changed then, unless the message
            says that the change counts.
    """
    listing = _Listing(tuple(contents), tuple(gone))
    own = uuid.uuid4().hex
    draft = root / f"{DRAFT}{own}"
    try:
        for name in (*listing.put, *listing.gone):
            if not files.is_name(name, files.MAX_NAME):
                raise PrunebenchError(f"{root}: {name!r} is not a file name")
            _require_place(root / name)
        draft.mkdir()
        try:
            for number, content in enumerate(contents.values()):
                _put(draft / f"{own}.{number}", content)
            _put(draft / f"{own}.json", files.as_json(listing))
            _sync(draft)
            _count(draft, root)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise
    except OSError as error:
        reason = error.strerror or error
        what = f"cannot be written: {reason}; nothing was changed"
        raise PrunebenchError(f"{root}: {what}") from error
    _end(root, own)


def unfinished(root: Path) -> bool:
    """Whether a change below *root* is committed and incomplete; writes nothing."""
    folder = root / COUNTED
    try:
        return any(name.endswith(".json") for name in os.listdir(folder))  # noqa: PTH208
    except OSError:
        return os.path.lexists(folder)  # it exists and cannot be listed


def _locked(root: Path) -> int | None:
    """An open, locked handle of the folder, which is made if it is missing.

    None where folders cannot be locked. Then only the rename keeps two changes apart: there is one
    place for a committed change.
    """
    while True:
        root.mkdir(parents=True, exist_ok=True)
        try:
            import fcntl
        except ImportError:
            return None
        with suppress(FileNotFoundError):  # the process that had made it removed it again
            handle = os.open(root, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:
                os.close(handle)
                return None
            try:
                if os.path.samestat(os.fstat(handle), root.stat()):
                    return handle
            except FileNotFoundError:
                pass
            os.close(handle)


def _require_place(path: Path) -> None:
    """Refuse a place to which a committed file could not be moved."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, f"{path} is a folder")
    there = next(parent for parent in path.parents if os.path.lexists(parent))
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, f"{there} is not a folder")
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{there}: {os.strerror(errno.EACCES)}")


def _put(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(folder: Path) -> None:
    """Flush the names in *folder* to disk."""
    if os.name == "nt":
        return  # a folder cannot be opened there
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # a file system that cannot flush folders
            raise
    finally:
        os.close(handle)


def _count(draft: Path, root: Path) -> None:
    while True:
        try:
            draft.rename(root / COUNTED)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            _end(root)  # of another process, where folders cannot be locked
        else:
            return


def _end(root: Path, mine: str = "") -> bool:
    """Move the files of the committed change to their places; whether there was one.

    Any change but *mine* may be a stranger's, like everything that comes with a repository.
    """
    folder = root / COUNTED
    if not os.path.lexists(folder):
        return False
    try:
        _sync(root)
        return _moved(root, folder, mine)
    except OSError as error:
        reason = error.strerror or error
        raise PrunebenchError(
            f"{root}: the change counts but cannot be ended, the next one tries again: {reason}"
        ) from error


def _moved(root: Path, folder: Path, mine: str) -> bool:
    if folder.is_symlink() or not folder.is_dir():
        raise _damaged(folder, "not a folder")
    lists = files.listed(folder, ".json")
    if len(lists) > 1:
        raise _damaged(folder, "more than one list")
    if not lists:
        shutil.rmtree(folder)  # complete: the list is removed last
        return False
    own = lists[0].stem
    try:
        listing = files.read_json(lists[0], _Listing)
    except PrunebenchError as error:
        if not lists[0].exists():
            return True  # another process has completed it meanwhile
        raise PrunebenchError(f"{error}; {_give_up(folder)}") from None
    places = [root / name for name in (*listing.put, *listing.gone)]
    if own != mine:
        _require_inside(root, folder, (*listing.put, *listing.gone))
    parts = [folder / f"{own}.{number}" for number in range(len(listing.put))]
    for part in parts:
        if os.path.lexists(part) and not stat.S_ISREG(part.lstat().st_mode):
            raise _damaged(folder, f"{part.name} is not a regular file")
    for part, place in zip(parts, places, strict=False):
        if part.exists():
            _move(part, place)
    for place in places[len(parts) :]:
        place.unlink(missing_ok=True)
    changed = {above for place in places for above in place.parents if root in above.parents}
    for above in sorted(changed | {root}):
        if above.is_dir():
            _sync(above)
    lists[0].unlink(missing_ok=True)
    with suppress(OSError):
        folder.rmdir()  # an empty one means nothing
    return True


def _require_inside(root: Path, folder: Path, names: Iterable[str]) -> None:
    """Refuse names of files that are not below *root*, by their characters or by a link."""
    whole = root.resolve()
    for name in names:
        if not files.is_name(name, files.MAX_NAME):
            raise _damaged(folder, f"{name!r} is not a file name")
        if not (root / name).parent.resolve().is_relative_to(whole):
            raise _damaged(folder, f"{name} leads out of {root} by a link")


def _move(part: Path, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    try:
        part.replace(place)
    except FileNotFoundError:
        if part.exists():
            raise
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        copy = place.with_name(f".{part.name}")  # another file system is mounted there
        copy.unlink(missing_ok=True)
        _put(copy, part.read_bytes())
        copy.replace(place)
        part.unlink(missing_ok=True)


def _damaged(folder: Path, what: str) -> PrunebenchError:
    return PrunebenchError(f"{folder}: damaged: {what}; {_give_up(folder)}")


def _give_up(folder: Path) -> str:
    return f"remove {folder.name} to give that change up"

"""What a store on disk needs of its platform: one writer at a time, and errors that help."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from concepthash.errors import (
    GalleryDamaged,
    GalleryError,
    GalleryLocked,
    GalleryLost,
    GalleryUnreadable,
)
from concepthash.files import list_command, reason
from concepthash.locks import lock_now

SHARDS = "shards.json"
"""The file that makes a folder of galleries a sharded gallery."""

_VERIFY = "run the command again; chash index verify GALLERY says whether the files are whole"
_DENIED = (errno.EACCES, errno.EPERM)
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_SHM_BYTES = 1 << 15
_NOT_THROUGH_LINKS = getattr(os, "O_NOFOLLOW", 0)
_NAMING_SECONDS = 0.05
"""What a writer needs at most from taking the lock to writing its process id."""


@contextmanager
def writer_lock(file: Path) -> Iterator[None]:
    """Hold ``file`` as the only writer; the system lets go when the process ends, however it ends.

    The file stays, with the process id of the last writer: deleting it would let two in.

    Raises:
        GalleryLocked: if another writer holds it, in this process or another.
        GalleryError: if the file cannot be written.
    """
    if file.is_dir():
        raise GalleryError("a folder is where the lock should be", where=file, hint=f"rmdir {file}")
    if file.is_symlink():  # what it leads to would be overwritten
        raise GalleryError("a link is where the lock should be", where=file, hint=f"rm {file}")
    with storage_errors(file):
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | _NOT_THROUGH_LINKS, 0o666)
    try:
        try:
            lock_now(descriptor)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
                raise
            time.sleep(_NAMING_SECONDS)
            holder = os.read(descriptor, 32).decode("ascii", "replace").strip()
            raise GalleryLocked(
                f"process {holder} is writing to this gallery",
                where=file,
                hint=f"wait until it has finished; ps -p {holder} shows what it is",
            ) from None
        if os.fstat(descriptor).st_nlink == 1:  # else it is another file too, as in a backup
            with storage_errors(file):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(where: Path, *, reading: bool = False) -> Iterator[None]:
    """Turn what the system or SQLite reports inside the block into a GalleryError on ``where``.

    ``reading`` says that nothing is written in the block: what is forbidden then is to read.
    """
    try:
        yield
    except sqlite3.Error as error:
        raise _from_sqlite(error, where) from error
    except UnicodeDecodeError as error:  # from sqlite3, for damaged names in its own messages too
        raise damaged("the database is damaged: text that is not Unicode", where) from error
    except OSError as error:
        raise _from_system(error, where, reading=reading) from error


def bytes_below(folder: Path) -> int:
    """Bytes of all files below a folder; those that a writer deletes meanwhile do not count."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                total += Path(place, name).stat().st_size
    return total


def disk_full(where: Path) -> GalleryError:
    """The error of a full disk."""
    return GalleryError(
        "the disk is full; everything committed before is safe",
        where=where,
        hint="free some space (df -h) and run the same command again: it continues",
    )


def read_only(where: Path) -> GalleryError:
    """The error of a folder that cannot be written."""
    return GalleryError(
        "the gallery cannot be written: permission denied or a read-only file system",
        where=where,
        hint=f"chmod -R u+w {where.parent}, or another place: a copy (cp -r), --out",
    )


def unreadable(what: str, where: Path) -> GalleryUnreadable:
    """The error of a file or folder of which nothing is known but that it cannot be read."""
    return GalleryUnreadable(
        f"the gallery cannot be read: {what}; that is no damage",
        where=where,
        hint=list_command(where),
    )


def _from_system(error: OSError, where: Path, *, reading: bool) -> GalleryError:
    if reading and error.errno in (*_DENIED, *_EXHAUSTED):
        return unreadable(reason(error).lower(), where)
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return disk_full(where)
    if error.errno in (*_DENIED, errno.EROFS):
        return read_only(where)
    if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
        return damaged("a folder is where a file should be, or a file where a folder should", where)
    return GalleryError(f"the system reports: {error.strerror or error}", where=where, hint=_VERIFY)


def _no_room(where: Path) -> bool:
    """Whether SQLite could not make its -shm file bigger: it does not call that a full disk."""
    try:
        return shutil.disk_usage(where.parent).free < _SHM_BYTES
    except OSError:
        return False


def _from_sqlite(error: sqlite3.Error, where: Path) -> GalleryError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # the primary code
    if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _no_room(where)):
        return disk_full(where)
    if code == sqlite3.SQLITE_READONLY:
        return read_only(where)
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return GalleryLocked("the database is busy", where=where, hint="run the command again")
    if code == sqlite3.SQLITE_CONSTRAINT:
        return GalleryError(
            f"the gallery refused the change: {error}",
            where=where,
            hint="a path can be in a gallery once: remove it first, or update its entry",
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return GalleryUnreadable(
            "the database cannot be opened, nor the -wal and -shm files beside it",
            where=where,
            hint=f"check that the folder can be read and written: ls -la {where.parent}",
        )
    if code == sqlite3.SQLITE_NOTADB:
        return beyond_repair("the database is damaged from its first bytes on", where)
    # Our statements are right: what SQLite does not understand is a table or a text that changed.
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_ERROR):
        return damaged(f"the database is damaged: {error}", where)
    return GalleryError(f"the database reports: {error}", where=where, hint=_VERIFY)


def damaged(what: str, where: Path) -> GalleryDamaged:
    """The error of a file whose content is not what was committed."""
    folder = where.parent.parent if where.parent.name == "segments" else where.parent
    return GalleryDamaged(
        what, where=where, hint=f"chash index repair {_whole(folder)}, or restore it from a backup"
    )


def beyond_repair(what: str, where: Path) -> GalleryLost:
    """The error of a gallery that a repair cannot save; of a shard, it can save the others."""
    folder = _whole(where.parent)
    command = f"chash index PHOTOS --out {folder} --rebuild"
    if folder != where.parent:
        command = f"chash index repair {folder} goes on with the other shards"
    return GalleryLost(
        f"{what}: it cannot be repaired",
        where=where,
        hint=f"restore it from a backup, or {command}",
    )


def _whole(folder: Path) -> Path:
    """The gallery that a command is for: of a shard, the one it belongs to."""
    return folder.parent if (folder.parent / SHARDS).is_file() else folder

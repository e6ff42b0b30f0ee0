"""Files that are either whole or absent: written aside, flushed to disk, then renamed."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from concepthash.errors import DataError
from concepthash.locks import lock_now


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Make new names in ``folder`` last through a power cut, where the system can."""
    with suppress(OSError):  # some file systems, and Windows, cannot sync a folder
        sync(folder)


def _aside(path: Path, kind: str = "tmp") -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{kind}")


@contextmanager
def _held(aside: Path) -> Iterator[None]:
    """Lock what is written aside until the block ends: what nobody holds, :func:`_sweep` takes."""
    if sys.platform == "win32":  # an open file could not be renamed
        yield
        return
    descriptor = os.open(aside, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks
            lock_now(descriptor)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def told_where(path: Path) -> Iterator[None]:
    """Name ``path`` in the error of a full disk within the block: writing knows no name."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno in (errno.ENOSPC, errno.EDQUOT):
            error.filename = str(path)
        raise


def _sweep(path: Path) -> None:
    """Clear away what processes that were killed left beside ``path``; what they replaced returns.

    What cannot be locked may be in use and stays.
    """
    if sys.platform == "win32":
        return
    for found in path.parent.glob(f".{glob.escape(path.name)}.*.*"):
        process, _, kind = found.name.removeprefix(f".{path.name}.").partition(".")
        if process.isdecimal() and kind in ("tmp", "old"):
            with suppress(OSError):
                _clear(found, path)


def _clear(found: Path, path: Path) -> None:
    descriptor = os.open(found, os.O_RDONLY)
    try:
        lock_now(descriptor)
        if found.suffix == ".old" and not path.exists():
            found.rename(path)
        elif found.is_dir():
            shutil.rmtree(found)
        else:
            found.unlink()
    finally:
        os.close(descriptor)


def half_written(name: str) -> bool:
    """Whether a file or folder of this name was being written aside when its process was killed."""
    return name.startswith(".") and name.endswith(".tmp")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes ``path`` when the block ends without an error.

    A crash, or an error in the block, leaves the old file as it was.
    """
    aside = _aside(path)
    _sweep(path)
    try:
        with told_where(path), ExitStack() as stack:
            with aside.open("wb") as file:
                stack.enter_context(_held(aside))
                yield file
                file.flush()
                os.fsync(file.fileno())
            aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_bytes(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` so that a crash leaves the old file or the new one."""
    with replacing(path) as file:
        file.write(data)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode())


@contextmanager
def new_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder that becomes ``path`` when the block ends without an error.

    Raises:
        FileExistsError: if ``path`` exists and ``replace`` is false.
    """
    path = path.resolve()  # a link stays one, to the new folder
    _sweep(path)
    if path.exists() and not replace:
        raise FileExistsError(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with told_where(path), scratch_folder(path) as aside:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                sync(file)
        if path.exists():
            _exchange(path, aside)
        else:
            aside.rename(path)
    sync_folder(path.parent)


@contextmanager
def scratch_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside ``path``, named after it, that is gone when the block ends.

    One whose process was killed is cleared away by the next.
    """
    aside = _aside(path)
    _sweep(path)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        with _held(aside):
            yield aside
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _exchange(path: Path, aside: Path) -> None:
    old = _aside(path, "old")
    with _held(path):
        path.rename(old)
        try:
            aside.rename(path)
        except OSError:
            old.rename(path)
            raise
        shutil.rmtree(old)


def relative_path(text: str, where: str) -> str:
    """A path as listed, in normal posix form, below the root of the data set.

    Raises:
        DataError: if it is empty, absolute or climbs out with ``..``.
    """
    path = PurePosixPath(text.replace("\\", "/"))
    if not path.parts or "\0" in text:
        raise DataError("the path of an image is empty or damaged", where=where, hint="mend it")
    if path.is_absolute() or PureWindowsPath(text).drive or ".." in path.parts:
        raise DataError(
            f"the path {text!r} leads out of the data set",
            where=where,
            hint="list paths relative to the folder of the data set, without '..'",
        )
    return str(path)


def list_command(path: Path) -> str:
    """The command that shows whether a file is there and may be read, for hints."""
    return f"ls -l {shlex.quote(str(path))}"


def refuse_pipe(path: Path) -> None:
    """Make sure that opening a file does not wait for somebody, as on a pipe.

    Raises:
        OSError: if it is a pipe, a socket or a device.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content; OSError if it is no regular file."""
    refuse_pipe(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason(error: BaseException) -> str:
    """Why a file could not be read or written, without the number and path of an OSError."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

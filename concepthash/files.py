"""Files that are either whole or absent: written aside, flushed to disk, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

from concepthash.errors import DataError


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


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def half_written(name: str) -> bool:
    """Whether a file or folder of this name was being written aside when its process was killed."""
    return name.startswith(".") and name.endswith(".tmp")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that becomes ``path`` when the block ends without an error.

    A crash, or an error in the block, leaves the old file as it was.
    """
    aside = _aside(path)
    try:
        with aside.open("wb") as file:
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
    if path.exists() and not replace:
        raise FileExistsError(path)
    path = path.resolve()  # a link stays one, to the new folder
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _aside(path)
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        yield aside
        for file in aside.rglob("*"):
            if file.is_file():
                sync(file)
        if path.exists():
            old = path.with_name(f".{path.name}.{os.getpid()}.old")
            path.rename(old)
            try:
                aside.rename(path)
            except OSError:
                old.rename(path)
                raise
            shutil.rmtree(old)
        else:
            aside.rename(path)
        sync_folder(path.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


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


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def reason(error: BaseException) -> str:
    """Why a file could not be read or written, without the number and path of an OSError."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

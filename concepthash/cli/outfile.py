"""Files that are written after long work: refused before it where they could not be."""

from __future__ import annotations

import os
from pathlib import Path

from concepthash.cli.output import display
from concepthash.errors import UsageError


def check_file(path: Path | None, option: str) -> None:
    """Refuse a file that could not be written; nothing is tried, so nothing is left behind.

    Args:
        path: of the file; None is fine.
        option: that named it.

    Raises:
        UsageError: if its folder is missing or closed to us, or something else has its name.
    """
    if path is None:
        return
    if path.exists() and not path.is_file():
        raise UsageError(
            f"{option} is a file, and something else is there",
            where=path,
            hint=f"ls -ld {display(path)}, or another name",
        )
    folder = path.parent
    if not folder.is_dir():
        raise UsageError("no such folder", where=folder, hint=f"mkdir -p {display(folder)}")
    _check_open(folder, folder)


def check_folder(path: Path | None, option: str) -> None:
    """Refuse a folder that could not be made, or not be written to; as :func:`check_file`.

    Raises:
        UsageError: if it, or the folder it would be made in, is a file or closed to us.
    """
    if path is None:
        return
    place = nearest(path)
    if not place.is_dir():
        raise UsageError(
            f"{option} is a folder, and a file is there",
            where=path,
            hint=f"ls -l {display(place)}, or another name",
        )
    _check_open(place, path)


def nearest(path: Path) -> Path:
    """What is there of a path: itself, or the nearest above it, as it was written."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _check_open(folder: Path, where: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(
            "nothing can be written there: permission denied, or a read-only file system",
            where=where,
            hint=f"ls -ld {display(folder)}, or another folder",
        )

"""What files of other programs have in common: codes in blocks, and damage told in our words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.errors import GalleryError
from concepthash.files import reason, refuse_pipe
from concepthash.runtime.planes import Ids

Block = tuple[Codes, Ids | None]
"""Codes ``(n, K / 8)`` uint8 and their ids ``(n,)`` int64; None for running numbers."""

_STEP = 1 << 20

# What numpy, struct and pyarrow raise on a file that is broken, truncated or of another kind.
_DAMAGE = (
    OSError,
    ValueError,
    TypeError,
    KeyError,
    EOFError,
    OverflowError,
    MemoryError,
    NotImplementedError,
)


@dataclass(frozen=True)
class Content:
    """What a file holds: bits, concepts if it says so, and the codes, read as they are taken."""

    bits: int
    concepts: int | None
    blocks: Iterator[Block]


def in_blocks(codes: npt.NDArray[Any], ids: npt.NDArray[Any] | None) -> Iterator[Block]:
    """Mapped arrays in bounded pieces."""
    for first in range(0, len(codes), _STEP):
        here = slice(first, first + _STEP)
        yield codes[here], None if ids is None else ids[here]


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turn whatever a broken file raises into an error that names it.

    Raises:
        GalleryError: if the file is missing or cannot be read as what its suffix says.
    """
    try:
        refuse_pipe(path)
        yield
    except FileNotFoundError:
        raise GalleryError("no such file", where=path, hint=f"ls {path.parent}") from None
    except _DAMAGE as error:
        raise unreadable(path, reason(error)) from error


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the system raises while ``path`` is written into an error that names it.

    Raises:
        GalleryError: if it cannot be written; an earlier file is then intact.
    """
    try:
        yield
    except OSError as error:
        raise GalleryError(
            f"the file cannot be written: {reason(error)}",
            where=path,
            hint="check free space and permissions of the folder",
        ) from error


def unreadable(path: Path, reason: str) -> GalleryError:
    """A file that is not what its suffix says."""
    first = reason.splitlines()[0]
    return GalleryError(
        f"not a whole {path.suffix} file of codes: {first}",
        where=path,
        hint="export it again: chash index export GALLERY FILE",
    )

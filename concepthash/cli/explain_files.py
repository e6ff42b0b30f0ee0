"""Pages and pictures in a folder of the user's: only files that we wrote are replaced."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.cli.outfile import check_folder, nearest
from concepthash.cli.output import display
from concepthash.errors import ConceptHashError, UsageError
from concepthash.files import reason, write_bytes

if TYPE_CHECKING:
    from PIL import Image

_MARK = b"concepthash"
_ATLAS = b'data-page="atlas"'
_HEAD = 1 << 14
"""Bytes in which a file of ours says so: its pages in the first element, its PNG in a text."""


def check_pages(
    folder: Path, names: Iterable[str], option: str, *, another: str = "", atlas: bool = False
) -> None:
    """Refuse a folder that files of these names must not, or cannot, be written to.

    Args:
        folder: need not be there yet.
        names: of the files.
        option: that named the folder.
        atlas: whether an atlas will be written: it takes the place of an atlas only, and nothing
            else takes it.
        another: what to try if one of the names is taken; by default another folder.

    Raises:
        UsageError: if it is a file or closed to us, or a file of such a name is there that we did
            not write, or a page of another verb.
        ConceptHashError: if it cannot be read.
    """
    check_folder(folder, option)
    try:
        for name in names:
            other = _other(folder / name, atlas) if (folder / name).exists() else None
            if other is not None:
                raise UsageError(
                    f"{other} is there, and is not replaced",
                    where=folder / name,
                    hint=another or f"{option} ANOTHER_FOLDER",
                )
    except OSError as error:
        raise _unwritable(folder, error) from None


def write_file(folder: Path, name: str, content: Image.Image | str) -> Path:
    """Write a picture as PNG, or a page, whole or not at all; the folder is made if need be.

    Raises:
        ConceptHashError: if it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else _png(content)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_bytes(folder / name, data)
    except OSError as error:
        raise _unwritable(folder / name, error) from None
    return folder / name


def _other(path: Path, atlas: bool) -> str | None:
    """What a file is that must stay as it is; None if it may be replaced."""
    with path.open("rb") as file:
        head = file.read(_HEAD)
    if _MARK not in head:
        return "a file that chash did not write"
    if (_ATLAS in head) != atlas:
        return "a page that another verb wrote"
    return None


def _png(image: Image.Image) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    facts = PngInfo()
    facts.add_text("Software", _MARK.decode())
    file = io.BytesIO()
    image.save(file, "PNG", pnginfo=facts)
    return file.getvalue()


def _unwritable(path: Path, error: OSError) -> ConceptHashError:
    return ConceptHashError(
        f"cannot write there: {reason(error)}",
        where=path,
        hint=f"ls -ld {display(nearest(path.parent))}, or another folder",
    )

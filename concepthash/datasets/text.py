"""Annotation text files: decoding, lines, and the paths written in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from concepthash.errors import DataError
from concepthash.files import list_command


def read_text(file: Path) -> str:
    """The content of a UTF-8 file, without a byte order mark.

    Raises:
        DataError: if the file is missing, cannot be read or is not UTF-8 (with the line).
    """
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        raise DataError(
            f"{file.name} is missing",
            where=file,
            hint=f"complete the folder, or check its layout: ls {file.parent}",
        ) from None
    except OSError as error:
        raise DataError(
            f"{file.name} cannot be read: {error.strerror}", where=file, hint=list_command(file)
        ) from error
    return decode(data, file)


def decode(data: bytes, file: Path) -> str:
    """The bytes of ``file`` as text, without a byte order mark.

    Raises:
        DataError: if they are not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{file.name} is not UTF-8 text",
            where=f"{file}, line {data.count(10, 0, error.start) + 1}",
            hint="save it as UTF-8, e.g. iconv -f latin1 -t utf-8 OLD > NEW",
        ) from None


def read_pairs(file: Path) -> list[tuple[int, str, str]]:
    """Line number, first word and the rest of each line that is not blank.

    Raises:
        DataError: as :func:`read_text`, or if a line has one word only.
    """
    pairs = []
    for number, line in enumerate(read_text(file).split("\n"), start=1):
        words = line.split(maxsplit=1)
        if len(words) == 1:
            raise DataError(
                f"a line needs two words, this one has only {words[0]!r}",
                where=f"{file}, line {number}",
                hint="restore the file as it was published",
            )
        if words:
            pairs.append((number, words[0], words[1].rstrip()))
    return pairs


def some(names: Iterable[str], limit: int = 5) -> str:
    """The first few names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - limit:,} more" if len(listed) > limit else ""
    return ", ".join(listed[:limit]) + more

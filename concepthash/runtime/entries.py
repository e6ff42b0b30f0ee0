"""What a gallery says of its images and of itself."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from concepthash.decode import Stage, Waits
from concepthash.errors import Skipped

_COUNTED = 2**63 - 1
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")  # one letter would be a drive of Windows

if TYPE_CHECKING:
    _Path = Path
else:
    _Path = type(Path())  # before Python 3.12 nothing can be derived from Path itself


class Url(_Path):
    """Where a photo lies that is in no folder, as ``s3://bucket/x.jpg``, kept letter for letter.

    It is shown, compared and taken apart like a path; there is no file of this name to open.
    """

    _text: str

    def __new__(cls, *parts: str | os.PathLike[str]) -> Url:
        """A URL; of one piece it is kept as it is."""
        made: Url = super().__new__(cls, *parts)
        made._text = str(parts[0]) if len(parts) == 1 else ""
        return made

    def __str__(self) -> str:
        # What Path made of a URL has lost a slash; so has a folder of one, that was never text.
        text = self.__dict__.get("_text") or super().__str__()
        scheme = _SCHEME.match(text)
        if scheme is None or text.startswith("/", scheme.end()):
            return str(text)
        return f"{scheme.group()}/{text[scheme.end() :]}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Url) and str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))

    def __reduce__(self) -> tuple[type[Url], tuple[str]]:
        return Url, (str(self),)


def is_url(text: str) -> bool:
    """Whether a name begins with a scheme: ``s3://...``."""
    scheme = _SCHEME.match(text)
    return scheme is not None and text.startswith("/", scheme.end())


def place(name: str | Path) -> Path:
    """A name as a path, or as a URL if it is one."""
    if isinstance(name, Path):
        return name
    return Url(name) if is_url(name) else Path(name)


@dataclass(frozen=True)
class Entry:
    """One image of a gallery.

    Args:
        path: opens from the current folder, or is a :class:`Url`. A photo in a Parquet file has
            the path of the file and, after a ``#``, the number of its row.
        label: its class; None if unknown.
        size: bytes of the file when it was indexed.
        mtime_ns: its modification time then, nanoseconds.
        sha256: of its content, hexadecimal.
        id: given by the gallery, from 1 on; 0 before.
    """

    path: Path
    label: str | None = None
    size: int = 0
    mtime_ns: int = 0
    sha256: str = ""
    id: int = 0


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of all images, read in one pass.

    Args:
        ids: ``(n,)`` int64, ascending.
        numbers: ``(n,)`` int32, the place of each image's label in ``names``; -1 without one.
        names: the labels there are, sorted.
    """

    ids: npt.NDArray[np.int64]
    numbers: npt.NDArray[np.int32]
    names: tuple[str, ...]


@dataclass(frozen=True)
class Stats:
    """A gallery in numbers; bytes are on disk."""

    images: int
    labels: int
    bits: int
    concepts: int
    model: str
    fingerprint: str
    segments: int
    removed_rows: int
    code_bytes: int
    total_bytes: int

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return asdict(self)


@dataclass
class IndexReport:
    """What an indexing run did, in images; of a dry run, what it would do.

    Args:
        added: new to the gallery.
        changed: hashed again because their content is another.
        moved: found under another path, with the code they had.
        relabelled: otherwise unchanged, under another label.
        removed: gone from disk, or another photo took their place.
        unchanged: as they were.
        skipped: the files that could not be read, with reasons; named as the source was. An image
            of one that could be read before stays as it was.
        hashed: contents that were decoded for the model, whatever became of them.
        waits: what the run waited for.
        seconds: the whole run.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    relabelled: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: Skipped = field(default_factory=Skipped)
    hashed: int = 0
    waits: Waits = field(default_factory=Waits)
    seconds: float = 0.0

    @property
    def seen(self) -> int:
        """Files looked at so far."""
        kept = self.added + self.changed + self.moved + self.relabelled + self.unchanged
        return kept + len(self.skipped)

    @property
    def bound_by(self) -> Stage | None:
        """What kept the run from being faster; None if nothing was hashed."""
        return self.waits.longest if self.hashed else None

    @property
    def photos_per_second(self) -> float | None:
        """Photos hashed a second, over the whole run; None if none was, or while it goes on."""
        return self.hashed / self.seconds if self.hashed and self.seconds else None

    @property
    def pace(self) -> str | None:
        """How fast the run was and what bounded it, in a sentence; None if nothing was hashed."""
        if self.bound_by is None or self.photos_per_second is None:
            return None
        names = {"files": "reading the files", "decoding": "decoding", "model": "the model"}
        waited = [(getattr(self.waits, stage), name) for stage, name in names.items()]
        shares = ", ".join(f"{s:.1f} s for {name}" for s, name in sorted(waited, reverse=True))
        return (
            f"{self.photos_per_second:.3g} photos/s, bound by {names[self.bound_by]}: "
            f"of {self.seconds:.1f} s waited {shares}"
        )

    def to_json(self) -> dict[str, Any]:
        """All counts, the skipped files with reasons, and the pace, as plain values."""
        return {
            **asdict(self),
            "skipped": [asdict(skip) for skip in self.skipped.items],
            "photos_per_second": self.photos_per_second,
            "bound_by": self.bound_by,
        }

    def __str__(self) -> str:
        counts = {
            "new": self.added,
            "changed": self.changed,
            "moved": self.moved,
            "relabelled": self.relabelled,
            "gone": self.removed,
            "skipped": len(self.skipped),
        }
        parts = [f"{count} {name}" for name, count in counts.items() if count]
        return ", ".join([*parts, f"{self.unchanged} unchanged"])


@dataclass(frozen=True)
class Damage:
    """One thing wrong with a gallery: the file and what differs."""

    file: Path
    what: str


@dataclass(frozen=True)
class Anchor:
    """The folder that stored paths start from: the one that holds the gallery; URLs stay whole."""

    folder: Path

    def key(self, path: Path) -> str | bytes:
        """A path as it is stored: relative below the anchor, absolute elsewhere; a URL as it is.

        Text where the name is valid Unicode, bytes where the file system has another one.
        """
        text = str(path) if isinstance(path, Url) else self._below(path)
        try:
            text.encode()
        except UnicodeEncodeError:
            return os.fsencode(text)
        return text

    def path(self, key: str | bytes, here: Path) -> Path:
        """A stored path as it opens from the folder ``here``: relative below it."""
        return place(self.names(here)(key))

    def _below(self, path: Path) -> str:
        return absolute(path).as_posix().removeprefix(_prefix(self.folder))

    def names(self, here: Path) -> Callable[[str | bytes], str]:
        """What gives :meth:`path` as text, without making a path of each of many."""
        own, other = _prefix(self.folder), _prefix(here)

        def name(key: str | bytes) -> str:
            text = os.fsdecode(key)
            # As text: a server names thousands of hits a second.
            if os.path.isabs(text):  # noqa: PTH117
                return text.removeprefix(other)
            if "://" in text and is_url(text):
                return text
            return (own + text).removeprefix(other)

        return name


def _prefix(folder: Path) -> str:
    # Text is compared, not parts: a gallery of a million paths is walked at every update.
    return folder.as_posix().rstrip("/") + "/"


def absolute(path: Path) -> Path:
    """A path from the root without ``..``; a link as the last part, or below a root, is kept."""
    if path.is_absolute() and ".." not in path.parts:
        return path
    return path.parent.resolve() / path.name


def changed_ns(status: os.stat_result) -> int:
    """When a file was changed, nanoseconds since 1970, no further than 64 bits count (to 2262)."""
    return max(-_COUNTED, min(status.st_mtime_ns, _COUNTED))


def valid_text(name: str) -> str:
    """A name that can be stored as text: a folder's need not be valid Unicode."""
    return name.encode("utf-8", "replace").decode()

"""What a gallery says of its images and of itself."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from concepthash.errors import Skipped


@dataclass(frozen=True)
class Entry:
    """One image of a gallery.

    Args:
        path: opens from the current folder.
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
        removed: gone from disk, or no longer an image.
        unchanged: as they were.
        skipped: the files that could not be read, with reasons; named as the source was.
        seconds: the whole run.
    """

    added: int = 0
    changed: int = 0
    moved: int = 0
    relabelled: int = 0
    removed: int = 0
    unchanged: int = 0
    skipped: Skipped = field(default_factory=Skipped)
    seconds: float = 0.0

    @property
    def seen(self) -> int:
        """Files looked at so far."""
        kept = self.added + self.changed + self.moved + self.relabelled + self.unchanged
        return kept + len(self.skipped)

    def to_json(self) -> dict[str, Any]:
        """All counts, and the skipped files with reasons, as plain values."""
        return {**asdict(self), "skipped": [asdict(skip) for skip in self.skipped.items]}

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
    """The folder that stored paths start from: the one that holds the gallery."""

    folder: Path

    def key(self, path: Path) -> str | bytes:
        """A path as it is stored: relative below the anchor, absolute elsewhere.

        Text where the name is valid Unicode, bytes where the file system has another one.
        """
        text = absolute(path).as_posix().removeprefix(_prefix(self.folder))
        try:
            text.encode()
        except UnicodeEncodeError:
            return os.fsencode(text)
        return text

    def path(self, key: str | bytes, here: Path) -> Path:
        """A stored path as it opens from the folder ``here``: relative below it."""
        full = self.folder / os.fsdecode(key)
        return Path(full.as_posix().removeprefix(_prefix(here)))


def _prefix(folder: Path) -> str:
    # Text is compared, not parts: a gallery of a million paths is walked at every update.
    return folder.as_posix().rstrip("/") + "/"


def absolute(path: Path) -> Path:
    """A path from the root without ``..``; a link as the last part, or below a root, is kept."""
    if path.is_absolute() and ".." not in path.parts:
        return path
    return path.parent.resolve() / path.name


def valid_text(name: str) -> str:
    """A name that can be stored as text: a folder's need not be valid Unicode."""
    return name.encode("utf-8", "replace").decode()

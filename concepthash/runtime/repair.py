"""Save what can be saved of a damaged gallery; keep what is replaced.

Images whose codes are damaged leave the gallery: the next ``chash index`` hashes their photos
again. Whatever is taken away lies in ``NAME.chg/damaged-N/`` first: segments and databases as they
were, records of images as lines of JSON.
"""

from __future__ import annotations

from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from concepthash.errors import GalleryDamaged
from concepthash.runtime import schema
from concepthash.runtime.entries import Damage
from concepthash.runtime.galleries import is_sharded
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.mend import Mender
from concepthash.runtime.place import DATABASE, LOCK, SEGMENTS, TABLES, new_aside, strays
from concepthash.runtime.salvage import salvage
from concepthash.runtime.soundness import corruption
from concepthash.runtime.storage import beyond_repair, storage_errors, writer_lock


@dataclass
class RepairReport:
    """What a repair found and did.

    Args:
        gallery: the folder.
        damage: what was wrong.
        images: how many the gallery holds now.
        removed: images taken out because their codes or records are damaged.
        strays: files in the folder that are not the gallery's; nothing was done about them.
        aside: where what was replaced lies now; None if nothing was.
        replaced: the shards that could not be saved and begin anew, empty, of a sharded gallery;
            how many images they had is not known, and ``removed`` does not count them.
        shards: what was done to its other shards that were damaged.
    """

    gallery: Path
    damage: list[Damage] = field(default_factory=list)
    images: int = 0
    removed: int = 0
    strays: list[Path] = field(default_factory=list)
    aside: Path | None = None
    replaced: list[str] = field(default_factory=list)
    shards: list[RepairReport] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """All fields as plain values."""
        return {
            "gallery": str(self.gallery),
            "damage": [{"file": str(found.file), "what": found.what} for found in self.damage],
            "images": self.images,
            "removed": self.removed,
            "uncounted": bool(self.replaced),
            "strays": [str(file) for file in self.strays],
            "aside": None if self.aside is None else str(self.aside),
            "replaced": self.replaced,
            "shards": [shard.to_json() for shard in self.shards],
        }

    def __str__(self) -> str:
        lines = [f"{found.file}: {found.what}" for found in self.damage]
        lines += [f"{file}: not the gallery's, left alone" for file in self.strays]
        lines += [
            f"{name}: cannot be saved, begins anew, empty: what it held is in no answer now"
            for name in self.replaced
        ]
        for aside in [self.aside, *(shard.aside for shard in self.shards)]:
            if aside is not None:
                lines.append(f"{aside}: what was replaced")
        done = f"{self.removed} images removed" if self.damage else "nothing to repair"
        if self.replaced:
            done += f", and those of {', '.join(self.replaced)}, nobody knows how many"
        return "\n".join([*lines, f"{done}, {self.images} in the gallery"])


def check(path: str | Path) -> list[Damage]:
    """Everything wrong with a gallery, also where it cannot be opened; reads all of it.

    Raises:
        GalleryError: if there is no gallery, or it is of a newer format.
        GalleryUnreadable: if one of its files cannot be read: that is no damage.
    """
    if is_sharded(path):
        from concepthash.runtime.shardrepair import check_shards

        return check_shards(Path(path))
    try:
        with Gallery.open(path) as gallery:
            return list(gallery.damage())
    except GalleryDamaged as error:
        return [Damage(Path(path) / DATABASE, error.what)]


def repair(path: str | Path) -> RepairReport:
    """Make a damaged gallery whole again, with what can be saved of it.

    A crash on the way leaves a gallery that can be repaired.

    Raises:
        GalleryError: if there is no gallery, it is of a newer format, or its database no longer
            says what the gallery is; nothing is changed then.
        GalleryUnreadable: if one of its files cannot be read; nothing is changed then either.
        GalleryLocked: if another process is writing to it.
    """
    folder = Path(path)
    if is_sharded(folder):
        from concepthash.runtime.shardrepair import repair_shards

        return repair_shards(folder)
    report = RepairReport(folder, check(folder), strays=strays(folder))
    if report.damage:
        _require_readable(folder)
        with storage_errors(folder), writer_lock(folder / LOCK):
            report.damage = check(folder)  # now that nobody replaces files meanwhile
            if report.damage:
                report.aside = new_aside(folder)
                try:
                    report.removed = _mend(folder, report.aside)
                finally:
                    if not any(report.aside.iterdir()):
                        report.aside.rmdir()
                        report.aside = None
    with Gallery.open(folder, write=bool(report.damage)) as gallery:
        report.images = len(gallery)
    return report


def _require_readable(folder: Path) -> None:
    """Look at every file before one is touched: what cannot be read would pass for lost.

    Raises:
        GalleryUnreadable: naming the first.
    """
    segments = folder / SEGMENTS
    with storage_errors(segments, reading=True):
        files = sorted(segments.iterdir()) if segments.is_dir() else []
    for file in [*sorted(folder.glob(f"{DATABASE}*")), *files]:
        with storage_errors(file, reading=True):
            if file.is_file():
                file.open("rb").close()


def _mend(folder: Path, aside: Path) -> int:
    """Everything for the only writer; how many images were removed."""
    file, removed = folder / DATABASE, 0
    left: list[Damage] = []
    # What SQLite takes for sound may still turn out not to be.
    for rescue in (True,) if _broken(file) else (False, True):
        if rescue:
            removed += salvage(file, aside)
        _clear(folder, aside)
        with suppress(GalleryDamaged):
            removed += _agree(folder, aside)
        left = check(folder)
        if not left:
            return removed
    raise beyond_repair(left[0].what, left[0].file)


def _clear(folder: Path, aside: Path) -> None:
    """Put aside what can be made anew, or is in the way."""
    tables, segments = folder / TABLES, folder / SEGMENTS
    if tables.exists():
        tables.rename(aside / TABLES)
    if segments.exists() and not segments.is_dir():
        segments.rename(aside / SEGMENTS)
    segments.mkdir(exist_ok=True)


def _agree(folder: Path, aside: Path) -> int:
    file = folder / DATABASE
    with storage_errors(file), closing(schema.connect(file, write=True)) as database:
        return Mender(folder, database, aside).mend()


def _broken(file: Path) -> bool:
    """Whether SQLite itself finds the database damaged."""
    try:
        with storage_errors(file), closing(schema.connect(file, write=False)) as database:
            return any(corruption(database, file))
    except GalleryDamaged:
        return True

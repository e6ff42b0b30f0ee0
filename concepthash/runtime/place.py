"""The folder of a gallery: which files in it are the gallery's own, and how they go."""

from __future__ import annotations

import shutil
from pathlib import Path

from concepthash.errors import GalleryError
from concepthash.runtime import schema
from concepthash.runtime.storage import SHARDS, storage_errors, writer_lock

SUFFIX = ".chg"
DATABASE = "gallery.sqlite"
SEGMENTS = "segments"
TABLES = "tables"
LOCK = "lock"
ASIDE = "damaged-"
"""Begins the names of the folders a repair keeps what it replaced in."""
FETCHED = "fetched.json"
"""Lies beside a gallery that is the local copy of a published one."""

_OURS = {
    LOCK,
    SEGMENTS,
    TABLES,
    DATABASE,
    *(f"{DATABASE}{side}" for side in (".new", ".new-wal", ".new-shm", "-wal", "-shm", "-journal")),
}


def anchor_folder(path: Path) -> Path:
    """The folder that stored paths start from: of a shard, the one that holds the whole gallery.

    Of a copy of a published gallery it is the current one: the photos are not beside the copy.
    """
    folder = path.resolve().parent
    folder = folder.parent if (folder / SHARDS).is_file() else folder
    return Path.cwd() if (folder / FETCHED).is_file() else folder


def strays(folder: Path) -> list[Path]:
    """What lies in a gallery's folder and is not the gallery's, in name order."""
    if not folder.exists():
        return []
    files = sorted(folder.iterdir())
    return [f for f in files if f.name not in _OURS and not f.name.startswith(ASIDE)]


def refuse_strays(folder: Path) -> None:
    """Make sure that a folder holds nothing but a gallery's files.

    Raises:
        GalleryError: naming one that is not.
    """
    for stray in strays(folder):
        sharded = (folder / SHARDS).exists()
        raise _taken("a gallery" if sharded else f"something else ({stray.name})", folder)


def refuse_gallery(folder: Path) -> None:
    """Make sure that a folder holds no gallery yet.

    Raises:
        GalleryError: if it does.
    """
    if (folder / DATABASE).exists():
        raise _taken("a gallery", folder)


def refuse_target(path: Path) -> None:
    """Make sure that there is nothing where something new is to be written.

    Raises:
        GalleryError: if there is.
    """
    if path.exists():
        raise GalleryError(
            "something is there already, and is not replaced", where=path, hint="another --out"
        )


def new_aside(folder: Path) -> Path:
    """An empty folder in a gallery's, to keep what a repair replaces; for the only writer."""
    for half in folder.glob(f"{ASIDE}*/.*.tmp"):  # of a repair that was killed
        half.unlink()
    number = 1
    while (aside := folder / f"{ASIDE}{number}").exists() and any(aside.iterdir()):
        number += 1
    aside.mkdir(exist_ok=True)
    return aside


def _taken(what: str, folder: Path) -> GalleryError:
    return GalleryError(
        f"the folder holds {what} already",
        where=folder,
        hint="give another place with --out",
    )


def discard(path: str | Path) -> None:
    """Delete the files of a gallery that cannot be opened, to make way for a new one.

    Raises:
        GalleryError: if the folder holds anything that is not a gallery's.
        GalleryLocked: if another process is writing to it.
    """
    folder = Path(path)
    with storage_errors(folder):
        refuse_strays(folder)
        with writer_lock(folder / LOCK):
            schema.refuse_foreign(folder / DATABASE)
            (folder / DATABASE).unlink(missing_ok=True)
            for left in folder.glob(f"{DATABASE}*"):  # readers leave what belongs to it
                left.unlink()
            shutil.rmtree(folder / TABLES, ignore_errors=True)
            for pattern in ("*.codes", "*.ids"):
                for file in (folder / SEGMENTS).glob(pattern):
                    file.unlink()

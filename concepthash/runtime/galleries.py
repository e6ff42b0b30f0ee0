"""Galleries of either kind, told apart by what lies on disk."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from concepthash.codes import CodeLayout
from concepthash.errors import UsageError
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.place import DATABASE, discard
from concepthash.runtime.storage import SHARDS

if TYPE_CHECKING:
    from concepthash.runtime.sharded import ShardedGallery

AnyGallery: TypeAlias = "Gallery | ShardedGallery"
"""What takes a gallery takes either: both have the same methods."""


def open_gallery(path: str | Path, *, write: bool = False) -> AnyGallery:
    """The gallery at a path or behind a URL, ordinary or sharded.

    Raises:
        UsageError: to write, behind a URL.
        GalleryError: as :meth:`Gallery.open` and :meth:`ShardedGallery.open`, and if it cannot be
            fetched.
        GalleryLocked: to write, while another process does.
    """
    folder = local_gallery(path, write=write)
    if not is_sharded(folder):
        return Gallery.open(folder, write=write)
    from concepthash.runtime.sharded import ShardedGallery

    return ShardedGallery.open(folder, write=write)


def local_gallery(path: str | Path, *, write: bool = False) -> Path:
    """Where a gallery is on this machine: of a URL, the folder it was fetched to.

    Raises:
        UsageError, GalleryError: as :func:`open_gallery`.
    """
    if ":/" in str(path):  # remote loads what a local gallery needs not
        from concepthash.runtime import remote

        if remote.is_url(path):
            if write:
                raise remote.refuse_to_write(path)
            return remote.fetch(path)
    return Path(path)


def create_gallery(
    path: str | Path, *, layout: CodeLayout, fingerprint: str, model: str, shards: int | None = None
) -> AnyGallery:
    """A new, empty gallery, open to write: of so many shards, or ordinary for None.

    Raises:
        UsageError: if there cannot be so many shards.
        GalleryError: if the folder holds a gallery or other files already.
    """
    if shards is None:
        return Gallery.create(path, layout=layout, fingerprint=fingerprint, model=model)
    from concepthash.runtime.sharded import ShardedGallery

    return ShardedGallery.create(
        path, layout=layout, fingerprint=fingerprint, model=model, shards=shards
    )


def is_gallery(path: str | Path) -> bool:
    """Whether a gallery of either kind lies there, sound or not."""
    return mark_of(path) is not None or is_sharded(path)


def refuse_shard(path: str | Path) -> None:
    """Make sure that a gallery to index into is a whole one.

    Raises:
        UsageError: if it is a shard, or would lie among shards.
    """
    whole = Path(path).absolute().parent
    if is_sharded(whole):
        raise UsageError(
            "a shard is indexed with its whole gallery only: others may have the same photos",
            where=path,
            hint=f"chash index PHOTOS --out {whole}",
        )


def mark_of(path: str | Path) -> Path | None:
    """The file that makes a folder a gallery; None if there is none.

    It is another file when another gallery is put in its place; a commit does not replace it.
    """
    for name in (DATABASE, SHARDS):
        mark = Path(path) / name
        if mark.is_file():
            return mark
    return None


def discard_gallery(path: str | Path) -> int | None:
    """Delete a gallery that cannot be opened, to make way for a new one.

    Returns:
        How many shards it had; None of an ordinary one.

    Raises:
        GalleryError: if the folder holds anything that is not a gallery's.
        GalleryLocked: if another process is writing to it.
    """
    folder = Path(path)
    if not is_sharded(folder):
        discard(folder)
        return None
    from concepthash.runtime.sharding import discard_shards

    return discard_shards(folder)


def is_sharded(path: str | Path) -> bool:
    """Whether what lies there is a sharded gallery, or was one before its manifest was lost."""
    folder = Path(path)
    if (folder / DATABASE).exists():
        return False
    return (folder / SHARDS).is_file() or any(folder.glob(f"shard-[0-9]*.chg/{DATABASE}"))

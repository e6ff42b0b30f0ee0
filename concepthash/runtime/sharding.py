"""The shards of a sharded gallery as they lie on disk: made, looked for, and compared."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import pairwise
from pathlib import Path

from concepthash.errors import GalleryError
from concepthash.runtime import records
from concepthash.runtime.entries import Damage
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.place import ASIDE, DATABASE, LOCK, SEGMENTS, discard, new_aside
from concepthash.runtime.shardfile import NUMBERED, Manifest, Shard
from concepthash.runtime.storage import SHARDS, damaged, storage_errors, writer_lock

_TRIES = 3


def home(sha256: str, shards: int) -> int:
    """The place of the shard that takes a new image of this content."""
    return int.from_bytes(bytes.fromhex(sha256)[:8]) % shards


def lay_out(folder: Path, manifest: Manifest) -> None:
    """Make the empty shards of a manifest; where that stops half-way, a repair makes the rest."""
    manifest.write(folder)
    for shard in manifest.shards:
        make_shard(folder, shard, manifest)


def make_shard(folder: Path, shard: Shard, manifest: Manifest) -> None:
    """Make one empty shard."""
    with Gallery.create(
        folder / shard.name,
        layout=manifest.layout,
        fingerprint=manifest.fingerprint,
        model=manifest.model,
    ) as gallery:
        gallery.start_ids(shard.fresh[0])


def require_shard(folder: Path, name: str) -> None:
    """Make sure that a shard is there, and in the gallery's own folder.

    Raises:
        GalleryDamaged: if it is not.
    """
    path = folder / name
    if path.is_symlink() or (path.exists() and path.resolve().parent != folder.resolve()):
        raise damaged(f"{name} is a link: a shard lies in the gallery's folder itself", path)
    if not (path / DATABASE).is_file():
        raise damaged(f"{name} is missing, and its images would be in no answer", path)


def discard_shards(folder: Path) -> int:
    """Delete the shards in a folder and their list; returns how many there were.

    What a repair put aside in a shard is put aside in the gallery's own folder.

    Raises:
        GalleryError: if something lies there that is not a sharded gallery's.
        GalleryLocked: if another process is writing to it.
    """
    names = on_disk(folder)
    with suppress(GalleryError):
        names = [shard.name for shard in Manifest.read(folder).shards]
    for stray in strays_among(folder, names):
        raise GalleryError(
            f"the folder holds something else ({stray.name})",
            where=folder,
            hint="give another place with --out",
        )
    with storage_errors(folder), writer_lock(folder / LOCK):
        for name in names:
            shard = folder / name
            if shard.is_dir() and not shard.is_symlink():
                discard(shard)
                (shard / LOCK).unlink(missing_ok=True)
                for aside in list(shard.glob(f"{ASIDE}*")):
                    aside.rename(new_aside(folder) / name)
                with suppress(OSError):
                    (shard / SEGMENTS).rmdir()
                    shard.rmdir()
        (folder / SHARDS).unlink(missing_ok=True)
    return len(names)


def on_disk(folder: Path) -> list[str]:
    """The names of the shards that lie in a folder, whatever its manifest says."""
    found = [file for file in folder.iterdir() if file.is_dir() and not file.is_symlink()]
    return sorted(file.name for file in found if NUMBERED.fullmatch(file.name))


def strays_among(folder: Path, names: Sequence[str]) -> list[Path]:
    """What lies in the folder of a gallery of these shards and is not its, in name order."""
    ours = {*names, SHARDS, LOCK}
    files = sorted(folder.iterdir())
    return [f for f in files if f.name not in ours and not f.name.startswith(ASIDE)]


def misfit(gallery: Gallery, shard: Shard, manifest: Manifest) -> str | None:
    """Why a gallery cannot be the listed shard; None if it can.

    The ends of its segments are looked at, not every id: see :func:`between`.
    """
    if (gallery.layout, gallery.fingerprint) != (manifest.layout, manifest.fingerprint):
        return (
            f"is of model {gallery.fingerprint[:8]} ({gallery.model}), "
            f"the others of {manifest.fingerprint[:8]} ({manifest.model})"
        )
    for id in gallery.end_ids():
        if not shard.owns(id):
            return f"has the id {id}, which is not one of its own: another shard lies there"
    return None


def between(shards: Sequence[Gallery], manifest: Manifest) -> Iterator[Damage]:
    """What is wrong with shards that are whole each for itself: ids and paths that are not theirs.

    Reads the path of every image; memory does not grow with them. Where a writer commits meanwhile,
    a path may seem to be in two shards, each having a moment of its own: they are opened again,
    at most three times.
    """
    found = _between(shards, manifest)
    first = next(found, None)
    with ExitStack() as stack:
        for _ in range(_TRIES):
            if first is None or not any(gallery.changed() for gallery in shards):
                break
            shards = [stack.enter_context(Gallery.open(gallery.path)) for gallery in shards]
            found = _between(shards, manifest)
            first = next(found, None)
        if first is not None:
            yield first
            yield from found


def _between(shards: Sequence[Gallery], manifest: Manifest) -> Iterator[Damage]:
    for gallery, shard in zip(shards, manifest.shards, strict=True):
        outside = sum(1 for _ in strange_ids(gallery, shard))
        if outside:
            what = f"{outside} images have ids that are not of {shard.name}"
            yield Damage(gallery.path / DATABASE, what)
    for path, _, id in repeated(shards):
        what = f"image {id} is from a path that another shard has too: {path!r}"
        yield Damage(shards[0].path.parent, what)


def strange_ids(gallery: Gallery, shard: Shard) -> Iterator[int]:
    """The images of a shard whose ids it does not own."""
    at = 0
    for first, last in (*shard.ids, (records.LARGEST, 0)):
        yield from (entry.id for entry in gallery.entries(at, first - 1))
        at = last + 1


def repeated(shards: Sequence[Gallery]) -> Iterator[tuple[str | bytes, int, int]]:
    """Paths that are in two shards: each with the place of the second shard, and the id there."""

    def numbered(place: int) -> Iterator[tuple[bool, str | bytes, int, int]]:
        # Text sorts before bytes, as SQLite has it.
        for path, id in shards[place].paths():
            yield isinstance(path, bytes), path, place, id

    for one, other in pairwise(heapq.merge(*(numbered(place) for place in range(len(shards))))):
        if one[:2] == other[:2]:
            yield other[1], other[2], other[3]

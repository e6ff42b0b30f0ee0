"""A gallery in several: one folder of ordinary galleries, the shards, that answer as one.

::

    NAME.chg/
      shards.json           which shards there are (:mod:`concepthash.runtime.shardfile`)
      shard-0001.chg/ ...   galleries (:mod:`concepthash.runtime.gallery`)
      lock                  held by the one writer, who holds those of all shards too

An image has the id that its shard gave it: ids are unique over all shards, since each gives them
from a range of its own. A new image goes to the shard that its content says, so that every writer
would put it there; one whose file moves stays where it is and keeps its id.

Each shard commits for itself. The removals of a commit come before its updates, and those before
its additions, in all shards: a crash on the way leaves no path twice, and what is missing is added
by the next run. A reader has each shard at the moment it was opened.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy.typing as npt

from concepthash.codes import CodeLayout
from concepthash.errors import GalleryError, UsageError
from concepthash.files import new_folder
from concepthash.runtime.codefiles import SEGMENT_BYTES
from concepthash.runtime.entries import Entry
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.place import DATABASE, LOCK, refuse_gallery, refuse_strays
from concepthash.runtime.shardfile import Manifest, new_shards
from concepthash.runtime.sharding import home, lay_out, misfit, require_shard
from concepthash.runtime.shardreads import ShardedSnapshot
from concepthash.runtime.storage import damaged, storage_errors, writer_lock
from concepthash.runtime.writing import codes_of


class ShardedGallery(ShardedSnapshot):
    """An open sharded gallery: what :class:`concepthash.runtime.Gallery` can, over all shards.

    Make one with :meth:`create` or :meth:`open`, use it in a ``with`` block. Methods that are not
    explained here do what they do there.
    """

    def __init__(
        self, path: Path, manifest: Manifest, shards: Sequence[Gallery], *, write: bool
    ) -> None:
        super().__init__(path, manifest, shards)
        self._write = write
        self._held = ExitStack()

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        layout: CodeLayout,
        fingerprint: str,
        model: str,
        shards: int,
        segment_bytes: int = SEGMENT_BYTES,
    ) -> ShardedGallery:
        """A new, empty gallery of so many shards, open to write.

        Raises:
            UsageError: if there cannot be so many shards.
            GalleryError: if the folder holds a gallery or other files already.
        """
        folder = Path(path)
        manifest = Manifest(layout, fingerprint, model, new_shards(shards))
        with storage_errors(folder):
            if folder.exists():
                refuse_strays(folder)
                with writer_lock(folder / LOCK):
                    refuse_gallery(folder)
                    lay_out(folder, manifest)
            else:
                with new_folder(folder) as aside:
                    lay_out(aside, manifest)
        return cls.open(folder, write=True, segment_bytes=segment_bytes)

    @classmethod
    def open(
        cls, path: str | Path, *, write: bool = False, segment_bytes: int = SEGMENT_BYTES
    ) -> ShardedGallery:
        """A sharded gallery on disk; all of its shards, or none.

        Raises:
            GalleryDamaged: if a shard is missing, damaged or not the one that is listed.
            GalleryError: as :meth:`concepthash.runtime.Gallery.open`.
            GalleryLocked: to write, while another process writes to the gallery or to a shard.
        """
        folder = Path(path)
        manifest = Manifest.read(folder)
        with ExitStack() as stack:
            if write:
                stack.enter_context(writer_lock(folder / LOCK))
                manifest = Manifest.read(folder)  # as the writer before has left it
            for listed in manifest.shards:
                require_shard(folder, listed.name)
            shards = [
                stack.enter_context(
                    Gallery.open(folder / listed.name, write=write, segment_bytes=segment_bytes)
                )
                for listed in manifest.shards
            ]
            gallery = cls(folder, manifest, shards, write=write)
            gallery._check_shards()
            if write:
                for shard, listed in zip(shards, manifest.shards, strict=True):
                    shard.start_ids(listed.fresh[0])  # a repair may have forgotten
            gallery._held = stack.pop_all()
        return gallery

    def _check_shards(self) -> None:
        """Make sure that each shard is the one that the manifest lists.

        Raises:
            GalleryDamaged: naming the first that is not.
        """
        for shard, listed in zip(self.shards, self._manifest.shards, strict=True):
            why = misfit(shard, listed, self._manifest)
            if why is not None:
                raise damaged(f"{listed.name} {why}", shard.path / DATABASE)

    def close(self) -> None:
        """Let go of the files and, for a writer, of the locks."""
        self._held.close()

    def __enter__(self) -> ShardedGallery:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def refresh(self) -> None:
        """Let a reader see what was committed since it opened.

        Raises:
            GalleryError: as :meth:`open`.
        """
        if not self._write:
            for shard in self.shards:
                shard.refresh()
            now = Manifest.read(self.path)
            self._manifest = replace(
                self._manifest, layout=now.layout, fingerprint=now.fingerprint, model=now.model
            )
            self._check_shards()

    def changed(self) -> bool:
        """Whether anything was committed to a shard since a reader opened or was refreshed."""
        return any(shard.changed() for shard in self.shards)

    def add(self, entries: Sequence[Entry], codes: npt.ArrayLike) -> list[int]:
        """Commit images with their codes; returns the id of each. Errors as :meth:`commit`."""
        return self.commit(add=entries, codes=codes)

    def remove(self, ids: Iterable[int]) -> int:
        """Commit the removal of images; ids without one are passed over. Returns how many went."""
        before = len(self)
        self.commit(remove=ids)
        return before - len(self)

    def update(self, entries: Iterable[Entry]) -> None:
        """Commit new paths, labels, sizes, times or hashes for images; codes and shards stay."""
        self.commit(update=entries)

    def commit(
        self,
        *,
        add: Sequence[Entry] = (),
        codes: npt.ArrayLike | None = None,
        update: Iterable[Entry] = (),
        remove: Iterable[int] = (),
    ) -> list[int]:
        """Removals, updates and additions, in this order; returns the ids of the added images.

        Several commits, one or more a shard that is concerned: when the system fails on the way,
        those before are done, and the images of the others are not there.

        Raises:
            UsageError: if the gallery was opened to read.
            MismatchError: if the codes are not as many or as wide as they should be.
            GalleryError: if a path is in the gallery already, or a shard has given all its ids:
                nothing is changed then; or if a shard cannot be written.
        """
        self._require_writer()
        packed = codes_of(add, codes, self.layout)
        removed = {int(id) for id in remove if self._number(id) is not None}
        rows = self._homes(add)
        waves = self._waves(add, update, removed)
        for shard, ids in self._shared(removed, int):
            shard.commit(remove=ids)
        for wave in waves:
            for shard, entries in self._shared(wave, lambda entry: entry.id):
                shard.commit(update=entries)
        given = [0] * len(add)
        for number, places in rows.items():
            new = [add[place] for place in places]
            got = self.shards[number].commit(add=new, codes=packed[places])
            for place, id in zip(places, got, strict=True):
                given[place] = id
        return given

    def accelerate(self, *, copy_codes: bool = False, threads: int | None = None) -> int:
        """Build search tables in every shard; returns how many codes they cover."""
        self._require_writer()
        return sum(
            shard.accelerate(copy_codes=copy_codes, threads=threads) for shard in self.shards
        )

    def compact(self) -> int:
        """Rewrite every shard without the codes of removed images; returns how many went."""
        self._require_writer()
        return sum(shard.compact() for shard in self.shards)

    def reset(self, *, layout: CodeLayout, fingerprint: str, model: str) -> None:
        """Empty all shards, for another model; ids go on counting.

        Not one commit: until it is done the gallery does not open, and ``chash index --rebuild``
        begins again.
        """
        self._require_writer()
        for shard in self.shards:
            shard.reset(layout=layout, fingerprint=fingerprint, model=model)
        self._manifest = replace(
            self._manifest, layout=layout, fingerprint=fingerprint, model=model
        )
        self._manifest.write(self.path)

    def _require_writer(self) -> None:
        if not self._write:
            raise UsageError(
                "the gallery was opened to read",
                where=self.path,
                hint="ShardedGallery.open(..., write=True)",
            )

    def _homes(self, add: Sequence[Entry]) -> dict[int, list[int]]:
        """The places in ``add`` of the images that go to each shard.

        Raises:
            GalleryError: if a shard has not so many ids left.
        """
        rows: dict[int, list[int]] = {}
        for place, entry in enumerate(add):
            rows.setdefault(home(entry.sha256, len(self.shards)), []).append(place)
        for number, places in rows.items():
            last = self._manifest.shards[number].fresh[1]
            if self.shards[number].last_id() + len(places) > last:
                raise GalleryError(
                    f"{self.names[number]} has given all its ids, up to {last}",
                    where=self.path,
                    hint=f"chash index split {self.path} --shards N --out NEW.chg makes room",
                )
        return rows

    def _waves(
        self, add: Sequence[Entry], update: Iterable[Entry], removed: set[int]
    ) -> list[list[Entry]]:
        """The updates in their order, cut where one takes a path that another has left.

        Committed one after the other over all shards, no path is ever twice on disk.

        Raises:
            GalleryError: if an update or an addition takes a path that is an image's.
        """
        key = self.shards[0].key
        updates = [entry for entry in update if entry.id not in removed]
        wanted = list({key(entry.path): None for entry in (*updates, *add)})
        moving = list({entry.id: None for entry in updates})
        owner: dict[str | bytes, int] = {}
        path_of: dict[int, str | bytes] = {}
        for shard in self.shards:
            owner.update(shard.ids_at(wanted))
            path_of.update(shard.keys_of(moving))
        owner = {path: id for path, id in owner.items() if id not in removed}
        waves: list[list[Entry]] = [[]]
        left: set[str | bytes] = set()
        for entry in updates:
            path = key(entry.path)
            if entry.id not in path_of:
                continue
            if owner.get(path, entry.id) != entry.id:
                raise self._twice(entry.path)
            if path in left:
                waves.append([])
                left = set()
            if path_of[entry.id] != path:
                owner.pop(path_of[entry.id], None)
                left.add(path_of[entry.id])
            owner[path], path_of[entry.id] = entry.id, path
            waves[-1].append(entry)
        for entry in add:
            path = key(entry.path)
            if path in owner:
                raise self._twice(entry.path)
            owner[path] = 0
        return waves

    def _twice(self, path: Path) -> GalleryError:
        return GalleryError(
            f"the gallery refused the change: an image is indexed from {path} already",
            where=self.path,
            hint="a path can be in a gallery once: remove it first, or update its entry",
        )

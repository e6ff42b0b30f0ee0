"""One pass over the photos of the sources, and the smallest change that makes a gallery agree."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from concepthash.codes import Codes
from concepthash.errors import GalleryError, Skipped
from concepthash.runtime.engine import Engine, Outcome, Photo
from concepthash.runtime.entries import Entry, IndexReport, Url, place
from concepthash.runtime.galleries import AnyGallery
from concepthash.runtime.sources import Found, PhotoSource, is_gone, row_of

Labels: TypeAlias = "Literal['folder'] | Mapping[str, str] | Mapping[Path, str] | None"

_DIGEST = 32


class Reconciler:
    """The state of one run of :func:`concepthash.runtime.indexing.index_images`.

    It is the desk (:class:`concepthash.runtime.engine.Desk`) of whoever hashes.

    Args:
        gallery: open; None stands for an empty one, for a dry run.
        sources: what the user named.
        labels: where labels come from.
        dry: count what would change, and write nothing.
        commit_every: changes a commit.
        progress: called with :attr:`report` after every photo.
    """

    def __init__(
        self,
        gallery: AnyGallery | None,
        sources: Sequence[PhotoSource],
        *,
        labels: Labels,
        dry: bool,
        commit_every: int,
        progress: Callable[[IndexReport], None] | None,
    ) -> None:
        self.report = IndexReport()
        self.dry = dry
        self._gallery = gallery
        self._sources = sources
        self._roots = {source.root: source for source in sources if source.root is not None}
        self._label = labeller(labels)
        self._commit_every = commit_every
        self._progress = progress
        self._seen: set[int] = set()
        self._empty = set(self._roots)  # those without a single photo so far
        # The next commit.
        self._new: list[tuple[Entry, Codes]] = []
        self._updates: list[Entry] = []
        self._gone: set[int] = set()
        self._fresh: dict[str, Codes] = {}

    def images(self, engine: Engine) -> None:
        """Compare every photo of the sources with the gallery; have hashed what is new to it."""
        engine.process(self._unknown(), self)

    def prune(self, *, emptied: bool) -> None:
        """Remove the images below the roots whose photo is gone.

        Raises:
            GalleryError: if a root has no photo any more, and ``emptied`` does not allow it.
        """
        if self._gallery is None:
            return
        here = Path.cwd()
        gone = set()
        for entry in self._gallery.entries():
            path = entry.path if isinstance(entry.path, Url) else here / entry.path
            above = self._above(path)
            if above and entry.id not in self._seen and self._is_gone(path):
                if not emptied and above <= self._empty:
                    raise self._emptied(min(above))
                gone.add(entry.id)
        self._gone |= gone
        self.report.removed += len(gone)

    def _above(self, path: Path) -> set[Path]:
        """The roots that a path lies below."""
        file = row_of(path)
        found = self._roots.keys() & {path, *path.parents}
        return found if file is None else found | (self._roots.keys() & {file})

    def _is_gone(self, path: Path) -> bool:
        """Whether a source says that it has the photo no more, or the disk, if none knows it."""
        above = self._above(path)
        return all(self._roots[root].gone(path) for root in above) if above else is_gone(path)

    def _emptied(self, root: Path) -> GalleryError:
        return GalleryError(
            "there is no photo here any more, though the gallery has images of it: "
            "nothing was removed",
            where=self._roots[root].given,
            hint="mount the disk again; --prune all if the photos are gone for good, "
            "--no-prune to keep their images",
        )

    def flush(self) -> None:
        """Commit what has come together."""
        new, updates, gone = self._new, self._updates, self._gone
        self._new, self._updates, self._gone, self._fresh = [], [], set(), {}
        if self._gallery is not None and not self.dry and (new or updates or gone):
            codes = np.stack([code for _, code in new]) if new else None
            added = [entry for entry, _ in new]
            self._seen.update(
                self._gallery.commit(add=added, codes=codes, update=updates, remove=gone)
            )

    def _unknown(self) -> Iterator[Photo]:
        """The photos whose size or time is not the one in the gallery."""
        paths: set[Path] | None = set() if len(self._sources) > 1 else None  # they may overlap
        for source in self._sources:
            unread = Skipped()
            for found in source.photos(unread):
                if source.root is not None:
                    self._empty.discard(source.root)
                if paths is not None:
                    if found.path in paths:
                        continue
                    paths.add(found.path)
                photo = self._photo(found)
                if photo is None:
                    continue
                entry, known = photo.entry, photo.known
                marks = entry.size, entry.mtime_ns
                if known and (known.size, known.mtime_ns) == marks and found.marked:
                    self._same(entry, known)
                else:
                    yield photo
            for skip in unread.items:
                self._skip(place(skip.path), skip.reason)

    def _photo(self, found: Found) -> Photo | None:
        known = self._gallery.find(found.path) if self._gallery is not None else None
        if known is not None and not (found.problem and is_gone(found.path)):
            self._seen.add(known.id)
        if found.problem is not None:
            self._skip(found.path, found.problem)
            return None
        entry = Entry(found.path, self._label(found), found.size, found.mtime_ns)
        return Photo(entry, known, found.place)

    def has(self, digest: str) -> bool:
        """Whether the gallery has a content, or is about to."""
        if digest in self._fresh:
            return True
        return self._gallery is not None and bool(self._gallery.same_content(digest))

    def contents(self) -> npt.NDArray[np.uint8]:
        """The digests the gallery has ``(n, 32)`` uint8."""
        if self._gallery is None:
            return np.empty((0, _DIGEST), np.uint8)
        return self._gallery.contents()

    def take(self, outcome: Outcome) -> bool:
        """Act on what became of a photo; false if its content has to be hashed after all."""
        photo, digest = outcome.photo, outcome.digest
        known = photo.known
        if digest is None:
            self._skip(photo.entry.path, outcome.reason)
            return True
        entry = replace(photo.entry, sha256=digest)
        if known is not None and known.sha256 == digest:
            self._same(entry, known)
        elif (old := self._lost(digest)) is not None:
            self._move(entry, old, known)
        elif (code := self._code(digest)) is not None:
            self._keep(entry, known, code)
        elif outcome.code is not None:
            self._keep(entry, known, outcome.code)
        elif outcome.reason is not None:
            kept = "" if known is None else "; its image of before stays"
            self._skip(entry.path, f"{outcome.reason}{kept}")
        elif self.dry:
            self._keep(entry, known, np.empty(0, np.uint8))
        else:  # another photo had this content, and has changed since
            return False
        return True

    def _lost(self, digest: str) -> Entry | None:
        """An image with this content whose photo is no longer where it was."""
        twins = self._gallery.same_content(digest) if self._gallery is not None else []
        here = Path.cwd()
        for twin in twins:
            path = twin.path if isinstance(twin.path, Url) else here / twin.path
            if twin.id not in self._seen and self._is_gone(path):
                return twin
        return None

    def _code(self, digest: str) -> Codes | None:
        """The code of this content, if an image has it."""
        if digest in self._fresh:
            return self._fresh[digest]
        if self._gallery is None:
            return None
        twins = self._gallery.same_content(digest)
        return self._gallery.code(twins[0].id) if twins else None

    def _same(self, entry: Entry, known: Entry) -> None:
        label = known.label if entry.label is None else entry.label
        if label != known.label:
            self.report.relabelled += 1
        else:
            self.report.unchanged += 1
        if (label, entry.size, entry.mtime_ns) != (known.label, known.size, known.mtime_ns):
            self._updates.append(replace(entry, label=label, sha256=known.sha256, id=known.id))
        self._settled()

    def _move(self, entry: Entry, old: Entry, known: Entry | None) -> None:
        if known is not None:
            self._drop(known)
        self._seen.add(old.id)
        label = old.label if entry.label is None else entry.label
        self._updates.append(replace(entry, label=label, id=old.id))
        self.report.moved += 1
        self._settled()

    def _keep(self, entry: Entry, known: Entry | None, code: Codes) -> None:
        if known is None:
            self.report.added += 1
        else:
            self._gone.add(known.id)
            self.report.changed += 1
        self._new.append((entry, code))
        self._fresh[entry.sha256] = code
        self._settled()

    def _drop(self, known: Entry) -> None:
        self._gone.add(known.id)
        self.report.removed += 1

    def _skip(self, path: Path, reason: object) -> None:
        self.report.skipped.add(self._named(path), reason)
        self._settled()

    def _named(self, path: Path) -> Path:
        """A path as the user would write it."""
        names = (source.named(path) for source in self._sources)
        return next((name for name in names if name is not None), path)

    def _settled(self) -> None:
        if len(self._new) + len(self._updates) + len(self._gone) >= self._commit_every:
            self.flush()
        if self._progress is not None:
            self._progress(self.report)


def labeller(labels: Labels) -> Callable[[Found], str | None]:
    """A function from a photo to its label, None where there is none."""
    if labels is None:
        return lambda found: None
    if labels == "folder":
        return lambda found: found.label
    table = {_real(Path(path)): label for path, label in labels.items()}
    return lambda found: table.get(_real(found.path))


def _real(path: Path) -> Path:
    return path.parent.resolve() / path.name

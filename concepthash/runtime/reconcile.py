"""One pass over the photos on disk, and the smallest change that makes a gallery agree."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np

from concepthash.codes import Codes
from concepthash.errors import GalleryError, Skipped
from concepthash.files import sha256
from concepthash.images import find_images
from concepthash.runtime.entries import Entry, IndexReport, valid_text
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hashed, Hasher

Labels: TypeAlias = "Literal['folder'] | Mapping[str, str] | Mapping[Path, str] | None"


@dataclass(frozen=True)
class Photo:
    """A file on disk, and the image the gallery has from its path."""

    entry: Entry
    known: Entry | None


class Reconciler:
    """The state of one run of :func:`concepthash.runtime.indexing.index_images`.

    Args:
        gallery: open; None stands for an empty one, for a dry run.
        roots: folders and files, absolute, and what the user calls them.
        labels: where labels come from.
        write: false in a dry run: count what would change.
        commit_every: changes a commit.
        progress: called with :attr:`report` after every file.
    """

    def __init__(
        self,
        gallery: Gallery | None,
        roots: Mapping[Path, Path],
        *,
        labels: Labels,
        write: bool,
        commit_every: int,
        progress: Callable[[IndexReport], None] | None,
    ) -> None:
        self.report = IndexReport()
        self._gallery = gallery
        self._roots = roots
        self._label = labeller(labels)
        self._write = write
        self._commit_every = commit_every
        self._progress = progress
        self._seen: set[int] = set()
        self._empty = set(roots)  # those without a single photo so far
        # Contents on their way through the model, in its order, and the photos that have them.
        self._hashing: deque[str] = deque()
        self._waiting: dict[str, list[Photo]] = {}
        # The next commit.
        self._new: list[tuple[Entry, Codes]] = []
        self._updates: list[Entry] = []
        self._gone: set[int] = set()
        self._fresh: dict[str, Codes] = {}

    def images(self, hasher: Hasher) -> None:
        """Compare every file below the roots with the gallery; hash what is new to it."""
        with closing(digested(self._unknown(), threads=hasher.threads)) as photos:
            needed = self._unhashed(photos)
            if not self._write:
                nothing = np.zeros(hasher.layout.nbytes, np.uint8)
                for path in needed:
                    self._take(Hashed(path, nothing))
                return
            with closing(hasher.hash(needed, waits=self.report.waits)) as records:
                for record in records:
                    self.report.hashed += 1
                    self._take(record)

    def prune(self, *, emptied: bool) -> None:
        """Remove the images below the roots whose file is gone.

        Raises:
            GalleryError: if a root has no photo any more, and ``emptied`` does not allow it.
        """
        if self._gallery is None:
            return
        here, roots = Path.cwd(), set(self._roots)
        gone = set()
        for entry in self._gallery.entries():
            path = here / entry.path
            above = roots.intersection((path, *path.parents))
            if above and entry.id not in self._seen and is_gone(path):
                if not emptied and above <= self._empty:
                    raise self._emptied(min(above))
                gone.add(entry.id)
        self._gone |= gone
        self.report.removed += len(gone)

    def _emptied(self, root: Path) -> GalleryError:
        return GalleryError(
            "there is no photo here any more, though the gallery has images of it: "
            "nothing was removed",
            where=self._roots[root],
            hint="mount the disk again; --prune all if the photos are gone for good, "
            "--no-prune to keep their images",
        )

    def flush(self) -> None:
        """Commit what has come together."""
        new, updates, gone = self._new, self._updates, self._gone
        self._new, self._updates, self._gone, self._fresh = [], [], set(), {}
        if self._gallery is not None and self._write and (new or updates or gone):
            codes = np.stack([code for _, code in new]) if new else None
            added = [entry for entry, _ in new]
            self._seen.update(
                self._gallery.commit(add=added, codes=codes, update=updates, remove=gone)
            )

    def _unknown(self) -> Iterator[Photo]:
        """The files whose size or time is not the one in the gallery."""
        paths: set[Path] | None = set() if len(self._roots) > 1 else None  # roots may overlap
        for root in self._roots:
            unread = Skipped()
            for path in find_images([root], unread):
                self._empty.discard(root)
                if paths is not None:
                    if path in paths:
                        continue
                    paths.add(path)
                photo = self._photo(path, root)
                if photo is None:
                    continue
                entry, known = photo.entry, photo.known
                if known and (known.size, known.mtime_ns) == (entry.size, entry.mtime_ns):
                    self._same(entry, known)
                else:
                    yield photo
            for skip in unread.items:
                self._skip(Path(skip.path), skip.reason)

    def _photo(self, path: Path, root: Path) -> Photo | None:
        known = self._gallery.find(path) if self._gallery is not None else None
        try:
            status = path.stat()
        except OSError as error:
            if is_gone(path):  # since it was listed; pruning takes care of the image
                if path.is_symlink():
                    self._skip(path, "a link to nothing")
                return None
            self._skip(path, error.strerror)
            status = None
        if known is not None:
            self._seen.add(known.id)
        if status is None:
            return None
        label = self._label(path, root)
        return Photo(Entry(path, label, status.st_size, status.st_mtime_ns), known)

    def _unhashed(self, photos: Iterable[tuple[Photo, str | OSError]]) -> Iterator[Path]:
        """Settle what the content hash settles; the paths whose content the model must see."""
        for photo, digest in photos:
            entry, known = photo.entry, photo.known
            if isinstance(digest, OSError):
                self._skip(entry.path, digest.strerror)
                continue
            entry = replace(entry, sha256=digest)
            if known is not None and known.sha256 == digest:
                self._same(entry, known)
            elif (old := self._lost(digest)) is not None:
                self._move(entry, old, known)
            elif (code := self._code(digest)) is not None:
                self._keep(Photo(entry, known), code)
            else:
                waiting = self._waiting.setdefault(digest, [])
                waiting.append(Photo(entry, known))
                if len(waiting) == 1:
                    self._hashing.append(digest)
                    yield entry.path

    def _take(self, record: Hashed) -> None:
        """Act on what the model said of the next content."""
        for photo in self._waiting.pop(self._hashing.popleft()):
            if record.code is not None:
                self._keep(photo, record.code)
            else:
                if photo.known is not None:
                    self._drop(photo.known)
                self._skip(photo.entry.path, record.error.what if record.error else "unknown")

    def _lost(self, digest: str) -> Entry | None:
        """An image with this content whose file is no longer where it was."""
        twins = self._gallery.same_content(digest) if self._gallery is not None else []
        lost = (twin for twin in twins if twin.id not in self._seen and is_gone(twin.path))
        return next(lost, None)

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

    def _keep(self, photo: Photo, code: Codes) -> None:
        if photo.known is None:
            self.report.added += 1
        else:
            self._gone.add(photo.known.id)
            self.report.changed += 1
        self._new.append((photo.entry, code))
        self._fresh[photo.entry.sha256] = code
        self._settled()

    def _drop(self, known: Entry) -> None:
        self._gone.add(known.id)
        self.report.removed += 1

    def _skip(self, path: Path, reason: object) -> None:
        self.report.skipped.add(self._named(path), reason)
        self._settled()

    def _named(self, path: Path) -> Path:
        """A path as the user would write it."""
        for root, name in self._roots.items():
            if path.is_relative_to(root):
                return name / path.relative_to(root)
        return path

    def _settled(self) -> None:
        if len(self._new) + len(self._updates) + len(self._gone) >= self._commit_every:
            self.flush()
        if self._progress is not None:
            self._progress(self.report)


def digested(
    photos: Iterable[Photo], *, threads: int
) -> Generator[tuple[Photo, str | OSError], None, None]:
    """Each photo with the sha256 of its file, in order, read by threads a little ahead."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="digest")
    pending: deque[tuple[Photo, Future[str | OSError]]] = deque()
    try:
        for photo in photos:
            pending.append((photo, pool.submit(_digest, photo.entry.path)))
            if len(pending) > 2 * threads:
                first, job = pending.popleft()
                yield first, job.result()
        for photo, job in pending:
            yield photo, job.result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _digest(path: Path) -> str | OSError:
    try:
        return sha256(path)
    except OSError as error:
        return error


def is_gone(path: Path) -> bool:
    """Whether there surely is no file: a folder that cannot be read is no proof."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        pass
    return False


def labeller(labels: Labels) -> Callable[[Path, Path], str | None]:
    """A function from a photo's path and its root to its label, None where there is none."""
    if labels is None:
        return lambda path, root: None
    if labels == "folder":
        return _folder_name
    table = {_real(Path(path)): label for path, label in labels.items()}
    return lambda path, root: table.get(_real(path))


def _real(path: Path) -> Path:
    return path.parent.resolve() / path.name


def _folder_name(path: Path, root: Path) -> str | None:
    return None if root in (path, path.parent) else valid_text(path.parent.name)

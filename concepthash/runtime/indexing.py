"""From folders of photos to a gallery, doing only the work that is left.

A file whose size and modification time are known is not opened. Any other is read once for its
content hash: a touched file is only noted, a moved one keeps its id and code, a copy gets the code
of its twin; what remains is hashed by the model. Photos that cannot be decoded are reported, stay
out of the gallery, and are tried again on every run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from concepthash.errors import GalleryError, GalleryLocked, UsageError
from concepthash.runtime.entries import IndexReport, absolute
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.place import DATABASE, discard
from concepthash.runtime.reconcile import Labels, Reconciler

COMMIT_EVERY = 256
"""Images a commit; what is not committed yet when a run is killed is done again by the next."""


def index_images(
    sources: str | Path | Iterable[str | Path],
    gallery: str | Path,
    hasher: Hasher,
    *,
    label_from: Labels = "folder",
    rebuild: bool = False,
    prune: bool | Literal["all"] = True,
    dry_run: bool = False,
    commit_every: int = COMMIT_EVERY,
    progress: Callable[[IndexReport], None] | None = None,
) -> IndexReport:
    """Bring a gallery up to date with the photos in ``sources``, and say what changed.

    Work is committed as it goes: an interrupted run keeps it, and the next continues.

    Args:
        sources: photos and folders of photos.
        gallery: the gallery's folder; created if there is none.
        hasher: of the bundle the gallery is, or will be, made with.
        label_from: ``folder``: the name of the folder a photo lies in, unless that folder is a
            source itself; or a mapping from path to label; or None. A label once known is kept
            where this finds none.
        rebuild: forget what the gallery holds, in one commit, and index anew: for another
            model, or a damaged gallery.
        prune: remove images whose file is gone, where it lay in ``sources``. A folder without a
            single photo left is taken for a disk that is not mounted, and refused, unless
            ``"all"`` says that its images shall go.
        dry_run: write nothing and decode nothing: files that cannot be decoded count as added.
        commit_every: images a commit.
        progress: called with the report so far after every file.

    Raises:
        UsageError: if a source does not exist.
        MismatchError: if the gallery was made with another model; ``rebuild`` replaces it.
        GalleryError: if it cannot be read or written, or all photos of a source are gone;
            GalleryLocked if another process writes.
    """
    started = time.perf_counter()
    if isinstance(sources, str | Path):
        sources = [sources]
    roots = {_root(Path(source)): Path(source) for source in sources}
    opened = _open(Path(gallery), hasher, rebuild=rebuild, dry_run=dry_run)
    with nullcontext() if opened is None else opened:  # an empty gallery is falsy
        run = Reconciler(
            opened,
            roots,
            labels=label_from,
            write=not dry_run,
            commit_every=commit_every,
            progress=progress,
        )
        try:
            run.images(hasher)
        except KeyboardInterrupt:
            run.flush()
            raise
        if prune:
            run.prune(emptied=prune == "all")
        run.flush()
    run.report.seconds = time.perf_counter() - started
    return run.report


def _root(source: Path) -> Path:
    """A source's one name, however it was given, so that a file has one path in the gallery."""
    if not source.exists():
        raise UsageError("no such file or folder", where=source)
    return source.resolve() if source.is_dir() else absolute(source)


def _open(path: Path, hasher: Hasher, *, rebuild: bool, dry_run: bool) -> Gallery | None:
    """The gallery to bring up to date; None if a dry run begins with an empty one."""
    exists = (path / DATABASE).exists()
    if dry_run and (rebuild or not exists):
        return None
    try:
        gallery = Gallery.open(path, write=not dry_run) if exists else None
    except GalleryLocked:
        raise
    except GalleryError:
        if not rebuild:
            raise
        discard(path)
        gallery = None
    model = hasher.name, hasher.layout, hasher.fingerprint
    if gallery is None:
        return Gallery.create(path, model=model[0], layout=model[1], fingerprint=model[2])
    try:
        if rebuild:
            gallery.reset(model=model[0], layout=model[1], fingerprint=model[2])
        gallery.check_model(hasher.fingerprint)
    except BaseException:
        gallery.close()
        raise
    return gallery

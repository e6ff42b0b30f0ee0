"""From photos to a gallery, doing only the work that is left.

A file whose size and modification time are known is not opened. Any other is read once for its
content hash: a touched file is only noted, a moved one keeps its id and code, a copy gets the code
of its twin; what remains is hashed by the model. Photos that cannot be decoded are reported, change
nothing in the gallery, and are tried again on every run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Literal

from concepthash.errors import GalleryError, GalleryLocked, GalleryUnreadable, UsageError
from concepthash.runtime.engine import Engine, LocalEngine
from concepthash.runtime.entries import IndexReport
from concepthash.runtime.galleries import (
    AnyGallery,
    create_gallery,
    discard_gallery,
    is_gallery,
    open_gallery,
    refuse_shard,
)
from concepthash.runtime.gallery import Gallery
from concepthash.runtime.hasher import Hasher
from concepthash.runtime.reconcile import Labels, Reconciler
from concepthash.runtime.sources import Columns, PhotoSource, open_sources

COMMIT_EVERY = 256
"""Images a commit; what is not committed yet when a run is killed is done again by the next."""


def index_images(
    sources: str | Path | Iterable[str | Path | PhotoSource],
    gallery: str | Path,
    hasher: Hasher | Engine,
    *,
    label_from: Labels = "folder",
    rebuild: bool = False,
    prune: bool | Literal["all"] = True,
    dry_run: bool = False,
    shards: int | None = None,
    commit_every: int = COMMIT_EVERY,
    progress: Callable[[IndexReport], None] | None = None,
) -> IndexReport:
    """Bring a gallery up to date with the photos in ``sources``, and say what changed.

    Work is committed as it goes: an interrupted run keeps it, and the next continues.

    Args:
        sources: photos, folders of them, patterns, URLs, Parquet files
            (:mod:`concepthash.runtime.sources`).
        gallery: the gallery's folder; created if there is none.
        hasher: of the bundle the gallery is, or will be, made with; or another engine that reads
            and hashes, as the one of :mod:`concepthash.cluster.hashing`.
        label_from: ``folder``: the name of the folder a photo lies in, unless that folder is a
            source itself, and in a Parquet file the column of labels; or a mapping from path to
            label; or None. A label once known is kept where this finds none.
        rebuild: forget what the gallery holds, in one commit, and index anew: for another
            model, or a damaged gallery.
        prune: remove images whose file is gone, where it lay in ``sources``. A folder without a
            single photo left is taken for a disk that is not mounted, and refused, unless
            ``"all"`` says that its images shall go.
        dry_run: write nothing and decode nothing: files that cannot be decoded count as added.
        shards: how many a new gallery shall have; None for an ordinary one.
        commit_every: images a commit.
        progress: called with the report so far after every file.

    Raises:
        UsageError: if a source does not exist, or a gallery that is there has not ``shards``.
        DataError, BackendError: as :func:`concepthash.runtime.sources.open_sources`.
        MismatchError: if the gallery was made with another model; ``rebuild`` replaces it.
        GalleryError: if it cannot be read or written, or all photos of a source are gone;
            GalleryLocked if another process writes.
    """
    started = time.perf_counter()
    if isinstance(sources, str | Path):
        sources = [sources]
    opened_sources = [
        found
        for source in sources
        for found in (
            open_sources([source], Columns()) if isinstance(source, str | Path) else [source]
        )
    ]
    engine = hasher if isinstance(hasher, Engine) else LocalEngine(hasher)
    opened = _open(Path(gallery), engine, rebuild=rebuild, dry_run=dry_run, shards=shards)
    with nullcontext() if opened is None else opened:  # an empty gallery is falsy
        run = Reconciler(
            opened,
            opened_sources,
            labels=label_from,
            dry=dry_run,
            commit_every=commit_every,
            progress=progress,
        )
        try:
            run.images(engine)
        except KeyboardInterrupt:
            run.flush()
            raise
        if prune:
            run.prune(emptied=prune == "all")
        run.flush()
    run.report.seconds = time.perf_counter() - started
    return run.report


def _open(
    path: Path, engine: Engine, *, rebuild: bool, dry_run: bool, shards: int | None
) -> AnyGallery | None:
    """The gallery to bring up to date; None if a dry run begins with an empty one."""
    refuse_shard(path)
    exists = is_gallery(path)
    if dry_run and (rebuild or not exists):
        return None
    try:
        gallery = open_gallery(path, write=not dry_run) if exists else None
    except (GalleryLocked, GalleryUnreadable):  # no damage: it may be whole
        raise
    except GalleryError:
        if not rebuild:
            raise
        had = discard_gallery(path)
        gallery, shards = None, had if shards is None else shards
    name, layout, fingerprint = engine.name, engine.layout, engine.fingerprint
    if gallery is None:
        return create_gallery(
            path, model=name, layout=layout, fingerprint=fingerprint, shards=shards
        )
    try:
        _check_shards(gallery, shards)
        if rebuild:
            gallery.reset(model=name, layout=layout, fingerprint=fingerprint)
        gallery.check_model(fingerprint)
    except BaseException:
        gallery.close()
        raise
    return gallery


def _check_shards(gallery: AnyGallery, wanted: int | None) -> None:
    """Refuse to index into another number of shards than was asked for.

    Raises:
        UsageError: if the gallery has not as many.
    """
    there = None if isinstance(gallery, Gallery) else len(gallery.shards)
    if wanted not in (None, there):
        raise UsageError(
            f"the gallery has {there} shards" if there else "the gallery is there, without shards",
            where=gallery.path,
            hint=f"chash index split {gallery.path} --shards {wanted} --out ANOTHER.chg, "
            "or another --out",
        )

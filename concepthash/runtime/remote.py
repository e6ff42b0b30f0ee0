"""Galleries behind URLs: published by :func:`push`, read through :func:`fetch`.

What is published is told in :mod:`concepthash.runtime.published`, where in
:mod:`concepthash.runtime.sites`, and the local copies in :mod:`concepthash.runtime.copies`.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from concepthash.errors import GalleryDamaged, GalleryError, UsageError
from concepthash.runtime.copies import (
    TRIES,
    bring_copy,
    copies_of,
    copy_there_is,
    push_again,
)
from concepthash.runtime.galleries import mark_of
from concepthash.runtime.published import (
    CONTENT,
    DIGEST,
    MANIFEST,
    MANIFEST_BYTES,
    File,
    Manifest,
    snapshot,
)
from concepthash.runtime.sites import (
    FolderSite,
    Missing,
    Refused,
    Site,
    Unreachable,
    WritableSite,
    as_url,
    is_url,
    open_site,
    shown,
)

__all__ = ["Pushed", "fetch", "is_url", "push", "refuse_to_write", "shown"]


@dataclass(frozen=True)
class Pushed:
    """What a push did.

    Args:
        url: where, without user and password.
        files: of the gallery.
        bytes: of all of them.
        uploaded: how many of them had to be sent.
        uploaded_bytes: of those.
        removed: contents that were taken away, of a state before the one before.
    """

    url: str
    files: int
    bytes: int
    uploaded: int
    uploaded_bytes: int
    removed: int


def push(
    gallery: str | Path, url: str | PurePath, *, verify: bool = False, force: bool = False
) -> Pushed:
    """Publish a gallery as one moment has it; what is there already is not sent again.

    What is there is known by its size, in a folder by its content, so that damage is mended.

    A reader sees the old state or the new one. A push that was killed is simply run again. One at a
    time: of two, the one that ends last is refused.

    Args:
        gallery: an ordinary or a sharded one; others may write to it meanwhile.
        url: ``file://``, or what fsspec writes to; a plain path is a folder of this machine.
        verify: read everywhere what is there, to send again what is damaged.
        force: replace what was published of another gallery or model, or of nobody knows which.

    Raises:
        UsageError: if nothing can be written there, or something else is there.
        GalleryError: if the gallery cannot be read, or the place does not take it.
        BackendError: if a package that reaches the place is not installed.
    """
    address = as_url(url) if is_url(url) else Path(url).absolute().as_uri()
    site, where = open_site(address), shown(address)
    if not isinstance(site, WritableSite):
        raise UsageError(
            "a web server is only read",
            where=where,
            hint="push to the folder that it shows: file:///FOLDER/NAME.chg",
        )
    if isinstance(site, FolderSite):
        folder = site.folder.resolve()
        if any(mark_of(path) for path in (folder, *folder.parents)):
            raise UsageError(
                "a gallery is there, not a place to publish one", where=where, hint="another folder"
            )
    with _site_errors(where, "chash index push continues it"):
        old = _before(site, where, force=force)
        if old is None:
            _refuse_strays(site, where)
        verify = verify or isinstance(site, FolderSite)
        with snapshot(Path(gallery)) as sources:
            by_digest = {}
            files = []
            owners = [source.identity for source in sources if source.identity is not None]
            new = Manifest((), (), owners[0].fingerprint, tuple(each.gallery for each in owners))
            if old is not None and not force:
                _refuse_other(old, new, where)
            for source in sources:
                file = source.described()
                files.append(file)
                by_digest[file.sha256] = source, file
            files.sort(key=lambda file: file.path)
            had = {file.sha256 for file in old.files} if old else set()
            sent = 0, 0
            for source, file in by_digest.values():
                if file.sha256 in had and _is_there(file, site, verify=verify):
                    continue
                site.write(file.content, source.read())
                sent = sent[0] + 1, sent[1] + file.bytes
        new = replace(new, files=tuple(files), previous=tuple(sorted(had)))
        removed = _publish(site, old, new, where)
    total = sum(file.bytes for file in files)
    return Pushed(where, len(files), total, *sent, removed)


def _refuse_strays(site: WritableSite, where: str) -> None:
    """Refuse a place that holds what no push left, for one that broke off may have."""
    strays = [name for name in site.names() if name not in (CONTENT, MANIFEST)]
    strays += [name for name in site.names(CONTENT) if not DIGEST.fullmatch(name)]
    for name in sorted(strays):
        if not name.startswith("."):  # of the system, of a web server, or half written
            raise UsageError(
                f"something else is there ({name}), and nothing was published there",
                where=where,
                hint=f"a folder of its own: {where}/NAME.chg",
            )


def _refuse_other(old: Manifest, new: Manifest, where: str) -> None:
    """Refuse to replace what was published of another gallery, or of another model."""
    if not old.fingerprint:
        return
    if old.fingerprint != new.fingerprint:
        other = f"a gallery of another model was published there ({old.fingerprint[:8]})"
    elif not set(old.galleries) & set(new.galleries):
        other = "another gallery was published there"
    else:
        return
    raise UsageError(other, where=where, hint="another URL, or --force to replace it")


def _is_there(file: File, site: WritableSite, *, verify: bool) -> bool:
    """Whether a content is there and whole: by its size, or by all of it."""
    if site.size(file.content) != file.bytes:
        return False
    if not verify:
        return True
    digest = hashlib.sha256()
    for piece in site.read(file.content):
        digest.update(piece)
    return digest.hexdigest() == file.sha256


def _publish(site: WritableSite, old: Manifest | None, new: Manifest, where: str) -> int:
    """Let readers see the new state; returns how many contents of older ones went."""
    if old is not None and old.files == new.files:
        return 0
    if _before(site, where, force=True) != old:
        raise GalleryError(
            "another push ended meanwhile", where=where, hint="run the command again"
        )
    site.write(MANIFEST, iter([new.encode()]))
    kept = {file.sha256 for file in new.files} | set(new.previous)
    gone = [] if old is None else sorted(set(old.previous) - kept)
    for digest in gone:
        site.delete(File("", 0, digest).content)
    return len(gone)


def fetch(
    url: str | PurePath,
    *,
    cache: Path | None = None,
    tell: Callable[[str], None] = lambda text: print(text, file=sys.stderr, flush=True),
) -> Path:
    """A local copy of a published gallery, compared with its sums; only what changed is fetched.

    Without a network, or with ``CHASH_OFFLINE=1``, it is the copy that there is, and ``tell`` says
    so. Two processes may fetch at once; one that was killed is continued.

    Args:
        url: where it was pushed to, however a web server shows it.
        cache: where copies are kept; ``CHASH_CACHE`` or ``~/.cache/concepthash`` by default.
        tell: takes a line about what is fetched, or that nothing was reached.

    Raises:
        GalleryError: if it cannot be had, is not what was published, or there is no room.
        UsageError, BackendError: as :func:`push`.
    """
    address = as_url(url)
    where = shown(address)
    folder = copies_of(where, cache)
    if os.environ.get("CHASH_OFFLINE", "0") not in ("", "0"):
        return copy_there_is(folder, where, "CHASH_OFFLINE is set", tell)
    site = open_site(address)
    hint = "the network, or CHASH_OFFLINE=1 for a copy that was fetched before"
    with _site_errors(where, hint):
        for left in reversed(range(TRIES)):
            try:
                manifest = _manifest(site, where)
            except Unreachable as error:
                return copy_there_is(folder, where, str(error), tell)
            if manifest is None:
                raise GalleryError(
                    f"no gallery was published there: no {MANIFEST}",
                    where=where,
                    hint=f"check the URL; {push_again(site, where)} publishes one",
                )
            try:
                return bring_copy(manifest, site, folder, where, tell)
            except Missing:  # a push has replaced what the manifest names
                if not left:
                    raise GalleryError(
                        "a file of the gallery is missing there",
                        where=where,
                        hint=f"{push_again(site, where)} sends it again",
                    ) from None
    raise AssertionError("the last try returns or raises")


def refuse_to_write(url: str | PurePath) -> UsageError:
    """The error of a verb that would change a gallery behind a URL."""
    where = shown(as_url(url))
    return UsageError(
        "a gallery behind a URL is only read",
        where=where,
        hint=f"change the folder it was pushed from, then chash index push FOLDER {where}",
    )


def _manifest(site: Site, where: str) -> Manifest | None:
    """What is published; None if nothing is."""
    data = b""
    try:
        for piece in site.read(MANIFEST):
            data += piece
            if len(data) > MANIFEST_BYTES:
                break
    except Missing:
        return None
    return Manifest.decode(data, f"{where}/{MANIFEST}")


def _before(site: Site, where: str, *, force: bool) -> Manifest | None:
    """What a push finds; None too for what does not say what it is, if that may be replaced.

    Raises:
        UsageError: if it may not.
    """
    try:
        return _manifest(site, where)
    except GalleryDamaged as error:
        if force:
            return None
        raise UsageError(
            f"what was published there does not say of which gallery it is: {error.what}",
            where=where,
            hint="another URL, or --force to replace it",
        ) from None


@contextmanager
def _site_errors(where: str, hint: str) -> Iterator[None]:
    try:
        yield
    except Unreachable as error:
        raise GalleryError(f"it cannot be reached: {error}", where=where, hint=hint) from None
    except Refused as error:
        raise GalleryError(
            f"it is refused: {error}", where=where, hint="check the URL, and what it lets you do"
        ) from None
    except Missing:
        raise GalleryError("the place is not there", where=where, hint="check the URL") from None

"""Local copies of published galleries.

::

    CACHE/galleries/KEY/
      current.json          the manifest that was last seen complete
      VERSION/NAME.chg      a copy; files that two versions share are one on disk, where it can be
      content/              what came so far of the next one
      lock

CACHE is ``CHASH_CACHE``, by default ``~/.cache/concepthash``. The two newest versions are kept.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from concepthash.errors import GalleryError, GalleryLocked
from concepthash.files import half_written, new_folder, reason, replacing, sha256, write_bytes
from concepthash.runtime.place import FETCHED, LOCK, SUFFIX
from concepthash.runtime.published import File, Manifest
from concepthash.runtime.sites import Site, Unreachable, WritableSite
from concepthash.runtime.storage import writer_lock

TRIES = 3
"""How often what can fail for a moment is tried."""
_CURRENT = "current.json"
_CONTENT = "content"
_WAIT_SECONDS = 0.1
_VERSION = re.compile("[0-9a-f]{32}")


def push_again(site: Site, where: str) -> str:
    """The command that publishes what is read there."""
    place = where if isinstance(site, WritableSite) else "FOLDER_OF_THE_SERVER"
    return f"chash index push GALLERY {place}"


@contextmanager
def _cache_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise GalleryError(
            f"the local copy cannot be written: {reason(error).lower()}",
            where=folder,
            hint="CHASH_CACHE=FOLDER of another place, or free some space (df -h)",
        ) from None


def copies_of(where: str, cache: Path | None) -> Path:
    """The folder of the copies of one published gallery.

    Args:
        where: its URL.
        cache: in the place of ``CHASH_CACHE``.
    """
    named = cache or os.environ.get("CHASH_CACHE")
    home = Path(named) if named else Path.home() / ".cache" / "concepthash"
    return home / "galleries" / hashlib.sha256(where.encode()).hexdigest()[:32]


def _local_name(where: str) -> str:
    """What the copy is called: as at the URL, of letters that every system takes."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", where.rpartition("/")[2].removesuffix(SUFFIX))
    return f"{stem.strip('_')[:60] or 'gallery'}{SUFFIX}"


def bring_copy(
    manifest: Manifest, site: Site, folder: Path, where: str, tell: Callable[[str], None]
) -> Path:
    """The copy of what is published now; what is missing of it is fetched.

    Args:
        manifest: what is published.
        site: where.
        folder: of :func:`copies_of`.
        where: the URL.
        tell: takes a line about what is fetched.

    Raises:
        GalleryError: if it stays another than was published, or there is no room.
        Missing, Unreachable, Refused: as the site tells.
    """
    name = _local_name(where)
    copy = folder / manifest.version / name
    if not _complete(copy, manifest):
        with _cache_errors(folder), _alone(folder, tell):
            if not _complete(copy, manifest):  # another process may have been first
                _download(manifest, site, folder, where, tell)
                _assemble(manifest, folder, name)
            _keep_two(folder, manifest)
    elif _last_seen(folder) != manifest:
        with _cache_errors(folder):
            write_bytes(folder / _CURRENT, manifest.encode())
    with suppress(OSError):
        os.utime(folder / _CURRENT)  # when it was last compared with the URL
    return copy


def copy_there_is(folder: Path, where: str, why: str, tell: Callable[[str], None]) -> Path:
    """The copy of the last time, without asking the URL; ``tell`` takes a line that says so.

    Raises:
        GalleryError: if there is none, or it is not whole.
    """
    manifest = _last_seen(folder)
    copy = None if manifest is None else folder / manifest.version / _local_name(where)
    if manifest is None or copy is None or not _complete(copy, manifest):
        raise GalleryError(
            f"it cannot be reached, and there is no whole copy of it: {why}",
            where=where,
            hint="run the command again with a network, and without CHASH_OFFLINE",
        )
    date = time.strftime("%Y-%m-%d %H:%M", time.localtime((folder / _CURRENT).stat().st_mtime))
    tell(f"{where} is not asked: {why}; this is the copy of {date}")
    return copy


def _last_seen(folder: Path) -> Manifest | None:
    try:
        return Manifest.decode((folder / _CURRENT).read_bytes(), str(folder / _CURRENT))
    except (OSError, GalleryError):
        return None


def _complete(copy: Path, manifest: Manifest) -> bool:
    """Whether all files are there; each was compared with its sum before it got its name."""
    try:
        return all((copy / f.path).stat().st_size == f.bytes for f in manifest.files)
    except OSError:
        return False


@contextmanager
def _alone(folder: Path, tell: Callable[[str], None]) -> Iterator[None]:
    """Wait until no other process fetches the same."""
    folder.mkdir(parents=True, exist_ok=True)
    told = False
    with ExitStack() as stack:
        while True:
            try:
                stack.enter_context(writer_lock(folder / LOCK))
                break
            except GalleryLocked:
                if not told:
                    tell("another process is fetching it: waiting")
                    told = True
                time.sleep(_WAIT_SECONDS)
        yield


def _download(
    manifest: Manifest, site: Site, folder: Path, where: str, tell: Callable[[str], None]
) -> None:
    """Bring all contents into the folder's own, from other versions where they are the same."""
    contents = folder / _CONTENT
    contents.mkdir(exist_ok=True)
    for stray in contents.iterdir():
        if half_written(stray.name):
            stray.unlink()
    wanted = {file.sha256: file for file in manifest.files}
    have = {path.name for path in contents.iterdir()} | set(_shared(folder, wanted))
    missing = [file for digest, file in wanted.items() if digest not in have]
    size = sum(file.bytes for file in missing)
    free = shutil.disk_usage(folder).free
    if size > free:
        raise GalleryError(
            f"no room for a copy: it takes {_readable(size)}, {_readable(free)} are free",
            where=folder,
            hint="free some space (df -h), or CHASH_CACHE=FOLDER of another disk",
        )
    if missing:
        tell(f"fetching {len(missing)} files, {_readable(size)}, from {where}")
    for file in missing:
        _bring(file, site, contents / file.sha256, where)


def _shared(folder: Path, wanted: dict[str, File]) -> Iterator[str]:
    """Take over what a version that is there has too; gives the digests."""
    for version in _versions(folder):
        try:
            known = Manifest.decode((version / FETCHED).read_bytes(), str(version))
        except (OSError, GalleryError):
            continue
        for file in known.files:
            target = folder / _CONTENT / file.sha256
            for path in version.glob(f"*{SUFFIX}/{file.path}"):
                if file.sha256 not in wanted or target.exists():
                    continue
                # The size first: what has grown would be read in vain, and for long.
                if path.stat().st_size == file.bytes and sha256(path) == file.sha256:
                    _link(path, target)
            if target.exists():
                yield file.sha256


def _bring(file: File, site: Site, target: Path, where: str) -> None:
    """Fetch one content and compare it.

    Raises:
        GalleryError: if it stays another than was published.
        Missing, Unreachable, Refused: as the site tells.
    """
    for left in reversed(range(TRIES)):
        try:
            with replacing(target) as out:
                digest, size = hashlib.sha256(), 0
                for piece in site.read(file.content):
                    size += len(piece)
                    if size > file.bytes:
                        break
                    digest.update(piece)
                    out.write(piece)
                if size != file.bytes or digest.hexdigest() != file.sha256:
                    raise _Differs
            return
        except Unreachable:
            if not left:
                raise
        except _Differs:
            if not left:
                raise GalleryError(
                    f"{file.path} is not what was published: its SHA-256 differs",
                    where=where,
                    hint="run the command again; "
                    f"{push_again(site, where)} --verify sends it again",
                ) from None


class _Differs(Exception):
    """What came is not what was announced."""


def _assemble(manifest: Manifest, folder: Path, name: str) -> None:
    """Make the version of contents that are all there, whole or not at all."""
    for stray in folder.iterdir():
        if half_written(stray.name) or stray.name.endswith(".old"):
            shutil.rmtree(stray, ignore_errors=True)
    with new_folder(folder / manifest.version, replace=True) as version:
        for file in manifest.files:
            path = version / name / file.path
            path.parent.mkdir(parents=True, exist_ok=True)
            _link(folder / _CONTENT / file.sha256, path)
        (version / FETCHED).write_bytes(manifest.encode())
    write_bytes(folder / _CURRENT, manifest.encode())


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # not every file system has links
        with path.open("rb") as file, replacing(target) as copy:
            shutil.copyfileobj(file, copy)


def _keep_two(folder: Path, manifest: Manifest) -> None:
    """Delete contents that are in their version now, and all versions but this and one more."""
    shutil.rmtree(folder / _CONTENT, ignore_errors=True)
    others = [path for path in _versions(folder) if path.name != manifest.version]
    others.sort(key=lambda path: path.stat().st_mtime)
    for path in others[:-1]:
        # Windows keeps what a reader has open; the next call tries again.
        shutil.rmtree(path, ignore_errors=True)


def _versions(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if _VERSION.fullmatch(path.name)]


def _readable(size: int) -> str:
    if size < 1000:
        return f"{size} bytes"
    power = min(len(str(size)) - 1, 9) // 3
    return f"{size / 1000**power:.3g} {' kMG'[power]}B"

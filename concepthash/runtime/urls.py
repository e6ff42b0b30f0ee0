"""Photos behind URLs, through fsspec: listed once, read by whoever hashes them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from concepthash.errors import BackendError, ConceptHashError, DataError, Skipped, UsageError
from concepthash.images import is_image
from concepthash.runtime.entries import Url
from concepthash.runtime.sources import PARQUET, UNMARKED, Found, Place

_PASSWORD = re.compile(r"://[^/@\s]*:[^/@\s]*@")
_TIMES = ("mtime", "LastModified", "last_modified", "updated", "modified")
_TAGS = ("ETag", "etag", "md5Hash", "checksum", "Last-Modified", "created")
"""What the file systems of fsspec say of a file that changes with it, the surest first."""


@dataclass(frozen=True)
class Listing:
    """The files below a URL, or those that match one.

    Args:
        given: the URL.
        root: the same as fsspec writes it; None for a pattern.
        files: URL -> bytes and mark, as of :class:`concepthash.runtime.sources.Found`.
        read_from: the same URLs, with the password if one was given: it is kept nowhere.
    """

    given: Url
    root: Url | None
    base: Url
    files: Mapping[str, tuple[int, int]]
    read_from: Mapping[str, str]

    @classmethod
    def of(cls, url: str) -> Listing:
        """Ask once what is there.

        Raises:
            UsageError: if nothing is.
            DataError: if it cannot be listed.
            BackendError: if the package for such URLs is missing.
        """
        fs, path = file_system(url)
        with far_errors(url):
            if "*" in path:
                found, base = fs.glob(path, detail=True), path[: path.index("*")].rpartition("/")[0]
            elif not url.endswith("/") and fs.isfile(path):
                found, base = {path: fs.info(path)}, path
                _refuse_page(url, found[path])
            else:
                found, base = fs.find(path, detail=True), path.rstrip("/")
                found = {name: info for name, info in found.items() if _visible(name, base)}
                if not found and not fs.exists(path):
                    fs.info(path)  # its error may know why
                    raise FileNotFoundError(path)
            read_from, files = {}, {}
            for name, info in sorted(found.items()):
                if info.get("type") != "directory":
                    whole = _url(fs, name)
                    read_from[bare(whole)] = whole
                    files[bare(whole)] = int(info.get("size") or 0), mark(info)
            root = Url(bare(_url(fs, base)))
        return cls(Url(bare(url)), None if "*" in path else root, root, files, read_from)

    def tables(self) -> list[str]:
        """Where the files are read from, if they are Parquet files."""
        parquet = [
            whole for url, whole in self.read_from.items() if urlsplit(url).path.endswith(PARQUET)
        ]
        return parquet if not self.count() or len(parquet) == len(self.files) else []

    def table(self) -> str | None:
        """A Parquet file that is not read, as photos lie beside it; None if there is none."""
        return next((url for url in self.files if urlsplit(url).path.endswith(PARQUET)), None)

    def photos(self, unread: Skipped) -> Iterator[Found]:
        """As :meth:`concepthash.runtime.sources.PhotoSource.photos`."""
        for url, (size, changed) in self.files.items():
            path = Url(url)
            if self._wanted(path):
                label = None if self.base in (path, path.parent) else path.parent.name
                yield Found(path, Place(self.read_from[url]), size, changed, label)

    def count(self) -> int:
        """As :meth:`concepthash.runtime.sources.PhotoSource.count`."""
        return sum(1 for url in self.files if self._wanted(Url(url)))

    def named(self, path: Path) -> Path | None:
        """As :meth:`concepthash.runtime.sources.PhotoSource.named`."""
        return path if str(path) in self.files else None

    def gone(self, path: Path) -> bool:
        """As :meth:`concepthash.runtime.sources.PhotoSource.gone`: it was not listed."""
        return str(path) not in self.files

    def _wanted(self, path: Url) -> bool:
        named = path == self.base or self.root is None
        return named or is_image(Path(urlsplit(str(path)).path))


def bare(url: str) -> str:
    """A URL without its user and password, if it has a password."""
    parts = urlsplit(url)
    if parts.password is None:
        return url
    return url.replace(f"{parts.netloc.rpartition('@')[0]}@", "", 1)


def _url(fs: Any, name: str) -> str:
    """The URL of what a file system calls ``name``."""
    return str(fs.unstrip_protocol(name)).replace(":///", "://", 1)  # memory:// has a third


def _refuse_page(url: str, info: Mapping[str, Any]) -> None:
    """Tell what a web server shows of a folder, or in place of a photo, from a photo.

    Raises:
        UsageError: if it is a page.
    """
    if info.get("mimetype") == "text/html":
        raise UsageError(
            "a web page, not a photo; the URL of a folder ends with a slash",
            where=bare(url),
            hint=f"chash index {bare(url)}/",
        )


def _visible(name: str, base: str) -> bool:
    below = name.removeprefix(base).split("/")
    return not any(part.startswith(".") for part in below)


def mark(info: Mapping[str, Any]) -> int:
    """A number that changes with a file: nanoseconds, or digits of its tag; else UNMARKED."""
    for key in _TIMES:
        value = info.get(key)
        if isinstance(value, datetime):
            value = value if value.tzinfo else value.replace(tzinfo=UTC)
            return int(value.timestamp() * 10**6) * 1000
        if isinstance(value, int | float):
            return int(value * 10**9)
    for key in _TAGS:
        if info.get(key):
            return int.from_bytes(sha256(str(info[key]).encode()).digest()[:7])
    return UNMARKED


def read(url: str) -> bytes:
    """The content of a file.

    Raises:
        OSError: saying why not.
    """
    try:
        fs, path = file_system(url)
        return bytes(fs.cat_file(path))
    except ConceptHashError as error:
        raise OSError(error.what) from None
    except Exception as error:  # each file system has its own
        raise OSError(_reason(error)) from None


def open_far(url: str) -> IO[bytes]:
    """A file to read from here and there."""
    fs, path = file_system(url)
    opened: IO[bytes] = fs.open(path, "rb")
    return opened


def file_system(url: str) -> tuple[Any, str]:
    """What reads such URLs, and what it calls this one.

    Raises:
        BackendError: if a package is missing.
        UsageError: if there is no such scheme.
    """
    scheme = url.partition("://")[0]
    try:
        import fsspec.core

        fs, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        if error.name == "fsspec":
            needed = "pip install 'concepthash[url]'"
        else:
            needed = f"pip install {_PACKAGES.get(scheme, f'the package that reads {scheme}://')}"
        raise BackendError(
            f"a package is missing that reads {scheme}:// ({error})", where=bare(url), hint=needed
        ) from None
    except ValueError as error:
        raise UsageError(
            f"no such scheme: {error}", where=bare(url), hint="s3://, gs://, https://, or a folder"
        ) from None
    return fs, str(path)


_PACKAGES = {
    **dict.fromkeys(("s3", "s3a"), "s3fs"),
    **dict.fromkeys(("gs", "gcs"), "gcsfs"),
    **dict.fromkeys(("az", "abfs", "abfss", "adl"), "adlfs"),
    **dict.fromkeys(("http", "https"), "aiohttp requests"),
    **dict.fromkeys(("ssh", "sftp"), "paramiko"),
    "hf": "huggingface_hub",
}


@contextmanager
def far_errors(url: str) -> Iterator[None]:
    """Tell in our words what a file system says of a URL.

    Raises:
        UsageError: if nothing is there.
        DataError: for all else.
    """
    try:
        yield
    except (ConceptHashError, KeyboardInterrupt):
        raise
    except FileNotFoundError as error:
        cause = error.__cause__  # fsspec calls all that goes wrong over http a missing file
        lost = isinstance(cause, OSError) and not isinstance(cause, FileNotFoundError)
        if isinstance(cause, Exception) and (lost or getattr(cause, "status", 404) != 404):
            raise _unreadable(cause, url) from None
        raise UsageError(
            "nothing is there",
            where=bare(url),
            hint="look at the address; that of a folder ends with /",
        ) from None
    except Exception as error:  # each file system has its own
        raise _unreadable(error, url) from None


def _unreadable(error: Exception, url: str) -> DataError:
    return DataError(
        f"cannot be read: {_reason(error)}",
        where=bare(url),
        hint="look at the address, the network and the credentials of this machine",
    )


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if (status := getattr(error, "status", None)) is not None:
        return f"the server answers {status} {getattr(error, 'message', '')}".rstrip()
    number = getattr(error, "errno", None)
    if isinstance(number, int) and number > 0:  # asyncio's words for it are for programmers
        return os.strerror(number)
    if isinstance(error, TimeoutError) or "Timeout" in type(error).__name__:
        return "no answer in time"
    text = getattr(error, "strerror", None) or str(error)
    line = next(iter(text.splitlines()), "") or type(error).__name__
    return _PASSWORD.sub("://", line)

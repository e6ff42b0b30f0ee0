"""Where published galleries lie: a folder, a web server, or whatever fsspec reaches.

A folder (``file://``) and plain ``http(s)://`` need nothing installed; a web server is only read.
What else goes wrong there is one of three exceptions, whose texts never hold a password.
"""

from __future__ import annotations

import base64
import http.client
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, Protocol, runtime_checkable
from urllib.parse import SplitResult, quote, unquote, urlsplit, urlunsplit

from concepthash.errors import BackendError, ConceptHashError, UsageError
from concepthash.files import reason, refuse_pipe, replacing

CONNECT_SECONDS = 5.0
READ_SECONDS = 20.0
"""How long a web server may be silent within a reply."""
_CHUNK = 1 << 20
_REDIRECTS = 5
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_HTTP = ("http", "https")


class Missing(Exception):
    """There is no such file."""


class Unreachable(Exception):
    """The place does not answer now, or broke off; the text says why."""


class Refused(Exception):
    """The place answers, and will not give or take the file; the text says why."""


class Site(Protocol):
    """A place of files by name, as ``content/0a1b``."""

    def read(self, name: str) -> Iterator[bytes]:
        """The content of a file, piece by piece.

        Raises:
            Missing, Unreachable, Refused: also while it is read.
        """


@runtime_checkable
class WritableSite(Site, Protocol):
    """A place that can be written too, and that tells what is there."""

    def size(self, name: str) -> int | None:
        """Bytes of a file; None if it is not there."""

    def names(self, folder: str = "") -> list[str]:
        """What lies there, or in a folder there; nothing if it is not there."""

    def write(self, name: str, content: Iterator[bytes]) -> None:
        """Put a file there, in the place of one that is; whole or not at all, where it can be."""

    def delete(self, name: str) -> None:
        """Take a file away, if it is there."""


def is_url(text: str | PurePath) -> bool:
    """Whether it is a URL, and no path; also one that was made a path, as ``s3:/bucket/x``."""
    if isinstance(text, PurePath):
        return _URL.match(text.as_posix()) is not None and not Path(text).exists()
    found = _URL.match(text)
    return found is not None and text[found.end() :].startswith("/")


def as_url(text: str | PurePath) -> str:
    """A URL as it was before it was made a path, which joins its slashes."""
    whole = text.as_posix() if isinstance(text, PurePath) else text
    scheme, _, rest = whole.partition(":")
    if not rest.startswith("//"):
        rest = f"//{rest}" if scheme.lower() == "file" else f"/{rest}"
    return f"{scheme.lower()}:{rest}"


def shown(url: str) -> str:
    """A URL for people: without user, password and what follows a question mark."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, _host(parts), parts.path.rstrip("/"), "", ""))


def open_site(url: str) -> Site:
    """The place a URL names.

    Raises:
        UsageError: if it cannot be one.
        BackendError: if a package that reaches it is not installed.
    """
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - checked when it is asked for
    except ValueError:
        raise UsageError(
            "not a URL", where=shown_at_least(url), hint="https://HOST/NAME.chg"
        ) from None
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            raise UsageError(
                "a file URL names no host", where=shown(url), hint="file:///FOLDER/NAME.chg"
            )
        return FolderSite(Path(urllib.request.url2pathname(parts.path)))
    if parts.scheme in _HTTP:
        if not parts.hostname:
            raise UsageError("a URL without a host", where=shown(url), hint="https://HOST/NAME.chg")
        return WebSite(parts)
    return _fsspec_site(url)


def shown_at_least(url: str) -> str:
    """What may be shown of a text that is no URL: nothing before an ``@``."""
    return url.rpartition("@")[2].partition("?")[0]


class FolderSite:
    """A folder of this machine, or one that is mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, name: str) -> Iterator[bytes]:
        """As :meth:`Site.read`."""
        with _of_files():
            refuse_pipe(self.folder / name)
            with (self.folder / name).open("rb") as file:
                while piece := file.read(_CHUNK):
                    yield piece

    def size(self, name: str) -> int | None:
        """As :meth:`WritableSite.size`."""
        try:
            with _of_files():
                return (self.folder / name).stat().st_size
        except Missing:
            return None

    def names(self, folder: str = "") -> list[str]:
        """As :meth:`WritableSite.names`."""
        try:
            with _of_files():
                return [path.name for path in (self.folder / folder).iterdir()]
        except Missing:
            return []

    def write(self, name: str, content: Iterator[bytes]) -> None:
        """As :meth:`WritableSite.write`."""
        path = self.folder / name
        with _of_files():
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                file.writelines(content)

    def delete(self, name: str) -> None:
        """As :meth:`WritableSite.delete`."""
        with suppress(Missing), _of_files():
            (self.folder / name).unlink()


@contextmanager
def _of_files() -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise Missing from None
    except OSError as error:
        raise Refused(reason(error).lower()) from None


class WebSite:
    """A web server, only read."""

    def __init__(self, parts: SplitResult) -> None:
        self._parts = parts
        self._opener = urllib.request.OpenerDirector()
        for handler in (
            urllib.request.ProxyHandler, urllib.request.UnknownHandler, _Http, _Https,
            urllib.request.HTTPDefaultErrorHandler, _Redirects, urllib.request.HTTPErrorProcessor,
        ):  # fmt: skip
            self._opener.add_handler(handler())

    def read(self, name: str) -> Iterator[bytes]:
        """As :meth:`Site.read`."""
        path = quote(f"{self._parts.path.rstrip('/')}/{name}", safe="/%:@!$&'()*+,;=~")
        host = _host(self._parts)
        request = urllib.request.Request(
            urlunsplit((self._parts.scheme, host, path, self._parts.query, "")),
            headers={"User-Agent": "concepthash", "Cache-Control": "no-cache"},
        )
        if self._parts.username is not None:
            pair = f"{unquote(self._parts.username)}:{unquote(self._parts.password or '')}"
            word = base64.b64encode(pair.encode()).decode()
            request.add_unredirected_header("Authorization", f"Basic {word}")
        with _of_web(), self._opener.open(request, timeout=CONNECT_SECONDS) as reply:
            while piece := reply.read(_CHUNK):
                yield piece
            if reply.length:  # what was announced and did not come; read(n) does not say so
                raise Unreachable("the reply broke off")


@contextmanager
def _of_web() -> Iterator[None]:
    try:
        yield
    except urllib.error.HTTPError as error:
        error.close()
        if error.code in (404, 410):
            raise Missing from None
        says = f"the server says {error.code} {http.client.responses.get(error.code, '')}".strip()
        if error.code in (408, 429) or error.code >= 500:
            raise Unreachable(says) from None
        raise Refused(says) from None
    except (OSError, http.client.HTTPException) as error:
        why = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(why, ssl.SSLCertVerificationError):
            raise Refused(f"its certificate is not trusted: {why.verify_message}") from None
        if isinstance(why, TimeoutError):
            raise Unreachable("no answer in time") from None
        if isinstance(why, http.client.HTTPException):
            raise Unreachable("the reply broke off or is no HTTP") from None
        text = reason(why).lower() if isinstance(why, BaseException) else str(why)
        raise Unreachable(text) from None


class _Patient(http.client.HTTPConnection):
    """Waits shortly for a server, and longer within its reply."""

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _PatientTls(http.client.HTTPSConnection):
    """As :class:`_Patient`."""

    def connect(self) -> None:
        super().connect()
        self.sock.settimeout(READ_SECONDS)


class _Http(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_Patient, req)


class _Https(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> Any:
        return self.do_open(_PatientTls, req, context=ssl.create_default_context())


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to web servers only, never from TLS to none; a password stays with its server."""

    max_redirections = _REDIRECTS

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        old, new = urlsplit(req.full_url), urlsplit(newurl)
        if new.scheme not in _HTTP or (old.scheme == "https" and new.scheme != "https"):
            raise Refused(f"it sends on to {new.scheme}, which is not followed")
        made = super().redirect_request(req, fp, code, msg, headers, newurl)
        given = req.unredirected_hdrs.get("Authorization")
        if made is not None and given and (old.scheme, old.netloc) == (new.scheme, new.netloc):
            made.add_unredirected_header("Authorization", given)
        return made


class _FsspecSite:
    """A file system of fsspec."""

    def __init__(self, system: Any, folder: str, secrets: tuple[str, ...]) -> None:
        self._system = system
        self._folder = folder.rstrip("/")
        self._secrets = secrets

    def _at(self, name: str) -> str:
        return f"{self._folder}/{name}"

    def read(self, name: str) -> Iterator[bytes]:
        with self._errors():
            self._system.invalidate_cache()
            with self._system.open(self._at(name), "rb") as file:
                while piece := file.read(_CHUNK):
                    yield piece

    def size(self, name: str) -> int | None:
        try:
            with self._errors():
                self._system.invalidate_cache()
                return int(self._system.info(self._at(name))["size"])
        except Missing:
            return None

    def names(self, folder: str = "") -> list[str]:
        try:
            with self._errors():
                self._system.invalidate_cache()
                found = self._system.ls(self._at(folder).rstrip("/"), detail=False)
        except Missing:
            return []
        # An object store may list the folder's own mark among what is in it.
        return sorted({path.rpartition("/")[2] for path in found if not path.endswith("/")})

    def write(self, name: str, content: Iterator[bytes]) -> None:
        path = self._at(name)
        with self._errors():
            self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
            with self._system.open(path, "wb") as file:
                for piece in content:
                    file.write(piece)

    def delete(self, name: str) -> None:
        with suppress(Missing), self._errors():
            self._system.rm_file(self._at(name))

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What file systems raise is their own affair: classes of many packages."""
        try:
            yield
        except FileNotFoundError:
            raise Missing from None
        except ConceptHashError:  # of what is being written
            raise
        except Exception as error:
            text = str(error) or type(error).__name__
            for secret in self._secrets:
                text = text.replace(secret, "...")
            kind = Refused if isinstance(error, PermissionError) else Unreachable
            raise kind(text.splitlines()[0]) from None


def _fsspec_site(url: str) -> Site:
    parts = urlsplit(url)
    secrets = tuple(text for text in (parts.password, parts.query) if text)
    try:
        import fsspec
    except ImportError:
        raise BackendError(
            f"{parts.scheme}:// needs the extra 'url': fsspec is not installed",
            where=shown(url),
            hint="pip install 'concepthash[url]'",
        ) from None
    try:
        system, folder = fsspec.core.url_to_fs(url)
    except ImportError as error:
        package = _package(parts.scheme, error)
        raise BackendError(
            f"{parts.scheme}:// needs {package}, which is not installed",
            where=shown(url),
            hint=f"pip install 'concepthash[url]' {package}",
        ) from None
    except ValueError:
        raise UsageError(
            f"no file system is known for {parts.scheme}://",
            where=shown(url),
            hint="file://, https://, s3://, gs:// or another one of fsspec",
        ) from None
    return _FsspecSite(system, folder, secrets)


def _package(scheme: str, error: ImportError) -> str:
    """The package fsspec misses: that of its implementation, or what that one imports."""
    from fsspec.registry import known_implementations

    named = str(known_implementations.get(scheme, {}).get("class", "")).partition(".")[0]
    return named if named not in ("", "fsspec") else (error.name or "another package")


def _host(parts: SplitResult) -> str:
    """Host and port as they stand, without user and password."""
    return parts.netloc.rpartition("@")[2]

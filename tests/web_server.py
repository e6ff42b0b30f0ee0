"""A web server on loopback that shows a folder, and misbehaves where a test says so."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

Trick = Callable[[BaseHTTPRequestHandler, bytes], None]
"""Replies in the place of the server; is given the content."""


@dataclass
class Web:
    """What the server shows and was asked.

    Args:
        url: of the folder.
        folder: what it shows.
        tricks: by the end of a path; one is used up by a request, the last of a list stays.
        asked: the paths so far.
        authorized: of each, what it had as ``Authorization``.
    """

    url: str
    folder: Path
    tricks: dict[str, list[Trick]] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    authorized: list[str | None] = field(default_factory=list)

    def contents(self) -> list[str]:
        """The names of the contents that were asked for."""
        return [path.rpartition("/")[2] for path in self.asked if "/content/" in path]


def whole(request: BaseHTTPRequestHandler, data: bytes) -> None:
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data)


def begun(request: BaseHTTPRequestHandler, data: bytes, count: int) -> None:
    """The first ``count`` bytes of a reply that was to have all."""
    request.send_response(200)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    request.wfile.write(data[:count])
    request.wfile.flush()


def truncated(request: BaseHTTPRequestHandler, data: bytes) -> None:
    begun(request, data, len(data) // 2)


def flipped(request: BaseHTTPRequestHandler, data: bytes) -> None:
    whole(request, bytes([data[0] ^ 1]) + data[1:])


def longer(request: BaseHTTPRequestHandler, data: bytes) -> None:
    whole(request, data + b"more")


def shorter(request: BaseHTTPRequestHandler, data: bytes) -> None:
    whole(request, data[:-1])


def no_http(request: BaseHTTPRequestHandler, data: bytes) -> None:
    request.wfile.write(b"\0\1\2 this is no HTTP\r\n\r\n")


def status(code: int, **headers: str) -> Trick:
    def reply(request: BaseHTTPRequestHandler, data: bytes) -> None:
        request.send_response(code)
        for name, value in headers.items():
            request.send_header(name, value)
        request.send_header("Content-Length", "0")
        request.end_headers()

    return reply


@contextmanager
def web_server(folder: Path) -> Iterator[Web]:
    """Shows ``folder`` until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            web.asked.append(path)
            web.authorized.append(self.headers["Authorization"])
            file = web.folder / path.lstrip("/")
            for end, tricks in web.tricks.items():
                if path.endswith(end) or end in ("*", path.rpartition("/")[0].rpartition("/")[2]):
                    trick = tricks.pop(0) if len(tricks) > 1 else tricks[0]
                    trick(self, file.read_bytes() if file.is_file() else b"")
                    return
            if file.is_file():
                whole(self, file.read_bytes())
            else:
                status(404)(self, b"")

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that gave up on a trick

    with Server(("127.0.0.1", 0), Handler) as server:
        web = Web(f"http://127.0.0.1:{server.server_address[1]}", folder)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield web
        finally:
            server.shutdown()
            thread.join()

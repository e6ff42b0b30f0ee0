"""A server in a thread, on a free port of loopback, and what a client gets from it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest

pytest.importorskip("uvicorn", reason="the extra serve is not installed")
pytest.importorskip("msgspec", reason="the extra serve is not installed")

from concepthash.serve.connection import Bounds
from concepthash.serve.engine import Engine, Limits
from concepthash.serve.server import Server, listening, serve

TOKEN = "a-token-of-the-tests"
BOUNDARY = "edge-of-the-tests"


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes

    def json(self, schema: str) -> dict[str, Any]:
        value = json.loads(self.body)
        assert value["schema"] == schema, self.body
        return value

    def error(self, status: int) -> dict[str, Any]:
        """What went wrong; every refusal says so in the same shape."""
        assert self.status == status, self.body
        error = self.json("chash.error/1")["error"]
        assert error["status"] == status
        assert error["what"]
        assert set(error) == {"what", "where", "try", "status"}
        return error


@dataclass(frozen=True)
class Client:
    host: str
    port: int
    server: Server

    def ask(self, method: str, path: str, body: bytes | Any = None, **headers: str) -> Answer:
        """One request; an underscore in the name of a header is a hyphen, other bodies are JSON."""
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body).encode()
            given.setdefault("Content-Type", "application/json")
        connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        try:
            connection.request(method, path, body, given)
            response = connection.getresponse()
            named = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, named, response.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, **headers)

    def form(self, path: str, *parts: tuple[str, str | None, bytes]) -> Answer:
        """A form of parts: name, file name or None, content."""
        kind = f"multipart/form-data; boundary={BOUNDARY}"
        return self.ask("POST", path, form(*parts), Content_Type=kind)

    @contextmanager
    def raw(self, data: bytes) -> Iterator[socket.socket]:
        """A connection on which some bytes were sent."""
        with socket.create_connection((self.host, self.port), timeout=30) as connection:
            connection.sendall(data)
            yield connection


def form(*parts: tuple[str, str | None, bytes]) -> bytes:
    lines = []
    for name, file, content in parts:
        named = f'; filename="{file}"' if file is not None else ""
        head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        lines.append(head.encode() + content + b"\r\n")
    return b"".join([*lines, f"--{BOUNDARY}--\r\n".encode()])


def drained(connection: socket.socket) -> bytes:
    """All that comes until the server closes."""
    parts = []
    try:
        while part := connection.recv(65536):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)


@contextmanager
def running(
    engine: Engine,
    *,
    token: str | None = None,
    limits: Limits | None = None,
    seconds: float = 30.0,
    bounds: Bounds | None = None,
    lines: list[str] | None = None,
) -> Iterator[Client]:
    """A server that ends with the block; it must end without an error."""
    bound = listening("127.0.0.1", 0, token=token is not None)
    port = bound.getsockname()[1]
    ready, held, failed = threading.Event(), [], []

    def note(server: Server) -> None:
        held.append(server)
        ready.set()

    def work() -> None:
        try:
            serve(
                engine, bound, host="127.0.0.1", token=token, limits=limits or Limits(),
                seconds=seconds, bounds=bounds, ready=note,
                log=None if lines is None else lines.append,
            )  # fmt: skip
        except BaseException as error:
            failed.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert ready.wait(60)
    if failed:
        raise failed[0]
    try:
        yield Client("127.0.0.1", port, held[0])
    finally:
        held[0].should_exit = True
        thread.join(60)
        assert not thread.is_alive()
    if failed:
        raise failed[0]

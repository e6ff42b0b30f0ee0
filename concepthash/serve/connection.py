"""Connections that cannot be held open by being slow: uvicorn's HTTP protocol with bounds added.

Uvicorn ends idle connections between requests, and nothing else. Here, once a second, those are
ended that have not sent the head of a request in time, that go on sending a body nobody reads, that
do not read their answer, or whose request has outlived every deadline. A new connection beyond the
bound takes the place of the one that has kept us waiting longest for its request; if none does, it
is answered with 503 and closed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from concepthash.serve.app import Send, send_reply
from concepthash.serve.replies import Refused, Reply, retry
from concepthash.serve.requests import Message, Receive

if TYPE_CHECKING:
    from uvicorn.config import Config
    from uvicorn.server import ServerState

HEAD_BYTES = 2**16
"""Of a request beside its body: the line, headers, and the framing of chunks."""

SWEEP_SECONDS = 1.0


@dataclass(frozen=True)
class Bounds:
    """What a connection may do.

    Args:
        connections: open at once.
        head: seconds for the head of a request, from the opening of its connection on.
        request: seconds for a request, all in all.
        grace: seconds for a request before its connection may have to make room for a new one.
        linger: seconds in which an answer must have been read, and the rest of a body that was
            refused is still taken, so that the client gets to read why.
        turned_away: called for each connection that is ended for one of these.
    """

    connections: int = 512
    head: float = 10.0
    request: float = 60.0
    grace: float = 1.0
    linger: float = 5.0
    turned_away: Callable[[], None] = lambda: None


class Connection(HttpToolsProtocol):
    """One connection of a client."""

    bounds = Bounds()

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self.since = self.loop.time()
        self._waiting = True  # for the head of a request
        self._whole = True  # the body of the last request has come
        self._closing: float | None = None
        self._fed = 0
        self._body = 0
        self._cycles: deque[Any] = deque()  # requests without an answer; uvicorn knows the last

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept a connection, unless there are too many."""
        super().connection_made(transport)  # type: ignore[arg-type]
        if len(self.connections) <= self.bounds.connections or self._take_place():
            return
        self.bounds.turned_away()
        self.app = _too_many

    def _take_place(self) -> bool:
        """End the connection that has kept us waiting longest; return whether there was one."""
        latest = self.loop.time() - self.bounds.grace
        others: Iterable[Any] = self.connections
        waiting = [c for c in others if c.awaited and c.since <= latest and c is not self]
        if not waiting:
            return False
        min(waiting, key=lambda connection: connection.since).end()
        return True

    @property
    def awaited(self) -> bool:
        """Whether a request is being waited for, the next one too, or the rest of one."""
        return (self._answered or not self._whole) and not self.transport.is_closing()

    @property
    def _answered(self) -> bool:
        return not self._cycles

    def data_received(self, data: bytes) -> None:
        """Read some more of a request, unless its head grows without end."""
        if self.transport.is_closing():
            return
        self._fed += len(data)
        if self._fed > HEAD_BYTES + 2 * self._body + len(data) and not self._whole:
            self._refuse(Refused(431, f"the head is larger than {HEAD_BYTES} bytes"))
            return
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        self._refuse(Refused(400, "this is no HTTP request"))

    def on_message_begin(self) -> None:
        """A request begins."""
        super().on_message_begin()
        if not self._waiting:
            self.since = self.loop.time()
        self._waiting = True
        self._whole = False
        self._fed = self._body = 0

    def on_headers_complete(self) -> None:
        """The head of a request has come."""
        self._waiting = False
        self.since = self.loop.time()
        super().on_headers_complete()
        self._cycles.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Some of a body has come."""
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """All of a request has come."""
        self._whole = True
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """An answer was written."""
        self.since = self.loop.time()
        self._cycles.popleft()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """The client is gone, and nobody waits for any of its requests."""
        for cycle in self._cycles:
            cycle.disconnected = True
            cycle.message_event.set()
        super().connection_lost(exc)

    def sweep(self, now: float) -> None:
        """End this connection if it is too slow."""
        bounds = self.bounds
        if self.transport.is_closing():
            self._closing = self._closing or now
            if now - self._closing > bounds.linger:
                self.transport.abort()
            return
        age = now - self.since
        if self._waiting:
            if age > bounds.head:
                self._refuse(Refused(408, f"no request came within {bounds.head:g} s"))
        elif not self._answered:
            if age > bounds.request:
                self.end()
        elif not self._whole or self.transport.get_write_buffer_size():
            if age > bounds.linger:
                self.end()
        elif age > bounds.head + self.timeout_keep_alive:  # bytes came, but not of a request
            self.end()

    def _refuse(self, refused: Refused) -> None:
        self.bounds.turned_away()
        if self._answered:
            self._write(refused.reply)
        else:  # half of an answer may have been written
            self.transport.abort()

    def end(self) -> None:
        """Close at once."""
        self.bounds.turned_away()
        self.transport.abort()

    def _write(self, reply: Reply) -> None:
        head = b"HTTP/1.1 %d \r\ncontent-type: %s\r\ncontent-length: %d\r\nconnection: close\r\n"
        lines = [head % (reply.status, reply.type, len(reply.body))]
        lines += [b"%s: %s\r\n" % pair for pair in reply.headers]
        self.transport.write(b"".join([*lines, b"\r\n", reply.body]))
        self.transport.close()


async def _too_many(scope: Message, receive: Receive, send: Send) -> None:
    headers = (*retry(1), (b"connection", b"close"))
    await send_reply(send, Refused(503, "too many connections", headers=headers).reply)


def with_bounds(bounds: Bounds) -> type[Connection]:
    """The protocol of one server."""
    return type("BoundConnection", (Connection,), {"bounds": bounds})


async def sweep(connections: set[Any], clock: Callable[[], float]) -> None:
    """End slow connections, for ever."""
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        now = clock()
        for connection in list(connections):
            connection.sweep(now)

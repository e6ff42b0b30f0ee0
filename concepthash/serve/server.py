"""Listening: a socket, the application behind it, and the signals that end it."""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn

from concepthash.errors import ConceptHashError, UsageError
from concepthash.serve.app import App
from concepthash.serve.connection import Bounds, sweep, with_bounds
from concepthash.serve.guard import Guard

if TYPE_CHECKING:
    from concepthash.serve.engine import Engine, Limits

BACKLOG = 1024
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")

_ENDING = (signal.SIGINT, signal.SIGTERM)
_RELOAD = getattr(signal, "SIGHUP", None)


def listening(host: str, port: int, *, token: bool) -> socket.socket:
    """A socket bound to an address, on which nobody is accepted yet.

    Args:
        host: a name or an address of this machine.
        port: 0 for any that is free.
        token: whether clients must bring one; without it only loopback will do.

    Raises:
        UsageError: if the host is not one of this machine, or others can reach it without a token.
        ConceptHashError: if the port is taken or may not be used.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        raise UsageError(
            f"no such address: {error}", where=f"--host {host}", hint="--host 127.0.0.1"
        ) from None
    family, kind, protocol, _, address = found[0]
    if not token and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        raise UsageError(
            "others could reach this address, and there is no token",
            where=f"--host {host}",
            hint='python -c "import secrets; print(secrets.token_urlsafe(32))" makes one: '
            "put it into CHASH_TOKEN or --token-file",
        )
    bound = socket.socket(family, kind, protocol)
    try:
        if os.name == "posix":  # elsewhere it would let two servers share a port
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise _unusable(error, host, port) from None
    return bound


def _unusable(error: OSError, host: str, port: int) -> ConceptHashError:
    where = f"--host {host} --port {port}"
    if error.errno == errno.EADDRINUSE:
        return ConceptHashError(
            f"something listens on port {port} already",
            where=where,
            hint="--port 0 takes a free one",
        )
    if error.errno in (errno.EACCES, errno.EPERM):
        return ConceptHashError(
            f"port {port} may not be used by this user", where=where, hint="--port 8000"
        )
    return UsageError(
        f"cannot listen there: {error.strerror or error}", where=where, hint="--host 127.0.0.1"
    )


def url_of(bound: socket.socket, host: str) -> str:
    """The address a browser on this machine opens."""
    address, port = bound.getsockname()[:2]
    if ipaddress.ip_address(address.partition("%")[0]).is_unspecified:
        host = "127.0.0.1"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def reach(bound: socket.socket, *, token: bool) -> str | None:
    """Who else can reach a server, in a line for its operator; None if only this machine can."""
    host, port = bound.getsockname()[:2]
    address = ipaddress.ip_address(host.partition("%")[0])
    if address.is_loopback:
        return None
    where = "at every address of this machine" if address.is_unspecified else f"at {host}"
    need = ": they need the token" if token else ""
    return f"others can reach it too, {where}, port {port}{need}"


def guard_of(token: str | None, host: str) -> Guard:
    """Who may ask a server that listens on ``host``."""
    own = f"[{host}]" if ":" in host else host
    return Guard(token, frozenset({*LOOPBACK_NAMES, own.lower()}))


class Server(uvicorn.Server):
    """Uvicorn, with our signals: SIGINT and SIGTERM end it, twice at once; SIGHUP reloads.

    In a terminal SIGHUP ends it too: there it says that the terminal was closed.

    Args:
        app: the application.
        bound: where it listens.
        seconds: for a request, and for the last ones after the end was asked for.
        bounds: of connections.
        ready: called with it once it listens; ``should_exit`` ends it.
        reload: called on SIGHUP, on the event loop.
    """

    def __init__(
        self,
        app: App,
        bound: socket.socket,
        *,
        seconds: float,
        bounds: Bounds,
        ready: Callable[[Server], None],
        reload: Callable[[], object],
    ) -> None:
        config = uvicorn.Config(
            app,
            http=with_bounds(bounds),
            ws="none",
            lifespan="off",
            log_config=None,
            log_level="error",  # the rest is of no use to whoever reads ours
            access_log=False,
            proxy_headers=False,
            server_header=False,
            backlog=BACKLOG,
            timeout_graceful_shutdown=max(1, round(seconds)),
        )
        super().__init__(config)
        self._app = app
        self._bound = bound
        self._ready = ready
        self._reload = reload

    async def run_here(self) -> None:
        """Serve until the end is asked for."""
        loop = asyncio.get_running_loop()
        connections = self.server_state.connections
        self._app.service.metrics.connections.set_function(lambda: len(connections))
        sweeper = loop.create_task(sweep(connections, loop.time))
        try:
            await self.serve(sockets=[self._bound])
        finally:
            sweeper.cancel()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        try:
            await super().startup(sockets)
        except OSError as error:  # another process began to listen after both had bound
            raise _unusable(error, *self._bound.getsockname()[:2]) from None
        self._ready(self)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept nobody any more, and finish what was begun, unless asked not to wait for it."""
        self._app.service.stopping = True
        await super().shutdown(sockets)
        if self.force_exit:
            for task in self.server_state.tasks:
                task.cancel()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals inside the block, if this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        handlers: dict[signal.Signals, Any] = dict.fromkeys(_ENDING, self.handle_exit)
        if _RELOAD is not None:
            reload = partial(loop.call_soon_threadsafe, self._reload)
            ours = sys.stdin is not None and sys.stdin.isatty()
            handlers[_RELOAD] = self.handle_exit if ours else lambda *_: reload()
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Ask for the end; asked twice, do not wait for what still runs."""
        self.force_exit = self.should_exit
        self.should_exit = True


def serve(
    engine: Engine,
    bound: socket.socket,
    *,
    host: str,
    token: str | None,
    limits: Limits,
    seconds: float = 30.0,
    bounds: Bounds | None = None,
    ready: Callable[[Server], None] = lambda _: None,
    log: Callable[[str], None] | None = None,
) -> None:
    """Serve a gallery until SIGINT or SIGTERM.

    Args:
        engine: not started yet; it is stopped at the end.
        bound: of :func:`listening`; closed at the end.
        host: as it was asked for: the server may be called so.
        token: clients must bring it; None for none.
        limits: of requests.
        seconds: for a request.
        bounds: of connections; by default they follow from ``seconds``.
        ready: called with the server once it listens; ``should_exit`` ends it.
        log: told one line a request.

    Raises:
        ConceptHashError: if the engine cannot start.
    """

    async def run() -> None:
        await engine.start()
        try:
            app = App(engine, limits, guard_of(token, host), seconds=seconds, log=log)
            kept = bounds or Bounds(request=2 * seconds + 5)
            kept = replace(kept, turned_away=app.service.metrics.turned_away.inc)
            server = Server(
                app,
                bound,
                seconds=seconds,
                bounds=kept,
                ready=ready,
                reload=engine.reload,
            )
            try:
                await server.run_here()
            finally:
                app.service.close()
        finally:
            await engine.stop()

    factory = uvicorn.Config("", log_config=None).get_loop_factory()
    with bound, asyncio.Runner(loop_factory=factory) as runner:
        runner.run(run())

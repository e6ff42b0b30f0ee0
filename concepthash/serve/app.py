"""The ASGI application: lets requests in, reads and routes them, and answers every one."""

from __future__ import annotations

import asyncio
import sys
import time
import traceback
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

from concepthash.errors import (
    ConceptHashError,
    ImageError,
    MismatchError,
    NothingFound,
    UsageError,
)
from concepthash.serve.batching import Busy
from concepthash.serve.guard import POLICY, SECURITY, Guard
from concepthash.serve.openapi import document
from concepthash.serve.photos import TooLarge
from concepthash.serve.replies import Refused, Reply, encoded, retry
from concepthash.serve.requests import Gone, Message, Receive, Request, read
from concepthash.serve.routes import ROUTES, Route, find
from concepthash.serve.service import Service

if TYPE_CHECKING:
    from concepthash.serve.engine import Engine, Limits

Send = Callable[[Message], Awaitable[None]]
Log = Callable[[str], None]
Made = TypeVar("Made")

UNKNOWN = "other"
"""The route of paths that have none, in the figures."""

_POLICY = (b"content-security-policy", POLICY)


class App:
    """Answers HTTP requests with what an engine finds.

    Args:
        engine: started, and stopped, by the caller.
        limits: of requests.
        guard: lets requests in.
        seconds: in which a body must have come, and then its answer must be made.
        log: told one line a request; None for no log.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        guard: Guard,
        *,
        seconds: float = 30.0,
        log: Log | None = None,
    ) -> None:
        self.service = service = Service(engine, limits, guard)
        described = document(ROUTES, tuple(sorted(service.files)), token=guard.token)
        service.document = encoded(described)
        self._seconds = seconds
        self._log = log

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request, whatever it is."""
        if scope["type"] != "http":
            return
        began = time.perf_counter()
        method, path = scope["method"], scope["path"]
        found = find(path)
        request = Request(
            "GET" if method == "HEAD" else method,
            path,
            scope["query_string"],
            dict(scope["headers"]),
            receive,
            self.service.room,
            found[1] if found else 0,
        )
        try:
            reply = await self._reply(request, found[0] if found else None)
        except Gone:
            reply = None
        except asyncio.CancelledError:  # the server stops, and has waited long enough
            reply = Refused(503, "the server is stopping", headers=retry(1)).reply
        finally:
            self.service.room.taken -= request.taken
        if reply is not None:
            await send_reply(send, reply)
        seconds = time.perf_counter() - began
        status = reply.status if reply else 499
        route = found[0].path if found else UNKNOWN
        known = method if method in ("GET", "POST", "HEAD") else UNKNOWN
        self.service.metrics.observe(route, known, status, seconds)
        if self._log is not None:
            self._log(f"{method} {path} {status} {seconds * 1000:.1f} ms")

    async def _reply(self, request: Request, route: Route | None) -> Reply:
        try:
            return await self._answer(request, route)
        except Refused as refused:
            return refused.reply
        except Busy as busy:
            return Refused(
                503, str(busy), hint="send it again later", headers=retry(busy.retry_after)
            ).reply
        except TimeoutError as error:
            what = str(error) or f"it was not done within {self._seconds:g} s"
            return Refused(504, what, hint="send it again later").reply
        except ConceptHashError as error:
            return _refused(error).reply
        except Gone:
            raise
        except Exception:
            traceback.print_exc(file=sys.stderr)
            return Refused(500, "a fault of the server: its log has more").reply

    async def _answer(self, request: Request, route: Route | None) -> Reply:
        service = self.service
        service.guard.check(request.method, request.headers, free=route is not None and route.free)
        if route is None:
            raise Refused(404, "there is nothing here", where="path", hint="GET /openapi.json")
        if request.method not in route.methods:
            head = ["HEAD"] if "GET" in route.methods else []
            allowed = ", ".join([*route.methods, *head])
            raise Refused(
                405,
                f"this takes {allowed}",
                where="method",
                headers=((b"allow", allowed.encode()),),
            )
        asking = await read(
            request,
            route.asking,
            images=route.images,
            upload=service.limits.upload_bytes,
            seconds=self._seconds,
        )
        work = route.handler(service, request, asking)
        async with asyncio.timeout(self._seconds):
            if route.slow or request.uploads:
                return await _unless_gone(request.receive, work)
            return await work


async def _unless_gone(receive: Receive, work: Awaitable[Made]) -> Made:
    """What ``work`` makes, unless the client hangs up first: then it is cancelled.

    Raises:
        Gone: if the client hung up.
    """
    working = asyncio.ensure_future(work)
    watching = asyncio.ensure_future(_hung_up(receive))
    try:
        await asyncio.wait((working, watching), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise Gone
    finally:
        working.cancel()
        watching.cancel()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _refused(error: ConceptHashError) -> Refused:
    """What went wrong below, in the words of HTTP."""
    if isinstance(error, NothingFound):
        status = 404
    elif isinstance(error, UsageError | MismatchError):
        status = 400
    elif isinstance(error, TooLarge):
        status = 413
    elif isinstance(error, ImageError):
        status = 422
    else:
        status = 503
    headers = retry(1) if status == 503 else ()
    return Refused(status, error.what, where=error.where, hint=error.hint, headers=headers)


async def send_reply(send: Send, reply: Reply) -> None:
    """Send a whole reply, with the headers that every one has."""
    headers = [(b"content-type", reply.type), *SECURITY, *reply.headers]
    if reply.status != 304:  # whose length would be that of what the client has
        headers.append((b"content-length", b"%d" % len(reply.body)))
    if not any(name == _POLICY[0] for name, _ in reply.headers):
        headers.append(_POLICY)
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})

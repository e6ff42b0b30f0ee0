"""What goes back over the wire: a status, a body and its headers, or a refusal that says why."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import msgspec

JSON = b"application/json"
Headers = tuple[tuple[bytes, bytes], ...]
"""Names in lower case, and values."""

_encoder = msgspec.json.Encoder()


@dataclass(frozen=True)
class Reply:
    """One answer, whole."""

    status: int
    body: bytes
    type: bytes = JSON
    headers: Headers = ()


class Refused(Exception):
    """A request that is not answered as asked.

    Args:
        status: of HTTP, 4xx or 5xx.
        what: one sentence, no trailing full stop.
        where: the part of the request concerned.
        hint: what to send instead.
        headers: that go with the status.
    """

    def __init__(
        self,
        status: int,
        what: str,
        *,
        where: str | None = None,
        hint: str | None = None,
        headers: Headers = (),
    ) -> None:
        super().__init__(what)
        self.status = status
        self.what = what
        self.where = where
        self.hint = hint
        self.headers = headers

    @property
    def reply(self) -> Reply:
        """The refusal as JSON, in the shape of the command line's errors."""
        error = {"what": self.what, "where": self.where, "try": self.hint, "status": self.status}
        body = encoded({"schema": "chash.error/1", "error": error})
        return Reply(self.status, body, headers=self.headers)


def retry(seconds: float) -> Headers:
    """When a client that is refused now may come again."""
    return ((b"retry-after", b"%d" % max(1, round(seconds))),)


def encoded(value: Any) -> bytes:
    """A value as JSON; file names that are no Unicode keep their bytes, as on the command line."""
    try:
        return _encoder.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value)).encode()


def answered(
    value: Any, *, timing: Iterable[tuple[str, float]] = (), missing: Iterable[str] = ()
) -> Reply:
    """A value as JSON.

    Args:
        value: of one of the types of :mod:`concepthash.serve.schemas`, or plain values.
        timing: stages and their seconds, for ``Server-Timing``.
        missing: shards that are not in it, for ``Chash-Missing-Shards``.
    """
    stages = ", ".join(f"{name};dur={seconds * 1000:.2f}" for name, seconds in timing)
    shards = ", ".join(map(quote, missing))
    named = ((b"server-timing", stages), (b"chash-missing-shards", shards))
    headers = tuple((name, text.encode()) for name, text in named if text)
    return Reply(200, encoded(value), headers=headers)

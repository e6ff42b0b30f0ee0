"""What a client sent, read within limits and checked: options by their types, images as bytes.

Nothing in a request is ever used as a path, and nothing of it is written to disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import msgspec
import msgspec.inspect
import msgspec.structs

from concepthash.serve.forms import Upload, read_form
from concepthash.serve.replies import Refused, retry
from concepthash.serve.schemas import Asking

OPTION_BYTES = 2**16
"""Of the query string, of a JSON body, and of a form beside its images."""

FIELDS = 300
"""Options of a request, counting each of a list."""

RETRY_SECONDS = 1.0
_REPEATED = frozenset({"labels"})

Message: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Message]]
Some = TypeVar("Some", bound=Asking)


class Gone(Exception):
    """The client hung up before its request was answered."""


class Allowance:
    """The memory that bodies of all requests together may take, in bytes."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.taken = 0

    def take(self, count: int) -> None:
        """Reserve some more.

        Raises:
            Refused: if there is not enough: others are uploading.
        """
        if self.taken + count > self.size:
            raise Refused(
                503,
                "too many uploads at once",
                hint="send it again later",
                headers=retry(RETRY_SECONDS),
            )
        self.taken += count


@dataclass
class Request:
    """One request; ``taken`` bytes of ``room`` are to be given back when it is answered."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    receive: Receive
    room: Allowance
    id: int = 0
    taken: int = 0
    uploads: dict[str, Upload] = field(default_factory=dict)

    @property
    def type(self) -> bytes:
        """The content type without its parameters, in lower case; empty if none was given."""
        return self.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()

    async def body(self, limit: int, seconds: float) -> bytes:
        """The whole body.

        Args:
            limit: bytes.
            seconds: in which it must have come.

        Raises:
            Refused: if it is too large (413) or too slow (408).
            Gone: if the client hung up.
        """
        declared = self.headers.get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(seconds):
                while True:
                    message = await self.receive()
                    if message["type"] != "http.request":
                        raise Gone
                    part = message.get("body", b"")
                    size += len(part)
                    if size > limit:
                        raise _too_large(limit)
                    self.room.take(len(part))
                    self.taken += len(part)
                    parts.append(part)
                    if not message.get("more_body"):
                        return parts[0] if len(parts) == 1 else b"".join(parts)
        except TimeoutError:
            raise Refused(
                408,
                f"the body did not come within {seconds:g} s",
                hint="send a smaller image",
                headers=((b"connection", b"close"),),
            ) from None


async def read(
    request: Request, asking: type[Some], *, images: tuple[str, ...], upload: int, seconds: float
) -> Some:
    """The options of a request, wherever it has them; images go to ``request.uploads``.

    Args:
        request: its body is read, unless it is a GET.
        asking: the type of the options.
        images: names of the images that the request may have.
        upload: bytes of an image at most.
        seconds: for the body.

    Raises:
        Refused: 400 for options, 408 and 413 for the body, 415 for its type.
        Gone: if the client hung up.
    """
    if request.method == "GET":
        ignored = not request.query or not asking.__struct_fields__
        return asking() if ignored else options(request.query, asking)
    kind = request.type
    if kind == b"application/json":
        body = await request.body(OPTION_BYTES, seconds)
        return _from_json(body, request.query, asking)
    if kind == b"multipart/form-data":
        body = await request.body(len(images) * upload + OPTION_BYTES, seconds)
        pairs, request.uploads = read_form(
            body, request.headers[b"content-type"], images, upload=upload, fields=FIELDS
        )
        return _typed(_gathered([*_pairs(request.query), *pairs]), asking)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        found = options(request.query, asking)  # before the work of reading
        body = await request.body(upload, seconds)
        if not body:
            raise Refused(400, "there is no image in the request", where="body", hint=_SEND)
        request.uploads = {images[0]: Upload(None, body)}
        return found
    if not kind and not await request.body(0, seconds):
        return options(request.query, asking)
    raise Refused(
        415,
        f"{kind.decode('latin-1') or 'a body without a type'} is neither an image nor options",
        where="Content-Type",
        hint=_SEND,
    )


_SEND = "image/jpeg, image/png, application/octet-stream, multipart/form-data or application/json"


def options(query: bytes, asking: type[Some]) -> Some:
    """The options of a query string.

    Raises:
        Refused: if one is unknown, malformed or out of bounds.
    """
    return _typed(_gathered(_pairs(query)), asking)


def _pairs(query: bytes) -> list[tuple[str, str]]:
    if len(query) > OPTION_BYTES:
        raise Refused(400, "too many options", where="query string")
    try:
        return parse_qsl(
            query.decode(), keep_blank_values=True, max_num_fields=FIELDS, errors="strict"
        )
    except ValueError:
        raise Refused(400, "the query string cannot be read", where="query string") from None


def _gathered(pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in _REPEATED:
            values.setdefault(name, []).append(value)
        elif name in values:
            raise Refused(400, f"{name} was given twice", where=name)
        else:
            values[name] = value
    return values


def _typed(values: Any, asking: type[Some]) -> Some:
    try:
        return msgspec.convert(values, asking, strict=False)
    except msgspec.ValidationError as error:
        raise _malformed(error, asking) from None


def _from_json(body: bytes, query: bytes, asking: type[Some]) -> Some:
    try:
        if not query:
            return msgspec.json.decode(body, type=asking, strict=False)
        values = msgspec.json.decode(body, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError) as error:
        raise _malformed(error, asking) from None
    return _typed({**_gathered(_pairs(query)), **values}, asking)


def _malformed(error: Exception, asking: type[Asking]) -> Refused:
    what, at, place = str(error).partition(" - at ")
    where = place.strip("`").removeprefix("$.") if at else "options"
    if wanted := _wanted(where, asking):
        what = f"{where} is {wanted}"
    return Refused(400, what, where=where, hint="GET /openapi.json has all options")


def _wanted(option: str, asking: type[Asking]) -> str | None:
    """What an option has to be, in words; None for those that the parser's own words suit."""
    types = {one.encode_name: one.type for one in msgspec.structs.fields(asking)}
    if option not in types:
        return None
    kind = msgspec.inspect.type_info(types[option])
    for one in kind.types if isinstance(kind, msgspec.inspect.UnionType) else (kind,):
        if isinstance(one, msgspec.inspect.Metadata):
            one = one.type
        if isinstance(one, msgspec.inspect.LiteralType):
            return f"one of {', '.join(map(str, one.values))}"
        if isinstance(one, msgspec.inspect.IntType):
            return f"a whole number from {one.ge} to {one.le}"
    return None


def _too_large(limit: int) -> Refused:
    return Refused(
        413, f"the body is larger than {limit} bytes", where="body", hint="send a smaller image"
    )

"""What each route does with a request that was let in and read."""

from __future__ import annotations

import io
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from msgspec import UNSET

import concepthash
from concepthash.codes import to_hex
from concepthash.errors import ImageError
from concepthash.explain.comparison import Comparison, compare, to_answer
from concepthash.explain.explanation import Explanation
from concepthash.runtime.answers import Query
from concepthash.serve.asked import asked_of
from concepthash.serve.guard import LONE_POLICY
from concepthash.serve.replies import Refused, Reply, answered, encoded
from concepthash.serve.requests import Request
from concepthash.serve.schemas import (
    ExplainAsking,
    Hashed,
    Health,
    Item,
    ItemList,
    ItemsAsking,
    Label,
    LabelList,
    ListedItem,
    Missing,
    Nothing,
    QueryAnswer,
    QueryAsking,
    SubCode,
    ThumbnailAsking,
)
from concepthash.serve.service import HTML, Service, tag_of

if TYPE_CHECKING:
    from concepthash.codes import Codes

JPEG, PNG = b"image/jpeg", b"image/png"
FIGURES = b"text/plain; version=0.0.4; charset=utf-8"

_THUMBNAIL_CACHE = b"private, max-age=300"

Handler = Callable[[Service, Request, Any], Awaitable[Reply]]


async def page(service: Service, request: Request, asking: Nothing) -> Reply:
    """The page."""
    return _static(service, request, "index.html")


async def static(service: Service, request: Request, asking: Nothing) -> Reply:
    """A file of the page."""
    return _static(service, request, request.path.rpartition("/")[2])


async def health(service: Service, request: Request, asking: Nothing) -> Reply:
    """Whether it answers, 200, or does not, 503; and what is wrong."""
    status, reason = ("stopping", None) if service.stopping else service.engine.health()
    return Reply(200 if status in ("ok", "degraded") else 503, encoded(Health(status, reason)))


async def metrics(service: Service, request: Request, asking: Nothing) -> Reply:
    """Figures for Prometheus."""
    return Reply(200, service.metrics.text(), FIGURES)


async def openapi(service: Service, request: Request, asking: Nothing) -> Reply:
    """What this server can be asked."""
    return Reply(200, service.document)


async def info(service: Service, request: Request, asking: Nothing) -> Reply:
    """What this server serves."""
    limits = service.limits
    return answered(
        {
            "schema": "chash.info/1",
            "version": concepthash.__version__,
            **service.engine.info(),
            "limits": {
                "upload_bytes": limits.upload_bytes,
                "pixels": limits.pixels,
                "k": limits.k,
            },
            "token": service.guard.token,
        }
    )


async def labels(service: Service, request: Request, asking: Nothing) -> Reply:
    """All labels."""
    found, missing = await service.engine.labels(), service.engine.missing
    listed = [Label(label, images) for label, images in found]
    return answered(LabelList(listed, _named(missing)), missing=missing)


async def items(service: Service, request: Request, asking: ItemsAsking) -> Reply:
    """Images in id order."""
    found = await service.engine.items(asking.label, asking.after, asking.limit)
    listed = [ListedItem(entry.id, str(entry.path), entry.label) for entry in found.entries]
    missing = found.missing
    answer = ItemList(listed, found.next, found.total, _named(missing))
    return answered(answer, missing=missing)


async def item(service: Service, request: Request, asking: Nothing) -> Reply:
    """One image and its code."""
    entry, code = await service.engine.item(request.id)
    return answered(Item(entry.id, str(entry.path), entry.label, to_hex(code)))


async def thumbnail(service: Service, request: Request, asking: ThumbnailAsking) -> Reply:
    """A small picture of an image."""
    try:
        made = await service.engine.thumbnail(request.id, asking.size, asking.view)
    except ImageError:
        raise _photo_gone(request.id) from None
    tag = tag_of(made)
    headers = ((b"etag", tag), (b"cache-control", _THUMBNAIL_CACHE))
    if _known(request, tag):
        return Reply(304, b"", JPEG, headers)
    return Reply(200, made, JPEG, headers)


async def hash(service: Service, request: Request, asking: Nothing) -> Reply:
    """The code of an image."""
    began = time.perf_counter()
    explained = await service.engine.hash(_image(request))
    timing = [("hash", time.perf_counter() - began)]
    parts = [
        SubCode(name, explained.bits(m), [round(x, 4) for x in explained.margins(m).tolist()])
        for m, name in enumerate(service.engine.concept_names)
    ]
    return answered(Hashed(to_hex(explained.code), parts, service.backend), timing=timing)


async def query(service: Service, request: Request, asking: QueryAsking) -> Reply:
    """The nearest images to an image, or to a code."""
    names = service.engine.concept_names
    asked = asked_of(asking, names)
    began = hashed = time.perf_counter()
    path, code = None, None
    if _only_one(request, asking) == "code":
        code = _code(asking.code or "", service.code_bytes)
    elif asking.id is not None:
        entry, code = await service.engine.item(asking.id)
        path = str(entry.path)
    else:
        path = request.uploads["image"].name
        code = (await service.engine.hash(_image(request))).code
        hashed = time.perf_counter()
    found = await service.engine.search(code, asked)
    timing = [("search", time.perf_counter() - hashed)]
    if request.uploads:
        timing.insert(0, ("hash", hashed - began))
    answer = QueryAnswer(
        queries=[Query(path, to_hex(code), found.hits, names)],
        backend=service.backend,
        gallery=service.gallery,
        model=service.model,
        concept_names=names,
        search=service.engine.where,
        missing_shards=_named(found.missing),
    )
    return answered(answer, timing=timing, missing=found.missing)


async def explain(service: Service, request: Request, asking: ExplainAsking) -> Reply:
    """Where concepts look in an image, or how two images differ."""
    began = time.perf_counter()
    _only_one(request, asking)
    if asking.other is not None and "other" in request.uploads:
        raise Refused(400, "there are two others to compare with", where="other")
    image = await _explained(service, request, "image", asking.id)
    shown: Explanation | Comparison = image
    if asking.other is not None or "other" in request.uploads:
        other = await _explained(service, request, "other", asking.other)
        shown = compare(image, other)
    timing = [("hash", time.perf_counter() - began)]
    if asking.format == "png":
        return Reply(200, await service.draw(lambda: _png(shown)), PNG)
    if asking.format == "html":
        lone = ((b"content-security-policy", LONE_POLICY),)
        html = await service.draw(lambda: shown.html().encode())
        return Reply(200, html, HTML, lone)
    return answered(to_answer(shown), timing=timing)


async def _explained(service: Service, request: Request, part: str, id: int | None) -> Explanation:
    if id is None:
        content = _image(request, part)
        return await service.engine.hash(content, name=request.uploads[part].name or part)
    try:
        return await service.engine.explain_item(id)
    except ImageError:
        raise _photo_gone(id) from None


def _named(missing: tuple[str, ...]) -> Missing:
    return list(missing) or UNSET


def _only_one(request: Request, asking: QueryAsking | ExplainAsking) -> str:
    """Which of the three ways to name an image the request uses."""
    given = ["image"] * ("image" in request.uploads)
    given += [name for name in ("id", "code") if getattr(asking, name, None) is not None]
    if len(given) == 1:
        return given[0]
    ways = [name for name in ("id", "code") if hasattr(asking, name)]
    what = f"{' and '.join(given)} were given" if given else "nothing to look for was given"
    raise Refused(400, what, where="image", hint=f"an image or {' or '.join(ways)}, one of them")


def _image(request: Request, part: str = "image") -> bytes:
    upload = request.uploads.get(part)
    if upload is None or not upload.content:
        raise Refused(
            400, "there is no image in the request", where=part, hint="curl --data-binary @FILE"
        )
    return upload.content


def _code(text: str, size: int) -> Codes:
    if len(text) != 2 * size or not text.isalnum():  # its pattern lets a line feed end it
        what = f"a code of this gallery is {2 * size} hexadecimal digits"
        raise Refused(400, what, where="code", hint="POST /v1/hash gives one")
    return np.frombuffer(bytes.fromhex(text), np.uint8)


def _photo_gone(id: int) -> Refused:
    return Refused(
        404,
        f"the photo of image {id} is gone, or no photo any more",
        where="id",
        hint="index the gallery again: chash index",
    )


def _png(shown: Explanation | Comparison) -> bytes:
    file = io.BytesIO()
    shown.figure().save(file, "PNG")
    return file.getvalue()


def _static(service: Service, request: Request, name: str) -> Reply:
    found = service.files.get(name)
    if found is None:
        raise Refused(404, "no such file", where="path", hint="GET /")
    content, kind, tag = found
    headers = ((b"etag", tag), (b"cache-control", b"no-cache"))
    if _known(request, tag):
        return Reply(304, b"", kind, headers)
    return Reply(200, content, kind, headers)


def _known(request: Request, tag: bytes) -> bool:
    known = request.headers.get(b"if-none-match", b"")
    return known == b"*" or tag in (part.strip().removeprefix(b"W/") for part in known.split(b","))

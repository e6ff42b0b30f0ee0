"""The table of routes: what routing, limits and ``/openapi.json`` are made of."""

from __future__ import annotations

import re
from dataclasses import dataclass

from concepthash.serve import handlers
from concepthash.serve import schemas as s

JPEG, PNG, HTML = "image/jpeg", "image/png", "text/html"
JSON = "application/json"


@dataclass(frozen=True)
class Route:
    """One path and what it does.

    Args:
        path: with ``{id}`` or ``{file}`` for what varies.
        methods: of HTTP; HEAD comes with GET.
        summary: one line.
        handler: called with a request that was let in and read.
        asking: the type of its options.
        answers: content type -> type of the answer; None for what is no JSON.
        images: images that it takes, by name.
        refusals: statuses beside those that any request may get.
        free: whether it needs no token.
        slow: whether its work is dropped as soon as the client hangs up, without an upload too.
    """

    path: str
    methods: tuple[str, ...]
    summary: str
    handler: handlers.Handler
    asking: type[s.Asking] = s.Nothing
    answers: tuple[tuple[str, type | None], ...] = ()
    images: tuple[str, ...] = ()
    refusals: tuple[int, ...] = ()
    free: bool = False
    slow: bool = False


GET, POST = ("GET",), ("POST",)
SENT = (400, 408, 413, 415, 422)

ROUTES = (
    Route("/", GET, "The page", handlers.page, answers=((HTML, None),), free=True),
    Route(
        "/static/{file}", GET, "A file of the page", handlers.static,
        answers=((HTML, None), ("text/css", None), ("text/javascript", None)),
        refusals=(404,), free=True,
    ),
    Route(
        "/v1/info", GET, "What this server serves", handlers.info,
        answers=((JSON, s.Info),),
    ),
    Route(
        "/v1/labels", GET, "All labels, with their images", handlers.labels,
        answers=((JSON, s.LabelList),),
    ),
    Route(
        "/v1/hash", POST, "The code of an image", handlers.hash,
        answers=((JSON, s.Hashed),), images=("image",), refusals=SENT,
    ),
    Route(
        "/v1/query", ("GET", *POST), "The nearest images to one, or to a code", handlers.query,
        s.QueryAsking, ((JSON, s.QueryAnswer),), images=("image",), refusals=(*SENT, 404),
    ),
    Route(
        "/v1/explain", ("GET", *POST), "Where concepts look in one image, or how two differ",
        handlers.explain, s.ExplainAsking,
        ((JSON, s.ExplainAnswer), (PNG, None), (HTML, None)),
        images=("image", "other"), refusals=(*SENT, 404), slow=True,
    ),
    Route(
        "/v1/items", GET, "Images of the gallery, in the order of their ids", handlers.items,
        s.ItemsAsking, ((JSON, s.ItemList),), refusals=(400,),
    ),
    Route(
        "/v1/items/{id}", GET, "One image of the gallery", handlers.item,
        answers=((JSON, s.Item),), refusals=(404,),
    ),
    Route(
        "/v1/items/{id}/thumbnail", GET, "A small picture of an image", handlers.thumbnail,
        s.ThumbnailAsking, ((JPEG, None),), refusals=(400, 404), slow=True,
    ),
    Route(
        "/healthz", GET, "Whether all is well", handlers.health,
        answers=((JSON, s.Health),), free=True,
    ),
    Route(
        "/metrics", GET, "Figures for Prometheus", handlers.metrics,
        answers=(("text/plain", None),),
    ),
    Route(
        "/openapi.json", GET, "This description", handlers.openapi, answers=((JSON, None),),
    ),
)  # fmt: skip

_VARIES = {"{id}": "([0-9]{1,19})", "{file}": "[a-z0-9_.-]{1,64}"}
_EXACT = {route.path: route for route in ROUTES if "{" not in route.path}


def _pattern(path: str) -> re.Pattern[str]:
    for name, pattern in _VARIES.items():
        path = path.replace(name, pattern)
    return re.compile(path)


_PATTERNS = [(_pattern(route.path), route) for route in ROUTES if "{" in route.path]


def find(path: str) -> tuple[Route, int] | None:
    """The route of a path, and the id in it; None if there is none."""
    route = _EXACT.get(path)
    if route is not None:
        return route, 0
    for pattern, route in _PATTERNS:
        if found := pattern.fullmatch(path):
            return route, int(found[1]) if pattern.groups else 0
    return None

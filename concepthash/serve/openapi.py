"""``/openapi.json``: OpenAPI 3.1, made of the table of routes and the types it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

import concepthash
from concepthash.serve.schemas import Asking, Failure, Id

if TYPE_CHECKING:
    from concepthash.serve.routes import Route

REF = "#/components/schemas/{name}"
ALWAYS = {
    431: "The head of the request is too large",
    403: "A page of another site asks, or the server is called by a foreign name",
    503: "Too busy, or stopping: come again after Retry-After seconds",
    504: "It took too long",
}
MEANING = {
    400: "An option is wrong",
    401: "The token is missing or wrong",
    404: "There is no such image, or its photo is gone",
    408: "The body came too slowly",
    413: "The body has too many bytes, or an image too many pixels",
    415: "The body is neither an image nor options",
    422: "The image cannot be decoded",
    **ALWAYS,
}
RAW = ("image/*", "application/octet-stream")
BINARY = {"type": "string", "contentMediaType": "application/octet-stream"}


def document(routes: tuple[Route, ...], files: tuple[str, ...], *, token: bool) -> dict[str, Any]:
    """The description of a server.

    Args:
        routes: its table.
        files: of the page.
        token: whether it wants one.
    """
    types: set[type] = {Failure}
    for route in routes:
        types |= {
            route.asking,
            *(answer for _, answer in route.answers if answer is not None),
        }
    ordered = sorted(types, key=lambda type: type.__name__)
    _, components = msgspec.json.schema_components(ordered, ref_template=REF)
    paths: dict[str, Any] = {}
    for route in routes:
        paths[route.path] = {
            method.lower(): _operation(route, method, components, files, token=token)
            for method in route.methods
        }
    described: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {
            "title": "chash serve",
            "version": concepthash.__version__,
            "description": "Explainable visual search in a gallery of images.",
        },
        "paths": paths,
        "components": {"schemas": components},
    }
    if token:
        scheme = {"type": "http", "scheme": "bearer"}
        described["components"]["securitySchemes"] = {"token": scheme}
    return described


def _operation(
    route: Route, method: str, components: dict[str, Any], files: tuple[str, ...], *, token: bool
) -> dict[str, Any]:
    content = {
        kind: {"schema": _free(kind) if answer is None else _ref(answer)}
        for kind, answer in route.answers
    }
    refused = {*route.refusals, *ALWAYS}
    if method == "GET":
        refused -= {408, 413, 415, 422}
    if token and not route.free:
        refused.add(401)
    problem = {"application/json": {"schema": _ref(Failure)}}
    responses: dict[str, Any] = {"200": {"description": route.summary, "content": content}}
    responses |= {
        str(status): {"description": MEANING[status], "content": problem}
        for status in sorted(refused)
    }
    if route.path == "/healthz":
        responses["503"] = {"description": "What is wrong", "content": content}
    name = route.handler.__name__
    operation: dict[str, Any] = {
        "operationId": name if method == route.methods[0] else f"{name}_{method.lower()}",
        "summary": route.summary,
        "parameters": _parameters(route, components, files),
        "responses": responses,
    }
    if method == "POST":
        operation["requestBody"] = _body(route, components)
    if token:
        operation["security"] = [] if route.free else [{"token": []}]
    return operation


def _parameters(
    route: Route, components: dict[str, Any], files: tuple[str, ...]
) -> list[dict[str, Any]]:
    found = []
    if "{id}" in route.path:
        found.append(_parameter("id", "path", msgspec.json.schema(Id), required=True))
    if "{file}" in route.path:
        schema = {"type": "string", "enum": list(files)}
        found.append(_parameter("file", "path", schema, required=True))
    for name, schema in _properties(route.asking, components).items():
        found.append(_parameter(name, "query", _written(schema), required=False))
    return found


def _parameter(name: str, place: str, schema: Any, *, required: bool) -> dict[str, Any]:
    return {"name": name, "in": place, "required": required, "schema": schema}


def _properties(asking: type[Asking], components: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = components[asking.__name__].get("properties", {})
    return properties


def _written(schema: dict[str, Any]) -> dict[str, Any]:
    """The schema of an option in a query string or a form: null is to leave it out."""
    choices = [choice for choice in schema.get("anyOf", []) if choice != {"type": "null"}]
    if len(choices) == 1 and len(choices) < len(schema["anyOf"]):
        return _written(choices[0])
    texts = [choice for choice in choices if choice.get("type") == "string"]
    if texts:  # text or a list: in a query string it is text
        return {**texts[0], **{k: v for k, v in schema.items() if k == "description"}}
    return schema


def _body(route: Route, components: dict[str, Any]) -> dict[str, Any]:
    asking = _properties(route.asking, components)
    fields = {name: _written(schema) for name, schema in asking.items()}
    files = {name: BINARY for name in route.images}
    form: dict[str, Any] = {
        "type": "object",
        "properties": {**fields, **files},
        "additionalProperties": False,
    }
    if not asking:
        form["required"] = list(route.images)
    content: dict[str, Any] = {kind: {"schema": {}} for kind in RAW}
    content["multipart/form-data"] = {"schema": form}
    if asking:
        content["application/json"] = {"schema": _ref(route.asking)}
    return {"required": not asking, "content": content}


def _ref(kind: type) -> dict[str, str]:
    return {"$ref": REF.format(name=kind.__name__)}


def _free(kind: str) -> dict[str, Any]:
    return {} if kind == "application/json" or kind.startswith("image/") else {"type": "string"}

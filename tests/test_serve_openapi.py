"""``/openapi.json`` says what the server does, and the server does what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("onnx")
pytest.importorskip("msgspec")
import msgspec
from serve_client import TOKEN, Answer, Client, running
from serve_gallery import Place, encoded, shade

from concepthash.serve.engine import Engine
from concepthash.serve.openapi import document
from concepthash.serve.routes import ROUTES, Route, find

BEARER = {"Authorization": f"Bearer {TOKEN}"}
PHOTO = encoded(shade(3))
VALUES = {"{id}": "4", "{file}": "page.js"}
OPERATIONS = [(route, method) for route in ROUTES for method in route.methods]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    place = Place(tmp_path_factory.mktemp("served"))
    with running(Engine(place.gallery, place.bundle, threads=1), token=TOKEN) as client:
        yield client


@pytest.fixture(scope="module")
def described(client: Client) -> dict[str, Any]:
    answer = client.get("/openapi.json", **BEARER)
    assert answer.headers["content-type"] == "application/json"
    value: dict[str, Any] = json.loads(answer.body)
    return value


@pytest.mark.parametrize("token", [False, True])
def test_document__is_openapi(token: bool) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    made = json.loads(msgspec.json.encode(document(ROUTES, ("page.js",), token=token)))
    validator.validate(made, cls=validator.OpenAPIV31SpecValidator)
    assert ("securitySchemes" in made["components"]) is token
    names = [o["operationId"] for path in made["paths"].values() for o in path.values()]
    assert len(set(names)) == len(names) == len(OPERATIONS)


def path_of(route: Route) -> str:
    path = route.path
    for name, value in VALUES.items():
        path = path.replace(name, value)
    return path


def asked(client: Client, route: Route, method: str, **headers: str) -> Answer:
    """A request that has an answer."""
    path = path_of(route)
    if method == "POST":
        return client.ask("POST", path, PHOTO, Content_Type="image/png", **headers)
    needed = "?id=4" if "id" in route.asking.__struct_fields__ else ""
    return client.get(path + needed, **headers)


@pytest.mark.parametrize(
    ("route", "method"), OPERATIONS, ids=lambda value: str(getattr(value, "path", value))
)
def test_route__answers_as_declared(
    client: Client, described: dict[str, Any], route: Route, method: str
) -> None:
    responses = described["paths"][route.path][method.lower()]["responses"]
    answer = asked(client, route, method, **BEARER)
    assert answer.status == 200
    kind = answer.headers["content-type"].partition(";")[0]
    assert kind in responses["200"]["content"]
    declared = dict(route.answers)[kind]
    if isinstance(declared, type):
        msgspec.json.decode(answer.body, type=declared)
    free = asked(client, route, method)
    assert free.status == (200 if route.free else 401)
    assert ("401" in responses) is not route.free


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: route.path)
def test_route__is_found_by_its_path(route: Route) -> None:
    assert find(path_of(route)) == (route, 4 if "{id}" in route.path else 0)


def test_explain__of_two_answers_as_declared(client: Client) -> None:
    route = next(route for route in ROUTES if route.path == "/v1/explain")
    answer = client.get("/v1/explain?id=4&other=5", **BEARER)
    made = msgspec.json.decode(answer.body, type=dict(route.answers)["application/json"])
    assert made.comparison.distance == sum(made.comparison.per_concept)


def test_refusals__are_declared(client: Client, described: dict[str, Any]) -> None:
    def declared(path: str, method: str, answer: Answer) -> None:
        content = described["paths"][path][method]["responses"][str(answer.status)]["content"]
        (schema,) = (value["schema"] for value in content.values())
        assert schema == {"$ref": "#/components/schemas/Failure"}
        answer.error(answer.status)

    declared("/v1/query", "get", client.get("/v1/query", **BEARER))
    declared("/v1/query", "get", client.get("/v1/query?id=999", **BEARER))
    declared("/v1/hash", "post", client.ask("POST", "/v1/hash", b"x", **BEARER))
    for kind in ("image/png", "text/plain"):
        answer = client.ask("POST", "/v1/hash", b"x", Content_Type=kind, **BEARER)
        declared("/v1/hash", "post", answer)
    declared("/v1/items/{id}", "get", client.get("/v1/items/999", **BEARER))
    declared("/static/{file}", "get", client.get("/static/none.js", **BEARER))


def test_options__of_forms_and_queries_are_those_of_json(described: dict[str, Any]) -> None:
    operation = described["paths"]["/v1/query"]["post"]
    content = operation["requestBody"]["content"]
    fields = set(described["components"]["schemas"]["QueryAsking"]["properties"])
    assert {parameter["name"] for parameter in operation["parameters"]} == fields
    assert set(content["multipart/form-data"]["schema"]["properties"]) == {*fields, "image"}
    assert set(content) == {
        "image/*", "application/octet-stream", "multipart/form-data", "application/json",
    }  # fmt: skip

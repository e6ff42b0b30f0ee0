"""``chash serve`` over HTTP: every route, with a real engine on a painted gallery."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from colour_bundle import SIDE
from PIL import Image

pytest.importorskip("onnx")
from serve_client import BOUNDARY, Client, form, running
from serve_gallery import Place, encoded, shade

from concepthash.runtime.gallery import Gallery
from concepthash.serve.engine import Engine, Limits

LIMITS = Limits(upload_bytes=50_000, pixels=100 * 100)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def client(place: Place) -> Iterator[Client]:
    engine = Engine(place.gallery, place.bundle, threads=1, limits=LIMITS)
    with running(engine, limits=LIMITS) as client:
        yield client


@pytest.fixture(scope="module")
def codes(place: Place) -> dict[int, str]:
    with Gallery.open(place.gallery) as gallery:
        return {entry.id: gallery.code(entry.id).tobytes().hex() for entry in gallery.entries()}


PHOTO = encoded(shade(3))


def test_info__describes_gallery_model_and_limits(client: Client, place: Place) -> None:
    info = client.get("/v1/info").json("chash.info/1")
    assert info["gallery"] == "colour.chg"
    assert info["images"] == 20
    assert info["concepts"] == ["red", "green", "blue"]
    assert (info["bits"], info["sub_bits"], info["side"]) == (24, 8, SIDE)
    assert info["limits"] == {"upload_bytes": 50_000, "pixels": 10_000, "k": 1000}
    assert info["token"] is False


def test_labels__are_counted(client: Client) -> None:
    labels = client.get("/v1/labels").json("chash.labels/1")["labels"]
    assert labels == [{"label": "one", "images": 8}, {"label": "two", "images": 12}]


def test_items__come_in_pages(client: Client, codes: dict[int, str]) -> None:
    found, after = [], 0
    while after is not None:
        page = client.get(f"/v1/items?limit=7&after={after}").json("chash.items/1")
        found += [item["id"] for item in page["items"]]
        assert page["total"] == 20
        after = page["next"]
    assert found == sorted(codes)
    one = client.get("/v1/items?label=one&limit=100").json("chash.items/1")
    assert one["total"] == len(one["items"]) == 8
    assert client.get("/v1/items?label=").json("chash.items/1")["total"] == 0
    assert client.get("/v1/items?label=three").error(400)["try"] == "GET /v1/labels"


def test_item__has_its_code(client: Client, codes: dict[int, str]) -> None:
    id, code = next(iter(codes.items()))
    item = client.get(f"/v1/items/{id}").json("chash.item/1")
    assert (item["id"], item["code"], item["label"]) == (id, code, "one")
    for unknown in ("999", "9223372036854775808", "0"):
        client.get(f"/v1/items/{unknown}").error(404)
    for odd in ("-1", "x", "1/", "1/thumb", "٣", "%00"):
        client.get(f"/v1/items/{quote(odd, safe='/%')}").error(404)


def test_thumbnail__is_a_jpeg_that_a_browser_keeps(client: Client) -> None:
    made = client.get("/v1/items/1/thumbnail?size=64")
    assert made.headers["content-type"] == "image/jpeg"
    assert made.headers["cache-control"].startswith("private")
    assert Image.open(io.BytesIO(made.body)).size == (64, 64)
    again = client.get("/v1/items/1/thumbnail?size=64", If_None_Match=made.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert "content-length" not in again.headers  # a proxy would take it for the photo's
    assert client.get("/v1/items/1/thumbnail?size=64", If_None_Match='"x"').status == 200
    client.get("/v1/items/1/thumbnail?size=4096").error(400)
    client.get("/v1/items/1/thumbnail?view=../etc").error(400)
    client.get("/v1/items/999/thumbnail").error(404)


def test_photo_that_is_gone__is_404(client: Client, place: Place) -> None:
    id = place.ids()["19"]
    photo = place.photos / "two" / "19.png"
    content = photo.read_bytes()
    try:
        photo.unlink()
        for path in (f"/v1/items/{id}/thumbnail?size=99", f"/v1/explain?id={id}"):
            assert "chash index" in client.get(path).error(404)["try"]
        photo.write_bytes(b"no photo")
        client.get(f"/v1/items/{id}/thumbnail?size=98").error(404)
    finally:
        photo.write_bytes(content)


@pytest.mark.parametrize("kind", ["image/png", "application/octet-stream", "IMAGE/X; a=b"])
def test_hash__of_a_raw_body(client: Client, place: Place, kind: str) -> None:
    hashed = client.ask("POST", "/v1/hash", PHOTO, Content_Type=kind).json("chash.hash/1")
    expected = next(place.hasher.hash([PHOTO]))
    assert hashed["code"] == expected.code.tobytes().hex()
    assert "".join(part["bits"] for part in hashed["concepts"]) == f"{int(hashed['code'], 16):024b}"
    assert [len(part["margins"]) for part in hashed["concepts"]] == [8, 8, 8]
    assert hashed["concepts"][0]["name"] == "red"


def test_query__answers_alike_however_it_is_asked(client: Client, codes: dict[int, str]) -> None:
    schema = "chash.query/1"
    id = 4  # of shade 3
    kind = {"Content_Type": "image/png"}
    answers = [
        client.ask("POST", "/v1/query?k=3", PHOTO, **kind),
        client.form("/v1/query", ("image", "dir\\me.png", PHOTO), ("k", None, b"3")),
        client.ask("POST", "/v1/query", {"id": id, "k": 3}),
        client.ask("POST", "/v1/query?k=3", {"code": codes[id].upper()}),
        client.ask("POST", f"/v1/query?k=3&id={id}"),
        client.get(f"/v1/query?k=3&id={id}"),
        client.get(f"/v1/query?k=3&code={codes[id]}"),
    ]
    queries = [answer.json(schema)["queries"] for answer in answers]
    hits = [query["hits"] for (query,) in queries]
    assert hits[0][0]["id"] == id
    assert hits[0][0]["distance"] == 0
    assert [hit["rank"] for hit in hits[0]] == [1, 2, 3]
    assert all(some == hits[0] for some in hits)
    assert all(query["code"] == codes[id] for (query,) in queries)
    paths = [query["path"] for (query,) in queries]
    assert paths[0] is None
    assert paths[1] == "me.png"
    assert paths[2] == hits[0][0]["path"]
    assert answers[0].json(schema)["search"] == "cpu"
    assert re.fullmatch(r"hash;dur=[\d.]+, search;dur=[\d.]+", answers[0].headers["server-timing"])


def test_query__by_concepts_weights_radius_and_labels(
    client: Client, codes: dict[int, str], place: Place
) -> None:
    def hits(**asked: object) -> list[tuple[int, int]]:
        answer = client.ask("POST", "/v1/query", {"id": 4, "k": 20, **asked})
        (query,) = answer.json("chash.query/1")["queries"]
        return [(hit["id"], hit["distance"]) for hit in query["hits"]]

    all_hits = hits()
    assert len(all_hits) == 20
    assert hits(concepts="red") == hits(concepts=[0]) == hits(weights=[1, 0, 0])
    assert hits(concepts="0,blue") == hits(concepts=["2", 0]) == hits(weights="1,0,1")
    assert hits(concepts="0,1,2") == hits(weights="1,1,1") == all_hits
    assert hits(radius=3) == [pair for pair in all_hits if pair[1] <= 3]
    doubled = hits(weights=[2, 2, 2])
    assert [distance for _, distance in doubled] == [2 * distance for _, distance in all_hits]
    two = {id for name, id in place.ids().items() if int(name) >= 8}
    assert hits(labels=["two"]) == [pair for pair in all_hits if pair[0] in two]
    assert hits(labels=["two", "one"]) == all_hits
    assert client.get("/v1/query?id=4&k=20&labels=two&labels=one").status == 200
    client.get("/v1/query?id=4&labels=three").error(400)


WRONG = (
    {},
    {"id": 4, "code": "000000"},
    {"id": -1},
    {"id": "x"},
    {"id": 4, "k": 0},
    {"id": 4, "k": 1001},
    {"id": 4, "k": 1.5},
    {"id": 4, "radius": -1},
    {"id": 4, "radius": 10**9},
    {"id": 4, "concepts": "wing"},
    {"id": 4, "concepts": "3"},
    {"id": 4, "concepts": ""},
    {"id": 4, "concepts": []},
    {"id": 4, "concepts": {}},
    {"id": 4, "weights": "1,1"},
    {"id": 4, "weights": "1,1,x"},
    {"id": 4, "weights": "1,1,٣"},
    {"id": 4, "weights": "1,1," + "9" * 500},
    {"id": 4, "weights": [0, 0, 0]},
    {"id": 4, "weights": [1, 1, 256]},
    {"id": 4, "weights": [0, 1, 1], "concepts": "0"},
    {"id": 4, "labels": []},
    {"id": 4, "labels": "one"},
    {"id": 4, "path": "/etc/passwd"},
    {"code": "00"},
    {"code": "zz0000"},
    {"code": "00 000"},
    {"code": "00000\n"},
    [],
    None,
)


@pytest.mark.parametrize("asked", WRONG, ids=json.dumps)
def test_query__of_wrong_options_is_400(client: Client, asked: object) -> None:
    body = json.dumps(asked).encode()
    client.ask("POST", "/v1/query", body, Content_Type="application/json").error(400)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 60_000,
        b'{"k":' * 10_000,
        b'{"labels":["\\ud800"]}',
        b'{"k":1e999}',
    ],
    ids=lambda body: repr(body[:8]),
)
@pytest.mark.parametrize("query", ["", "?k=2"])
def test_query__of_malformed_json_is_400(client: Client, body: bytes, query: str) -> None:
    client.ask("POST", f"/v1/query{query}", body, Content_Type="application/json").error(400)


@pytest.mark.parametrize(
    "query",
    ["k=5", "id=4&id=4", "id=4&x=1", "id=%ff", "id=4&k=", "id=4&" + "labels=a&" * 400,
     "id=4&concepts=" + "0," * 5000, "id=4&labels=" + "x" * 5000],
    ids=lambda query: query[:12],
)  # fmt: skip
def test_query_string__that_is_wrong_is_400(client: Client, query: str) -> None:
    client.get(f"/v1/query?{query}").error(400)


@pytest.mark.parametrize(
    ("path", "what"),
    [
        ("explain?id=4&format=pdf", "format is one of html, json, png"),
        ("query?id=4&k=0", "k is a whole number from 1 to 1000"),
        ("query?id=x", "id is a whole number from 0 to"),
        ("items/4/thumbnail?size=7", "size is a whole number from 16 to 1024"),
        ("query?id=4&labels=one&labels=b&labels=a", "no image has the label 'a' or 'b'"),
    ],
)
def test_errors__say_what_would_do(client: Client, path: str, what: str) -> None:
    assert client.get(f"/v1/{path}").error(400)["what"].startswith(what)


def test_errors__say_where_and_what_to_do(client: Client) -> None:
    error = client.get("/v1/query?id=4&weights=1,1").error(400)
    assert (error["where"], error["try"]) == ("weights", "weights=2,1,1")
    assert client.get("/v1/query?id=4&k=0").error(400)["where"] == "k"
    assert client.get("/v1/query?code=00").error(400)["what"].startswith("a code of this gallery")


def test_explain__one_image_and_two(client: Client, codes: dict[int, str]) -> None:
    schema = "chash.explain/1"
    one = client.get("/v1/explain?id=4").json(schema)
    assert one["image"]["code"] == codes[4]
    assert one["image"]["shape"] == [4, 4]
    assert "comparison" not in one
    by_files = client.form("/v1/explain", ("image", "a.png", PHOTO), ("other", "b.png", PHOTO))
    two = by_files.json(schema)
    assert (two["image"]["name"], two["other"]["name"]) == ("a.png", "b.png")
    assert two["comparison"]["distance"] == 0
    assert "images" not in two["comparison"]
    by_ids = client.ask("POST", "/v1/explain", {"id": 4, "other": 5}).json(schema)
    assert by_ids["other"]["code"] == codes[5]
    mixed = client.form("/v1/explain", ("image", "a.png", PHOTO), ("other", None, b"5"))
    assert mixed.json(schema)["comparison"] == by_ids["comparison"]
    raw = client.ask("POST", "/v1/explain?other=5", PHOTO, Content_Type="image/png").json(schema)
    assert raw["comparison"] == by_ids["comparison"]
    nothing = client.form(
        "/v1/explain", ("image", "a.png", PHOTO), ("other", "", b""), ("format", None, b"json")
    )
    assert "comparison" not in nothing.json(schema)


def test_explain__refuses_what_is_not_one_or_two_images(client: Client) -> None:
    client.get("/v1/explain").error(400)
    client.get("/v1/explain?other=4").error(400)
    client.get("/v1/explain?id=999").error(404)
    client.get("/v1/explain?id=4&other=999").error(404)
    client.get("/v1/explain?id=4&format=exe").error(400)
    client.form("/v1/explain", ("other", "b.png", PHOTO)).error(400)
    three = [("image", "a", PHOTO), ("other", "b", PHOTO), ("other", None, b"4")]
    client.form("/v1/explain", *three).error(400)
    client.form("/v1/explain", ("image", "a", PHOTO), ("id", None, b"4")).error(400)


def test_explain__as_a_picture_and_as_a_page(client: Client) -> None:
    for path in ("/v1/explain?id=4", "/v1/explain?id=4&other=5"):
        made = client.get(f"{path}&format=png")
        assert made.headers["content-type"] == "image/png"
        assert Image.open(io.BytesIO(made.body)).format == "PNG"
        page = client.get(f"{path}&format=html")
        assert page.body.startswith(b"<!DOCTYPE html>")
        assert "sandbox" in page.headers["content-security-policy"]
        assert "script-src 'self'" not in page.headers["content-security-policy"]


def test_upload__that_is_too_large_is_413(client: Client) -> None:
    kind = {"Content_Type": "image/png"}
    for path in ("/v1/hash", "/v1/query"):
        client.ask("POST", path, bytes(50_001), **kind).error(413)
    client.ask("POST", "/v1/hash", bytes(20_000_000), **kind).error(413)
    client.form("/v1/query", ("image", "a", bytes(50_001))).error(413)
    client.form("/v1/query", ("image", "a", bytes(200_000))).error(413)
    client.form("/v1/explain", ("image", "a", PHOTO), ("other", "b", bytes(60_000))).error(413)
    wide = io.BytesIO()
    Image.new("1", (20_000, 20_000)).save(wide, "PNG")
    assert len(wide.getvalue()) < LIMITS.upload_bytes
    client.ask("POST", "/v1/hash", wide.getvalue(), **kind).error(413)
    client.ask("POST", "/v1/query", b" " * 70_000, Content_Type="application/json").error(413)


def test_upload__in_chunks_is_bounded_too(client: Client) -> None:
    head = b"POST /v1/hash HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
    head += b"Transfer-Encoding: chunked\r\n\r\n"
    chunk = b"4e20\r\n" + bytes(20_000) + b"\r\n"
    with client.raw(head + 3 * chunk) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    whole = b"%x\r\n%s\r\n0\r\n\r\n" % (len(PHOTO), PHOTO)
    with client.raw(head + whole) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "video/mp4"])
def test_body__of_another_type_is_415(client: Client, kind: str) -> None:
    error = client.ask("POST", "/v1/query", b"id=4", Content_Type=kind).error(415)
    assert kind in error["what"]
    assert "multipart/form-data" in error["try"]


def test_image__that_cannot_be_decoded_is_422(client: Client) -> None:
    for content in (b"no image", PHOTO[:60], b"%PDF-1.7", b"<svg/>"):
        for path in ("/v1/hash", "/v1/query", "/v1/explain"):
            refused = client.ask("POST", path, content, Content_Type="image/png").error(422)
            assert refused["where"] == "image"


def test_image__that_is_missing_is_400(client: Client) -> None:
    client.ask("POST", "/v1/hash").error(400)
    client.ask("POST", "/v1/hash", b"", Content_Type="image/png").error(400)
    client.ask("POST", "/v1/hash", {}).error(400)
    client.ask("POST", "/v1/hash", {"id": 4}).error(400)
    client.form("/v1/hash", ("image", "", b"")).error(400)
    client.form("/v1/hash").error(400)


def many(count: int) -> bytes:
    return form(*[("labels", None, b"one")] * count)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"--" + BOUNDARY.encode(),
        form(("image", "a", PHOTO))[:-30],
        form(("image", "a", PHOTO), ("image", "a", PHOTO)),
        form(("image", "a", PHOTO), ("spare", "b", PHOTO)),
        form(("image", "a", PHOTO), ("k", None, b"\xff")),
        form(("image", "a", PHOTO), ("k", None, b"1" * 9000)),
        form(("image", "a", PHOTO), ("spare", None, b"1")),
        form(("image", "a", PHOTO)).replace(b'name="image"', b"nameless"),
        form(("image", "a", PHOTO)).replace(b"Content-Disp", b"X" * 5000),
        form(("image", "a", PHOTO)).replace(b"\r\n\r\n", b"\r\nA: b" * 20 + b"\r\n\r\n", 1),
        many(301),
    ],
    ids=range(12),
)
def test_form__that_is_malformed_is_400(client: Client, body: bytes) -> None:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    client.ask("POST", "/v1/query", body, Content_Type=kind).error(400)


@pytest.mark.parametrize("kind", ["", "; boundary=", "; boundary=" + "x" * 300, "; charset=x"])
def test_form__without_a_boundary_is_400(client: Client, kind: str) -> None:
    client.ask(
        "POST", "/v1/query", form(("image", "a", PHOTO)), Content_Type=f"multipart/form-data{kind}"
    ).error(400)


def test_form__with_many_labels_is_read(client: Client) -> None:
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    body = form(("id", None, b"4"), *[("labels", None, b"one")] * 250)
    assert client.ask("POST", "/v1/query", body, Content_Type=kind).status == 200


def test_path__that_is_not_there_is_404(client: Client) -> None:
    for path in (
        "/v1", "/v1/query/", "//v1/info", "/static/../app.py", "/static/..%2fapp.py",
        "/static/%2e%2e/app.py", "/static/app.py", "/static/", "/etc/passwd", "/%00", "/v1/items/",
        "/static/page.js/", "/static/PAGE.JS",
    ):  # fmt: skip
        client.get(path).error(404)


def test_method__that_is_not_known_is_405(client: Client) -> None:
    for method, path, allowed in (
        ("POST", "/v1/info", "GET, HEAD"),
        ("DELETE", "/v1/items/4", "GET, HEAD"),
        ("GET", "/v1/hash", "POST"),
        ("PUT", "/v1/query", "GET, POST, HEAD"),
        ("OPTIONS", "/v1/query", "GET, POST, HEAD"),
        ("TRACE", "/", "GET, HEAD"),
    ):
        answer = client.ask(method, path)
        answer.error(405)
        assert answer.headers["allow"] == allowed
    head = client.ask("HEAD", "/v1/info")
    assert (head.status, head.body) == (200, b"")
    assert int(head.headers["content-length"]) > 100


def test_page__and_its_files_come_with_a_strict_policy(client: Client) -> None:
    page = client.get("/?id=4")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    text = page.body.decode()
    assert "http://" not in text.replace("http://www.w3.org/", "")
    assert "https://" not in text
    files = re.findall(r'(?:src|href)="(static/[^"]+)"', text)
    assert any(name.endswith(".js") for name in files)
    for name in files:
        file = client.get(f"/{name}")
        assert file.status == 200, name
        kind = "text/javascript" if name.endswith(".js") else "text/css"
        assert file.headers["content-type"] == f"{kind}; charset=utf-8"
        assert file.headers["x-content-type-options"] == "nosniff"
        known = client.get(f"/{name}", If_None_Match=f'W/{file.headers["etag"]}, "x"')
        assert (known.status, known.body) == (304, b"")


def test_health_and_figures__count_what_was_asked(client: Client) -> None:
    assert client.get("/healthz").json("chash.health/1")["status"] == "ok"
    client.get("/v1/query?id=4&k=0").error(400)
    text = client.get("/metrics").body.decode()
    assert 'chash_requests_total{method="GET",route="/v1/query",status="400"}' in text
    assert "chash_images 20.0" in text
    assert 'chash_batch_size_bucket{le="+Inf",queue="search"}' in text
    for name in (
        "chash_connections ",
        "chash_queue{",
        "chash_request_seconds_bucket{",
        "chash_upload_bytes 0.0",
    ):
        assert name in text


def test_gallery__that_is_empty_is_served(tmp_path: Path) -> None:
    place = Place(tmp_path)
    with Gallery.open(place.gallery, write=True) as gallery:
        gallery.remove([entry.id for entry in gallery.entries()])
    with running(Engine(place.gallery, place.bundle, threads=1)) as client:
        assert client.get("/v1/info").json("chash.info/1")["images"] == 0
        answer = client.ask("POST", "/v1/query", PHOTO, Content_Type="image/png")
        assert answer.json("chash.query/1")["queries"][0]["hits"] == []
        assert client.get("/v1/items").json("chash.items/1")["items"] == []
        assert client.get("/v1/labels").json("chash.labels/1")["labels"] == []
        client.get("/v1/query?id=1").error(404)

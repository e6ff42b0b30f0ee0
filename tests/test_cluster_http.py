"""``chash serve`` in front of shards elsewhere: over HTTP and on the page, complete or partial."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import page_server
import pytest

pytest.importorskip("msgspec")
pytest.importorskip("onnx")
from fake_shards import FakeHandle
from serve_client import Client, running
from serve_gallery import Place, encoded, shade

from concepthash.cluster.fanout import Patience
from concepthash.cluster.replica import Place as ShardPlace
from concepthash.cluster.replica import Replica
from concepthash.cluster.serving import Served
from concepthash.runtime.shardfile import Manifest
from concepthash.runtime.shards import split
from concepthash.serve.engine import Engine

browser, visits = page_server.browser, page_server.visits

HEADER = "chash-missing-shards"
LOST = "shard-0002.chg"
CODE = "000000"


@dataclass
class Front:
    """A server, and the handles of the shards behind it."""

    client: Client
    handles: list[FakeHandle]
    told: list[str]

    def lose(self, *numbers: int) -> None:
        for number, handle in enumerate(self.handles, 1):
            handle.lost = number in numbers


@contextmanager
def front(place: Place, gallery: Path, *, seconds: float = 20) -> Iterator[Front]:
    handles, told = [], list[str]()
    shards = Manifest.read(gallery).shards
    fingerprint = place.hasher.fingerprint
    for shard in shards:
        handles.append(FakeHandle(Replica(ShardPlace(str(gallery), shard.name), fingerprint)))
    pairs = list(zip(shards, handles, strict=True))
    held = Served(pairs, Patience(seconds, look=0.02), told.append)
    engine = Engine(gallery, place.bundle, threads=1, held=lambda *_: held)
    with running(engine) as client:
        yield Front(client, handles, told)
    for handle in handles:
        handle.replica.close()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return Place(tmp_path_factory.mktemp("fronts"))


@pytest.fixture(scope="module")
def gallery(place: Place) -> Path:
    out = place.gallery.parent / "shards.chg"
    split(place.gallery, 3, out)
    return out


def figures(client: Client) -> dict[str, float]:
    lines = client.get("/metrics").body.decode().splitlines()
    return {name: float(value) for name, value in (x.split() for x in lines if x[0] != "#")}


def test_front__answers_as_one_process_with_one_gallery(place: Place, gallery: Path) -> None:
    paths = [
        "/v1/labels", "/v1/items?limit=7", "/v1/items?limit=7&after=7", "/v1/items?label=two",
        f"/v1/query?code={CODE}&k=20", f"/v1/query?code={CODE}&labels=two&radius=9",
        "/v1/query?id=9&weights=2,0,1", "/v1/items/11", "/v1/items/99", "/v1/items?label=three",
        f"/v1/query?code={CODE}&labels=three", "/v1/explain?id=3", "/healthz",
    ]  # fmt: skip
    with front(place, gallery) as shards:
        got = [shards.client.get(path) for path in paths]
        picture = shards.client.ask(
            "POST", "/v1/query", encoded(shade(4)), Content_Type="image/png"
        )
        thumbnail = shards.client.get("/v1/items/17/thumbnail")
        assert figures(shards.client)["chash_partial_answers_total"] == 0
        info = json.loads(shards.client.get("/v1/info").body)
    with running(Engine(place.gallery, place.bundle, threads=1)) as client:
        for path, answer in zip(paths, got, strict=True):
            alone = client.get(path)
            assert (answer.status, HEADER in answer.headers) == (alone.status, False)
            assert plain(answer.body) == plain(alone.body)
            if path.startswith("/v1/query") and alone.status == 200:
                told = [json.loads(each.body)["search"] for each in (answer, alone)]
                assert told == ["ray", "cpu"]
        alone = client.ask("POST", "/v1/query", encoded(shade(4)), Content_Type="image/png")
        assert plain(picture.body) == plain(alone.body)
        assert thumbnail.body == client.get("/v1/items/17/thumbnail").body
        assert info["images"] == json.loads(client.get("/v1/info").body)["images"] == 20


def plain(body: bytes) -> Any:
    """A JSON answer but for the name of the gallery, and where it was searched."""
    answer = json.loads(body)
    return {key: value for key, value in answer.items() if key not in ("gallery", "search")}


def test_front__says_which_shards_an_answer_is_without(place: Place, gallery: Path) -> None:
    with front(place, gallery, seconds=0.3) as shards:
        ask = shards.client.get
        whole = ask(f"/v1/query?code={CODE}&k=20").json("chash.query/1")
        assert "missing_shards" not in whole
        shards.lose(2)
        for path, schema in (
            (f"/v1/query?code={CODE}&k=20", "chash.query/1"),
            ("/v1/items", "chash.items/1"),
            ("/v1/labels", "chash.labels/1"),
        ):
            answer = ask(path)
            assert answer.status == 200
            assert answer.headers[HEADER] == LOST
            assert answer.json(schema)["missing_shards"] == [LOST]
        (query,) = ask(f"/v1/query?code={CODE}&k=20").json("chash.query/1")["queries"]
        (full,) = whole["queries"]
        hits = {hit["id"]: hit for hit in full["hits"] if not 7 <= hit["id"] <= 13}
        assert [hit["id"] for hit in query["hits"]] == list(hits)
        assert LOST in ask("/v1/items/9").error(503)["what"]
        health = ask("/healthz").json("chash.health/1")
        assert health["status"] == "degraded"
        assert LOST in health["reason"]
        counted = figures(shards.client)
        assert counted["chash_partial_answers_total"] == 2
        assert counted["chash_missing_shards"] == 1
        shards.lose()
        page_server_wait(lambda: ask("/healthz").json("chash.health/1")["status"] == "ok")
        again = ask(f"/v1/query?code={CODE}&k=20")
        assert again.json("chash.query/1") == whole
        assert HEADER not in again.headers
        assert [line.partition(" (")[0] for line in shards.told] == [
            f"{LOST} does not answer", f"{LOST} answers again",
        ]  # fmt: skip


def test_front__without_any_shard_is_out_of_service(place: Place, gallery: Path) -> None:
    with front(place, gallery, seconds=0.2) as shards:
        shards.lose(1, 2, 3)
        refused = shards.client.get(f"/v1/query?code={CODE}")
        assert "no shard of the gallery answers" in refused.error(503)["what"]
        assert refused.headers["retry-after"]
        assert shards.client.get("/healthz").status == 503


def test_page__says_that_images_are_missing(
    place: Place, gallery: Path, visits: Any, browser: Any
) -> None:
    with front(place, gallery, seconds=0.3) as shards:
        visit = visits(f"http://127.0.0.1:{shards.client.port}/")
        visit.open()
        visit.page.wait_for_selector("li.card")
        visit.settle()
        banner = visit.page.locator("#banner")
        assert banner.is_hidden()
        assert len(visit.ids()) == 20
        shards.lose(2)
        visit.page.locator("li.card button.open").first.click()
        visit.page.wait_for_selector("#banner:not([hidden])")
        assert LOST in banner.text_content()
        assert "left out" in banner.text_content()
        visit.settle()
        assert not set(visit.ids()) & set(range(8, 14))
        shards.lose()
        page_server_wait(lambda: not shards.client.get("/v1/items").headers.get(HEADER))
        visit.page.reload()
        visit.page.wait_for_selector("li.card")
        visit.settle()
        assert banner.is_hidden()


def page_server_wait(true: Any) -> None:
    import time

    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)

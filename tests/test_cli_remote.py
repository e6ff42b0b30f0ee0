"""Published galleries on the command line."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import published_gallery
import pytest
from cli_entry import Chash, photo, photos
from published_gallery import listed, of_file
from tiny_bundle import tiny_bundle
from web_server import Web, status

from concepthash.errors import BackendError

alone, site, web = published_gallery.alone, published_gallery.site, published_gallery.web


@pytest.fixture
def shop(chash: Chash, tmp_path: Path, web: Web) -> str:
    """The URL of a gallery that was pushed; its folder is gone."""
    tiny_bundle(tmp_path)
    photos(tmp_path / "shop")
    photo(tmp_path / "query.png", 3)
    assert chash("index", "shop").code == 0
    done = chash("index", "push", "shop.chg", (web.folder / "shop.chg").as_uri())
    assert done.code == 0
    assert re.fullmatch(r"file://\S+/www/shop\.chg: 2 files, 2 sent, \d+ of \d+ bytes\n", done.out)
    assert "next: chash query IMAGE --gallery file://" in done.err
    (tmp_path / "shop.chg").rename(tmp_path / "elsewhere")
    return f"{web.url}/shop.chg"


def test_cli__query_takes_a_url(chash: Chash, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    done = chash("query", "query.png", "--gallery", shop, "--top", "2", "--json")
    hits = done.json("chash.query/1")["queries"][0]["hits"]
    assert hits[0] == {**hits[0], "path": str(Path("shop/b/0.png")), "distance": 0}
    assert done.json("chash.query/1")["gallery"] == shop
    assert f"from {shop}" in done.err
    monkeypatch.setenv("CHASH_GALLERY", shop)
    assert chash("query", "query.png", "--format", "paths", "--top", "1").out == "shop/b/0.png\n"
    monkeypatch.setenv("CHASH_OFFLINE", "1")
    done = chash("query", "query.png", "--top", "1")
    assert done.code == 0
    assert "CHASH_OFFLINE is set" in done.err


def test_cli__verbs_that_read_take_a_url(chash: Chash, shop: str, web: Web) -> None:
    secret = shop.replace("://", "://ann:pass-word@")
    for words in (
        ("inspect", secret),
        ("dedupe", secret, "--radius", "0"),
        ("knn-graph", secret, "--top", "2", "--out", "graph.npz"),
        ("index", "verify", secret),
        ("index", "export", secret, "codes.npy"),
        ("index", "export", secret, "pg", "--to", "pgvector"),
    ):
        done = chash(*words)
        assert done.code == 0, done.err
        assert "pass-word" not in done.out + done.err
        assert "galleries" not in done.out  # nor where its copy lies
    for words, key in (
        (("inspect", secret), "path"),
        (("index", "verify", secret), "gallery"),
        (("dedupe", secret, "--radius", "0"), "gallery"),
        (("index", "export", secret, "codes.npy", "--force"), "gallery"),
        (("index", "push", secret, "again"), "gallery"),
    ):
        values = json.loads(chash(*words, "--json").out)
        assert values[key] == shop, words
    assert set(web.authorized) == {"Basic YW5uOnBhc3Mtd29yZA=="}
    web.tricks["*"] = [status(403)]
    done = chash("query", "query.png", "--gallery", secret, "--json")
    assert done.code == 1
    assert "403" in done.err
    assert "pass-word" not in done.out + done.err


def test_cli__query_names_the_url_whose_model_is_not_here(chash: Chash, shop: str) -> None:
    (next(Path().glob("*.chb"))).rename("model")
    Path("other").mkdir()
    Path("model").rename("other/model")
    done = chash("query", "query.png", "--gallery", shop)
    assert done.code == 5
    assert f"where: {shop}\n" in done.err


def test_cli__query_refuses_a_photo_behind_a_url(chash: Chash, shop: str) -> None:
    photo = f"{shop}/a.jpg"
    done = chash("query", photo.replace("://", "://ann:pass-word@"), "--gallery", shop)
    assert done.code == 2
    assert f"where: {photo}\ntry: curl -o photo.jpg {photo} &&" in done.err
    assert "pass-word" not in done.err
    assert chash("query", "1://a.jpg", "--gallery", shop).code == 1  # a file that is not there


def test_cli__push_says_what_to_do_about_another_gallery(chash: Chash, shop: str, web: Web) -> None:
    assert chash("index", "shop", "--out", "two.chg").code == 0
    place = web.folder / "shop.chg"
    done = chash("index", "push", "two.chg", place)
    assert done.code == 2
    assert "try: another URL, or --force to replace it" in done.err
    assert chash("index", "push", "two.chg", place, "--force").code == 0
    (place / "content" / of_file("gallery.sqlite")(listed(place))).write_bytes(b"damaged")
    assert (
        chash("index", "push", "two.chg", place, "--verify", "--json").json("chash.push/1")[
            "uploaded"
        ]
        == 1
    )


def test_cli__verbs_that_write_refuse_a_url(chash: Chash, shop: str) -> None:
    for words in (
        ("index", "shop", "--out", shop),
        ("index", "compact", shop),
        ("index", "accelerate", shop),
        ("index", "remove", shop, "--id", "1"),
        ("index", "repair", shop),
    ):
        done = chash(*words)
        assert done.code == 2, words
        assert "only read" in done.err
        assert f"chash index push FOLDER {shop}" in done.err
    assert not Path("http:").exists()


def test_cli__serve_names_the_url(chash: Chash, shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def serve(*_: object, ready: Callable[[object], None], **__: object) -> None:
        ready(None)

    monkeypatch.setattr("concepthash.serve.server.serve", serve)
    secret = shop.replace("://", "://ann:pass-word@")
    done = chash("serve", secret, "--port", "0", "--json")
    assert done.json("chash.serve/1")["gallery"] == shop
    assert f"serving {shop} on" in done.err


@pytest.mark.parametrize("verb", [("query", "query.png", "--gallery"), ("serve",)])
def test_cli__ray_lets_each_machine_fetch_the_url(
    chash: Chash, shop: str, monkeypatch: pytest.MonkeyPatch, verb: tuple[str, ...]
) -> None:
    pytest.importorskip("ray")
    asked: list[str | None] = []

    @contextmanager
    def serving(gallery: Any, **_: object) -> Iterator[None]:
        asked.append(gallery.url)
        raise BackendError("no cluster in this test", where="", hint="")
        yield

    monkeypatch.setattr("concepthash.cluster.start.connected", lambda *_, **__: nullcontext())
    monkeypatch.setattr("concepthash.cluster.serving.serving", serving)
    secret = shop.replace("://", "://ann:pass-word@")
    done = chash(*verb, secret, "--engine", "ray", *(("--port", "0") if verb == ("serve",) else ()))
    assert "no cluster in this test" in done.err
    assert asked == [secret]


@pytest.mark.parametrize("verb", [("query", "query.png", "--gallery"), ("inspect",)])
def test_cli__a_malformed_url_is_shown_nowhere(
    chash: Chash, shop: str, verb: tuple[str, ...]
) -> None:
    done = chash(*verb, "http://ann:pass-word@[bad/zz.chg")
    assert done.code == 2
    assert "no such URL" in done.err
    assert "pass-word" not in done.out + done.err


def test_cli__push_reports_json(chash: Chash, shop: str, web: Web) -> None:
    done = chash("index", "push", "elsewhere", web.folder / "shop.chg", "--json")
    values = done.json("chash.push/1")
    assert (values["files"], values["uploaded"], values["url"]) == (
        2, 0, (web.folder / "shop.chg").as_uri(),
    )  # fmt: skip
    assert chash("index", "push", "elsewhere", f"{web.url}/x").code == 2
    assert chash("index", "push", "nothing.chg", web.folder / "x").code == 1

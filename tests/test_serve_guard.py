"""Who may ask a server: tokens, foreign names, foreign sites."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("msgspec")
from fake_engine import CODE, FakeEngine
from serve_client import TOKEN, Client, running

from concepthash.errors import UsageError
from concepthash.serve.guard import Guard
from concepthash.serve.replies import Refused
from concepthash.serve.server import guard_of, listening, url_of

ASKED = f"/v1/query?code={CODE}"


async def nothing() -> tuple[()]:
    return ()


@pytest.fixture(scope="module")
def closed() -> Iterator[Client]:
    with running(FakeEngine(nothing), token=TOKEN) as client:  # type: ignore[arg-type]
        yield client


@pytest.fixture(scope="module")
def local() -> Iterator[Client]:
    with running(FakeEngine(nothing)) as client:  # type: ignore[arg-type]
        yield client


@pytest.mark.parametrize("path", [ASKED, "/v1/info", "/metrics", "/openapi.json", "/nowhere"])
def test_token__is_wanted_everywhere_but_on_the_page(closed: Client, path: str) -> None:
    answer = closed.get(path)
    answer.error(401)
    assert answer.headers["www-authenticate"] == "Bearer"
    for wrong in (
        TOKEN,
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        f"Basic {TOKEN}",
        "Bearer ",
        "é",
    ):
        closed.get(path, Authorization=wrong).error(401)
    found = closed.get(path, Authorization=f"bearer {TOKEN}").status
    assert found == (404 if path == "/nowhere" else 200)


@pytest.mark.parametrize("path", ["/", "/static/page.js", "/healthz"])
def test_token__is_not_wanted_for_the_page(closed: Client, path: str) -> None:
    assert closed.get(path).status == 200


def test_token__lets_a_proxy_use_its_own_name(closed: Client) -> None:
    right = {"Host": "birds.example", "Origin": "https://birds.example"}
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    assert closed.ask("POST", "/v1/query", {"code": CODE}, **right, **bearer).status == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:80", "127.0.0.1", "[::1]:8000", "[::1]"])
def test_host__of_this_machine_is_let_in(local: Client, host: str) -> None:
    assert local.get(ASKED, Host=host).status == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "", "[::1", "::1"],
)
def test_host__of_another_name_is_refused(local: Client, host: str) -> None:
    assert local.get(ASKED, Host=host).error(403)["where"] == "Host"
    local.get("/", Host=host).error(403)


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"Origin": "http://localhost:1"}, 200),
        ({"Sec_Fetch_Site": "same-origin"}, 200),
        ({"Sec_Fetch_Site": "none"}, 200),
        ({"Origin": "http://evil.example"}, 403),
        ({"Origin": "http://localhost:2"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec_Fetch_Site": "cross-site"}, 403),
        ({"Sec_Fetch_Site": "same-site"}, 403),
    ],
)
def test_post__of_another_site_is_refused(
    local: Client, headers: dict[str, str], status: int
) -> None:
    asked: Any = {"code": CODE}
    assert local.ask("POST", "/v1/query", asked, Host="localhost:1", **headers).status == status


def test_reply__lets_no_other_site_read_or_embed_it(local: Client) -> None:
    for path in ("/", ASKED, "/nowhere"):
        headers = local.get(path, Origin="http://evil.example").headers
        assert not [name for name in headers if name.startswith("access-control")]
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["referrer-policy"] == "no-referrer"
        assert "server" not in headers


def test_guard__knows_the_host_it_was_given() -> None:
    guard = guard_of(None, "Birdbox")
    guard.check("GET", {b"host": b"birdbox:8000"}, free=False)
    guard_of(None, "::1").check("GET", {b"host": b"[::1]:8000"}, free=False)
    with pytest.raises(Refused):
        guard.check("GET", {b"host": b"other:8000"}, free=False)
    with pytest.raises(Refused):
        Guard(None, frozenset()).check("GET", {}, free=True)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_listening__beyond_loopback_needs_a_token(host: str) -> None:
    with pytest.raises(UsageError, match="token_urlsafe"):
        listening(host, 0, token=False)


def test_listening__names_an_address_to_open() -> None:
    with listening("0.0.0.0", 0, token=True) as bound:
        assert url_of(bound, "0.0.0.0") == f"http://127.0.0.1:{bound.getsockname()[1]}"
    with listening("localhost", 0, token=False) as bound:
        assert url_of(bound, "localhost").startswith("http://localhost:")


def test_listening__of_no_address_here_is_refused() -> None:
    for host in ("", "nowhere.invalid", "192.0.2.7"):
        with pytest.raises(UsageError, match=re.escape(f"--host {host}")):
            listening(host, 0, token=True)


def test_log__has_neither_token_nor_query() -> None:
    lines: list[str] = []
    with running(FakeEngine(nothing), token=TOKEN, lines=lines) as client:  # type: ignore[arg-type]
        client.get(f"{ASKED}&token={TOKEN}", Authorization=f"Bearer {TOKEN}")
    (line,) = lines
    assert line.startswith("GET /v1/query 400 ")
    assert TOKEN not in line
    assert CODE not in line

"""A server under load, with slow clients, and at its end."""

from __future__ import annotations

import asyncio
import select
import socket
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import pytest

pytest.importorskip("msgspec")
from fake_engine import CODE, FakeEngine
from serve_client import Answer, drained, running

from concepthash.errors import BackendError
from concepthash.serve.batching import Busy
from concepthash.serve.connection import Bounds
from concepthash.serve.engine import Limits
from concepthash.serve.limits import Status

ASKED = f"/v1/query?code={CODE}"
POST = b"POST /v1/hash HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\n"
FILLER = b"X: " + b"y" * 8000 + b"\r\n"
MANY_BYTES = 100_000_000
QUICK = Bounds(head=0.5, linger=0.5, request=5)


def fake(answer: Callable[[], Any]) -> Any:
    return FakeEngine(answer)


async def nothing() -> tuple[()]:
    return ()


async def never() -> None:
    await asyncio.sleep(3600)


def readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


def wait_until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_busy_engine__is_503_with_a_time_to_come_again() -> None:
    async def busy() -> None:
        raise Busy("too many requests wait", 7)

    with running(fake(busy)) as client:
        answer = client.get(ASKED)
        answer.error(503)
        assert answer.headers["retry-after"] == "7"


def test_engine_that_fails__is_503_in_its_words() -> None:
    async def broken() -> None:
        raise BackendError("the device is gone", hint="chash doctor")

    with running(fake(broken)) as client:
        answer = client.get(ASKED)
        assert answer.error(503)["try"] == "chash doctor"
        assert answer.headers["retry-after"] == "1"


def test_fault__is_told_as_one_without_its_text(capfd: pytest.CaptureFixture[str]) -> None:
    async def fault() -> None:
        raise RuntimeError("inner matters")

    with running(fake(fault)) as client:
        assert "inner matters" not in str(client.get(ASKED).error(500))
    assert "inner matters" in capfd.readouterr().err


def test_answer__that_takes_too_long_is_504() -> None:
    engine = fake(never)
    with running(engine, seconds=0.2) as client:
        client.get(ASKED).error(504)
        client.get("/v1/explain?id=1").error(504)
        wait_until(lambda: engine.dropped == 2)


@pytest.mark.parametrize(
    ("status", "code"), [("ok", 200), ("degraded", 200), ("failing", 503), ("stopping", 503)]
)
def test_health__is_503_only_if_it_cannot_answer(status: Status, code: int) -> None:
    engine = fake(nothing)
    engine.status, engine.trouble = status, "the gallery is of another model"
    with running(engine) as client:
        answer = client.get("/healthz")
        assert answer.status == code
        health = answer.json("chash.health/1")
        assert (health["status"], health["reason"]) == (status, engine.trouble)


def test_client_that_hangs_up__ends_the_work_for_it() -> None:
    engine = fake(never)
    with running(engine) as client:
        with client.raw(POST + b"Content-Length: 3\r\n\r\nabc"):
            wait_until(lambda: engine.begun == 1)
        wait_until(lambda: engine.dropped == 1)


def test_client_that_hangs_up__ends_the_work_for_all_it_asked_at_once() -> None:
    engine = fake(never)
    following = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with running(engine) as client:
        with client.raw(POST + b"Content-Length: 3\r\n\r\nabc" + following):
            wait_until(lambda: engine.begun == 1)
        wait_until(lambda: engine.dropped == 1)


def test_body__that_comes_too_slowly_is_408() -> None:
    with (
        running(fake(nothing), seconds=0.3) as client,
        client.raw(POST + b"Content-Length: 30\r\n\r\nabc") as connection,
    ):
        assert drained(connection).startswith(b"HTTP/1.1 408 ")


def test_body__of_a_client_that_hangs_up_is_forgotten() -> None:
    with running(fake(nothing)) as client:
        with client.raw(POST + b"Content-Length: 30\r\n\r\nabc"):
            pass
        room = client.server._app.service.room
        wait_until(lambda: room.taken == 0)
        assert client.get("/healthz").status == 200


def test_bodies__together_take_bounded_memory() -> None:
    limits = Limits(upload_bytes=1000)
    with running(fake(nothing), limits=limits) as client, ExitStack() as held:
        head = POST + b"Content-Length: 1000\r\n\r\n"
        for _ in range(8):
            held.enter_context(client.raw(head + bytes(999)))
        room = client.server._app.service.room
        wait_until(lambda: room.taken == 8 * 999)
        answer = client.ask("POST", "/v1/hash", bytes(500), Content_Type="image/png")
        answer.error(503)
        assert answer.headers["retry-after"] == "1"
        assert client.get(ASKED).status == 200
        held.close()
        wait_until(lambda: room.taken == 0)


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HT", b"\r\n", b"GET / HTTP/1.1\r\nHost: localhost\r\n"]
)
def test_head__that_comes_too_slowly_ends_the_connection(sent: bytes) -> None:
    with running(fake(nothing), bounds=QUICK) as client, client.raw(sent) as connection:
        assert drained(connection).startswith(b"HTTP/1.1 408 ")


def test_slow_heads__of_many_do_not_keep_others_out() -> None:
    bounds = Bounds(connections=1000, head=3600)
    with running(fake(nothing), bounds=bounds) as client, ExitStack() as held:
        for _ in range(200):
            held.enter_context(client.raw(b"GET / HTTP/1.1\r\nX: "))
        assert client.get(ASKED).status == 200


def test_connections__beyond_the_bound_are_503() -> None:
    bounds = Bounds(connections=3, grace=3600)
    with running(fake(nothing), bounds=bounds) as client, ExitStack() as held:
        open_ones = [held.enter_context(client.raw(b"GET / ")) for _ in range(3)]
        connections = client.server.server_state.connections
        wait_until(lambda: len(connections) == 3)
        answer = client.get(ASKED)
        answer.error(503)
        assert (answer.headers["retry-after"], answer.headers["connection"]) == ("1", "close")
        for connection in open_ones:
            connection.close()
        wait_until(lambda: not connections)
        assert client.get(ASKED).status == 200


@pytest.mark.parametrize(
    "slow",
    [
        b"GET / ",
        POST + b"Content-Length: 9\r\n\r\nabc",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=["head", "body", "next request"],
)
def test_connection__that_keeps_us_waiting_makes_room_for_a_new_one(slow: bytes) -> None:
    bounds = Bounds(connections=3, grace=0)
    with running(fake(nothing), bounds=bounds) as client, ExitStack() as held:
        open_ones = [held.enter_context(client.raw(slow)) for _ in range(3)]
        connections = client.server.server_state.connections
        wait_until(lambda: len(connections) == 3)
        if b"healthz" in slow:
            for connection in open_ones:
                assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert client.get(ASKED).status == 200
        wait_until(lambda: len(connections) == 2)
        ended = [connection for connection in open_ones if readable(connection)]
        assert [drained(connection) for connection in ended] == [b""]


@pytest.mark.parametrize(
    "begun",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n3;",
    ],
    ids=["headers", "trailers", "chunk extension"],
)
def test_head__that_grows_without_end_ends_the_connection(begun: bytes) -> None:
    sent = 0
    with (
        running(fake(nothing)) as client,
        client.raw(begun) as connection,
        suppress(ConnectionError),
    ):
        while sent < MANY_BYTES:
            sent += connection.send(FILLER)
    assert sent < MANY_BYTES


def test_rest_of_a_refused_body__is_not_waited_for_long() -> None:
    head = POST + b"Content-Length: 999999999\r\n\r\nabc"
    with running(fake(nothing), bounds=QUICK) as client, client.raw(head) as connection:
        assert drained(connection).startswith(b"HTTP/1.1 413 ")


def test_answers__that_nobody_reads_end_the_connection() -> None:
    asked = b"GET /static/page.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 2000
    with running(fake(nothing), bounds=QUICK) as client:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        with connection:
            connection.connect((client.host, client.port))
            connection.settimeout(30)
            connection.sendall(asked[:100_000])
            wait_until(lambda: not client.server.server_state.connections)


@pytest.mark.parametrize(
    "sent",
    [b"\0\0\0\0", b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n",
     b"GET / HTTP/1.1\r\nA\r\n\r\n", b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
     b"GET http://[ HTTP/1.1\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: localhost\r\n\r\n",
     b"POST /v1/hash HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n"
     b"Transfer-Encoding: chunked\r\n\r\nabc"],
    ids=repr,
)  # fmt: skip
def test_bytes__that_are_no_http_are_400(sent: bytes) -> None:
    with running(fake(nothing), bounds=QUICK) as client, client.raw(sent) as connection:
        assert drained(connection).startswith(b"HTTP/1.1 400 ")


def test_upgrade__is_answered_as_if_it_was_not_asked_for() -> None:
    sent = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
    sent += b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n"
    with running(fake(nothing), bounds=QUICK) as client, client.raw(sent) as connection:
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_end__waits_for_what_was_begun() -> None:
    release, answers = threading.Event(), []

    async def slow() -> tuple[()]:
        while not release.is_set():
            await asyncio.sleep(0.02)
        return ()

    engine = fake(slow)

    def ask(client: Any) -> None:
        answers.append(client.get(ASKED))

    with running(engine) as client:
        asking = threading.Thread(target=ask, args=(client,))
        asking.start()
        wait_until(lambda: engine.begun == 1)
        client.server.should_exit = True
        wait_until(lambda: client.server._app.service.stopping)
        with pytest.raises(ConnectionRefusedError):
            wait_until(lambda: not client.get("/healthz"))
        release.set()
        asking.join(20)
    assert [answer.status for answer in answers] == [200]
    assert engine.stopped


def test_end__does_not_wait_for_ever() -> None:
    engine, answers = fake(never), []

    def ask(client: Any) -> Answer:
        answer = client.get(ASKED)
        answers.append(answer)
        return answer

    with running(engine, seconds=1) as client:
        asking = threading.Thread(target=ask, args=(client,))
        asking.start()
        wait_until(lambda: engine.begun == 1)
    asking.join(20)
    assert [answer.status for answer in answers] in ([503], [504])
    assert engine.stopped


def test_end__asked_for_twice_waits_for_nothing() -> None:
    engine = fake(never)

    async def finish() -> None:  # as the real one, which finishes what it accepted
        while engine.dropped < engine.begun:
            await asyncio.sleep(0.01)

    engine.stop = finish
    with running(engine) as client, client.raw(b"") as connection:
        connection.sendall(f"GET {ASKED} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        wait_until(lambda: engine.begun == 1)
        client.server.handle_exit(2, None)
        wait_until(lambda: client.server._app.service.stopping)
        assert engine.dropped == 0
        client.server.handle_exit(2, None)
        assert drained(connection).startswith(b"HTTP/1.1 503 ")

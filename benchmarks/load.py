"""A client that loads an HTTP server on loopback: raw requests over connections that stay open."""

import asyncio
import json
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

CHASH = Path(sys.executable).with_name("chash")

Respond = Callable[[int, bytes], None]


@contextmanager
def server(*arguments: str | Path) -> Iterator[tuple[str, int]]:
    """``chash serve`` with these arguments on a free port: its address, and its process id."""
    command = [str(CHASH), "serve", *map(str, arguments), "--port", "0", "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise SystemExit(f"{command} did not start")
        yield json.loads(line)["url"], process.pid
        process.terminate()
        process.wait(30)
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def request(method: str, path: str, body: bytes = b"", kind: str = "application/json") -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Connection(asyncio.Protocol):
    """One request at a time."""

    def __init__(self, idle: Callable[["Connection"], None]) -> None:
        self._idle = idle
        self._respond: Respond | None = None
        self._buffer = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def ask(self, data: bytes, respond: Respond) -> None:
        self._respond = respond
        self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        place = head.find(b"content-length:")
        length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
        if len(self._buffer) < end + 4 + length:
            return
        body = bytes(self._buffer[end + 4 : end + 4 + length])
        del self._buffer[: end + 4 + length]
        respond, self._respond = self._respond, None
        assert respond is not None
        respond(int(head[9:12]), body)
        self._idle(self)

    def connection_lost(self, error: Exception | None) -> None:
        if self._respond is not None:
            self._respond(0, b"")

    def close(self) -> None:
        self._transport.abort()


class Load:
    """Requests taken in turns, over a number of connections, until a moment."""

    def __init__(self, requests: Sequence[bytes], *, endless: bool) -> None:
        self.requests = requests
        self.endless = endless
        self.over = float("inf")
        self.due: deque[float] = deque()
        self.free: deque[Connection] = deque()
        self.latencies: list[float] = []
        self.statuses: Counter[int] = Counter()
        self.sent = 0

    def idle(self, connection: Connection) -> None:
        self.free.append(connection)
        now = time.perf_counter()
        if self.endless and now < self.over:
            self.due.append(now)
        self.dispatch()

    def dispatch(self) -> None:
        while self.due and self.free:
            data = self.requests[self.sent % len(self.requests)]
            self.sent += 1
            self.free.popleft().ask(data, partial(self.answered, self.due.popleft()))

    def answered(self, due: float, status: int, body: bytes) -> None:
        self.latencies.append(time.perf_counter() - due)
        self.statuses[status] += 1

    async def rest(self) -> None:
        """Wait until nothing is due or under way."""
        async with asyncio.timeout(30):
            while self.due or len(self.latencies) < self.sent:
                await asyncio.sleep(0.001)


async def load(
    url: str,
    requests: Sequence[bytes],
    *,
    seconds: float,
    connections: int,
    rate: float | None = None,
) -> dict[str, object]:
    """What a server did under requests taken in turns.

    With a ``rate`` a request is due every ``1 / rate`` seconds whatever the server does, and its
    latency counts from when it was due (no coordinated omission). Without one, every connection
    asks again as soon as it was answered.
    """
    parts = urlsplit(url)
    run = Load(requests, endless=rate is None)
    opened = []
    for _ in range(connections):
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(run.idle), parts.hostname, parts.port
        )
        opened.append(connection)
    run.free.extend(opened)
    started = time.perf_counter()
    run.over = started + seconds
    if rate is None:
        run.due.extend([started] * connections)
        run.dispatch()
        await asyncio.sleep(seconds)
    else:
        arrived = 0
        while (now := time.perf_counter()) < run.over:
            while arrived < (now - started) * rate:
                run.due.append(started + arrived / rate)
                arrived += 1
            run.dispatch()
            await asyncio.sleep(0.0005)
    await run.rest()
    taken = time.perf_counter() - started
    for connection in opened:
        connection.close()
    millis = np.array(run.latencies) * 1e3
    return {
        "asked_per_second": rate,
        "connections": connections,
        "answers_per_second": round(len(millis) / taken, 1),
        **{f"p{p}_ms": round(float(np.percentile(millis, p)), 2) for p in (50, 95, 99)},
        "longest_ms": round(float(millis.max()), 2),
        "statuses": {str(status): count for status, count in sorted(run.statuses.items())},
    }


def memory(process: int) -> Mapping[str, float]:
    """Resident memory now and at its peak, MB."""
    fields = dict(
        line.split(":", 1)
        for line in Path(f"/proc/{process}/status").read_text().splitlines()
        if ":" in line
    )
    return {
        name: round(int(fields[field].split()[0]) / 1024, 1)
        for name, field in (("now_mb", "VmRSS"), ("peak_mb", "VmHWM"))
    }

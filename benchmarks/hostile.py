"""``chash serve`` under 10,000 malformed or hostile requests: what it answers, and its memory.

``python -m benchmarks.hostile [GALLERY BUNDLE]``; by default the drawn birds of ``chash demo``,
made for it. Requests are drawn from a seed; between them honest queries are asked, and must be
answered as before. It ends with 1 if one is answered with 500, or an honest one otherwise.
"""

import io
import json
import random
import socket
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
from PIL import Image

from benchmarks.load import CHASH, memory, request, server
from benchmarks.report import write

REQUESTS, CLIENTS, EVERY = 10_000, 8, 100
WARM = 1_000
FLAT_MB = 32
SECONDS = 15.0
SEED = 6

MODES = {
    "JPEG": ["RGB", "L", "CMYK"],
    "PNG": ["RGB", "L", "1", "P", "RGBA", "I;16", "LA"],
    "TIFF": ["RGB", "L", "1", "P", "CMYK", "RGBA", "I;16"],
    "GIF": ["L", "P", "1"],
    "BMP": ["RGB", "L", "1", "P"],
    "WEBP": ["RGB", "RGBA"],
}

Draw = Callable[[random.Random], bytes]

TEXTS = (
    "", "\0", "a" * 10_000, "../../etc/passwd", "/etc/passwd", "%00", "%zz", "${7*7}", "'; DROP",
    "<script>alert(1)</script>", "\u202e", "1e999", "-1", "NaN", "true", "[]", "0x10", "\u0661",
    "é" * 99, "0000000\n", "000000000000000\n",
)  # fmt: skip
PATHS = (
    "/static/../../../etc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/..%2f..%2fapp.py",
    "//etc/passwd", "/v1/items/../../etc/passwd", "/v1/items/-1", "/v1/items/9223372036854775808",
    "/v1/items/1/thumbnail?size=-1", "/v1/items/1/thumbnail?size=99999999", "/v1/items/0x1",
    "/v1/items/1/thumbnail?view=../../x", "/v1/items?limit=-5", "/v1/items?limit=1e9",
    "/v1/items?after=x&label=%ff%fe", "/v1/query?id=1&code=00", "/v1/query", "/v1/query?k=0&id=1",
    "/v1/query?id=1&k=1000000000", "/v1/query?id=%00", "/v1/explain?id=1&format=exe", "/v2", "/%",
    "/v1/query?id=1&radius=-1", "/v1/query?id=1&weights=1", "/v1/query?id=1&weights=9,9,9,-9",
    "/v1/query?" + "&".join(f"labels={n}" for n in range(2000)), "/" + "a" * 70_000, "*", "",
    "http://elsewhere.example/v1/info", "/v1/info#x", "/v1/query?id=1&concepts=" + "0," * 5000,
)  # fmt: skip
VALUES = (
    None, True, -1, 0, 2**63, 2**64, 1e308, 0.5, "", "1", "\ud800", [], [[]], {}, {"a": 1},
    [None] * 1000, "00" * 4, "zz" * 4, [1, 2], [-1] * 4, [256] * 4, ["x"] * 4, "head",
    list(range(99)), "0000000\n", "000000000000000\n",
)  # fmt: skip
FIELDS = ("id", "code", "k", "radius", "concepts", "weights", "labels", "other", "path", "format")


def picture(draw: random.Random, form: str = "JPEG") -> bytes:
    size = draw.choice([(1, 1), (1, 3000), (64, 48), (300, 200), (7, 7)])
    mode = draw.choice(MODES[form])
    file = io.BytesIO()
    Image.new(mode, size).save(file, form)
    return file.getvalue()


def bomb(draw: random.Random) -> bytes:
    """A PNG that claims to be huge, of a few bytes."""
    side = draw.choice([20_000, 65_535, 2**31 - 1])

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 100_000)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def animation(draw: random.Random) -> bytes:
    frames = [Image.new("P", (64, 64), n) for n in range(50)]
    file = io.BytesIO()
    frames[0].save(file, "GIF", save_all=True, append_images=frames[1:])
    return file.getvalue()


def broken(draw: random.Random) -> bytes:
    data = bytearray(picture(draw, draw.choice(list(MODES))))
    kind = draw.randrange(4)
    if kind == 0:
        del data[draw.randrange(len(data)) :]
    elif kind == 1:
        for _ in range(draw.randrange(1, 20)):
            data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
    elif kind == 2:
        data += draw.randbytes(draw.randrange(10_000))
    else:
        data[4:4] = draw.randbytes(draw.randrange(64))
    return bytes(data)


def image_body(draw: random.Random) -> bytes:
    return draw.choice(
        [broken, broken, broken, bomb, animation, picture, lambda d: d.randbytes(2000),
         lambda d: b"", lambda d: b"<svg xmlns='http://www.w3.org/2000/svg'/>"]
    )(draw)  # fmt: skip


def image(draw: random.Random) -> bytes:
    path = draw.choice(["/v1/query", "/v1/hash", "/v1/explain", "/v1/explain?format=png"])
    kind = draw.choice(["image/jpeg", "image/png", "application/octet-stream", "image/svg+xml"])
    return request("POST", path, image_body(draw), kind)


def form(draw: random.Random) -> bytes:
    mark = draw.choice(["x", "x" * 500, "a b", '"', ""])
    body = b""
    for _ in range(draw.choice([0, 1, 2, 3, 50, 2000])):
        name = draw.choice(["image", "other", "k", *TEXTS])
        filename = draw.choice(["", f'; filename="{draw.choice(TEXTS)}"'])
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{name}"{filename}\r\n\r\n'
        content = image_body(draw) if draw.random() < 0.2 else draw.choice(TEXTS).encode()
        body += head.encode() + content[:2000] + b"\r\n"
    if draw.random() < 0.7:
        body += f"--{mark}--\r\n".encode()
    kind = draw.choice(
        [f"multipart/form-data; boundary={mark}", "multipart/form-data", "multipart"]
    )
    return request("POST", draw.choice(["/v1/query", "/v1/explain", "/v1/hash"]), body, kind)


def values(draw: random.Random) -> bytes:
    asked = {draw.choice(FIELDS): draw.choice(VALUES) for _ in range(draw.randrange(5))}
    body = json.dumps(asked).encode()
    return request("POST", draw.choice(["/v1/query", "/v1/explain", "/v1/hash"]), body)


def no_json(draw: random.Random) -> bytes:
    body = draw.choice(
        [b"[" * 100_000, b'{"a":' * 50_000, b"\xff\xfe", b"{", b"null", b"0", b'"x"',
         b'{"id":1,"id":2}',
         b'{"code": NaN}', b'{"k":' + b"9" * 5000 + b"}", draw.randbytes(500), b""]
    )  # fmt: skip
    return request("POST", "/v1/query", body)


def address(draw: random.Random) -> bytes:
    method = draw.choice(["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH", "X"])
    return request(method, draw.choice(PATHS))


def framing(draw: random.Random) -> bytes:
    """Lengths that lie, chunks that are none, two lengths, headers without end."""
    post = b"POST /v1/query HTTP/1.1\r\nHost: localhost\r\n"
    return draw.choice(
        [
            post + b"Content-Length: 1000\r\n\r\n{}",
            post + b"Content-Length: -1\r\n\r\n{}",
            post + b"Content-Length: 99999999999\r\n\r\n{}",
            post + b"Content-Length: 2\r\nContent-Length: 9\r\n\r\n{}",
            post + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n",
            post + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n{}",
            post + b"Transfer-Encoding: gzip\r\n\r\n{}",
            post + b"Content-Encoding: gzip\r\nContent-Length: 4\r\n\r\n\x1f\x8b\x08\x00",
            post + b"Expect: 100-continue\r\nContent-Length: 2\r\n\r\n{}",
            post + b"X: " + b"y" * 200_000,
            post + b"".join(b"X%d: y\r\n" % n for n in range(5000)) + b"\r\n",
            b"GET /v1/info HTTP/1.1\r\nHost: evil.example\r\n\r\n",
            b"GET /v1/info HTTP/1.1\r\n\r\n",
            b"GET /v1/info HTTP/9.9\r\nHost: localhost\r\n\r\n",
            b"GET /v1/info HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: x\r\nSec-WebSocket-Version: 13\r\n\r\n",
            b"GET /v1/info HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + draw.randbytes(200),
            b"GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50,
            draw.randbytes(draw.randrange(1, 3000)),
            b"",
        ]
    )


KINDS: dict[str, Draw] = {
    "image": image, "form": form, "values": values, "no json": no_json, "address": address,
    "framing": framing,
}  # fmt: skip


def ask(host: str, port: int, data: bytes, *, whole: bool) -> int | None:
    """The status of the first answer; None if the connection ended without one.

    Args:
        whole: the request ends by itself; otherwise the client says that nothing more comes.
    """
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        answer = b""
        try:
            connection.sendall(data)
            if not whole:
                connection.shutdown(socket.SHUT_WR)
            while len(answer) < 16 and (part := connection.recv(4096)):
                answer += part
        except (ConnectionError, OSError):  # closed on a request it did not want to read
            pass
        return int(answer[9:12]) if answer.startswith(b"HTTP/1.1 ") else None


def honest(host: str, port: int) -> object:
    """The answer to a query by id."""
    data = request("GET", "/v1/query?id=1&k=5").replace(
        b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"
    )
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        connection.sendall(data)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, body = answer.partition(b"\r\n\r\n")
    return json.loads(body)["queries"] if head.startswith(b"HTTP/1.1 200") else head.decode()


def slope(seen: list[dict[str, float]]) -> float:
    """MB of memory a thousand requests, of a straight line through what was seen."""
    line = np.polyfit([m["requests"] for m in seen], [m["now_mb"] for m in seen], 1)
    return round(float(line[0]) * 1e3, 3)


def demo(folder: Path) -> tuple[Path, Path]:
    subprocess.run([CHASH, "demo", "--out", folder, "--epochs", "1"], check=True, stdout=sys.stderr)
    return folder / "birds.chg", folder / "birds.chb"


def main(gallery: Path, bundle: Path) -> None:
    draw = random.Random(SEED)
    names = list(KINDS)
    plan = [(name := draw.choice(names), KINDS[name](draw)) for _ in range(REQUESTS)]
    statuses: dict[str, Counter[str]] = defaultdict(Counter)
    errors, wrong, seen = [], 0, []
    with server(gallery, "--model", bundle) as (url, process):
        host, port = urlsplit(url).hostname, urlsplit(url).port
        assert host is not None
        assert port is not None
        expected = honest(host, port)
        assert isinstance(expected, list), expected
        with ThreadPoolExecutor(CLIENTS) as pool:
            for first in range(0, REQUESTS, EVERY):
                some = plan[first : first + EVERY]
                found = pool.map(
                    lambda asked: ask(host, port, asked[1], whole=asked[0] != "framing"), some
                )
                for (name, data), status in zip(some, found, strict=True):
                    statuses[name][str(status or "closed")] += 1
                    if status == 500:
                        errors.append((name, data[:200]))
                wrong += honest(host, port) != expected
                seen.append({"requests": first + EVERY, **memory(process)})
    warm = next(m for m in seen if m["requests"] >= WARM)
    grown = seen[-1]["now_mb"] - warm["now_mb"]
    write(
        "hostile",
        {
            "what": "malformed or hostile requests to chash serve on loopback",
            "requests": REQUESTS,
            "seed": SEED,
            "statuses": {name: dict(sorted(found.items())) for name, found in statuses.items()},
            "answered_500": len(errors),
            "honest_queries": len(seen),
            "honest_answered_otherwise": wrong,
            "memory_mb": {
                "after_1000": warm["now_mb"],
                "after_all": seen[-1]["now_mb"],
                "grown": round(grown, 1),
                "slope_per_1000": slope(seen[WARM // EVERY - 1 :]),
                "peak": seen[-1]["peak_mb"],
            },
        },
    )  # fmt: skip
    for name, data in errors[:20]:
        print(f"500 to {name}: {data!r}", file=sys.stderr)
    if errors or wrong or grown > FLAT_MB:
        raise SystemExit(1)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        given = [Path(name) for name in sys.argv[1:]]
        main(*(given or demo(Path(folder) / "demo")))

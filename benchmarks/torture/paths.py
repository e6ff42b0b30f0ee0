"""Hostile paths: in manifests, graphs, galleries, tables of photos, links and output places.

Beside every case lies a folder that nothing may leave its own for: no file of it may change, what
a canary in it says may not come into any answer or file, and where its name comes from a manifest
it may not even be opened.
"""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

from benchmarks.load import request, server
from benchmarks.torture.canary import CANARY, OUTSIDE, Scene, case, lay_out, seen
from benchmarks.torture.forked import Ended, Work, forked, preload
from benchmarks.torture.report import Clock, Part
from benchmarks.torture.scenes import all_scenes, point_photos
from benchmarks.torture.world import World, world_of

LEAST = 12
"""Cases of any budget."""


def run(budget_seconds: float, rng: random.Random, folder: Path) -> Part:
    """See the module; ``benchmarks.torture`` has the contract."""
    part, clock = Part("paths"), Clock(budget_seconds)
    preload()
    world = world_of(folder / "world", part)
    (folder / "cases").mkdir()
    counts: Counter[str] = Counter()
    scenes = list(all_scenes(world))
    rng.shuffle(scenes)
    for ended in forked(_cases(world, scenes, clock), folder / "cases", seconds=60):
        _judge(part, ended, counts)
    if counts["cases"] < len(scenes):
        part.skipped.append(f"{len(scenes) - counts['cases']} of {len(scenes)} cases, no time")
    part.figures |= dict(counts)
    _served(part, world, folder)
    return part


def _cases(
    world: World, scenes: list[tuple[str, Scene]], clock: Clock
) -> Iterator[tuple[str, Work]]:
    for number, (name, scene) in enumerate(scenes):
        if not clock and number >= LEAST:
            return
        yield name, case(world, scene)


def _judge(part: Part, ended: Ended, counts: Counter[str]) -> None:
    counts["cases"] += 1
    counts["verbs"] += len(ended.verbs)
    if ended.ended:
        last = ended.verbs[-1] if ended.verbs else "nothing"
        part.check(False, f"{ended.name}: {ended.ended} (after {last})")
    for verb in ended.verbs:
        counts["refused"] += verb.code not in (0, 3)
        if verb.wrong:
            part.check(False, f"{ended.name}: {verb}: {verb.wrong}")
    for note in ended.notes:
        part.check(False, f"{ended.name}: {note}")


# The server


def _served(part: Part, world: World, folder: Path) -> None:
    """A gallery whose photos are none, and addresses that climb."""
    place = folder / "served"
    place.mkdir()
    lay_out(world, place / OUTSIDE)
    before = seen(place / OUTSIDE)
    world.take(place, "birds.chb", "birds.chg")
    ids = point_photos(place)
    canary = place / OUTSIDE / "canary.txt"
    climbing = "/".join([".."] * 12)
    paths = [
        *(f"/v1/items/{id}/thumbnail{view}" for id in ids for view in ("", "?view=whole&size=64")),
        *(f"/v1/explain?id={id}&format={form}" for id in ids for form in ("json", "png", "html")),
        *(
            f"/static/{name}"
            for name in (
                f"{climbing}{canary}", quote(f"{climbing}{canary}", safe=""), str(canary),
                quote(str(canary), safe=""), f"..%2f..%2f{canary}", f"..\\..\\{canary}",
                f"%2e%2e/%2e%2e/{canary}", "index.html%00", ".", "..", "../app.py", "..%2fapp.py",
            )
        ),
        f"/{canary}", f"//{canary}", f"/v1/items/../../{canary}", f"/{quote(str(canary), safe='')}",
    ]  # fmt: skip
    statuses: Counter[str] = Counter()
    with server(place / "birds.chg", "--model", place / "birds.chb") as (url, _):
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        for path in paths:
            answer = _ask(parts.hostname, parts.port, path)
            status = answer[9:12].decode(errors="replace") or "nothing"
            statuses[status] += 1
            wrong = CANARY in answer or b"root:" in answer or status in ("500", "nothing")
            part.check(not wrong, f"GET {path[:120]} was answered with {answer[:200]!r}")
            part.check(
                status != "200" or not path.startswith("/v1/items"),
                f"a picture of no photo: {path}",
            )
    part.check(seen(place / OUTSIDE) == before, "the server changed something outside")
    part.figures["served"] = {"requests": len(paths), "statuses": dict(sorted(statuses.items()))}


def _ask(host: str, port: int, path: str) -> bytes:
    data = request("GET", path).replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(data)
        try:
            return b"".join(iter(lambda: connection.recv(65536), b""))
        except OSError:
            return b""

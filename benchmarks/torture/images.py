"""Ten thousand odd, damaged and hostile pictures through ``chash index`` and ``chash serve``.

What is accepted must have one code: in the gallery, alone, in another batch, as bytes and from the
server. What is odd and valid must be accepted, with the code of a plain picture. All the rest must
be refused and listed; nothing may hang, crash, be answered with 500 or take memory without bound.
"""

from __future__ import annotations

import json
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from threading import local
from urllib.parse import urlsplit

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.hostile import honest
from benchmarks.load import memory, server
from benchmarks.torture.encoding import Picture
from benchmarks.torture.pictures import KINDS, huge, pictures
from benchmarks.torture.report import ROOT, Clock, Part, say
from benchmarks.torture.valid import VALID
from benchmarks.torture.watched import watched
from concepthash.errors import ImageError
from concepthash.runtime import Gallery, Hasher

MOST, EACH_SECOND = 10_000, 60.0
"""Pictures, and how many of them a second of the budget is enough for."""
HUGE_SECONDS = 60.0
"""Of a budget, from which on pictures are made that take seconds and gigabytes."""
PEAK_MB, SLOWEST = 3000.0, 20.0
"""Memory of any process at its largest, seconds for any picture."""
SHARE = 0.25
"""Bits in which the code of a lossy copy may differ from that of the picture."""
CLIENTS, EVERY = 4, 100

NAMES = (
    "new\nline", "tab\t", "\x1b[31mred", os.fsdecode(b"bad\xff\xfe"), "n" * 240, "\u202egpj.exe",
    "-rf", "--help", "$(touch x)", "%s%n", "a'b\"c", " space ", "CON", "🐦", "e\u0301", "a\\b",
    "*?[]", "#x", "\u2028", "=cmd|x", ".".join("dots"), "a;b", "\x7f",
)  # fmt: skip


@dataclass
class File:
    """A picture on disk and what became of it; the code is None where it was refused."""

    path: Path
    picture: Picture
    indexed: npt.NDArray[np.uint8] | None = None
    reason: str = ""
    served: npt.NDArray[np.uint8] | None = None
    status: int = 0

    def __str__(self) -> str:
        return f"{self.path.name!r} ({self.picture.kind})"


@dataclass
class Gang:
    """Connections of the threads that upload."""

    host: str
    port: int
    held: local = field(default_factory=local)

    def upload(self, data: bytes) -> tuple[int, bytes]:
        """The status and body of one upload; 0 if there was no answer twice."""
        for _ in range(2):  # the server may end a connection after a refusal
            try:
                link = getattr(self.held, "link", None) or HTTPConnection(
                    self.host, self.port, timeout=60
                )
                self.held.link = link
                link.request("POST", "/v1/hash", data, {"Content-Type": "image/jpeg"})
                answer = link.getresponse()
                return answer.status, answer.read()
            except (OSError, HTTPException):
                self.held.link = None
        return 0, b""


def run(budget_seconds: float, rng: random.Random, folder: Path) -> Part:
    """See the module; ``benchmarks.torture`` has the contract."""
    part, clock = Part("images"), Clock(budget_seconds)
    count = max(KINDS, min(MOST, int(budget_seconds * EACH_SECOND)))
    if count < MOST:
        part.skipped.append(f"{MOST - count} of {MOST} pictures, for want of time")
    files = list(_written(folder / "photos", count, rng, large=budget_seconds >= HUGE_SECONDS))
    strange = _strange(folder / "photos" / "strange", part)
    say("images", f"{len(files)} pictures")
    model = _bundle(folder)
    _index(part, folder, model, files, strange)
    say("images", part.figures)
    hasher = Hasher(model, threads=2)
    try:
        with _silent():
            _alone(part, hasher, files)
            _plain(part, hasher, files)
    finally:
        hasher.close()
    say("images", part.figures)
    _serve(part, folder / "birds.chg", model, files, clock)
    return part


@contextmanager
def _silent() -> Iterator[None]:
    """Without what libtiff writes of each damaged file, past Python, to stderr."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _bundle(folder: Path) -> Path:
    """A bundle whose codes depend on every pixel: 64 bits, a projection of 32 x 32 pixels."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_bundle import tiny_bundle

    return tiny_bundle(folder, bits=64, concepts=4).path


def _written(folder: Path, count: int, rng: random.Random, *, large: bool) -> Iterator[File]:
    """Every picture as a file, in folders of a thousand."""
    for number, picture in enumerate([*pictures(count, rng), *(huge() if large else ())]):
        place = folder / f"{number // 1000:02}"
        place.mkdir(parents=True, exist_ok=True)
        name = f"{NAMES[number]}" if number < len(NAMES) else f"{number:05}"
        path = place / f"{name}{picture.end}"
        path.write_bytes(picture.data)
        yield File(path, picture)


def _strange(folder: Path, part: Part) -> list[Path]:
    """Things that are named like photos; each must be listed, and none waited for."""
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.path.relpath(folder / "socket.jpg"))
    for name, target in (
        ("gone.png", "nowhere.png"), ("self.png", "self.png"), ("zero.jpg", "/dev/zero"),
        ("null.jpg", "/dev/null"), ("terminal.jpg", "/dev/stdin"), ("piped.png", "pipe.jpg"),
    ):  # fmt: skip
        (folder / name).symlink_to(target)
    (folder / "folder.jpg").mkdir()
    (folder / "loop").symlink_to("..")
    found = [path for path in folder.iterdir() if path.name not in ("folder.jpg", "loop")]
    closed = folder / "closed.png"
    closed.write_bytes(b"\x89PNG")
    closed.chmod(0)
    if os.geteuid() == 0:
        part.skipped.append("files that may not be read: the user is root, who may")
    return [*found, closed]


def _index(
    part: Part, folder: Path, model: Path, files: Sequence[File], strange: Sequence[Path]
) -> None:
    """The real command, twice: what it lists, what it stores, its time and its memory."""
    gallery = folder / "birds.chg"
    for turn in ("index", "index_again"):
        done = watched(
            "index", folder / "photos", "--model", model, "--out", gallery, "--json",
            seconds=len(files) * 0.2 + 120,
        )  # fmt: skip
        part.figures[turn] = {"seconds": round(done.seconds, 1), "peak_mb": done.peak_mb}
        part.check(done.code == 3, f"{turn} ended with {done.code}: {done.err[-300:]}")
        part.check("Traceback" not in done.err, f"{turn} showed a traceback: {done.err[-300:]}")
        part.check(done.peak_mb < PEAK_MB, f"{turn} took {done.peak_mb} MB")
        if done.code != 3:
            return
        report = json.loads(done.out)
        if turn == "index":
            first = report
    part.check(
        report["added"] == 0 and report["unchanged"] == first["added"],
        f"indexed again, {report['added']} were added and {report['unchanged']} unchanged of "
        f"{first['added']}",
    )
    with Gallery.open(gallery) as opened:
        ids, codes = opened.codes()
        of = dict(zip(ids.tolist(), codes, strict=True))
        stored = {entry.path.resolve(): of[entry.id] for entry in opened.entries()}
    reasons = {Path(item["path"]).absolute(): item["reason"] for item in first["skipped"]}
    for file in files:
        file.indexed = stored.pop(file.path.resolve(), None)
        file.reason = reasons.pop(file.path, "")
        part.check(
            (file.indexed is None) == bool(file.reason), f"neither stored nor skipped: {file}"
        )
        if file.picture.bomb:
            part.check(file.indexed is None, f"a bomb was accepted: {file}")
    for path in strange:
        part.check(reasons.pop(path, "") != "", f"{path.name} is not listed as skipped")
    part.check(not stored, f"stored, and nobody knows why: {[*stored][:3]}")
    part.check(not reasons, f"skipped, and nobody knows why: {[*reasons.items()][:3]}")
    part.figures["accepted"] = sum(file.indexed is not None for file in files)
    part.figures["refused"] = len(files) - part.figures["accepted"]


def _alone(part: Part, hasher: Hasher, files: Sequence[File]) -> None:
    """Each file by itself, then all as bytes in another order: the codes of the gallery."""
    slowest, which = 0.0, ""
    usual = [file for file in files if not file.picture.huge]
    for file in usual:
        started = time.perf_counter()
        (found,) = hasher.hash([file.path])
        taken = time.perf_counter() - started
        if taken > slowest:
            slowest, which = taken, str(file)
        _same(part, file, found.code, "alone")
    part.figures["slowest_seconds"] = round(slowest, 2)
    part.check(slowest < SLOWEST, f"{which} took {slowest:.1f} s")
    turned = usual[::-1]
    together = hasher.hash(file.picture.data for file in turned)
    for file, found in zip(turned, together, strict=True):
        _same(part, file, found.code, "as bytes in another batch")


def _same(part: Part, file: File, code: npt.NDArray[np.uint8] | None, how: str) -> None:
    if code is None or file.indexed is None:
        part.check(
            code is None and file.indexed is None, f"{how} accepted is another answer: {file}"
        )
    else:
        part.check(bool((code == file.indexed).all()), f"{how} has another code: {file}")


def _plain(part: Part, hasher: Hasher, files: Sequence[File]) -> None:
    """What is odd and valid has been read as the plain picture it is."""
    part.figures["valid"], exact, flips = 0, 0, [0.0]
    for file in files:
        like = file.picture.like
        if like is None:
            continue
        part.figures["valid"] += 1
        if not part.check(file.indexed is not None, f"valid and refused: {file}: {file.reason}"):
            continue
        try:
            pixels = hasher.preprocess(file.picture.data).astype(float)
        except ImageError:
            continue  # noted above
        wanted = hasher.preprocess(Image.fromarray(like))
        off = float(np.abs(pixels - wanted).mean())
        part.check(off <= file.picture.off, f"read {off:.1f} levels off: {file}")
        code = hasher.encode(wanted[None]).codes[0]
        assert file.indexed is not None
        share = float(np.unpackbits(code ^ file.indexed).mean())
        exact += off == 0
        part.check(
            share == 0 if off == 0 else share <= SHARE, f"{share:.0%} of bits differ: {file}"
        )
        flips.append(share)
    part.figures |= {"valid_exact": exact, "largest_share_of_bits_off": round(max(flips), 3)}


def _serve(part: Part, gallery: Path, model: Path, files: Sequence[File], clock: Clock) -> None:
    """Every picture as an upload, honest queries between them."""
    statuses: Counter[str] = Counter()
    done = wrong = 0
    with server(gallery, "--model", model) as (url, process):
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        gang = Gang(parts.hostname, parts.port)
        expected = honest(gang.host, gang.port)
        part.check(isinstance(expected, list), f"an honest query was answered with {expected}")
        before = memory(process)["now_mb"]
        with ThreadPoolExecutor(CLIENTS) as pool:
            for first in range(0, len(files), EVERY):
                some = files[first : first + EVERY]
                answers = pool.map(lambda file: gang.upload(file.picture.data), some)
                for file, (status, body) in zip(some, answers, strict=True):
                    _judge(part, file, status, body)
                    statuses[str(status)] += 1
                done += len(some)
                wrong += honest(gang.host, gang.port) != expected
                if not clock and done >= KINDS:
                    break
        used = memory(process)
    if done < len(files):
        part.skipped.append(f"{len(files) - done} uploads, for want of time")
    part.check(not wrong, f"{wrong} honest queries were answered otherwise")
    part.check(used["peak_mb"] < PEAK_MB, f"the server took {used['peak_mb']} MB")
    part.figures["serve"] = {
        "uploads": done,
        "statuses": dict(sorted(statuses.items())),
        "honest_queries": -(-done // EVERY),
        "mb_before": before,
        "mb_after": used["now_mb"],
        "peak_mb": used["peak_mb"],
    }


def _judge(part: Part, file: File, status: int, body: bytes) -> None:
    if status == 200:
        code = np.frombuffer(bytes.fromhex(json.loads(body)["code"]), np.uint8)
        _same(part, file, code, "uploaded")
        return
    part.check(400 <= status < 500, f"the server answered {status or 'nothing'} to {file}")
    part.check(
        file.picture.like is None, f"valid and refused by the server: {file}: {body[:200]!r}"
    )


assert len(NAMES) < len(VALID)  # so that every odd name is that of a valid picture

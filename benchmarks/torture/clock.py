"""Clocks that jump by years, and photos from years that no clock shows.

The clock of this machine stays as it is: that of a child process jumps, as far as Python asks for
the time of day. The monotonic clock stays right, as it does on a real machine. (libfaketime, which
would reach C code too, makes threads fifteen times slower and ``time.sleep`` fail.)
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

from benchmarks.torture.campaigns import FEW_SECONDS
from benchmarks.torture.forks import Forks
from benchmarks.torture.report import ROOT, Clock, Part, birds, bundle, chash, environment, say
from benchmarks.torture.states import Rows, rows
from concepthash.runtime.gallery import Gallery

YEAR = 365 * 86_400
JUMPS = (0, 1, -1, 3600, -3600, 30 * YEAR, -30 * YEAR, 80 * YEAR, -50 * YEAR)
"""Seconds that a clock may be off."""
PAUSE = 0.02
PATIENCE = 3.0
"""Seconds the server waits for a body."""
SLACK = 20.0
MOMENTS = {
    "1901": -(1 << 31),
    "1969": -86_400,
    "just before 1970": -1,
    "1970": 0,
    "2038": 1 << 31,
    "2106": 1 << 32,
    "2262": (1 << 63) // 10**9 - 1,
    "2263": (1 << 63) // 10**9 + 10**6,
    "2400": 13_569_465_600,
    "in ten years": int(time.time()) + 10 * YEAR,
}
"""When a photo may have been changed, in seconds since 1970."""
_FAKED = """\
import os, time
_time, _ns, _file = time.time, time.time_ns, os.environ["CLOCK_FILE"]
def _off():
    with open(_file) as file:
        return int(file.read() or 0)
time.time = lambda: _time() + _off()
time.time_ns = lambda: _ns() + _off() * 10**9
"""


class FakeClock:
    """A clock for child processes, as far off as :meth:`jump` says, at any moment."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(_FAKED)
        self._file = folder / "offset"
        path = os.pathsep.join([str(folder), str(ROOT)])
        self.environment = {"CLOCK_FILE": str(self._file), "PYTHONPATH": path}
        self.jump(0)

    def jump(self, seconds: int) -> None:
        """Be off by so many seconds from now on."""
        aside = self._file.with_suffix(".new")
        aside.write_text(str(seconds))
        aside.replace(self._file)

    @contextmanager
    def jumping(self, rng: random.Random) -> Iterator[None]:
        """Jump all the time."""
        over = threading.Event()

        def jump() -> None:
            while not over.wait(PAUSE):
                self.jump(rng.choice(JUMPS))

        thread = threading.Thread(target=jump)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            self.jump(0)


class Trials:
    """What is tried, in one folder with photos and a model."""

    def __init__(
        self, part: Part, forks: Forks, folder: Path, rng: random.Random, budget: float
    ) -> None:
        self._part, self._forks, self._folder, self._rng = part, forks, folder, rng
        self._photos = birds(folder / "photos", int(min(300, 30 + 4 * budget)), rng)
        self._many = budget >= FEW_SECONDS
        self._model = bundle(folder)
        self._clock = FakeClock(folder / "clock")

    def jumps(self) -> None:
        """The clock does jump: else all the rest would show nothing."""
        self._clock.jump(-30 * YEAR)
        done = subprocess.run(
            [sys.executable, "-c", "import time; print(time.time())"],
            capture_output=True,
            text=True,
            env=environment(**self._clock.environment),
        )
        off = time.time() - float(done.stdout or "inf")
        self._part.check(abs(off - 30 * YEAR) < YEAR, f"the clock is {off} s off")

    def _chash(self, *words: str | Path, off: bool = False) -> tuple[int, str, str]:
        """Run ``chash``, perhaps with a clock that is off: its exit code, stdout and stderr."""
        if off:
            done = chash(*words, more=self._clock.environment)
            return done.returncode, done.stdout, done.stderr
        ended = self._forks.run([str(word) for word in words], self._folder)
        return ended.code, ended.out, ended.err

    def _index(
        self, gallery: Path, photos: Path | None = None, *, off: bool = False
    ) -> dict[str, object]:
        """Index, and the report; a failure is noted."""
        words = ("index", photos or self._photos, "--model", self._model, "--out", gallery)
        code, out, err = self._chash(*words, "--json", off=off)
        right = self._part.check(code == 0, f"index: exit {code}: {err}")
        report: dict[str, object] = json.loads(out) if right else {}
        return report

    def _rows(self, gallery: Path, what: str) -> Rows:
        codes = {}
        with Gallery.open(gallery) as opened:
            codes = {entry.sha256: opened.code(entry.id).tobytes() for entry in opened.entries()}
        found, wrong = rows(gallery, codes)
        self._part.check(not wrong, f"{what}: {wrong[:3]}")
        return found

    def moments(self) -> None:
        """Photos of any year are indexed once, and known again."""
        folder, names = self._folder / "moments", []
        for photo, (name, seconds) in zip(self._some(len(MOMENTS)), MOMENTS.items(), strict=True):
            copy = folder / f"{name}.png"
            folder.mkdir(exist_ok=True)
            shutil.copy(photo, copy)
            try:
                os.utime(copy, ns=(seconds * 10**9, seconds * 10**9 + 1))
            except (OSError, OverflowError):
                copy.unlink()
                continue
            names.append(name)
        gallery = self._folder / "moments.chg"
        first, again = self._index(gallery, folder), self._index(gallery, folder)
        self._part.check(first.get("added") == len(names), f"photos of {names}: {first}")
        self._part.check(
            again.get("unchanged") == len(names) and again.get("hashed") == 0,
            f"photos of {names}, again: {again}",
        )
        self._part.figures["years_of_photos"] = len(names)
        words = ("query", folder / f"{names[0]}.png", "--gallery", gallery, "--model", self._model)
        code, _, err = self._chash(*words)
        self._part.check(code == 0, f"query of {names[0]}: {err}")

    def edits(self) -> None:
        """Size and time are what is looked at: an edit that keeps both is not seen, by design."""
        folder, gallery = self._folder / "edits", self._folder / "edits.chg"
        folder.mkdir()
        one, other = (path.read_bytes() for path in self._some(2))
        size = max(len(one), len(other))
        one, other = (content + bytes(size - len(content)) for content in (one, other))
        photo, copy = folder / "photo.png", folder / "copy.png"
        photo.write_bytes(one)
        status = photo.stat()
        self._index(gallery, folder)
        photo.write_bytes(other)
        os.utime(photo, ns=(status.st_atime_ns, status.st_mtime_ns))
        report = self._index(gallery, folder)
        self._part.check(
            report.get("unchanged") == 1, f"an edit that keeps size and time: {report}"
        )
        os.utime(photo, ns=(0, 0))
        report = self._index(gallery, folder)
        self._part.check(report.get("changed") == 1, f"an edit with a time long ago: {report}")
        shutil.copy2(photo, copy)
        report = self._index(gallery, folder)
        right = report.get("added") == 1 and report.get("hashed") == 0
        self._part.check(right, f"a copy with its times: {report}")
        photo.unlink()
        copy.rename(photo)
        report = self._index(gallery, folder)
        self._part.check(report.get("hashed") == 0, f"a copy in the place of its twin: {report}")
        self._part.count("edits", 4)

    def commands(self) -> None:
        """Each command finds its clock somewhere else, or jumping; it does what it always does."""
        still, gallery = self._folder / "still.chg", self._folder / "jumped.chg"
        for path in (still, gallery):
            shutil.rmtree(path, ignore_errors=True)
        self._index(still)
        expected = self._rows(still, "index")
        with self._clock.jumping(self._rng):
            self._index(gallery, off=True)
        found = self._rows(gallery, "index while the clock jumps")
        self._part.check(set(found) == set(expected), "index while the clock jumps: other images")
        some = [str(id) for id in self._rng.sample(sorted(found.values()), len(found) // 3)]
        removal = ("remove", *(f"--id={id}" for id in some))
        repeated = [("compact",), ("accelerate",), ("verify",), removal, ("compact",), ("repair",)]
        for word, *options in repeated if self._many else repeated[3:5]:
            self._clock.jump(jump := self._rng.choice(JUMPS))
            code, _, err = self._chash("index", word, gallery, *options, off=True)
            self._part.check(code == 0, f"{word}, {jump} s off: exit {code}: {err}")
            self._part.count("commands")
        self._clock.jump(-20 * YEAR)
        left = self._rows(gallery, "after the commands")
        self._part.check(len(left) == len(found) - len(some), f"{len(left)} images are left")
        report = self._index(gallery, off=True)
        self._part.check(report.get("added") == len(some), f"index twenty years ago: {report}")
        self._part.check(
            set(self._rows(gallery, "in the end")) == set(expected), "in the end: other images"
        )

    def locks(self) -> None:
        """A lock is one whatever the time: no writer takes it for an old one."""
        gallery = self._folder / "still.chg"
        with Gallery.open(gallery, write=True):
            os.utime(gallery / "lock", (0, 0))
            for jump in (50 * YEAR, -30 * YEAR):
                self._clock.jump(jump)
                code, _, err = self._chash("index", "compact", gallery, off=True)
                right = code == 1 and "is writing to this gallery" in err
                self._part.check(right, f"a held lock, {jump} s off: exit {code}: {err}")
                self._part.count("locks_respected")
        code, _, err = self._chash("index", "compact", gallery, off=True)
        self._part.check(code == 0, f"a lock that was let go: exit {code}: {err}")

    def server(self, seconds: float) -> None:
        """A server answers, waits, gives up and takes up commits by the monotonic clock."""
        gallery = self._folder / "still.chg"
        command = [sys.executable, "-m", "concepthash", "serve", str(gallery), "--port", "0"]
        command += ["--model", str(self._model), "--json", "--timeout", str(PATIENCE)]
        with subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(**self._clock.environment),
        ) as process:
            try:
                assert process.stdout is not None
                url = json.loads(process.stdout.readline())["url"].rstrip("/")
                with self._clock.jumping(self._rng):
                    self._ask(url, seconds)
                    self._reload(url, gallery)
                self._bodies(url)
            except Exception as error:
                self._part.check(False, f"the server: {type(error).__name__}: {error}")
            finally:
                process.terminate()
                process.wait(30)

    def _ask(self, url: str, seconds: float) -> None:
        clock, photo = Clock(seconds), self._some(1)[0].read_bytes()
        while clock:
            for body in (None, photo):
                path = "/v1/query?id=1" if body is None else "/v1/query"
                asked = Request(f"{url}{path}", body, {"Content-Type": "image/png"})
                with urlopen(asked, timeout=SLACK) as answer:
                    hits = json.load(answer)["queries"][0]["hits"]
                self._part.check(hits[0]["distance"] == 0, f"the server: {hits[:1]}")
                self._part.count("requests")

    def _reload(self, url: str, gallery: Path) -> None:
        with Gallery.open(gallery, write=True) as opened:
            opened.remove([max(entry.id for entry in opened.entries())])
            expected = len(opened)
        clock, images = Clock(SLACK), -1
        while images != expected and clock:
            with urlopen(f"{url}/v1/info", timeout=SLACK) as answer:
                images = json.load(answer)["images"]
            time.sleep(PAUSE)
        self._part.check(images == expected, f"the server shows {images} images, not {expected}")

    def _bodies(self, url: str) -> None:
        """A body that pauses is waited for though years pass; one that stays away is not."""
        body = json.dumps({"id": 1}).encode()
        head = b"POST /v1/query HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        head += b"Content-Length: %d\r\n\r\n" % len(body)
        place = urlsplit(url)
        assert place.hostname is not None
        assert place.port is not None
        for jump, rest in ((30 * YEAR, body[3:]), (-30 * YEAR, b"")):
            self._clock.jump(0)
            with socket.create_connection((place.hostname, place.port), timeout=SLACK) as client:
                client.sendall(head + body[:3])
                time.sleep(PAUSE)
                self._clock.jump(jump)
                time.sleep(10 * PAUSE)
                client.sendall(rest)
                try:
                    status = client.recv(12).decode()
                except TimeoutError:
                    status = "nothing"
            right = status.endswith(" 200") if rest else status != "nothing"
            self._part.check(right, f"a body, {jump} s meanwhile: {status}")
            self._part.count("paused_bodies")

    def _some(self, count: int) -> list[Path]:
        return self._rng.sample(sorted(self._photos.rglob("*.png")), count)


def run(budget_seconds: float, rng: random.Random, folder: Path) -> Part:
    part, clock = Part("clock"), Clock(budget_seconds)
    with Forks() as forks:
        trials = Trials(part, forks, folder, rng, budget_seconds)
        trials.jumps()
        trials.moments()
        trials.edits()
        while True:
            trials.commands()
            trials.locks()
            trials.server(min(5.0, budget_seconds / 10))
            part.count("rounds")
            say(part.name, part.figures)
            if not clock:
                return part

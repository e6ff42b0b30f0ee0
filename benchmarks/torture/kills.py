"""SIGKILL at random moments, and at chosen system calls, of commands that write galleries.

Each campaign copies a gallery as it was before, runs a command on it, kills it, and looks: it opens
and is sound, every code is right, what was committed is there under its id, there is nothing that
was never to be. Then, perhaps after more kills, the command runs to its end: what is there now is
what an undisturbed run gave, nothing committed was hashed again, and no file is left over.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from threading import Event, Timer

from benchmarks.torture.campaigns import Campaign, campaigns
from benchmarks.torture.forks import Ended, Forks
from benchmarks.torture.outcome import Undisturbed, copy, disturbed, finished, undisturbed
from benchmarks.torture.report import Clock, Part, say, strace
from benchmarks.torture.states import Rows, unfinished

CALLS = ("write", "pwrite64", "fsync", "fdatasync", "ftruncate", "rename", "unlink", "mkdir")
"""System calls of which each may be a command's last."""
TRACED_SHARE = 0.25
CHAIN = 0.5
"""How likely a killed command is killed again before it may finish."""
FRESH = 0.1
"""How many of the processes are whole new ones."""
PAUSE_SECONDS = 0.001
TELL_SECONDS = 15.0
TOLD = ("kills", "inside_a_write", "finished")
WATCHED = 0.6
"""How many are killed just after something was written, not at any moment."""


class Killer:
    """Runs campaigns in folders of its own, and counts."""

    def __init__(self, part: Part, forks: Forks, folder: Path, rng: random.Random) -> None:
        self._part, self._forks, self._rng = part, forks, rng
        self._cases = folder / "cases"
        self._number = 0
        self._normal: dict[str, Undisturbed] = {}
        self._changes: dict[str, int] = {}
        self._calls: dict[str, Counter[str]] = {}

    def random_moment(self, campaign: Campaign) -> None:
        """Kill at a moment of the whole run, or just after something was written."""
        normal = self._undisturbed(campaign)
        if normal is not None:
            self._round(campaign, normal, lambda case: self._at_random(campaign, case, normal))

    def system_call(self, campaign: Campaign) -> None:
        """Kill as a drawn system call begins."""
        normal = self._undisturbed(campaign)
        if normal is None:
            return
        if campaign.name not in self._calls:
            self._calls[campaign.name] = self._traced(campaign)
        calls = self._calls[campaign.name]
        call = self._rng.choice(sorted(calls))
        number = self._rng.randint(1, calls[call])

        def kill(case: Path) -> tuple[Ended, str]:
            options = ["-o", os.devnull, "-e", f"trace={call}"]
            options += ["-e", f"inject={call}:signal=KILL:when={number}"]
            ended = self._forks.run(campaign.command, case, prefix=[*strace(), *options])
            if ended.code < 0:
                _more(self._part, "by_system_call", call)
            return ended, f"{call} number {number}"

        self._round(campaign, normal, kill)

    def _undisturbed(self, campaign: Campaign) -> Undisturbed | None:
        """One undisturbed run; None, and a failure, if even that does not work."""
        if campaign.name not in self._normal:
            case, over = self._case(campaign), Event()
            with ThreadPoolExecutor(1) as watcher:
                changes = watcher.submit(_wait_for_changes, case, None, over)
                try:
                    normal = undisturbed(
                        campaign, case, lambda: self._forks.run(campaign.command, case)
                    )
                except RuntimeError as error:
                    self._part.check(False, str(error))
                    return None
                finally:
                    over.set()
            self._normal[campaign.name] = normal
            self._changes[campaign.name] = changes.result()
            shutil.rmtree(case)
        return self._normal[campaign.name]

    def _traced(self, campaign: Campaign) -> Counter[str]:
        case, log = self._case(campaign), self._cases / "calls.log"
        options = ["-o", str(log), "-e", f"trace={','.join(CALLS)}"]
        self._forks.run(campaign.command, case, prefix=[*strace(), *options])
        shutil.rmtree(case)
        return _calls(log.read_text(errors="replace"))

    def _round(
        self, campaign: Campaign, normal: Undisturbed, kill: Callable[[Path], tuple[Ended, str]]
    ) -> None:
        """Kill, look, perhaps kill again; let it finish, look."""
        case, held, what = self._case(campaign), normal.before, campaign.name
        ended = None
        while ended is None or (ended.code and self._rng.random() < CHAIN):
            ended, when = kill(case)
            what += f", {when}: {'killed' if ended.code < 0 else f'exit {ended.code}'}"
            done = campaign.again if set(held) == set(normal.after) else 0
            if ended.code not in (0, done, -signal.SIGKILL):
                self._part.check(False, f"{what}: {ended.err[-300:]}")
                return
            now, wrong = disturbed(campaign, case, normal, held)
            if not self._part.check(not wrong, f"{what}; {'; '.join(wrong[:4])} ({case})"):
                return
            self._count(campaign, case, normal, now, ended)
            held = now
        last = self._forks.run(campaign.command, case)
        wrong = finished(campaign, case, normal, held, last)
        if self._part.check(not wrong, f"{what}, finished; {'; '.join(wrong[:4])} ({case})"):
            shutil.rmtree(case)
        self._part.count("finished")

    def _count(
        self, campaign: Campaign, case: Path, normal: Undisturbed, now: Rows, ended: Ended
    ) -> None:
        if ended.code >= 0:
            self._part.count("ended_before_the_kill")
            return
        self._part.count("kills")
        _more(self._part, "by_command", campaign.name)
        inside = set() if campaign.mends else set(unfinished(case / campaign.result, case))
        if inside:
            self._part.count("inside_a_write")
        for kind in sorted(inside):
            _more(self._part, "found_unfinished", kind)
        begun, done = set(now) != set(normal.before), set(now) == set(normal.after)
        if set(normal.before) == set(normal.after):
            phase = "images stay as they are"
        else:
            phase = "all committed" if done else "some committed" if begun else "none committed"
        _more(self._part, "by_phase", phase)

    def _at_random(self, campaign: Campaign, case: Path, normal: Undisturbed) -> tuple[Ended, str]:
        fresh = self._rng.random() < FRESH
        usual = normal.seconds + (0.3 if fresh else 0.0)
        changes, delay = 0, self._rng.random() * usual
        if self._rng.random() < WATCHED:
            changes = self._rng.randint(1, max(1, self._changes[campaign.name]))
            delay = self._rng.expovariate(1 / PAUSE_SECONDS)
        over = Event()

        def moment() -> None:
            timer = Timer(2 * usual, over.set)
            timer.start()
            _wait_for_changes(case, changes, over)
            timer.cancel()
            time.sleep(delay)

        ended = self._forks.run(campaign.command, case, kill=moment, fresh=fresh)
        return ended, f"{1000 * delay:.1f} ms after change {changes}"

    def _case(self, campaign: Campaign) -> Path:
        self._number += 1
        case = self._cases / str(self._number)
        copy(campaign.template, case)
        return case


def _more(part: Part, figure: str, key: str) -> None:
    counts = part.figures.setdefault(figure, {})
    counts[key] = counts.get(key, 0) + 1


def _calls(log: str) -> Counter[str]:
    """How often the busiest thread made each system call."""
    threads: dict[str, Counter[str]] = {}
    for line in log.splitlines():
        thread, _, rest = line.partition(" ")
        name = rest.strip().partition("(")[0]
        if name in CALLS:
            threads.setdefault(thread, Counter())[name] += 1
    return max(threads.values(), key=Counter.total)


def _wait_for_changes(folder: Path, wanted: int | None, over: Event) -> int:
    """Wait until galleries' files changed so often, or it is over; how often they did."""
    last, seen = _stamps(folder), 0
    while (wanted is None or seen < wanted) and not over.is_set():
        now = _stamps(folder)
        seen += now != last
        last = now
    return seen


def _stamps(folder: Path) -> list[tuple[str, int, int]]:
    stamps = []
    for place in (folder, *folder.glob("*.chg"), *folder.glob("*.chg/*"), *folder.glob(".*")):
        with suppress(OSError), os.scandir(place) as files:  # not a folder, or gone by now
            for file in files:
                status = file.stat()
                stamps.append((file.name, status.st_size, status.st_mtime_ns))
    return stamps


def run(budget_seconds: float, rng: random.Random, folder: Path) -> Part:
    part, clock = Part("kills"), Clock(budget_seconds)
    if not strace():
        part.skipped.append("kills at chosen system calls: no strace that may trace here")
    with Forks() as forks:
        found = campaigns(folder / "templates", forks, rng, budget_seconds)
        killer, told = Killer(part, forks, folder, rng), clock.left
        for turn in count():
            campaign = found[turn % len(found)]
            if turn >= len(found) and not clock:
                break
            if strace() and rng.random() < TRACED_SHARE:
                killer.system_call(campaign)
            else:
                killer.random_moment(campaign)
            if told - clock.left > TELL_SECONDS:
                told = clock.left
                say(part.name, {name: part.figures.get(name, 0) for name in TOLD})
    return part

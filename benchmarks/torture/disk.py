"""A small disk that fills, one that becomes read-only, and one that fails.

Each command runs on a disk (a tmpfs, seen by no other process) with some room less than it needs:
every amount from none to enough, so that the disk is full at every stage. It must say so in three
lines with exit code 1, lose nothing, and leave nothing half-written; with room made, the same
command goes on. Then the disk is read-only: what reads works, what writes says why not. Last,
system calls fail with EIO or EDQUOT.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib import import_module
from itertools import count
from pathlib import Path

from benchmarks.torture.campaigns import GALLERY, Campaign, campaigns
from benchmarks.torture.forks import Ended, Forks
from benchmarks.torture.outcome import Undisturbed, disturbed, finished, undisturbed
from benchmarks.torture.report import ROOT, Clock, Part, environment, say, strace, wrongly_told
from benchmarks.torture.states import asides, parts

LARGE = 1 << 28
PAGE = 4096
FULL = ("disk is full", "No space left")
FAULTS = ("EIO", "EDQUOT", "ENOSPC")
FAULTY = ("write", "pwrite64", "fsync", "fdatasync", "ftruncate")
FAULT_SHARE = 0.3
LEFT_BY_LEARNING = 0.75
"""Of the time, what training leaves to the rest."""
LEARNING_SECONDS = 60.0
"""A budget below which nothing is trained."""
TRAIN = ("train", "--config", "tiny.toml", "--out", "run")
EXPORT = ("export", "run", "--out", "b.chb")
READING = (("index", "verify", GALLERY), ("inspect", GALLERY))
ASKING = ("--gallery", GALLERY, "--model", "colour.chb", "--json")


class Disk:
    """A disk of its own, mounted in the namespace of this process."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "disk"
        self.path.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={LARGE}", "none")

    def _mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, self.path], check=True, capture_output=True)

    def room(self, size: int | None) -> None:
        """Let only so many bytes be free; None for plenty."""
        status = os.statvfs(self.path)
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        total = LARGE if size is None else max(used + size, PAGE)
        self._mount("-o", f"remount,rw,size={total}")

    def freeze(self) -> None:
        """Make it read-only."""
        self._mount("-o", "remount,ro")

    @contextmanager
    def holding(self, template: Path) -> Iterator[Path]:
        """A copy of a folder on it, and nothing else."""
        self.room(None)
        case = self.path / "case"
        shutil.copytree(template, case)
        try:
            yield case
        finally:
            self.room(None)
            shutil.rmtree(case)

    def taken(self) -> int:
        """Bytes that are used."""
        status = os.statvfs(self.path)
        return (status.f_blocks - status.f_bfree) * status.f_frsize


class Filler:
    """Runs campaigns on a disk without the room they need, and counts."""

    def __init__(self, part: Part, forks: Forks, disk: Disk, rng: random.Random) -> None:
        self._part, self._forks, self._disk, self._rng = part, forks, disk, rng
        self._normal: dict[str, Undisturbed] = {}
        self._needed: dict[str, int] = {}

    def full(self, campaign: Campaign) -> None:
        """Less room than is needed, then enough."""
        normal = self._undisturbed(campaign)
        if normal is None:
            return
        room = PAGE * self._rng.randint(0, self._needed[campaign.name] // PAGE)
        what = f"{campaign.name} with {room // 1024} KB"
        with self._disk.holding(campaign.template) as case:
            self._disk.room(room)
            ended = self._run(campaign.command, case)
            if ended.code == 0:
                self._needed[campaign.name] = room
                self._part.count("had_room_enough")
                return
            self._part.count("filled")
            more(self._part, "filled_by_command", campaign.name)
            right = any(words in ended.err for words in FULL)
            self._part.check(right, f"{what}: it does not say that the disk is full: {ended.err}")
            self._read_all(what, case, campaign)
            self._go_on(what, campaign, case, normal, ended, free=True)

    def frozen(self, campaign: Campaign) -> None:
        """A read-only disk: what was there can be read, and nothing is written."""
        what = f"{campaign.name} on a read-only disk"
        with self._disk.holding(campaign.template) as case:
            self._disk.freeze()
            ended = self._run(campaign.command, case)
            told = ended.code == 1 and wrongly_told(ended.code, ended.err) is None
            right = told and ("read-only" in ended.err.lower() or "denied" in ended.err)
            self._part.check(right, f"{what}: exit {ended.code}: {ended.err[-400:]}")
            self._part.count("read_only")
            self._read_all(what, case, campaign)

    def failing(self, campaign: Campaign) -> None:
        """One system call on one file fails."""
        normal = self._undisturbed(campaign)
        if normal is None:
            return
        with self._disk.holding(campaign.template) as case:
            calls = self._calls(campaign, case)
        (call, name), times = self._rng.choice(sorted(calls.items()))
        number, fault = self._rng.randint(1, times), self._rng.choice(FAULTS)
        what = f"{campaign.name}, {fault} from {call} {number} of {name}"
        with self._disk.holding(campaign.template) as case:
            options = ["-o", os.devnull, "-P", str(case / name), "-e", f"trace={call}"]
            options += ["-e", f"inject={call}:error={fault}:when={number}"]
            ended = self._forks.run(campaign.command, case, prefix=[*strace(), *options])
            self._part.count("faults")
            if ended.code:
                more(self._part, "faults_that_stopped_it", fault)
            self._go_on(what, campaign, case, normal, ended, free=False)

    def _go_on(
        self,
        what: str,
        campaign: Campaign,
        case: Path,
        normal: Undisturbed,
        ended: Ended,
        *,
        free: bool,
    ) -> None:
        """What must hold after a failure, and after the same command had no more trouble."""
        if ended.code:
            told = wrongly_told(ended.code, ended.err)
            self._part.check(told is None and ended.code == 1, f"{what}: {ended.code}, {told}")
        left = [path.name for path in asides(case)]
        self._part.check(not left, f"{what}: left over before the next run: {left}")
        self._disk.room(None)
        now, wrong = disturbed(campaign, case, normal, normal.before)
        if self._part.check(not wrong, f"{what}: {'; '.join(wrong[:4])}"):
            again = self._run(campaign.command, case)
            wrong = finished(campaign, case, normal, now, again)
            self._part.check(not wrong, f"{what}, with room again: {'; '.join(wrong[:4])}")
            self._part.count("went_on")

    def _read_all(self, what: str, case: Path, campaign: Campaign) -> None:
        """Whatever the disk is like, a gallery can be read."""
        if campaign.mends or not parts(case / GALLERY):
            return
        commands = list(READING)
        if campaign.right is not None:
            photo = min((case / "photos").rglob("*.png"))
            commands.append(("query", str(photo), *ASKING))
        for command in commands:
            ended = self._run(command, case)
            empty = ended.code == 4 and "empty gallery" in ended.err
            self._part.check(
                ended.code == 0 or empty,
                f"{what}, then {' '.join(command[:2])}: exit {ended.code}: {ended.err[-400:]}",
            )
            self._part.count("reads")

    def _undisturbed(self, campaign: Campaign) -> Undisturbed | None:
        if campaign.name not in self._normal:
            with self._disk.holding(campaign.template) as case:
                before = self._disk.taken()
                try:
                    normal = undisturbed(campaign, case, lambda: self._run(campaign.command, case))
                except RuntimeError as error:
                    self._part.check(False, str(error))
                    return None
                # Twice what is there in the end: files are written aside, logs are merged.
                self._needed[campaign.name] = 2 * (self._disk.taken() - before) + 32 * PAGE
            self._normal[campaign.name] = normal
        return self._normal[campaign.name]

    def _calls(self, campaign: Campaign, case: Path) -> Counter[tuple[str, str]]:
        """How often a command makes each system call on each file whose name does not vary."""
        log = self._disk.path.parent / "calls.log"
        options = ["-y", "-o", str(log), "-e", f"trace={','.join(FAULTY)}"]
        self._forks.run(campaign.command, case, prefix=[*strace(), *options])
        calls: Counter[tuple[str, str]] = Counter()
        for line in log.read_text(errors="replace").splitlines():
            call, _, rest = line.partition(" ")[2].strip().partition("(")
            path = Path(rest.partition("<")[2].partition(">")[0])
            if call in FAULTY and path.is_relative_to(case) and ".tmp" not in str(path):
                calls[call, str(path.relative_to(case))] += 1
        return calls

    def _run(self, command: Sequence[str], case: Path) -> Ended:
        return self._forks.run(command, case)


def more(part: Part, figure: str, key: str) -> None:
    counts = part.figures.setdefault(figure, {})
    counts[key] = counts.get(key, 0) + 1


class Learner:
    """Trains and exports, at the smallest size, on a disk without the room that takes."""

    def __init__(
        self, part: Part, forks: Forks, disk: Disk, rng: random.Random, folder: Path
    ) -> None:
        self._part, self._forks, self._disk, self._rng = part, forks, disk, rng
        self._photos, self._trained = folder / "photos", folder / "trained"
        self._photos.mkdir(parents=True)
        sys.path.insert(0, str(ROOT / "tests"))
        tiny, settings = import_module("tiny_run"), import_module("concepthash.cli.settings")
        tiny.drawn_birds(self._photos / "birds")
        config = tiny.tiny_config(Path("birds")).to_json()
        (self._photos / "tiny.toml").write_text(settings.as_toml(config))
        shutil.copytree(self._photos, self._trained)
        done = self._run(TRAIN, self._trained)
        if done.code:
            raise RuntimeError(f"the training, undisturbed: {done}")
        self._evaluated = (self._trained / "run/eval.json").read_text()

    def train(self) -> None:
        """Less room than a training needs, then enough: it goes on, to the same figures."""
        run = self._trained / "run"
        needed = sum(file.stat().st_size + PAGE for file in run.iterdir())
        room = PAGE * self._rng.randint(0, needed // PAGE)
        what = f"train with {room // 1024} KB"
        with self._disk.holding(self._photos) as case:
            self._disk.room(room)
            self._told(what, case, self._run(TRAIN, case))
            self._disk.room(None)
            resume = ("--resume",) if (case / "run/run.json").exists() else ()
            again = self._run((*TRAIN, *resume), case)
            if self._part.check(again.code == 0, f"{what}, with room again: {again}"):
                same = (case / "run/eval.json").read_text() == self._evaluated
                self._part.check(same, f"{what}, with room again: other figures")

    def export(self) -> None:
        """Less room than an export needs: the bundle is whole or absent."""
        room = PAGE * self._rng.randint(0, 200)
        what = f"export with {room // 1024} KB"
        with self._disk.holding(self._trained) as case:
            self._disk.room(room)
            ended = self._run(EXPORT, case)
            self._told(what, case, ended)
            there = (case / "b.chb").exists()
            self._part.check(there == (ended.code == 0), f"{what}: a bundle is there: {there}")
            self._disk.room(None)
            again = self._run((*EXPORT, "--force"), case)
            self._part.check(again.code == 0, f"{what}, with room again: {again}")

    def _told(self, what: str, case: Path, ended: Ended) -> None:
        more(self._part, "learning", f"{what.split()[0]} {'filled' if ended.code else 'had room'}")
        told = wrongly_told(ended.code, ended.err) if ended.code else None
        full = not ended.code or "space left" in ended.err
        self._part.check(
            told is None and full and ended.code in (0, 1),
            f"{what}: exit {ended.code}, {told}: {ended.err[-300:]}",
        )
        left = [path.name for path in asides(case)]
        self._part.check(not left, f"{what}: left over: {left}")

    def _run(self, command: Sequence[str], case: Path) -> Ended:
        return self._forks.run(command, case, fresh=True)


def inside(budget_seconds: float, seed: str, folder: Path) -> Part:
    """The part, in a process that may mount."""
    part, clock, rng = Part("disk"), Clock(budget_seconds), random.Random(seed)
    with Forks() as forks:
        found = campaigns(folder / "templates", forks, rng, budget_seconds)
        disk = Disk(folder)
        filler, told = Filler(part, forks, disk, rng), clock.left
        for campaign in found:
            filler.frozen(campaign)
        if budget_seconds < LEARNING_SECONDS:
            part.skipped.append("a training and its export: no time")
        else:
            learner, end = (
                Learner(part, forks, disk, rng, folder / "learning"),
                clock.left * LEFT_BY_LEARNING,
            )
            while clock.left > end:
                learner.train()
                learner.export()
        for turn in count():
            campaign = found[turn % len(found)]
            if turn >= len(found) and not clock:
                break
            if strace() and not campaign.whole and rng.random() < FAULT_SHARE:
                filler.failing(campaign)
            else:
                filler.full(campaign)
            if told - clock.left > 15:
                told = clock.left
                say(part.name, {name: part.figures.get(name, 0) for name in ("filled", "faults")})
    return part


def run(budget_seconds: float, rng: random.Random, folder: Path) -> Part:
    apart = ["unshare", "-rm"]
    try:
        able = not subprocess.run(
            [*apart, "mount", "-t", "tmpfs", "none", folder], capture_output=True
        ).returncode
    except OSError:
        able = False
    if not able:
        return Part("disk", skipped=["everything: this user may not mount a disk of its own here"])
    command = [*apart, sys.executable, "-m", "benchmarks.torture.disk"]
    done = subprocess.run(
        [*command, str(budget_seconds), str(rng.random()), folder], env=environment(), cwd=ROOT
    )
    if done.returncode:
        return Part("disk", failures=[f"the part itself failed: exit {done.returncode}"])
    return Part(**json.loads((folder / "part.json").read_text()))


if __name__ == "__main__":
    made = inside(float(sys.argv[1]), sys.argv[2], Path(sys.argv[3]))
    (Path(sys.argv[3]) / "part.json").write_text(json.dumps(asdict(made)))

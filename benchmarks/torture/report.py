"""What the parts share: the form of a report, a clock, the process under test, its model."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CHASH = (sys.executable, "-m", "concepthash")
SHOWN = 20
"""Failures of a part that are printed; all are in the file."""


@dataclass
class Part:
    """What one part did and found.

    Args:
        name: of its module.
        figures: plain values by name: counts, seconds, nested where that reads better.
        failures: a line each: what was done, what was expected, what happened, and the numbers or
            names that repeat it.
        skipped: what this machine or budget did not allow, and why; no failure.
    """

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def count(self, figure: str, more: int = 1) -> None:
        """Add to a figure."""
        self.figures[figure] = self.figures.get(figure, 0) + more

    def check(self, right: bool, what: str) -> bool:
        """Note ``what`` as a failure unless it is ``right``, which is returned."""
        if not right:
            self.failures.append(what)
            say(self.name, f"BROKEN: {what}")
        return right


class Clock:
    """How much of a budget is left."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds

    @property
    def left(self) -> float:
        """Seconds; negative when it is over."""
        return self._end - time.monotonic()

    def __bool__(self) -> bool:
        return self.left > 0


def say(part: str, what: str | Mapping[str, Any]) -> None:
    """One line of progress: words, or figures."""
    text = what if isinstance(what, str) else figures(what)
    print(f"{time.strftime('%H:%M:%S')} {part:9} {text}", flush=True)


def figures(values: Mapping[str, Any]) -> str:
    """Figures on one line."""
    shown = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            shown.append(f"{name} ({figures(value)})")
        else:
            shown.append(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}")
    return ", ".join(shown)


def environment(**more: str) -> dict[str, str]:
    """The environment of a process under test: without settings of this machine's user."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("CHASH_")}
    return {**kept, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **more}


def chash(
    *arguments: str | Path, timeout: float = 300.0, more: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the real command line to its end; never raises for its exit code.

    Args:
        timeout: a process that takes longer is killed, and has the exit code -9.
        more: variables of its environment.
    """
    command = [*CHASH, *map(str, arguments)]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        errors="replace",
        env=environment(**(more or {})),
    ) as process:
        try:
            out, err = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            out, err = process.communicate()
            err += f"\n(killed after {timeout:.0f} s)"
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def wrongly_told(code: int, err: str) -> str | None:
    """What is wrong with how a failed command told its error; None if it is as it should be.

    It must say what, where and what to try, and show no traceback.
    """
    lines = [line.strip() for line in err.strip().splitlines()]
    if "Traceback" in err or code < 0:
        return f"exit {code}: {lines[-1] if lines else 'silent'}"
    for word in ("where:", "try:"):
        if not any(line.startswith(word) for line in lines):
            return f"exit {code} without {word[:-1]}: {lines[-3:]}"
    return None


def bundle(folder: Path) -> Path:
    """A real bundle, made in a moment: ``folder/colour.chb``, 24 bits of 3 concepts, 32 pixels.

    Its code of a photo can be computed by hand: see ``tests/colour_bundle.py``.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    path: Path = import_module("colour_bundle").colour_bundle(folder).path
    return path


def birds(folder: Path, count: int, rng: random.Random, *, size: int = 48) -> Path:
    """``count`` drawn birds, all different, in folders of their species below ``folder``."""
    from concepthash.demo import draw_bird, species

    kinds = species(6)
    for number in range(count):
        kind = kinds[number % len(kinds)]
        path = folder / kind.slug / f"{number:05d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        draw_bird(kind, seed=rng.randrange(2**31), size=size).image.save(path)
    return folder


@cache
def strace() -> tuple[str, ...]:
    """The words before options and a command that trace it; none where nothing can be traced."""
    words = ("strace", "-f", "-qq")
    try:
        tried = subprocess.run([*words, "-o", os.devnull, "true"], capture_output=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return () if tried.returncode else words


def run_part(name: str, seconds: float, seed: int) -> Part:
    """One part; what it raises is a failure of it."""
    module = import_module(f"benchmarks.torture.{name}")
    with tempfile.TemporaryDirectory(prefix=f"chash-{name}-", ignore_cleanup_errors=True) as folder:
        try:
            part = module.run(seconds, random.Random(f"{name} {seed}"), Path(folder))
        except Exception as error:
            part = Part(name, failures=[f"the part itself failed: {type(error).__name__}: {error}"])
    assert isinstance(part, Part)
    return part

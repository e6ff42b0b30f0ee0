"""The command line in a process whose memory and time are seen to the end."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile

from benchmarks.torture.report import CHASH, environment


@dataclass(frozen=True)
class Watched:
    """What became of a process.

    Args:
        code: exit code; negative, the signal that ended it.
        out, err: what it wrote.
        seconds: it ran.
        peak_mb: resident memory at its largest.
    """

    code: int
    out: str
    err: str
    seconds: float
    peak_mb: float


def watched(
    *arguments: str | Path, seconds: float = 300.0, cwd: Path | None = None, **more: str
) -> Watched:
    """Run ``chash`` with these arguments; it is killed after so many ``seconds``."""
    started = time.monotonic()
    with TemporaryFile() as out, TemporaryFile() as err:
        process = subprocess.Popen(
            [*CHASH, *map(str, arguments)],
            stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd, env=environment(**more),
        )  # fmt: skip
        while True:
            ended, status, used = os.wait4(process.pid, os.WNOHANG)
            if ended:
                break
            if time.monotonic() - started > seconds:
                process.kill()
            time.sleep(0.02)
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read().decode(errors="replace"))
    taken = time.monotonic() - started
    return Watched(process.returncode, texts[0], texts[1], taken, round(used.ru_maxrss / 1024, 1))

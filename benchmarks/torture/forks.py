"""Processes that start fast and are made to be killed: forked from one that has imported it all.

``python -m benchmarks.torture.forks`` forks a process for each line of JSON it is sent, and says
``pid N`` and ``end STATUS`` (as ``os.waitpid`` gives it). The process runs the real entry point of
``chash`` with the arguments of the line, in a session of its own.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import IO

from benchmarks.torture.report import CHASH, environment


@dataclass(frozen=True)
class Ended:
    """How a process ended: its exit code or minus its signal, what it wrote, how long it ran."""

    code: int
    out: str
    err: str
    seconds: float


class Forks:
    """Starts ``chash`` processes; use it in a ``with`` block."""

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def __enter__(self) -> Forks:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.torture.forks"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(OPENBLAS_NUM_THREADS="1"),
        )
        return self

    def __exit__(self, *error: object) -> None:
        assert self._server is not None
        with self._server:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait(60)

    def run(
        self,
        arguments: Sequence[str],
        folder: Path,
        *,
        kill: Callable[[], None] | None = None,
        fresh: bool = False,
        prefix: Sequence[str] = (),
    ) -> Ended:
        """Run ``chash`` in ``folder`` to its end.

        Args:
            kill: returns at the moment when the process is to be killed.
            fresh: a whole new process, not a forked one.
            prefix: a command that runs it; implies ``fresh``.
        """
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            started = time.monotonic()
            if fresh or prefix:
                code = self._fresh([*prefix, *CHASH, *arguments], folder, out, err, kill)
            else:
                code = self._forked(arguments, folder, out, err, kill)
            seconds = time.monotonic() - started
            return Ended(code, _text(out), _text(err), seconds)

    def _fresh(
        self,
        command: Sequence[str],
        folder: Path,
        out: IO[bytes],
        err: IO[bytes],
        kill: Callable[[], None] | None,
    ) -> int:
        with subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            env=environment(),
        ) as process:
            if kill is not None:
                kill()
                process.kill()
            return process.wait()

    def _forked(
        self,
        arguments: Sequence[str],
        folder: Path,
        out: IO[bytes],
        err: IO[bytes],
        kill: Callable[[], None] | None,
    ) -> int:
        assert self._server is not None
        stdin, stdout = self._server.stdin, self._server.stdout
        assert stdin is not None
        assert stdout is not None
        files = [f"/proc/{os.getpid()}/fd/{file.fileno()}" for file in (out, err)]
        print(json.dumps([[*arguments], str(folder), files]), file=stdin, flush=True)
        _, pid = stdout.readline().split()
        if kill is not None:
            kill()
            # The server does not reap before it is told, so the number is still this process's.
            os.kill(int(pid), signal.SIGKILL)
        print(file=stdin, flush=True)
        _, status = stdout.readline().split()
        return os.waitstatus_to_exitcode(int(status))


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace")


def _become(arguments: list[str], folder: str, files: list[str]) -> None:
    """Turn a child into ``chash``; does not return."""
    os.setsid()
    os.chdir(folder)
    for number, name in zip((0, 1, 2), (os.devnull, *files), strict=True):
        flags = os.O_RDWR | os.O_APPEND if number else os.O_RDONLY
        os.dup2(os.open(name, flags), number)
    code = 1
    try:
        code = _call(arguments)
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _call(arguments: list[str]) -> int:
    from concepthash.cli.main import run

    sys.argv = ["chash", *arguments]
    try:
        run()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def main() -> None:
    from concepthash.quiet import import_onnxruntime

    import_onnxruntime()
    for module in ("hasher", "indexing", "repair", "shards", "tablestore"):
        import_module(f"concepthash.runtime.{module}")
    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        for part in ("compact", "accelerate", "repair"):
            _call(["index", part, os.devnull])  # fails, and has imported what it needs
    asked = os.fdopen(os.dup(0))  # a child's own stdin must be one that nothing was read from
    for line in asked:
        child = os.fork()
        if child == 0:
            _become(*json.loads(line))
        print("pid", child, flush=True)
        asked.readline()
        print("end", os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()

"""The parent's side of a worker: started, asked, and gone whatever happens."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

import concepthash
from concepthash.bundle import Bundle
from concepthash.codes import Codes
from concepthash.errors import BackendError, BundleError
from concepthash.images import Pixels
from concepthash.runtime.bench.targets import Target

Tell = Callable[[str], None]

COMMAND = (sys.executable, "-P", "-m", "concepthash.runtime.bench.worker")

_DOCTOR = "chash doctor shows what is installed; --backend leaves this one out"
_PATIENCE = 2.0
"""Seconds a worker that was told to end may take."""


class Board:
    """Pixels in a file that every worker maps: written by the parent, read by all.

    Args:
        rows: images it has room for.
        side: of each, pixels.
    """

    def __init__(self, rows: int, side: int) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="chash-bench-")
        self.path = Path(self._folder.name) / "pixels"
        self.shape = (rows, side, side, 3)
        self._pixels = np.memmap(self.path, np.uint8, mode="w+", shape=self.shape)

    def show(self, pixels: Pixels) -> None:
        """Put ``(B, side, side, 3)`` uint8 into the first rows."""
        self._pixels[: len(pixels)] = pixels

    def fill(self, pixels: Pixels) -> None:
        """Put these into all rows, again and again."""
        self._pixels[:] = pixels[np.arange(len(self._pixels)) % len(pixels)]

    def __enter__(self) -> Board:
        return self

    def __exit__(self, *_: object) -> None:
        del self._pixels
        self._folder.cleanup()


class Worker:
    """A process that has one artefact open on one back end.

    Args:
        bundle: of the artefact.
        target: what to open.
        threads: CPU threads; None for all.
        board: where it finds its pixels; the first row is hashed at once.
        tell: told of what takes long, such as an engine that is built anew, before it does.

    Raises:
        BackendError: if the back end cannot run it here, or the process crashes.
        BundleError: if the file cannot be loaded.
    """

    def __init__(
        self,
        bundle: Bundle,
        target: Target,
        threads: int | None,
        board: Board,
        tell: Tell = lambda text: None,
    ) -> None:
        self.target = target
        self._tell = tell
        self.peak: int | None = None
        errors, path = tempfile.mkstemp(".log", dir=board.path.parent)
        self._errors = Path(path)
        began = time.perf_counter()
        self._process = subprocess.Popen(
            COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=_environment(),
            start_new_session=True,  # Ctrl-C is for the parent, which ends its workers in order
        )
        os.close(errors)
        try:
            opened = self.ask(
                "open",
                bundle=str(bundle.path),
                backend=target.backend,
                precision=target.artifact.precision,
                device=target.device,
                threads=threads,
                pixels=str(board.path),
                shape=list(board.shape),
            )
        except BaseException:
            self._process.kill()
            self.close()
            raise
        self.seconds = time.perf_counter() - began
        """From the start of the process to its first code."""
        self.ran: str = opened["ran"]
        """What computes, in the words of the back end."""

    @property
    def alive(self) -> bool:
        """Whether the process is still there to be asked."""
        return self._process.poll() is None

    def ask(self, do: str, **request: Any) -> dict[str, Any]:
        """The answer to a request of :mod:`concepthash.runtime.bench.worker`.

        Raises:
            BackendError: if it cannot be done here, or the process crashes over it.
            BundleError: if the file of the artefact is at fault.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **request}).encode() + b"\n")
            self._process.stdin.flush()
            answer = self._answer()
            while "note" in answer:
                self._tell(f"{self.target}: {answer['note']}")
                answer = self._answer()
        except BrokenPipeError:
            raise BackendError(self._crash(), where=self.target, hint=_DOCTOR) from None
        if "error" in answer:
            kind = BackendError if answer["code"] == BackendError.exit_code else BundleError
            raise kind(answer["error"], where=self.target, hint=answer["hint"] or _DOCTOR)
        self.peak = answer["peak"]
        return answer

    def time(self, batch: int, runs: int) -> list[float]:
        """Milliseconds of each of ``runs`` runs, each of a batch; one before them is not timed."""
        times: list[float] = self.ask("time", batch=batch, runs=runs)["ms"]
        return times

    def codes(self, rows: int, batch: int) -> Codes:
        """The codes ``(rows, K / 8)`` of the first rows of the board, in batches."""
        answer = self.ask("codes", rows=rows, batch=batch, logits=False)
        codes: Codes = _array(answer["codes"], np.uint8, rows)
        return codes

    def logits(self, rows: int, batch: int) -> tuple[Codes, np.ndarray[Any, np.dtype[np.float32]]]:
        """Codes, and logits ``(rows, K)`` float32, of the first rows of the board, in batches."""
        answer = self.ask("codes", rows=rows, batch=batch, logits=True)
        return (
            _array(answer["codes"], np.uint8, rows),
            _array(answer["logits"], np.float32, rows),
        )

    def close(self) -> None:
        """End the process, by force if it does not go."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(BrokenPipeError):
                    pipe.close()
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._process.kill()
        self.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise BrokenPipeError
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _crash(self) -> str:
        code = self._process.wait()
        lines = self._errors.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        what = f"exit code {code}"
        if code < 0:
            what = next((s.name for s in signal.Signals if s == -code), f"signal {-code}")
        return f"its process ended ({what})" + (f": {lines[-1]}" if lines else "")


def _environment() -> dict[str, str]:
    """That of this process; a worker finds this very package, installed or not."""
    home = str(Path(concepthash.__file__).parents[1])
    known: Sequence[str] = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(known)}


def _array(digits: str, dtype: Any, rows: int) -> Any:
    return np.frombuffer(bytes.fromhex(digits), dtype).reshape(rows, -1)

"""The one object that talks: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any, ClassVar, TextIO

import typer

from concepthash.errors import ConceptHashError, Skipped

PLAIN_SECONDS = 10.0
"""Off a terminal, progress is one line each this many seconds."""

_REDRAW_SECONDS = 0.1
_BAR_WIDTH = 24
_SKIPS_SHOWN = 10
_DONE_WITH_SKIPS = 3
# Control characters, and the marks of a line and of a paragraph.
_CONTROL = ("Cc", "Zl", "Zp")


class Output:
    """Where a verb's words go. Also a :class:`concepthash.learn.report.Reporter`.

    Args:
        as_json: results are JSON.
        stdout, stderr: by default those of the process.
        clock: seconds, for the pace of progress.
    """

    json_asked: ClassVar[bool] = False
    """Whether the verb that runs prints JSON; what reports its errors asks."""
    answered: ClassVar[bool] = False
    """Whether it has printed its result: then an error is told on stderr only."""

    def __init__(
        self,
        *,
        as_json: bool = False,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.as_json = as_json
        Output.json_asked = Output.json_asked or as_json
        self.choices: dict[str, str] = {}
        self._stdout = stdout or sys.stdout
        self._stderr = stderr or sys.stderr
        self._clock = clock
        self._bar = _Bar(self._stderr) if self._stderr.isatty() else None
        self._stage = ""
        self._began = self._shown = 0.0
        self._first = 0

    # Results

    def result(self, text: object, data: Callable[[], Mapping[str, Any]]) -> None:
        """The result of a verb: ``text`` for people, or ``data()`` and the choices as JSON."""
        self._clear()
        if self.as_json:
            self.line(json.dumps({**data(), "choices": self.choices}))
        else:
            self.line(str(text))
        Output.answered = True

    def line(self, text: str, *, end: str = "\n") -> None:
        """One line of a result that is a stream of lines."""
        self._clear()
        with writing_results():
            print(text, end=end, file=self._stdout)

    @property
    def encoding(self) -> str:
        """How results are encoded; decides which characters a table may use."""
        return self._stdout.encoding or "ascii"

    @contextmanager
    def only_results(self) -> Iterator[None]:
        """Send what libraries print within the block to stderr; only this object writes results."""
        with redirect_stdout(self._stderr):
            yield

    # Everything else

    def note(self, text: str) -> None:
        """One line about a choice or an event, on stderr."""
        self._clear()
        print(text, file=self._stderr, flush=True)

    def choice(self, name: str, value: object, why: str) -> None:
        """Tell, and keep for JSON, what was chosen because the user named nothing."""
        self.choices[name] = str(value)
        self.note(f"{name}: {value} ({why})")

    def hint(self, command: str) -> None:
        """The command to run next."""
        self.note(f"next: {command}")

    def metrics(self, values: Mapping[str, float]) -> None:
        """The figures of one epoch on one line."""
        words = [f"{name} {_figure(value)}" for name, value in values.items()]
        self.note("  ".join(words))

    def progress(self, stage: str, done: int, total: int) -> None:
        """A bar with images/s and the time left on a terminal, elsewhere a line each 10 s."""
        now = self._clock()
        if stage != self._stage:
            self._clear()
            self._stage, self._began, self._first = stage, now, done
            self._shown = -math.inf if self._bar else now
        if now - self._shown < (_REDRAW_SECONDS if self._bar else PLAIN_SECONDS):
            return
        self._shown = now
        rate = (done - self._first) / (now - self._began) if now > self._began else 0.0
        if self._bar:
            self._bar.draw(stage, done, total, _pace(rate, done, total))
        else:
            print(
                f"{stage}: {done}/{total}{_pace(rate, done, total)}", file=self._stderr, flush=True
            )

    def skips(self, skipped: Skipped, *, record: str = "") -> None:
        """List the first skipped inputs; end with exit code 3 if there are any.

        Args:
            skipped: what was left out.
            record: where all of them are written, for the case of many.

        Raises:
            typer.Exit: with code 3.
        """
        if not skipped:
            return
        self.note(f"skipped {len(skipped)}:")
        for item in skipped.items[:_SKIPS_SHOWN]:
            self.note(f"  {printable(item.path)}: {printable(item.reason)}")
        if len(skipped) > _SKIPS_SHOWN:
            rest = f" (all in {record})" if record else ""
            self.note(f"  and {len(skipped) - _SKIPS_SHOWN} more{rest}")
        raise typer.Exit(_DONE_WITH_SKIPS)

    def _clear(self) -> None:
        self._stage = ""
        if self._bar:
            self._bar.clear()


class _Bar:
    """One line of a terminal, drawn over and over."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._drawn = False

    def draw(self, stage: str, done: int, total: int, pace: str) -> None:
        filled = round(_BAR_WIDTH * min(done / total, 1.0)) if total else 0
        bar = "#" * filled + "." * (_BAR_WIDTH - filled)
        line = f"{stage}  [{bar}]  {done}/{total}{pace}"
        columns = shutil.get_terminal_size().columns
        self._stream.write(f"\r\x1b[K{line[: columns - 1]}")
        self._stream.flush()
        self._drawn = True

    def clear(self) -> None:
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False


@contextmanager
def writing_results() -> Iterator[None]:
    """Tell what hinders writing to stdout in our words; a reader that left stays as it is.

    Raises:
        ConceptHashError: if the disk behind it is full, or it cannot be written to at all.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        Output.answered = True  # nothing more can be said there
        raise ConceptHashError(
            f"the result cannot be written: {error.strerror or error}",
            where="stdout",
            hint="free some space (df -h), or write it somewhere else",
        ) from None


def printable(text: str) -> str:
    """Text on one line: control characters as escapes, so that a name cannot break a table."""
    if text.isprintable():
        return text
    return "".join(ascii(c)[1:-1] if unicodedata.category(c) in _CONTROL else c for c in text)


def skipped_json(skipped: Skipped) -> list[dict[str, str]]:
    """Skipped inputs as plain values."""
    return [{"path": item.path, "reason": item.reason} for item in skipped.items]


def display(path: object) -> str:
    """A path the shell can read back: quoted if it has to be."""
    return shlex.quote(str(path))


def _pace(rate: float, done: int, total: int) -> str:
    if rate <= 0:
        return ""
    minutes, seconds = divmod(round(max(total - done, 0) / rate), 60)
    return f"  {_figure(rate)} images/s  {minutes}:{seconds:02d} left"


def _figure(value: float) -> str:
    if float(value).is_integer():
        return str(int(value))
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.4g}"

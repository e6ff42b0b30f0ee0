"""The entry point of ``chash``."""

from __future__ import annotations

import codecs
import io
import sys

from concepthash.cli.app import app

_ERRORS = "chash"


def _as_it_can(error: UnicodeError) -> tuple[str | bytes, int]:
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeEncodeError:  # a letter that this terminal has not
        return codecs.lookup_error("backslashreplace")(error)


codecs.register_error(_ERRORS, _as_it_can)


def run() -> None:
    """Run the command line of this process and exit with its code."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # file names pass through byte for byte
            stream.reconfigure(errors=_ERRORS)
    app(prog_name="chash")

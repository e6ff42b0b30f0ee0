"""The entry point of ``chash``."""

from __future__ import annotations

import io
import sys

from concepthash.cli.app import app


def run() -> None:
    """Run the command line of this process and exit with its code."""
    for stream in (sys.stdin, sys.stdout):
        if isinstance(stream, io.TextIOWrapper):  # file names pass through byte for byte
            stream.reconfigure(errors="surrogateescape")
    app(prog_name="chash")

"""``chash index accelerate``: tables beside a gallery's codes, so that search need not read all."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepthash.cli import options
from concepthash.cli.options import check_threads
from concepthash.cli.output import Output
from concepthash.cli.stores import open_gallery

EXAMPLES = (
    "chash index accelerate birds.chg",
    "chash index accelerate birds.chg --copy-codes   faster, and about three times the room",
    "chash index ./gallery --accelerate              right after indexing",
)


def command(
    gallery: Annotated[Path, typer.Argument(help="A gallery.", metavar="GALLERY")],
    copy_codes: options.CopyCodes = False,
    threads: options.Threads = None,
    as_json: options.Json = False,
) -> None:
    """Build the tables that make large searches fast, or extend them; answers stay the same."""
    output = Output(as_json=as_json)
    check_threads(threads)
    covered = build(gallery, copy_codes=copy_codes, threads=threads)
    output.result(
        f"{gallery}: {covered} codes in tables",
        lambda: {
            "schema": "chash.accelerate/1",
            "gallery": str(gallery),
            "codes": covered,
            "copy_codes": copy_codes,
        },
    )


def build(gallery: Path, *, copy_codes: bool, threads: int | None) -> int:
    """Build or extend a gallery's tables; returns how many codes they cover.

    Raises:
        BackendError: without the native kernel.
        GalleryError: if they cannot be written.
        GalleryLocked: if another process writes to the gallery.
    """
    with open_gallery(gallery, write=True) as opened:
        return opened.accelerate(copy_codes=copy_codes, threads=threads)

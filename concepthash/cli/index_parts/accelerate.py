"""``chash index accelerate``: tables beside a gallery's codes, so that search need not read all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concepthash.cli import options
from concepthash.cli.options import check_threads
from concepthash.cli.output import Output, display
from concepthash.cli.stores import open_gallery

if TYPE_CHECKING:
    from concepthash.runtime.galleries import AnyGallery

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
    covered = build(gallery, output, copy_codes=copy_codes, threads=threads)
    output.result(
        f"{gallery}: {covered} codes in tables",
        lambda: {
            "schema": "chash.accelerate/1",
            "gallery": str(gallery),
            "codes": covered,
            "copy_codes": copy_codes,
        },
    )


def build(gallery: Path, output: Output, *, copy_codes: bool, threads: int | None) -> int:
    """Build or extend a gallery's tables; returns how many codes they cover.

    A note says if they will not fit into the memory, where they may do more harm than good.

    Raises:
        BackendError: without the native kernel.
        GalleryError: if they cannot be written.
        GalleryLocked: if another process writes to the gallery.
    """
    with open_gallery(gallery, write=True) as opened:
        _note_size(opened, output, copy_codes=copy_codes)
        return opened.accelerate(copy_codes=copy_codes, threads=threads)


def _note_size(gallery: AnyGallery, output: Output, *, copy_codes: bool) -> None:
    from concepthash.runtime import machine
    from concepthash.runtime.native import kernel
    from concepthash.runtime.tables import block_size

    native, memory = kernel(), machine.memory()
    most = memory.limit or memory.total
    if native is None or most is None:
        return
    count, layout = len(gallery), gallery.layout
    size = count * layout.nbytes + block_size(native, layout, count, copy_codes)
    if size > most:
        output.note(
            f"codes and tables take {size / 1e9:.1f} GB, and this machine has {most / 1e9:.1f} GB "
            f"of memory: searches may wait for the disk, longer than without tables; they are gone "
            f"when the folders tables in {display(gallery.path)} are deleted"
        )

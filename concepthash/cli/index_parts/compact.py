"""``chash index compact``: give back the room of removed images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concepthash.cli import options
from concepthash.cli.output import Output, display
from concepthash.cli.stores import open_gallery

if TYPE_CHECKING:
    from concepthash.runtime.galleries import AnyGallery

EXAMPLES = ("chash index compact birds.chg",)


def command(
    gallery: Annotated[Path, typer.Argument(help="A gallery.", metavar="GALLERY")],
    as_json: options.Json = False,
) -> None:
    """Rewrite a gallery's codes without those of removed images; ids stay."""
    output = Output(as_json=as_json)
    with open_gallery(gallery, write=True) as opened:
        had = _in_tables(opened)
        freed = opened.compact()
        images, lost = len(opened), had - _in_tables(opened)
    output.result(
        f"{gallery}: {freed} removed codes freed, {images} images",
        lambda: {
            "schema": "chash.compact/1",
            "gallery": str(gallery),
            "freed": freed,
            "images": images,
        },
    )
    if lost > 0:
        output.note("search tables went with the old codes: answers stay, searches are slower")
        output.hint(f"chash index accelerate {display(gallery)}")


def _in_tables(gallery: AnyGallery) -> int:
    """How many codes search tables cover."""
    tables = gallery.index().tables
    return 0 if tables is None else tables.rows

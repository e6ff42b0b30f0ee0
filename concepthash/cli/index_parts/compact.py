"""``chash index compact``: give back the room of removed images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepthash.cli import options
from concepthash.cli.output import Output
from concepthash.cli.stores import open_gallery

EXAMPLES = ("chash index compact birds.chg",)


def command(
    gallery: Annotated[Path, typer.Argument(help="A gallery.", metavar="GALLERY")],
    as_json: options.Json = False,
) -> None:
    """Rewrite a gallery's codes without those of removed images; ids stay."""
    output = Output(as_json=as_json)
    with open_gallery(gallery, write=True) as opened:
        freed = opened.compact()
        images = len(opened)
    output.result(
        f"{gallery}: {freed} removed codes freed, {images} images",
        lambda: {
            "schema": "chash.compact/1",
            "gallery": str(gallery),
            "freed": freed,
            "images": images,
        },
    )

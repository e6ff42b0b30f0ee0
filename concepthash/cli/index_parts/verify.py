"""``chash index verify``: whether every byte is what was written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from concepthash.cli import options
from concepthash.cli.kinds import kind_of
from concepthash.cli.output import Output, display, printable
from concepthash.cli.stores import check_gallery
from concepthash.errors import GalleryDamaged

EXAMPLES = (
    "chash index verify birds.chg",
    "chash index verify birds.chx        an index file",
)


def command(
    gallery: Annotated[Path, options.gallery_argument("A gallery or index file.")],
    as_json: options.Json = False,
) -> None:
    """Read everything and compare it with its checksums; exit code 1 if something differs."""
    output = Output(as_json=as_json)
    if gallery.is_file() and kind_of(gallery) == "index":
        from concepthash.runtime.index import HammingIndex

        HammingIndex.open(gallery).verify()
        found = []
    else:
        from concepthash.runtime.repair import check

        found = check(check_gallery(gallery))
    lines = [f"{printable(str(item.file))}: {printable(item.what)}" for item in found]
    output.result(
        "\n".join(lines) if found else f"{options.named(gallery)}: everything is as it was written",
        lambda: {
            "schema": "chash.verify/1",
            "gallery": options.named(gallery),
            "damage": [{"file": str(item.file), "what": item.what} for item in found],
        },
    )
    if found:
        raise GalleryDamaged(
            f"the gallery is damaged in {len(found)} places",
            where=gallery,
            hint=f"chash index repair {display(gallery)}",
        )

"""``chash index remove``: take images out of a gallery; their files stay."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from concepthash.cli import options
from concepthash.cli.options import switch
from concepthash.cli.output import Output, display
from concepthash.cli.stores import open_gallery
from concepthash.errors import UsageError

if TYPE_CHECKING:
    from concepthash.runtime.galleries import AnyGallery

EXAMPLES = (
    "chash index remove birds.chg photos/a.jpg photos/b.jpg",
    "chash index remove birds.chg --id 17 --id 18",
)


def command(
    gallery: Annotated[Path, typer.Argument(help="A gallery.", metavar="GALLERY")],
    images: Annotated[
        list[str] | None, typer.Argument(help="Photos as they were indexed.", metavar="[PHOTO]...")
    ] = None,
    ids: Annotated[list[int] | None, switch("--id", text="By id; may be repeated.")] = None,
    dry_run: options.DryRun = False,
    as_json: options.Json = False,
) -> None:
    """Take images out of a gallery; the photos themselves stay where they are."""
    output = Output(as_json=as_json)
    if not images and not ids:
        raise UsageError(
            "no image was named", where="PHOTO", hint=f"chash index remove {gallery} PHOTO"
        )
    with open_gallery(gallery, write=not dry_run) as opened:
        chosen = _chosen(opened, images or [], ids or [])
        if not dry_run:
            opened.remove(chosen)
        left = len(opened) - (len(chosen) if dry_run else 0)
    told = f"{gallery}: {len(chosen)} removed, {left} in the gallery"
    output.result(
        told + (" (dry run)" if dry_run else ""),
        lambda: {
            "schema": "chash.remove/1",
            "gallery": str(gallery),
            "removed": chosen,
            "images": left,
            "dry_run": dry_run,
        },
    )
    if not dry_run:
        output.hint(f"chash index compact {display(gallery)}")


def _chosen(gallery: AnyGallery, images: list[str], ids: list[int]) -> list[int]:
    """The ids that were named; on one that is not there, none is removed."""
    chosen = set()
    for image in images:
        entry = gallery.find(image)
        if entry is None:
            raise UsageError(
                "no image was indexed from there",
                where=image,
                hint="the path as chash query shows it",
            )
        chosen.add(entry.id)
    held = gallery.index() if ids else ()
    for id in ids:
        if id not in held:
            raise UsageError(
                f"no image has the id {id}",
                where="--id",
                hint="an id as chash query --json shows it",
            )
        chosen.add(id)
    return sorted(chosen)

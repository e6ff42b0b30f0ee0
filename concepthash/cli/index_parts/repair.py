"""``chash index repair``: save what can be saved."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepthash.cli import options
from concepthash.cli.output import Output, display
from concepthash.cli.stores import check_gallery

EXAMPLES = ("chash index repair birds.chg", "chash index PHOTOS --out birds.chg   afterwards")


def command(
    gallery: Annotated[Path, typer.Argument(help="A gallery.", metavar="GALLERY")],
    as_json: options.Json = False,
) -> None:
    """Make a damaged gallery whole; what is taken out is kept in its damaged-N folder."""
    output = Output(as_json=as_json)

    from concepthash.runtime.repair import repair

    report = repair(check_gallery(gallery, write=True))
    output.result(report, lambda: {"schema": "chash.repair/1", **report.to_json()})
    if report.removed or report.replaced:
        backup = ", or instead put the shards back from a backup" if report.replaced else ""
        output.hint(f"chash index PHOTOS --out {display(gallery)}{backup}")

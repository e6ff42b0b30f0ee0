"""``chash index merge``: several galleries, or files of codes, as a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepthash.cli import options
from concepthash.cli.options import switch
from concepthash.cli.output import Output, printable
from concepthash.cli.stores import Store, check_gallery
from concepthash.errors import UsageError

EXAMPLES = (
    "chash index merge a.chg b.chg --out all.chg",
    "chash index merge a.chx b.chx --out all.chx",
)


def command(
    sources: Annotated[
        list[Path], typer.Argument(help="Galleries, or files of codes.", metavar="SOURCE...")
    ],
    out: Annotated[Path, switch("--out", "-o", text="The new gallery, or file of codes.")],
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Make one gallery of several of one model; of a path in several, the first image stays."""
    output = Output(as_json=as_json)
    files = [source for source in sources if source.is_file()]
    if files and len(files) < len(sources):
        raise UsageError(
            "galleries and files do not merge", where=files[0], hint="export the galleries first"
        )
    images, repeated = _files(files, out, force) if files else _galleries(sources, out)
    more = f", {len(repeated)} paths that are in several kept once" if repeated else ""
    output.result(
        f"{out}: {images} codes of {len(sources)}{more}",
        lambda: {
            "schema": "chash.merge/1",
            "out": str(out),
            "images": images,
            "repeated": repeated,
        },
    )
    for path in repeated[:10]:
        output.note(f"  in several: {printable(path)}")


def _galleries(sources: list[Path], out: Path) -> tuple[int, list[str]]:
    from concepthash.runtime.shards import merge

    report = merge([check_gallery(source) for source in sources], out)
    return report.images, [item.path for item in report.repeated.items]


def _files(sources: list[Path], out: Path, force: bool) -> tuple[int, list[str]]:
    from concepthash.runtime.interchange import save_index
    from concepthash.runtime.resharding import merge

    merged = merge([Store(source).index for source in sources])
    save_index(merged, out, force=force)
    return len(merged), []

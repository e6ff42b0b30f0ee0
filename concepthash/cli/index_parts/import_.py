"""``chash index import``: codes of another program as an index file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepthash.cli import options
from concepthash.cli.options import switch
from concepthash.cli.output import Output, display
from concepthash.cli.stores import Store
from concepthash.errors import UsageError

EXAMPLES = (
    "chash index import codes.npy codes.chx --concepts 4",
    "chash index import old.faiss codes.chx",
)


def command(
    file: Annotated[
        Path, typer.Argument(help="Codes: .npy, .faiss, .ibin or .parquet.", metavar="FILE")
    ],
    out: Annotated[Path, typer.Argument(help="The index file, NAME.chx.", metavar="NAME.chx")],
    concepts: Annotated[
        int | None, switch("--concepts", text="How many share the bits; 1 if the file is silent.")
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Make an index file of codes that another program wrote.

    They have no photos, so they do not become a gallery: photos are indexed with chash index.
    """
    output = Output(as_json=as_json)

    from concepthash.runtime.interchange import OURS, save_index

    if out.suffix != OURS:
        raise UsageError(
            f"an index file is named NAME{OURS}", where=out, hint=display(out.with_suffix(OURS))
        )
    with Store(file, concepts) as store:
        index = store.index
        save_index(index, out, force=force)
    output.result(
        f"{out}: {len(index)} codes of {index.bits} bits, {index.concepts} concepts",
        lambda: {
            "schema": "chash.index-import/1",
            "file": str(out),
            "codes": len(index),
            "bits": index.bits,
            "concepts": index.concepts,
        },
    )
    output.hint(f"chash dedupe {display(out)} --radius 2")

"""``chash index export``: the codes of a gallery as a file that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from concepthash.cli import options
from concepthash.cli.output import Output
from concepthash.cli.stores import Store

EXAMPLES = (
    "chash index export birds.chg birds.parquet   with paths and labels",
    "chash index export birds.chg birds.npy       and birds.ids.npy",
    "chash index export birds.chg birds.faiss     an IndexBinaryIDMap",
    "chash index export birds.chg birds.chx       an index file of ours, memory-mapped",
)


def command(
    gallery: Annotated[
        Path, typer.Argument(help="A gallery, or a file of codes.", metavar="GALLERY")
    ],
    file: Annotated[
        Path,
        typer.Argument(
            help="What to write: .chx, .npy, .faiss, .ibin or .parquet.", metavar="FILE"
        ),
    ],
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write the codes of a gallery as a file; its suffix says which form."""
    output = Output(as_json=as_json)

    from concepthash.runtime.interchange import save_gallery, save_index

    with Store(gallery) as store:
        if store.gallery is None:
            save_index(store.index, file, force=force)
        else:
            save_gallery(store.gallery, file, force=force)
        index = store.index
    output.result(
        f"{file}: {len(index)} codes of {index.bits} bits",
        lambda: {
            "schema": "chash.index-export/1",
            "gallery": str(gallery),
            "file": str(file),
            "codes": len(index),
            "bits": index.bits,
            "concepts": index.concepts,
        },
    )

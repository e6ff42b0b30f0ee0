"""``chash index export``: the codes of a gallery as files that other programs read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from concepthash.cli import options
from concepthash.cli.options import switch
from concepthash.cli.output import Output, display
from concepthash.cli.stores import Store

if TYPE_CHECKING:
    from concepthash.runtime.exporters import Exported

EXAMPLES = (
    "chash index export birds.chg birds.parquet   with paths and labels",
    "chash index export birds.chg birds.npy       and birds.ids.npy",
    "chash index export birds.chg birds.faiss     an IndexBinaryIDMap",
    "chash index export birds.chg birds.chx       an index file of ours, memory-mapped",
    "chash index export birds.chg birds-pg --to pgvector   a folder to load into a database",
)
DATABASES = ("pgvector", "milvus", "opensearch")
"""Those of :data:`concepthash.runtime.exporters.DATABASES`, which is not loaded to print help."""


def command(
    gallery: Annotated[Path, options.gallery_argument("A gallery, or a file of codes.")],
    file: Annotated[
        Path,
        typer.Argument(
            help="What to write: .chx, .npy, .faiss, .ibin or .parquet; with --to a folder.",
            metavar="FILE",
        ),
    ],
    to: Annotated[
        str | None,
        switch(
            "--to",
            text="A folder for a database instead: pgvector, milvus or opensearch.",
            values=DATABASES,
        ),
    ] = None,
    force: options.Force = False,
    as_json: options.Json = False,
) -> None:
    """Write the codes of a gallery as a file, whose suffix says which form, or for a database."""
    output = Output(as_json=as_json)

    from concepthash.runtime.interchange import save_gallery, save_index

    exported = None
    with Store(gallery) as store:
        if to is not None:
            from concepthash.runtime.exporters import export_to

            source = store.index if store.gallery is None else store.gallery
            exported = export_to(source, file, to, name=gallery.resolve().stem, force=force)
        elif store.gallery is None:
            save_index(store.index, file, force=force)
        else:
            save_gallery(store.gallery, file, force=force)
        index = store.index
    output.result(
        f"{file}: {len(index)} codes of {index.bits} bits",
        lambda: {
            "schema": "chash.index-export/1",
            "gallery": options.named(gallery),
            "file": str(file),
            "codes": len(index),
            "bits": index.bits,
            "concepts": index.concepts,
            **({} if exported is None else _loading(to, exported)),
        },
    )
    if exported is not None:
        _tell(exported, output)


def _loading(to: str | None, exported: Exported) -> dict[str, Any]:
    return {"to": to, "altered": exported.altered, "next": exported.next}


def _tell(exported: Exported, output: Output) -> None:
    if exported.altered:
        output.note(f'{exported.altered} paths or labels are no Unicode or have NUL: "?" there')
    output.note(f"how to load and to query it: {display(exported.folder / 'README.md')}")
    output.hint(f"cd {display(exported.folder)} && {exported.next}")

"""``chash knn-graph``: the nearest others of every image, as a file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from concepthash.cli import options
from concepthash.cli.options import check_threads, setting, switch
from concepthash.cli.output import Output
from concepthash.cli.stores import Store
from concepthash.errors import UsageError

if TYPE_CHECKING:
    from concepthash.runtime.join import Graph

EXAMPLES = (
    "chash knn-graph birds.chg --top 10 --out birds.npz      ids, neighbours, distances",
    "chash knn-graph birds.chg --top 10 --out birds.parquet  one row a pair",
)


def command(
    gallery: Annotated[Path, options.gallery_argument("A gallery, or a file of codes.")],
    out: Annotated[Path, switch("--out", "-o", text="NAME.npz or NAME.parquet.")],
    top: Annotated[int, setting("--top", "-k", text="Neighbours an image.")] = 10,
    threads: options.Threads = None,
    force: options.Force = False,
    config: options.VerbConfig = None,
    as_json: options.Json = False,
) -> None:
    """Write the nearest others of every image, itself left out."""
    output = Output(as_json=as_json)
    if top < 1:
        raise UsageError(f"{top} neighbours cannot be found", where="--top", hint="--top 10")
    check_threads(threads)
    if out.suffix not in (".npz", ".parquet"):
        raise UsageError(
            f"unknown kind of file: {out.suffix or 'no suffix'}",
            where=out,
            hint="a name that ends in .npz or .parquet",
        )
    if out.exists() and not force:
        raise UsageError("the file exists", where=out, hint="another name, or --force")

    from concepthash.runtime.graphfile import save_graph
    from concepthash.runtime.join import knn_graph

    with Store(gallery) as store:
        k = min(top, max(len(store.index) - 1, 1))
        graph: Graph = knn_graph(
            store.index,
            k,
            threads=threads,
            progress=lambda done: output.progress("searching", done, len(store.index)),
        )
        if store.gallery is not None:  # shards lie one after another
            graph = graph.by_id()
    save_graph(graph, out)
    output.result(
        f"{out}: the {k} nearest of {len(graph.ids)} codes",
        lambda: {
            "schema": "chash.knn-graph/1",
            "gallery": options.named(gallery),
            "file": str(out),
            "codes": len(graph.ids),
            "top": k,
        },
    )

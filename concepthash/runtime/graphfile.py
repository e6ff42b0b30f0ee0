"""A nearest-neighbour graph on disk: a numpy archive, or Parquet with one row a pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from concepthash.files import replacing
from concepthash.runtime.foreign import writing
from concepthash.runtime.join import Graph
from concepthash.runtime.parquetfile import pyarrow

_STEP = 1 << 17


def save_graph(graph: Graph, path: Path) -> None:
    """Write a graph whole or not at all; the suffix says how.

    ``.npz`` has the arrays ``ids`` (n,), ``neighbours`` (n, k) and ``distances`` (n, k), missing =
    -1. Anything else is Parquet with the columns ``id``, ``rank`` (from 1), ``neighbour`` and
    ``distance``, missing left out.

    Raises:
        GalleryError: if it cannot be written.
        BackendError: for Parquet without pyarrow.
    """
    with writing(path), replacing(path) as file:
        if path.suffix == ".npz":
            np.savez(file, ids=graph.ids, neighbours=graph.neighbours, distances=graph.distances)
            return
        arrow, parquet = pyarrow()
        kinds = {"id": "int64", "rank": "int32", "neighbour": "int64", "distance": "int32"}
        schema = arrow.schema([(name, getattr(arrow, kind)()) for name, kind in kinds.items()])
        with parquet.ParquetWriter(file, schema) as writer:
            for first in range(0, len(graph.ids), _STEP):
                here = slice(first, first + _STEP)
                row, place = np.nonzero(graph.neighbours[here] >= 0)
                columns = (
                    graph.ids[here][row],
                    (place + 1).astype(np.int32),
                    graph.neighbours[here][row, place],
                    graph.distances[here][row, place],
                )
                writer.write_table(arrow.table([arrow.array(c) for c in columns], schema=schema))

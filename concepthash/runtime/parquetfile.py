"""Codes as Parquet, one row a code; pyarrow is imported only when one is read or written.

Columns: ``id`` int64, ``code`` fixed-size binary of K / 8 bytes, and of a gallery ``path`` and
``label``. The schema's metadata say ``bits``, ``concepts``, ``bit_order`` and, of a gallery,
``fingerprint``: the model that made the codes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from concepthash.bundle import BIT_ORDER
from concepthash.errors import BackendError
from concepthash.files import replacing
from concepthash.runtime.entries import valid_text
from concepthash.runtime.foreign import Block, Content, unreadable
from concepthash.runtime.items import Items


def read(path: Path) -> Content:
    """The codes of a Parquet file with a column ``code``; without one ``id``, running numbers.

    Raises:
        GalleryError: if a column is missing, has nulls or another type.
        BackendError: without pyarrow.
        OSError, ValueError: if it is no Parquet file.
    """
    arrow, parquet = pyarrow()
    if not path.is_file():
        raise FileNotFoundError(path)
    file = parquet.ParquetFile(path)
    schema, said = file.schema_arrow, file.schema_arrow.metadata or {}
    if "code" not in schema.names:
        raise unreadable(path, f"no column 'code' among {', '.join(schema.names)}")
    kind = schema.field("code").type
    if not arrow.types.is_fixed_size_binary(kind):
        raise unreadable(path, f"the column 'code' is fixed-size binary, not {kind}")
    order = said.get(b"bit_order", BIT_ORDER.encode()).decode()
    if order != BIT_ORDER:
        raise unreadable(path, f"the bit order is {order!r}, not {BIT_ORDER!r}")
    concepts = int(said[b"concepts"]) if b"concepts" in said else None
    return Content(8 * kind.byte_width, concepts, _blocks(file, kind.byte_width, path))


def write(path: Path, items: Items) -> None:
    """Write codes with their ids, whole or not at all; paths and labels too if they are known.

    Args:
        path: the file.
        items: what to write.

    Raises:
        BackendError: without pyarrow.
        OSError: if the file cannot be written; an earlier one is then intact.
    """
    arrow, parquet = pyarrow()
    layout, named = items.layout, items.fingerprint is not None
    fields = [("id", arrow.int64()), ("code", arrow.binary(layout.nbytes))]
    if named:
        fields += [("path", arrow.string()), ("label", arrow.string())]
    said = {"bits": layout.bits, "concepts": layout.concepts, "bit_order": BIT_ORDER}
    if items.fingerprint is not None:
        said["fingerprint"] = items.fingerprint
    schema = arrow.schema(fields, {key: str(value) for key, value in said.items()})
    with replacing(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for block in items.source:
            raw = [None, arrow.py_buffer(np.ascontiguousarray(block.codes))]
            kind = schema.field("code").type
            codes = arrow.FixedSizeBinaryArray.from_buffers(kind, len(block.ids), raw)
            columns = [arrow.array(block.ids), codes]
            if named:
                paths = [valid_text(path or "") for path in block.paths]
                columns += [arrow.array(paths, arrow.string())]
                columns += [arrow.array(block.labels, arrow.string())]
            writer.write_table(arrow.table(columns, schema=schema))


def pyarrow() -> tuple[Any, Any]:
    """The modules ``pyarrow`` and ``pyarrow.parquet``.

    Raises:
        BackendError: if they are not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise BackendError(
            f"Parquet needs the extra 'parquet': {error.name} is not installed",
            where="pyarrow",
            hint="pip install 'concepthash[parquet]'",
        ) from None
    return pyarrow, pyarrow.parquet


def _blocks(file: Any, width: int, path: Path) -> Iterator[Block]:
    columns = [name for name in ("id", "code") if name in file.schema_arrow.names]
    for batch in file.iter_batches(columns=columns):
        values = batch.column("code")
        if any(column.null_count for column in batch.columns):
            raise unreadable(path, "a code or an id is null")
        raw = np.frombuffer(values.buffers()[1], np.uint8)
        first = values.offset * width
        codes = raw[first : first + len(values) * width].reshape(len(values), width)
        if len(codes):
            yield codes, batch.column("id").to_numpy() if "id" in columns else None

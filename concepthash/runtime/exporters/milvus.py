"""Milvus: a collection with a BINARY_VECTOR, loaded by its bulk import of Parquet.

Only the whole code is a vector: a collection takes four vector fields unless its server is set up
for more, and has no exact weighted sum over several.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from concepthash.files import write_json
from concepthash.runtime.items import Block, Items
from concepthash.runtime.parquetfile import pyarrow

ROWS = 1 << 20
"""Images a file; an import takes up to 1024 files, of 16 GB each."""
_TEXT_BYTES = 65535
"""What a VarChar holds at most."""


def write(folder: Path, items: Items) -> str:
    """Write the folder; returns the command that makes the collection.

    Raises:
        BackendError: without pyarrow.
    """
    files = _data(folder, items)
    write_json(folder / "collection.json", _collection(items))
    write_json(
        folder / "import.json",
        {"collectionName": items.table, "files": [[f"{items.table}/{name}"] for name in files]},
    )
    (folder / "README.md").write_text(_readme(items, files), encoding="utf-8")
    create = "curl -X POST $MILVUS/v2/vectordb/collections/create"
    return f"{create} -H 'Content-Type: application/json' -d @collection.json"


def _data(folder: Path, items: Items) -> list[str]:
    arrow, parquet = pyarrow()
    fields = [("id", arrow.int64()), ("code", arrow.list_(arrow.uint8()))]
    schema = arrow.schema([*fields, ("path", arrow.string()), ("label", arrow.string())])
    names: list[str] = []
    with ExitStack() as stack:
        writer: Any = None
        room = 0
        for block in items.blocks():
            if room < len(block.ids):
                stack.close()
                names.append(f"images-{len(names) + 1:05d}.parquet")
                file = parquet.ParquetWriter(folder / names[-1], schema)
                writer, room = stack.enter_context(file), ROWS
            writer.write_table(_table(arrow, schema, block))
            room -= len(block.ids)
    return names


def _table(arrow: Any, schema: Any, block: Block) -> Any:
    width = block.codes.shape[1]
    ends = np.arange(0, len(block.ids) * width + 1, width, dtype=np.int32)
    codes = arrow.ListArray.from_arrays(ends, np.ascontiguousarray(block.codes).reshape(-1))
    texts = [arrow.array([_text(t) for t in texts]) for texts in (block.paths, block.labels)]
    return arrow.table([arrow.array(block.ids), codes, *texts], schema=schema)


def _text(text: str | None) -> str:
    """Text that fits a VarChar; what is unknown is empty, as not every Milvus has null."""
    raw = (text or "").encode()
    return raw[:_TEXT_BYTES].decode(errors="ignore")


def _collection(items: Items) -> dict[str, Any]:
    """The body of a request that makes the collection, and loads it."""
    vector = {"dim": str(items.layout.bits)}
    text = {"max_length": str(_TEXT_BYTES)}
    return {
        "collectionName": items.table,
        "description": json.dumps(items.facts()),
        "schema": {
            "autoId": False,
            "enableDynamicField": False,
            "fields": [
                {"fieldName": "id", "dataType": "Int64", "isPrimary": True},
                {"fieldName": "code", "dataType": "BinaryVector", "elementTypeParams": vector},
                {"fieldName": "path", "dataType": "VarChar", "elementTypeParams": text},
                {"fieldName": "label", "dataType": "VarChar", "elementTypeParams": text},
            ],
        },
        "indexParams": [
            {
                "fieldName": "code",
                "indexName": "code",
                "metricType": "HAMMING",
                "indexType": "BIN_FLAT",
            }
        ],
    }


def _readme(items: Items, files: list[str]) -> str:
    return f"""\
# {items.table}: {items.count} images for Milvus

With a server at MILVUS (as http://localhost:19530), in this folder; `import.json` names the
{len(files)} Parquet file(s) as they lie in the server's bucket, below `{items.table}/`:

    JSON='Content-Type: application/json'
    curl -X POST "$MILVUS/v2/vectordb/collections/create" -H "$JSON" -d @collection.json
    mc cp images-*.parquet STORE/BUCKET/{items.table}/
    curl -X POST "$MILVUS/v2/vectordb/jobs/import/create" -H "$JSON" -d @import.json

Or without a bucket, for up to a few million images, also into a file of Milvus Lite 2.4 or 2.5
(3.x has no binary vectors): save this as load.py and run it in this folder.

```python
import glob, json
import pyarrow.parquet
from pymilvus import DataType, MilvusClient

client = MilvusClient("http://localhost:19530")  # or "images.db"
wanted = json.load(open("collection.json"))
kinds = {{
    "Int64": DataType.INT64,
    "BinaryVector": DataType.BINARY_VECTOR,
    "VarChar": DataType.VARCHAR,
}}
schema = client.create_schema(auto_id=False, description=wanted["description"])
for field in wanted["schema"]["fields"]:
    size = {{key: int(value) for key, value in field.get("elementTypeParams", {{}}).items()}}
    primary = field.get("isPrimary", False)
    schema.add_field(field["fieldName"], kinds[field["dataType"]], is_primary=primary, **size)
index = client.prepare_index_params()
index.add_index("code", index_type="BIN_FLAT", metric_type="HAMMING")
client.create_collection(wanted["collectionName"], schema=schema, index_params=index)
for file in sorted(glob.glob("images-*.parquet")):
    for batch in pyarrow.parquet.ParquetFile(file).iter_batches(10_000):
        rows = [{{**row, "code": bytes(row["code"])}} for row in batch.to_pylist()]
        client.insert(wanted["collectionName"], rows)
```

The code of a photo is the hexadecimal text that `chash query PHOTO` prints:

```python
client.load_collection("{items.table}")
found = client.search(
    "{items.table}", data=[bytes.fromhex("{items.example}")], anns_field="code", limit=10,
    output_fields=["path", "label", "code"], search_params={{"metric_type": "HAMMING"}},
)
```

BIN_FLAT is exact; for more than some millions make the index BIN_IVF_FLAT in `collection.json`
before the import, which is approximate. Unknown paths and labels are empty texts. Whose codes they
are says `export.json`, and the collection's description.
"""

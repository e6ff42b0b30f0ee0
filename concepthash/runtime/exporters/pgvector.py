"""PostgreSQL with pgvector: ``bit(K)`` columns, loaded by COPY.

``load.sql`` makes the table and copies ``images.copy`` into it, in one transaction. The sub-codes
are columns that PostgreSQL computes from the code, so they cannot disagree with it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from concepthash.runtime.items import Block, Items

_ESCAPES = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})
_NULL = "\\N"


def write(folder: Path, items: Items) -> str:
    """Write the folder; returns the command that loads it."""
    with (folder / "images.copy").open("w", encoding="utf-8", newline="") as file:
        for block in items.blocks():
            file.writelines(_rows(block))
    files = {"load.sql": _load(items), "index.sql": _index(items), "query.sql": _query(items)}
    if items.layout.concepts > 1:
        files["weighted.sql"] = _weighted(items)
    files["README.md"] = _readme(items)
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")
    return "psql DATABASE -f load.sql"


def _rows(block: Block) -> list[str]:
    digits = (np.unpackbits(block.codes, axis=1) + ord("0")).view(f"S{8 * block.codes.shape[1]}")
    return [
        f"{id}\t{code.decode()}\t{_field(path)}\t{_field(label)}\n"
        for id, code, path, label in zip(
            block.ids.tolist(), digits.ravel().tolist(), block.paths, block.labels, strict=True
        )
    ]


def _field(text: str | None) -> str:
    return _NULL if text is None else text.translate(_ESCAPES)


def _load(items: Items) -> str:
    table, layout = _table(items), items.layout
    columns = ["id bigint PRIMARY KEY", f"code bit({layout.bits}) NOT NULL"]
    if layout.concepts > 1:
        columns += [
            f"concept_{m} bit({layout.sub_bits}) GENERATED ALWAYS AS ({_part('code', items, m)}) "
            "STORED"
            for m in range(layout.concepts)
        ]
    columns += ["path text", "label text"]
    facts = json.dumps(items.facts()).replace("'", "''")
    lines = ",\n    ".join(columns)
    return f"""\
\\set ON_ERROR_STOP on
BEGIN;
CREATE EXTENSION IF NOT EXISTS vector; -- pgvector 0.7 or later
CREATE TABLE {table} (
    {lines}
);
COMMENT ON TABLE {table} IS '{facts}';
\\copy {table} (id, code, path, label) FROM 'images.copy' WITH (ENCODING 'UTF8')
COMMIT;
ANALYZE {table};
"""


def _index(items: Items) -> str:
    return f"""\
-- Approximate from now on, and faster: an image may be missed. Larger values of
-- hnsw.ef_search miss fewer; SET enable_indexscan = off brings exact answers back.
CREATE INDEX ON {_table(items)} USING hnsw (code bit_hamming_ops);
"""


def _query(items: Items) -> str:
    return f"""\
-- The nearest images to a code, in the order of chash query:
--   psql DATABASE -v code={items.example} -f query.sql
\\if :{{?top}} \\else \\set top 10 \\endif
SELECT id, (code <~> {_asked(items)})::int AS distance, path, label
FROM {_table(items)}
ORDER BY code <~> {_asked(items)}, id
LIMIT :top;
"""


def _weighted(items: Items) -> str:
    concepts = range(items.layout.concepts)
    defaults = "\n".join(f"\\if :{{?w{m}}} \\else \\set w{m} 1 \\endif" for m in concepts)
    terms = " + ".join(
        f":w{m} * (concept_{m} <~> {_part('asked.code', items, m)})" for m in concepts
    )
    apart = ", ".join(f"(concept_{m} <~> {_part('asked.code', items, m)})::int" for m in concepts)
    return f"""\
-- The nearest images by a weighted sum of their concepts' distances, always exact:
--   psql DATABASE -v code={items.example} -v w0=2 -v w1=0 -f weighted.sql
\\if :{{?top}} \\else \\set top 10 \\endif
{defaults}
SELECT id, ({terms})::int AS distance, ARRAY[{apart}] AS per_concept, path, label
FROM {_table(items)}, (SELECT {_asked(items)} AS code) AS asked
ORDER BY distance, id
LIMIT :top;
"""


def _table(items: Items) -> str:
    """The table as SQL takes it, whose name may be one of its words: order, user."""
    return f'"{items.table}"'


def _asked(items: Items) -> str:
    return f"('x' || :'code')::bit({items.layout.bits})"


def _part(column: str, items: Items, concept: int) -> str:
    size = items.layout.sub_bits
    return f"substring({column} FROM {concept * size + 1} FOR {size})::bit({size})"


def _readme(items: Items) -> str:
    weighted = ""
    if items.layout.concepts > 1:
        weighted = f"""
By concept, each with a weight of its own (1 if none is given):

    psql DATABASE -v code={items.example} -v w0=2 -v w1=0 -f weighted.sql
"""
    return f"""\
# {items.table}: {items.count} images for PostgreSQL with pgvector

Needs PostgreSQL 12 and pgvector 0.7, or later. In this folder:

    psql DATABASE -f load.sql     # makes the table {_table(items)}; all of it or nothing

`id`, `path` and `label` are those of the gallery, `code` is `bit({items.layout.bits})`. Whose codes
they are says `export.json`, and in the database:

    SELECT obj_description('{_table(items)}'::regclass);

The code of a photo is the hexadecimal text that `chash query PHOTO` prints, or `chash query PHOTO
--json` as `code`. The ten nearest, exact, in the order (distance, id):

    psql DATABASE -v code={items.example} -f query.sql
{weighted}
Without an index every query reads the table. For millions of images, approximate:

    psql DATABASE -f index.sql
"""

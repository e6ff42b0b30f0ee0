"""OpenSearch: an index with a binary ``knn_vector``, loaded by ``_bulk``.

A vector is its bytes as signed numbers. The sub-codes are ``long`` fields, which a script compares
bit by bit: as vectors of their own each would get a graph that no weighted sum could use.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from concepthash.codes import CodeLayout
from concepthash.files import write_json
from concepthash.runtime.items import Block, Items, sub_code_words

PART_BYTES = 16 << 20
"""Where a file of the bulk ends: a server refuses requests above 100 MB unless told otherwise."""


def write(folder: Path, items: Items) -> str:
    """Write the folder; returns the command that makes the index."""
    _data(folder, items)
    write_json(folder / "index.json", _mapping(items))
    write_json(folder / "query.json", _nearest(items))
    write_json(folder / "exact.json", _exact(items))
    if items.layout.concepts > 1:
        write_json(folder / "weighted.json", _weighted(items))
    (folder / "README.md").write_text(_readme(items), encoding="utf-8")
    return (
        f"curl -X PUT $OPENSEARCH/{items.table} -H 'Content-Type: application/json' -d @index.json"
    )


def _data(folder: Path, items: Items) -> None:
    """The documents, in files of bounded size."""
    with ExitStack() as stack:
        file: TextIO | None = None
        number = size = 0
        for block in items.blocks():
            for lines in _lines(block, items.layout):
                if file is None or size >= PART_BYTES:
                    stack.close()
                    number, size = number + 1, 0
                    path = folder / f"bulk-{number:05d}.ndjson"
                    file = stack.enter_context(path.open("w", encoding="ascii", newline=""))
                size += file.write(lines)


def _lines(block: Block, layout: CodeLayout) -> list[str]:
    lines = []
    signed = np.ascontiguousarray(block.codes).view(np.int8).tolist()
    names = _fields(layout)
    words = sub_code_words(block.codes, layout).reshape(len(block.ids), -1).tolist()
    for id, code, parts, path, label in zip(
        block.ids.tolist(), signed, words, block.paths, block.labels, strict=True
    ):
        values: dict[str, Any] = {"id": id, "code": code}
        values.update(zip(names, parts, strict=False))
        values.update((k, v) for k, v in (("path", path), ("label", label)) if v is not None)
        body = json.dumps(values, separators=(",", ":"))
        lines.append(f'{{"index":{{"_id":"{id}"}}}}\n{body}\n')
    return lines


def _fields(layout: CodeLayout) -> list[str]:
    """The fields of the sub-codes: ``concept_0``, or one for each 64 bits: ``concept_0_0``."""
    if layout.concepts == 1:
        return []
    words = -(-layout.sub_bits // 64)
    if words == 1:
        return [f"concept_{m}" for m in range(layout.concepts)]
    return [f"concept_{m}_{w}" for m in range(layout.concepts) for w in range(words)]


def _mapping(items: Items) -> dict[str, Any]:
    keyword = {"type": "keyword", "ignore_above": 8000}
    return {
        "settings": {"index": {"knn": True}},
        "mappings": {
            "_meta": items.facts(),
            "dynamic": "strict",
            "properties": {
                "id": {"type": "long"},
                "code": {
                    "type": "knn_vector",
                    "dimension": items.layout.bits,
                    "data_type": "binary",
                    "space_type": "hamming",
                    "method": {"name": "hnsw", "engine": "faiss"},
                },
                **{name: {"type": "long", "index": False} for name in _fields(items.layout)},
                "path": keyword,
                "label": keyword,
            },
        },
    }


def _nearest(items: Items) -> dict[str, Any]:
    return _search({"knn": {"code": {"vector": _signed(items), "k": 10}}})


def _exact(items: Items) -> dict[str, Any]:
    params = {"field": "code", "query_value": _signed(items), "space_type": "hamming"}
    return _scored({"lang": "knn", "source": "knn_score", "params": params})


def _weighted(items: Items) -> dict[str, Any]:
    fields, layout = _fields(items.layout), items.layout
    words = len(fields) // layout.concepts
    terms = [
        f"params.weights[{place // words}] * "
        f"Long.bitCount(doc['{name}'].value ^ params.words[{place}])"
        for place, name in enumerate(fields)
    ]
    code = np.frombuffer(bytes.fromhex(items.example), np.uint8)[None]
    params = {
        "weights": [1] * layout.concepts,
        "words": sub_code_words(code, layout).ravel().tolist(),
    }
    source = f"1.0 / (1.0 + {' + '.join(terms)})"
    return _scored({"lang": "painless", "source": source, "params": params})


def _scored(script: dict[str, Any]) -> dict[str, Any]:
    return _search({"script_score": {"query": {"match_all": {}}, "script": script}})


def _search(query: dict[str, Any]) -> dict[str, Any]:
    return {
        "size": 10,
        "_source": ["id", "path", "label"],
        "query": query,
        "sort": [{"_score": "desc"}, {"id": "asc"}],
    }


def _signed(items: Items) -> list[int]:
    values: list[int] = np.frombuffer(bytes.fromhex(items.example), np.int8).tolist()
    return values


def _readme(items: Items) -> str:
    head = '-H "$JSON"'
    weighted = ""
    if items.layout.concepts > 1:
        weighted = f"""
By concept, exact; `weights` has one number a concept, `words` the sub-codes of the query as signed
numbers of 64 bits, most significant first:

    curl "$OPENSEARCH/{items.table}/_search" {head} -d @weighted.json
"""
    return f"""\
# {items.table}: {items.count} images for OpenSearch

Needs OpenSearch 2.16 or later with its k-NN plugin, at OPENSEARCH (as http://localhost:9200). In
this folder:

    JSON='Content-Type: application/json'
    curl -X PUT "$OPENSEARCH/{items.table}" {head} -d @index.json
    for part in bulk-*.ndjson; do
      curl -X POST "$OPENSEARCH/{items.table}/_bulk?filter_path=errors" \\
        -H 'Content-Type: application/x-ndjson' --data-binary @"$part"
    done
    curl -X POST "$OPENSEARCH/{items.table}/_refresh"

A vector is the bytes of a code as numbers from -128 to 127; the code of a photo is the hexadecimal
text that `chash query PHOTO` prints. In Python, `list(memoryview(bytes.fromhex(code)).cast("b"))`.
The queries here ask for the first image; put your code in its place.

    curl "$OPENSEARCH/{items.table}/_search" {head} -d @query.json   # approximate (HNSW)
    curl "$OPENSEARCH/{items.table}/_search" {head} -d @exact.json   # exact, compares all
{weighted}
The distance is `1 / _score - 1`. Whose codes they are says `export.json`, and in the index the
`_meta` of its mapping.
"""

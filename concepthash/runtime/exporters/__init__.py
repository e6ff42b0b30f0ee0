"""Galleries for databases that know Hamming distance: PostgreSQL with pgvector, Milvus, OpenSearch.

Each form is a folder, written whole or not at all: the data, what makes the table they go into,
queries, a README with the commands, and ``export.json``, which says whose codes they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.errors import UsageError
from concepthash.files import new_folder, write_json
from concepthash.runtime.exporters import milvus, opensearch, pgvector
from concepthash.runtime.foreign import writing
from concepthash.runtime.index import HammingIndex
from concepthash.runtime.items import Items

if TYPE_CHECKING:
    from concepthash.runtime.galleries import AnyGallery

MARK = "export.json"
SCHEMA = "chash.exported/1"

_FORMS: dict[str, Callable[[Path, Items], str]] = {
    "pgvector": pgvector.write,
    "milvus": milvus.write,
    "opensearch": opensearch.write,
}
DATABASES = tuple(_FORMS)


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: where.
        images: how many.
        altered: images with a character in the path or label that was replaced by "?".
        next: the command that loads it, run in the folder.
    """

    folder: Path
    images: int
    altered: int
    next: str


def export_to(
    source: AnyGallery | HammingIndex,
    out: str | Path,
    database: str,
    *,
    name: str,
    force: bool = False,
) -> Exported:
    """Write a folder that a database loads; memory is bounded, however many images there are.

    Args:
        source: a gallery, or an index: then paths and labels are unknown.
        out: the folder.
        database: one of :data:`DATABASES`.
        name: of the source; the table is named after it.
        force: replace an earlier export.

    Raises:
        UsageError: for an unknown database, or if something is at ``out``.
        GalleryError: if the gallery cannot be read or the folder not be written.
        BackendError: for Milvus without pyarrow.
    """
    out = Path(out)
    if database not in _FORMS:
        raise UsageError(
            f"nothing is written for {database!r}", where="--to", hint=f"--to {DATABASES[0]}"
        )
    _check_target(out, force=force)
    kind = Items.of_index if isinstance(source, HammingIndex) else Items.of_gallery
    items = kind(source, name)  # type: ignore[arg-type]
    with writing(out), new_folder(out, replace=force) as folder:
        command = _FORMS[database](folder, items)
        write_json(folder / MARK, {"schema": SCHEMA, "to": database, **items.facts()})
    return Exported(out, items.count, items.altered, command)


def _check_target(out: Path, *, force: bool) -> None:
    if not out.exists():
        return
    if not (out / MARK).is_file():
        raise UsageError(
            "something else than an export is there, and is not replaced",
            where=out,
            hint="a name of a new folder",
        )
    if not force:
        raise UsageError("the folder exists", where=out, hint="another name, or --force")

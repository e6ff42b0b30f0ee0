"""Search at the edge: numpy and ONNX Runtime only, never torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if __name__ != "concepthash.runtime":
    raise ImportError("import concepthash.runtime, not the bare name")

if TYPE_CHECKING:
    from concepthash.encoder import Encoded, Encoder
    from concepthash.runtime.backends import open_encoder
    from concepthash.runtime.entries import Damage, Entry, IndexReport, Stats
    from concepthash.runtime.galleries import create_gallery, open_gallery
    from concepthash.runtime.gallery import Gallery
    from concepthash.runtime.hasher import Hashed, Hasher
    from concepthash.runtime.index import HammingIndex, Hits, RangeHits
    from concepthash.runtime.indexing import index_images
    from concepthash.runtime.interchange import load_index, save_index
    from concepthash.runtime.repair import RepairReport, repair
    from concepthash.runtime.searcher import Searcher
    from concepthash.runtime.session import Session, open_session
    from concepthash.runtime.sharded import ShardedGallery

__all__ = [
    "Damage",
    "Encoded",
    "Encoder",
    "Entry",
    "Gallery",
    "HammingIndex",
    "Hashed",
    "Hasher",
    "Hits",
    "IndexReport",
    "RangeHits",
    "RepairReport",
    "Searcher",
    "Session",
    "ShardedGallery",
    "Stats",
    "create_gallery",
    "index_images",
    "load_index",
    "open_encoder",
    "open_gallery",
    "open_session",
    "repair",
    "save_index",
]

# Names are resolved on first use, so that asking for an index does not load a back end.
_MODULES = {
    "backends": ("open_encoder",),
    "entries": ("Damage", "Entry", "IndexReport", "Stats"),
    "galleries": ("create_gallery", "open_gallery"),
    "gallery": ("Gallery",),
    "hasher": ("Hashed", "Hasher"),
    "index": ("HammingIndex", "Hits", "RangeHits"),
    "indexing": ("index_images",),
    "interchange": ("load_index", "save_index"),
    "repair": ("RepairReport", "repair"),
    "searcher": ("Searcher",),
    "session": ("Session", "open_session"),
    "sharded": ("ShardedGallery",),
}
_HOME = {
    name: f"concepthash.runtime.{module}" for module, names in _MODULES.items() for name in names
}
_HOME |= dict.fromkeys(("Encoded", "Encoder"), "concepthash.encoder")


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

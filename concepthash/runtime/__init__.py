"""Search at the edge: numpy and ONNX Runtime only, never torch."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if __name__ != "concepthash.runtime":
    raise ImportError("import concepthash.runtime, not the bare name")

if TYPE_CHECKING:
    from concepthash.runtime.index import HammingIndex, Hits

__all__ = ["HammingIndex", "Hits"]

# Names are resolved on first use, so that asking for an index does not load a back end.
_HOME = {
    "HammingIndex": "concepthash.runtime.index",
    "Hits": "concepthash.runtime.index",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

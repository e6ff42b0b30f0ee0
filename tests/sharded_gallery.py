"""Galleries of made-up images, sharded and not, and how they are compared."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from concepthash.codes import CodeLayout, Codes
from concepthash.runtime.entries import Entry
from concepthash.runtime.galleries import AnyGallery
from concepthash.runtime.gallery import Gallery

LAYOUT = CodeLayout(16, 2)
MODEL: dict[str, Any] = {"layout": LAYOUT, "fingerprint": "ab" * 32, "model": "tiny"}


def image(folder: Path, number: int, label: str | None = "") -> Entry:
    """The image of a number: its path, label and content."""
    content = hashlib.sha256(str(number).encode()).hexdigest()
    label = f"class {number % 3}" if label == "" else label
    return Entry(folder / f"{number}.jpg", label, number, 10 * number, content)


def images(folder: Path, numbers: Iterable[int]) -> list[Entry]:
    return [image(folder, number) for number in numbers]


def codes(numbers: Iterable[int]) -> Codes:
    """A code for each number; near numbers have near codes, some the same."""
    values = [number // 2 * 37 % 2**16 for number in numbers]
    return np.array(values, dtype=">u2").view(np.uint8).reshape(-1, 2)


def ordinary(path: Path, numbers: Iterable[int], removed: Iterable[int] = ()) -> Path:
    """An ordinary gallery in small segments."""
    numbers = list(numbers)
    with Gallery.create(path, **MODEL, segment_bytes=16) as gallery:
        gallery.add(images(path.parent, numbers), codes(numbers))
        gallery.remove(removed)
    return path


def content(gallery: AnyGallery) -> dict[int, tuple[object, ...]]:
    """Everything a gallery holds, by id; each way to ask compared with the others."""
    ids, packed = gallery.codes()
    found = list(gallery.entries())
    assert [entry.id for entry in found] == ids.tolist() == sorted(set(ids.tolist()))
    assert len(gallery) == len(found) == len(packed)
    blocks = [ids for ids, _ in gallery.blocks()]
    assert np.concatenate([*blocks, np.empty(0, np.int64)]).tolist() == ids.tolist()
    assert list(gallery.entries_of(ids).values()) == found
    labels = gallery.labels()
    assert labels.ids.tolist() == ids.tolist()
    for entry, code, number in zip(found, packed, labels.numbers.tolist(), strict=True):
        assert gallery.entry(entry.id) == entry
        assert gallery.find(entry.path) == entry
        assert entry in gallery.same_content(entry.sha256)
        assert gallery.code(entry.id).tobytes() == code.tobytes()
        assert gallery.names_of([entry.id]) == {entry.id: (str(entry.path), entry.label)}
        assert (labels.names[number] if number >= 0 else None) == entry.label
    return {
        e.id: (e.path, e.label, e.size, e.mtime_ns, e.sha256, code.tobytes())
        for e, code in zip(found, packed, strict=True)
    }


def without_ids(gallery: AnyGallery) -> dict[object, tuple[object, ...]]:
    """What a gallery holds, by path."""
    return {values[0]: values[1:] for values in content(gallery).values()}

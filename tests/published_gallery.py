"""A gallery to publish, a place that shows it, and how a copy is compared with it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from web_server import Web, web_server

from concepthash.codes import CodeLayout
from concepthash.runtime.entries import Entry
from concepthash.runtime.galleries import create_gallery, open_gallery

LAYOUT = CodeLayout(64, 4)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name == "CHASH_OFFLINE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHASH_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    (tmp_path / "www").mkdir()
    return tmp_path / "www"


@pytest.fixture
def web(site: Path) -> Iterator[Web]:
    with web_server(site) as served:
        yield served


@pytest.fixture
def told() -> list[str]:
    return []


def add(gallery: Path, first: int, count: int) -> None:
    rng = np.random.default_rng(first)
    entries = [
        Entry(gallery.parent / f"photos/{n}.jpg", f"label {n % 3}", n, n, rng.bytes(32).hex())
        for n in range(first, first + count)
    ]
    codes = rng.integers(0, 256, (count, LAYOUT.nbytes), dtype=np.uint8)
    with open_gallery(gallery, write=True) as opened:
        opened.add(entries, codes)


def make(folder: Path, *, shards: int | None = None, count: int = 20) -> Path:
    path = folder / "birds.chg"
    with create_gallery(path, layout=LAYOUT, fingerprint="ab" * 32, model="m", shards=shards):
        pass
    add(path, 0, count)
    return path


def facts(gallery: Path) -> dict[int, tuple[str, str | None, bytes]]:
    """Images by their content: the names, which a copy has as they were stored, and the codes."""
    with open_gallery(gallery) as opened:
        opened.verify()
        ids, codes = opened.codes()
        names = opened.names_of(ids)
        return {
            id: (Path(names[id][0]).name, names[id][1], code.tobytes())
            for id, code in zip(ids.tolist(), codes, strict=True)
        }


def listed(place: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((place / "published.json").read_text())
    return values


def of_file(path: str) -> Callable[[dict[str, Any]], str]:
    return lambda values: next(f["sha256"] for f in values["files"] if f["path"] == path)

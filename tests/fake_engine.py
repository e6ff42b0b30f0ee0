"""An engine that does as it is told, for what a real one does only under load or by accident."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from concepthash.runtime.answers import Found
from concepthash.serve.batching import Counters
from concepthash.serve.engine import Limits, Stats
from concepthash.serve.limits import Status

CODE = "0102ff"


class FakeEngine:
    """Fake: answers every search with what ``answer`` returns or raises, and hashes with it too.

    Args:
        answer: awaited for each search, photo, item and thumbnail.
    """

    def __init__(self, answer: Callable[[], Awaitable[Any]]) -> None:
        self._answer = answer
        self.limits = Limits()
        self.concept_names = ("red", "green", "blue")
        self.begun = self.dropped = 0
        self.stopped = False
        self.status: Status = "ok"
        self.trouble: str | None = None
        self.missing: tuple[str, ...] = ()
        self.where = "cpu"

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped = True

    def reload(self) -> None:
        pass

    async def _work(self) -> Any:
        self.begun += 1
        try:
            return await self._answer()
        except asyncio.CancelledError:
            self.dropped += 1
            raise

    async def search(self, code: Any, asked: Any) -> Found:
        assert code.dtype == np.uint8
        return Found(await self._work(), self.missing)

    async def hash(self, image: bytes, *, name: str = "photo") -> Any:
        return await self._work()

    async def explain_item(self, id: int) -> Any:
        return await self._work()

    async def item(self, id: int) -> Any:
        return await self._work()

    async def thumbnail(self, id: int, size: int = 224, view: str = "crop") -> Any:
        return await self._work()

    def info(self) -> dict[str, Any]:
        return {
            "gallery": "fake.chg", "images": 0, "bits": 24, "concepts": list(self.concept_names),
            "sub_bits": 8, "model": "fake", "fingerprint": "0" * 64, "backend": "fake",
            "resize": 32, "side": 32, "heat": [[0, 0, 0]], "colours": [[0, 0, 0]] * 3,
        }  # fmt: skip

    def health(self) -> tuple[Status, str | None]:
        return self.status, self.trouble

    def stats(self) -> Stats:
        return Stats(
            images=0, searches=0, photos=0, photo_bytes=0, searched=Counters(),
            encoded=Counters(), refused=0, reloads=0, thumbnails=0, thumbnail_bytes=0,
        )  # fmt: skip

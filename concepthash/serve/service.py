"""What the handlers of all requests share."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from concepthash.serve.batching import Busy
from concepthash.serve.guard import Guard
from concepthash.serve.metrics import Metrics
from concepthash.serve.requests import Allowance

if TYPE_CHECKING:
    from concepthash.serve.engine import Engine, Limits

STATIC = Path(__file__).parent / "static"
HTML = b"text/html; charset=utf-8"
TYPES = {
    ".html": HTML,
    ".js": b"text/javascript; charset=utf-8",
    ".css": b"text/css; charset=utf-8",
}

_DRAWINGS_WAITING = 8
_UPLOADS_HELD = 8

Made = TypeVar("Made")


class Service:
    """All that handlers need: the engine, the limits, and what does not change while it runs.

    Args:
        engine: hashes and searches; started by whoever made it.
        limits: of requests.
        guard: lets requests in.
    """

    def __init__(self, engine: Engine, limits: Limits, guard: Guard) -> None:
        self.engine = engine
        self.limits = limits
        self.guard = guard
        self.stopping = False
        self.room = Allowance(_UPLOADS_HELD * limits.upload_bytes)
        self.metrics = Metrics(engine, self.room)
        info = engine.info()
        self.code_bytes = int(info["bits"]) // 8
        self.gallery, self.model = str(info["gallery"]), str(info["model"])
        self.backend = str(info["backend"])
        self.files = {path.name: _file(path) for path in STATIC.iterdir() if path.suffix in TYPES}
        self.document = b""
        """Of ``/openapi.json``."""
        self._drawing = ThreadPoolExecutor(1, thread_name_prefix="draw")
        self._drawings = 0

    def close(self) -> None:
        """End the thread that draws."""
        self._drawing.shutdown(cancel_futures=True)

    async def draw(self, make: Callable[[], Made]) -> Made:
        """What ``make`` makes, in the thread for pictures.

        Raises:
            Busy: if too many wait for it.
        """
        if self._drawings >= _DRAWINGS_WAITING:
            raise Busy("too many pictures are being drawn")
        self._drawings += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._drawing, make)
        finally:
            self._drawings -= 1


def tag_of(content: bytes) -> bytes:
    """The entity tag of some content."""
    return b'"%s"' % hashlib.blake2b(content, digest_size=12).hexdigest().encode()


def _file(path: Path) -> tuple[bytes, bytes, bytes]:
    content = path.read_bytes()
    return content, TYPES[path.suffix], tag_of(content)

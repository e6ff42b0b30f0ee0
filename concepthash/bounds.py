"""What decoding a hostile image may cost: the passes of a JPEG, the pixels that are under way."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

MAX_PIXELS = 178_956_970
"""Of an image: Pillow itself refuses more, unless it was told otherwise."""

MOST_SCANS = 100
"""Passes of a JPEG: each is as much work as the whole photo, and few have more than 10."""

_END, _SCAN = 0xD9, 0xDA
_BARE = {0x01, *range(0xD0, 0xD9)}
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_IN_ONE_SCAN = (0xC0, 0xC1, 0xC9)
# Within a scan 0xff is followed by 0, or by the number of a restart.
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)
_READ = 1 << 26  # of one file; what follows that is more than any photo has


class Room:
    """Pixels that threads may have under way together; who asks for more waits.

    Args:
        most: who asks for more than this gets it once nobody else has any.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._free = most
        self._freed = threading.Condition()

    @contextmanager
    def taking(self, count: int) -> Iterator[None]:
        """Have ``count`` pixels under way inside the block."""
        count = min(count, self._most)
        with self._freed:
            self._freed.wait_for(lambda: self._free >= count)
            self._free -= count
        try:
            yield
        finally:
            with self._freed:
                self._free += count
                self._freed.notify_all()


def too_many_scans(file: IO[bytes]) -> bool:
    """Whether a JPEG has more than :data:`MOST_SCANS` passes.

    Only the header is read of the usual kind, which has one. What lies behind the end of the photo,
    such as the film that phones put there, does not count.
    """
    start = file.tell()
    try:
        return _scans(file) > MOST_SCANS
    finally:
        file.seek(start)


def _scans(file: IO[bytes]) -> int:
    file.seek(0)
    data, components, at, count = file.read(1 << 16), 0, 0, 0
    while count <= MOST_SCANS:
        found = _MARKER.search(data, at)
        if found is None or found.end() + 16 > len(data):
            if len(data) > _READ or not (more := file.read(len(data))):
                return count
            data += more
            continue
        at, marker = found.end(), found[1][0]
        if marker == _END:
            return count
        if marker in _BARE:
            continue
        length = int.from_bytes(data[at : at + 2], "big")
        if marker in _FRAMES:
            components = data[at + 7] if marker in _IN_ONE_SCAN else 0
        if marker == _SCAN:
            count += 1
            if data[at + 2] == components:
                return 1
        at += length
    return count

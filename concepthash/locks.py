"""A file locked by one process at a time, on every platform."""

from __future__ import annotations

import os
import sys

if sys.platform == "win32":
    import msvcrt

    _FAR = 1 << 30  # the lock lies beyond the text, which stays readable

    def lock_now(descriptor: int) -> None:
        """Lock an open file for this process, or raise OSError at once: another one holds it."""
        os.lseek(descriptor, _FAR, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)
else:
    import fcntl

    def lock_now(descriptor: int) -> None:
        """Lock an open file for this process, or raise OSError at once: another one holds it."""
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)

"""The native kernel, if it was built, and which of its paths serves.

``CHASH_KERNEL`` forces one: ``avx512``, ``avx2``, ``neon``, ``portable``, or ``numpy`` for the
blocked numpy scan, which also serves where the kernel was not built. Answers are equal on all.
"""

from __future__ import annotations

import os
from functools import cache
from importlib import import_module
from types import ModuleType

from concepthash.errors import BackendError

_kernel: ModuleType | None
try:
    _kernel = import_module("concepthash.runtime._kernel")
except ImportError:  # no compiler at install time
    _kernel = None

VARIABLE = "CHASH_KERNEL"


@cache
def paths() -> tuple[str, ...]:
    """What this machine can run, the one chosen by default first; ``numpy`` is always the last."""
    return (*(_kernel.paths() if _kernel else ()), "numpy")


def path() -> str:
    """The path that serves now.

    Raises:
        BackendError: if ``CHASH_KERNEL`` names one this machine or this build does not have.
    """
    wanted = os.environ.get(VARIABLE)
    if not wanted:
        return paths()[0]
    if wanted not in paths():
        raise BackendError(
            f"no kernel {wanted!r} here", where=VARIABLE, hint=f"one of {', '.join(paths())}"
        )
    return wanted


def kernel() -> ModuleType | None:
    """The native kernel; None where numpy serves."""
    return None if path() == "numpy" else _kernel

"""Optional packages: imported inside the verb that needs them, missed in a way that helps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from concepthash.errors import BackendError


@contextmanager
def needs(extra: str) -> Iterator[None]:
    """Imports within the block belong to an extra of the package.

    Raises:
        BackendError: if one of them is not installed, or broken.
    """
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] == "concepthash":
            raise
        what = f"{error.name} is not installed" if isinstance(error, ModuleNotFoundError) else error
        raise BackendError(
            f"this needs the extra '{extra}': {what}",
            where=error.name or extra,
            hint=f"pip install 'concepthash[{extra}]'",
        ) from None

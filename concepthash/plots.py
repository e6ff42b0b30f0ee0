"""Figures of matplotlib, which is an extra: imported only where one is drawn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from concepthash.errors import BackendError, UsageError
from concepthash.files import replacing


def new_figure(path: Path, *, size: tuple[float, float], example: str) -> Any:
    """An empty figure that can be written to ``path``; called early, it tells what is missing.

    Args:
        path: of the file.
        size: width and height, inches.
        example: what to give instead of a file name that does not do.

    Raises:
        BackendError: if matplotlib is not installed.
        UsageError: if the file name ends in no known picture format.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise BackendError(
            "plots need matplotlib", where=path, hint="pip install 'concepthash[plot]'"
        ) from None
    figure = Figure(figsize=size, layout="constrained")
    if _format(path) not in FigureCanvasAgg(figure).get_supported_filetypes():
        raise UsageError(f"no plot can be written as {path.suffix!r}", where=path, hint=example)
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure of :func:`new_figure`, whole or not at all."""
    with replacing(path) as file:
        figure.savefig(file, format=_format(path))


def _format(path: Path) -> str:
    return path.suffix.lower().lstrip(".")

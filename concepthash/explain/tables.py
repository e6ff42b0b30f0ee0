"""Figures as tables of plain text, and as the plain values of JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


def aligned(rows: Sequence[Sequence[str]], *, left: int) -> Iterator[str]:
    """The lines of a table, indented; the first ``left`` columns to the left, figures right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        yield ("  " + "  ".join(cells)).rstrip()


def counted(number: int, thing: str) -> str:
    """A number of things in words: "1 image", "1,200 images"."""
    return f"{number:,} {thing}{'s' * (number != 1)}"


def share(value: float | None) -> str:
    """A figure with two decimal places; a dash where there is none, or NaN."""
    return "-" if value is None or np.isnan(value) else f"{value:.2f}"


def plain(table: npt.NDArray[np.float64]) -> list[Any]:
    """A table as nested lists, None for NaN."""
    if table.ndim > 1:
        return [plain(row) for row in table]
    return [None if np.isnan(value) else value for value in table.tolist()]

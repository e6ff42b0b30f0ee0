"""The photos a run left out, as a table: ``path`` and ``reason``."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

from concepthash.errors import Skipped, UsageError
from concepthash.files import replacing, write_bytes
from concepthash.runtime.entries import valid_text

SUFFIXES = (".csv", ".parquet")


def check_table(path: Path) -> None:
    """Refuse a table that could not be written.

    Raises:
        UsageError: if its suffix is not known.
        BackendError: for Parquet, without pyarrow.
    """
    if path.suffix not in SUFFIXES:
        raise UsageError(
            f"a table is a file of {' or '.join(SUFFIXES)}", where=path, hint="failed.csv"
        )
    if path.suffix == ".parquet":
        from concepthash.runtime.parquetfile import pyarrow

        pyarrow()


def write_table(path: Path, skipped: Skipped) -> None:
    """Write what was left out, whole or not at all; an empty table if nothing was.

    Names that are no valid Unicode are kept byte for byte in CSV.

    Raises:
        UsageError, BackendError: as :func:`check_table`.
    """
    check_table(path)
    if path.suffix == ".csv":
        text = io.StringIO()
        writer = csv.writer(text)
        writer.writerow(("path", "reason"))
        writer.writerows((skip.path, skip.reason) for skip in skipped.items)
        write_bytes(path, os.fsencode(text.getvalue()))
        return
    from concepthash.runtime.parquetfile import pyarrow

    arrow, parquet = pyarrow()
    columns = {
        "path": arrow.array([valid_text(skip.path) for skip in skipped.items], arrow.string()),
        "reason": arrow.array([valid_text(skip.reason) for skip in skipped.items], arrow.string()),
    }
    with replacing(path) as file:
        parquet.write_table(arrow.table(columns), file)

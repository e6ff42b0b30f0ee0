"""A data set as a verb reads it: with every implied choice told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concepthash.cli.output import Output
from concepthash.errors import DataError

if TYPE_CHECKING:
    from concepthash.datasets import Dataset
    from concepthash.learn.config import DataConfig


def read_data(
    config: DataConfig, *, seed: int, output: Output, command: str = "chash train"
) -> Dataset:
    """The data set of a configuration, its notes told; needs no torch.

    Args:
        config: what to read.
        seed: of a split that is drawn.
        output: told of what was implied.
        command: what the user runs, for hints.

    Raises:
        UsageError: if a setting does not fit.
        DataError: if the data cannot be used.
    """
    from concepthash.learn.data import read_dataset

    try:
        data = read_dataset(config, seed=seed)
    except DataError as error:
        hint = None if error.hint is None else error.hint.replace("chash train", command)
        raise DataError(error.what, where=error.where, hint=hint) from None
    for note in data.notes:
        output.note(f"data: {note}")
    return data

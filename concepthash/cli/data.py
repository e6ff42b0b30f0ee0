"""A data set as a verb reads it: with every implied choice told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from concepthash.cli.output import Output

if TYPE_CHECKING:
    from concepthash.datasets import Dataset
    from concepthash.learn.config import DataConfig


def read_data(config: DataConfig, *, seed: int, output: Output) -> Dataset:
    """The data set of a configuration, its notes told; needs no torch.

    Raises:
        UsageError: if a setting does not fit.
        DataError: if the data cannot be used.
    """
    from concepthash.learn.data import read_dataset

    data = read_dataset(config, seed=seed)
    for note in data.notes:
        output.note(f"data: {note}")
    return data

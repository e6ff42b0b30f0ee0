"""The data set a configuration names; needs no torch."""

from __future__ import annotations

from concepthash.datasets import Dataset, find_duplicates, load_dataset
from concepthash.errors import DataError
from concepthash.learn.config import DataConfig


def read_dataset(config: DataConfig, *, seed: int) -> Dataset:
    """The data set a configuration names; see :func:`concepthash.datasets.load_dataset`."""
    return load_dataset(
        config.root,
        layout=config.layout,
        path_column=config.path_column,
        label_column=config.label_column,
        split_column=config.split_column,
        level=config.level,
        test_share=config.test_share,
        seed=seed,
    )


def refuse_ambiguous(data: Dataset) -> None:
    """Check that no photo stands in two classes.

    Raises:
        DataError: naming the two files.
    """
    for first, other in find_duplicates(data, across="labels"):
        raise DataError(
            "one photo has two labels: identical files in different classes",
            where=f"{first} and {other}",
            hint="keep one of the two",
        )

"""The data set a configuration names; needs no torch."""

from __future__ import annotations

from collections.abc import Callable

from concepthash.datasets import Dataset, check_files, find_duplicates, load_dataset
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


def check_photos(data: Dataset, *, strict: bool, note: Callable[[str], None]) -> None:
    """Look at the files before the first epoch: missing ones, and one photo in two places.

    Raises:
        DataError: if a photo stands in two classes, or one is missing and ``strict``.
    """
    missing = check_files(data)
    if missing and strict:
        first = missing.items[0]
        raise DataError(first.reason, where=first.path, hint="mend the list, or leave out --strict")
    for first_path, other in find_duplicates(data, across="labels"):
        raise DataError(
            "one photo has two labels: identical files in different classes",
            where=f"{first_path} and {other}",
            hint="keep one of the two",
        )
    leaks = find_duplicates(data, across="splits")
    if leaks:
        note(
            f"data: {len(leaks)} test photos are also in the train split, such as {leaks[0][1]}; "
            "scores will look better than they are"
        )

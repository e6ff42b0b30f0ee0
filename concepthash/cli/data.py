"""A data set as a verb reads it: with every implied choice told."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from concepthash.cli.output import Output
from concepthash.errors import DataError, UsageError

if TYPE_CHECKING:
    from concepthash.datasets import Dataset
    from concepthash.learn.config import DataConfig


def read_data(
    config: DataConfig,
    *,
    seed: int,
    output: Output,
    command: str = "chash train",
    recorded: bool = False,
) -> Dataset:
    """The data set of a configuration, its notes told; needs no torch.

    Args:
        config: what to read.
        seed: of a split that is drawn.
        output: told of what was implied.
        command: what the user runs, for hints; the photos come after it.
        recorded: the photos are those a run was trained on, which may have moved since.

    Raises:
        UsageError: if a setting does not fit, or recorded photos are gone.
        DataError: if the data cannot be used.
    """
    from concepthash.learn.data import read_dataset

    if recorded:
        output.choice("data", config.root, "as recorded by the run")
        if not Path(config.root).exists():
            raise UsageError(
                "the photos the run was trained on are not there any more",
                where=config.root,
                hint=f"{command} FOLDER, where they are now",
            )
    try:
        data = read_dataset(config, seed=seed)
    except DataError as error:
        hint = None if error.hint is None else error.hint.replace("chash train", command)
        raise DataError(error.what, where=error.where, hint=hint) from None
    for note in data.notes:
        output.note(f"data: {note}")
    return data

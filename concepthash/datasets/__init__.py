"""Data sets on disk: which photo belongs to which class and split. No image is opened here.

One module reads one layout (``folder``, ``table`` for CSV, ``cub`` also for NABirds, ``aircraft``,
``cars``) into a :class:`~concepthash.datasets.records.Listing`; ``assemble`` checks it and turns
it into a :class:`Dataset`; ``checks`` looks at the files themselves.
"""

from concepthash.datasets.assemble import holdout, human_name
from concepthash.datasets.checks import check_files, find_duplicates
from concepthash.datasets.load import LAYOUTS, LEVELS, load_dataset
from concepthash.datasets.records import Dataset, Split
from concepthash.datasets.report import evaluate_splits

__all__ = [
    "LAYOUTS",
    "LEVELS",
    "Dataset",
    "Split",
    "check_files",
    "evaluate_splits",
    "find_duplicates",
    "holdout",
    "human_name",
    "load_dataset",
]

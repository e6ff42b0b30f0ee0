"""The retrieval report on the two splits of a data set, whatever made the codes."""

from __future__ import annotations

from collections.abc import Mapping

from concepthash.codesets import CodeSet
from concepthash.datasets.records import Dataset
from concepthash.evaluation import Evaluation, evaluate


def evaluate_splits(
    queries: CodeSet,
    database: CodeSet,
    data: Dataset,
    protocol: Mapping[str, str | int | float],
) -> Evaluation:
    """The report of ``queries`` (test split) over ``database`` (train split).

    Args:
        queries: codes and labels of the readable photos.
        database: the same, of the split that is searched.
        data: names the classes and itself in the protocol block.
        protocol: further lines of that block.
    """
    return evaluate(
        queries.codes,
        queries.labels,
        database.codes,
        database.labels,
        layout=database.layout,
        class_names=data.class_names,
        protocol={
            "data": data.root.resolve().name,
            "layout": data.layout,
            "database_split": "train",
            "query_split": "test",
            **protocol,
        },
    )

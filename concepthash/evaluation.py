"""The evaluation report: every metric of a set of queries over a database, and its protocol.

:func:`evaluate` computes it, :class:`Evaluation` prints itself and writes ``chash.eval/1`` JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from concepthash.codes import CodeLayout
from concepthash.codesets import CodeSet
from concepthash.errors import DataError, UsageError
from concepthash.metrics import (
    AveragePrecision,
    DepthCurve,
    RadiusCurve,
    average_precision,
    average_precision_at_r,
    bit_entropy,
    depth_curve,
    precision_at,
    radius_curve,
    recall_at,
)
from concepthash.plots import new_figure, save_figure
from concepthash.rankings import (
    Labels,
    TiedRankings,
    as_labels,
    rank,
)

SCHEMA = "chash.eval/1"

_REPORTED_KS = (1, 5, 10)
_CLASSES_PRINTED = 10


@dataclass(frozen=True)
class MeanAveragePrecision:
    """Mean AP: expected over ties, with relevant items last (low) and first (high) in each tie."""

    expected: float
    low: float
    high: float


@dataclass(frozen=True)
class ClassScore:
    """The queries of one class: how many, their relevant items in the database, and their mAP.

    ``map`` is None where no query of the class has a relevant item.
    """

    label: int | str
    name: str
    queries: int
    database: int
    map: MeanAveragePrecision | None


@dataclass(frozen=True)
class Evaluation:
    """What :func:`evaluate` found. Prints as a report; :meth:`to_json` is the machine's version.

    Args:
        map: mean average precision over the full ranking.
        map_at_r: mean average precision at R (precision over the first R ranks, R relevant items).
        precision: expected precision of the first k ranks, by k.
        recall: probability of a relevant item in the first k ranks, by k.
        radius: precision and recall within each Hamming radius.
        depth: expected precision and recall by number of ranks.
        per_class: one entry a query class, in label order.
        per_concept_map: expected mAP of each sub-code alone, ``(M,)``.
        without_concept_map: expected mAP of the code with one concept left out, ``(M,)``; of a
            code with a single concept nothing is left, and this is chance.
        chance_map: expected mAP of a random ranking, which a sub-code should beat.
        bit_entropy: entropy of each bit over the database, ``(K,)``.
        queries_without_relevant: queries with nothing to find; left out of every mean.
        protocol: what was compared with what, and how.
        concept_names: of the model, one a concept; empty where codes come without a model.
    """

    map: MeanAveragePrecision
    map_at_r: float
    precision: Mapping[int, float]
    recall: Mapping[int, float]
    radius: RadiusCurve
    depth: DepthCurve
    per_class: tuple[ClassScore, ...]
    per_concept_map: tuple[float, ...]
    without_concept_map: tuple[float, ...]
    chance_map: float
    bit_entropy: tuple[float, ...]
    queries_without_relevant: int
    protocol: Mapping[str, str | int | float]
    concept_names: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """The report as plain values for :func:`json.dumps`, schema ``chash.eval/1``."""
        return {
            "schema": SCHEMA,
            "map": asdict(self.map),
            "map_at_r": self.map_at_r,
            "precision": {str(k): value for k, value in self.precision.items()},
            "recall": {str(k): value for k, value in self.recall.items()},
            "per_concept_map": list(self.per_concept_map),
            "without_concept_map": list(self.without_concept_map),
            "concept_names": list(self.concept_names),
            "chance_map": self.chance_map,
            "queries_without_relevant": self.queries_without_relevant,
            "per_class": [asdict(score) for score in self.per_class],
            "radius": {name: values.tolist() for name, values in vars(self.radius).items()},
            "depth": {name: values.tolist() for name, values in vars(self.depth).items()},
            "bit_entropy": list(self.bit_entropy),
            "protocol": dict(self.protocol),
        }

    def __str__(self) -> str:
        lines = [
            f"mAP        {_figure(self.map)}",
            f"mAP@R      {self.map_at_r:.4f}",
            f"precision  {_by_rank(self.precision)}",
            f"recall     {_by_rank(self.recall)}",
            f"chance     {self.chance_map:.4f}  (mAP of a random ranking)",
            f"bits       entropy {np.mean(self.bit_entropy):.3f} on average, "
            f"{min(self.bit_entropy):.3f} at least",
            "",
            *self._concept_lines(),
            "",
        ]
        lines += [*self._class_lines(), "", "protocol"]
        width = max(len(key) for key in self.protocol)
        lines += [f"  {key:<{width}}  {value}" for key, value in self.protocol.items()]
        if self.queries_without_relevant:
            lines.append(
                f"  queries without a relevant item: {self.queries_without_relevant}, left out"
            )
        return "\n".join(lines)

    def _concept_lines(self) -> list[str]:
        names = self.concept_names or [str(m) for m in range(len(self.per_concept_map))]
        width = max(map(len, ("concept  ", *names)))
        rows = zip(names, self.per_concept_map, self.without_concept_map, strict=True)
        return [
            f"{'concept':<{width}}  mAP alone  left out",
            *(f"{name:<{width}}  {alone:<9.4f}  {out:.4f}" for name, alone, out in rows),
        ]

    def _class_lines(self) -> list[str]:
        scored = [(score.map, score) for score in self.per_class if score.map is not None]
        scored.sort(key=lambda pair: pair[0].expected)
        title = (
            "classes" if len(scored) <= _CLASSES_PRINTED else f"weakest of {len(scored)} classes"
        )
        rows = [
            f"{_figure(score_map)}  {score.queries:>5} queries  {score.name}"
            for score_map, score in scored[:_CLASSES_PRINTED]
        ]
        return [f"{title}, by mAP", *(f"  {row}" for row in rows)]


def evaluate(
    query_codes: npt.ArrayLike,
    query_labels: npt.ArrayLike,
    database_codes: npt.ArrayLike,
    database_labels: npt.ArrayLike,
    *,
    layout: CodeLayout,
    class_names: Sequence[str] | None = None,
    ks: Sequence[int] = _REPORTED_KS,
    exclude_self: bool = False,
    protocol: Mapping[str, str | int | float] | None = None,
) -> Evaluation:
    """The full report of ``q`` queries over a database of ``n`` items; items are relevant by label.

    Args:
        query_codes: packed codes ``(q, K/8)`` uint8; ``database_codes``: ``(n, K/8)``.
        query_labels: ``(q,)`` integers or strings; ``database_labels``: ``(n,)`` of the same kind.
        layout: bits and concepts of the codes.
        class_names: names of integer labels, label i being ``class_names[i]``; string labels are
            their own names.
        ks: ranks for precision and recall, in addition to 1, 5 and 10, which the schema promises.
        exclude_self: the queries are the database, and no query may find its own item.
        protocol: where the codes come from, added to the protocol block.

    Raises:
        MismatchError: if codes do not have this layout or the two sets do not belong together.
        DataError: if labels are unusable or no query has a relevant item.
        UsageError: if ``ks`` holds a number below 1 or ``protocol`` redefines a key.
    """
    queries = CodeSet(
        layout.check(query_codes, "query codes"),
        as_labels(query_labels, what="query labels"),
        layout,
    )
    database = CodeSet(
        layout.check(database_codes, "database codes"),
        as_labels(database_labels, what="database labels"),
        layout,
    )
    ranked = partial(
        rank,
        queries.codes,
        queries.labels,
        database.codes,
        database.labels,
        exclude_self=exclude_self,
    )
    rankings = ranked()
    chance = _expected_map(rankings.all_tied())
    ap = average_precision(rankings)
    ranks = sorted({*_REPORTED_KS, *ks})
    masks = layout.masks()
    return Evaluation(
        map=_mean_ap(ap, np.flatnonzero(rankings.answerable)),
        map_at_r=rankings.mean(average_precision_at_r(rankings)),
        precision={k: rankings.mean(precision_at(rankings, k)) for k in ranks},
        recall={k: rankings.mean(recall_at(rankings, k)) for k in ranks},
        radius=radius_curve(rankings),
        depth=depth_curve(rankings),
        per_class=_per_class(queries.labels, database.labels, ap, class_names),
        per_concept_map=tuple(_expected_map(ranked(mask=mask)) for mask in masks),
        without_concept_map=tuple(_expected_map(ranked(mask=~mask)) for mask in masks),
        chance_map=chance,
        bit_entropy=tuple(bit_entropy(database.codes).tolist()),
        queries_without_relevant=int((~rankings.answerable).sum()),
        protocol=_protocol(queries, database, exclude_self, protocol or {}),
    )


def plot_pr(evaluation: Evaluation, path: str | Path) -> Path:
    """Draw precision over recall, and precision over depth, into ``path`` (.png, .svg or .pdf).

    It is written whole or not at all.

    Raises:
        BackendError: if matplotlib is not installed.
        UsageError: if the file name ends in no known picture format.
    """
    path = Path(path)
    figure = check_plot(path)
    left, right = figure.subplots(1, 2, sharey=True)
    depth, radius = evaluation.depth, evaluation.radius
    left.plot(depth.recall, depth.precision, marker=".", label="by rank (expected over ties)")
    left.plot(radius.recall, radius.precision, marker=".", label="by Hamming radius")
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    left.legend(loc="lower left")
    right.plot(depth.depth, depth.precision, marker=".")
    right.set(xlabel="ranks", xscale="log")
    figure.suptitle(f"mAP {evaluation.map.expected:.4f}, {evaluation.protocol['bits']} bits")
    save_figure(figure, path)
    return path


def check_plot(path: Path) -> Any:
    """The empty figure of :func:`plot_pr`; asked for before the work, it tells what is missing.

    Raises:
        BackendError, UsageError: as :func:`plot_pr`.
    """
    return new_figure(path, size=(9, 4), example="pr.png")


def _expected_map(rankings: TiedRankings) -> float:
    return rankings.mean(average_precision(rankings).expected)


def _mean_ap(ap: AveragePrecision, chosen: npt.NDArray[np.intp]) -> MeanAveragePrecision:
    return MeanAveragePrecision(
        expected=float(ap.expected[chosen].mean()),
        low=float(ap.low[chosen].mean()),
        high=float(ap.high[chosen].mean()),
    )


def _per_class(
    query_labels: Labels,
    database_labels: Labels,
    ap: AveragePrecision,
    class_names: Sequence[str] | None,
) -> tuple[ClassScore, ...]:
    stored = Counter(database_labels.tolist())
    labels, ids = np.unique(query_labels, return_inverse=True)
    members = np.split(np.argsort(ids, kind="stable"), np.cumsum(np.bincount(ids))[:-1])
    scores = []
    for label, own in zip(labels.tolist(), members, strict=True):
        answerable = own[~np.isnan(ap.expected[own])]
        scores.append(
            ClassScore(
                label=label,
                name=_class_name(label, class_names),
                queries=len(own),
                database=stored[label],
                map=_mean_ap(ap, answerable) if len(answerable) else None,
            )
        )
    return tuple(scores)


def _class_name(label: int | str, class_names: Sequence[str] | None) -> str:
    if isinstance(label, str) or class_names is None:
        return str(label)
    if not 0 <= label < len(class_names):
        raise DataError(
            f"label {label} is none of the {len(class_names)} named classes", where="class_names"
        )
    return class_names[label]


def _protocol(
    queries: CodeSet,
    database: CodeSet,
    exclude_self: bool,
    sources: Mapping[str, str | int | float],
) -> dict[str, str | int | float]:
    own: dict[str, str | int | float] = {
        "database_size": len(database.codes),
        "query_size": len(queries.codes),
        "bits": queries.layout.bits,
        "concepts": queries.layout.concepts,
        "tie_rule": "expected over ties",
        "ranking_depth": "full",
        "self_match": "excluded" if exclude_self else "included",
        "database_sha256": _digest(database),
        "query_sha256": _digest(queries),
    }
    if taken := sorted(own.keys() & sources.keys()):
        raise UsageError(f"the protocol sets {taken[0]!r} itself", where="protocol")
    return own | dict(sources)


def _digest(items: CodeSet) -> str:
    """The first 16 hexadecimal digits of SHA-256 over labels (as JSON), then codes."""
    labels = json.dumps(items.labels.tolist()).encode()
    return hashlib.sha256(labels + items.codes.tobytes()).hexdigest()[:16]


def _figure(score: MeanAveragePrecision) -> str:
    return f"{score.expected:.4f}  (ties: {score.low:.4f} to {score.high:.4f})"


def _by_rank(values: Mapping[int, float]) -> str:
    return "  ".join(f"@{k} {value:.4f}" for k, value in values.items())
